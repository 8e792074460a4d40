"""Checks: `check lint` (ruff), `check pytest [arguments]` (in ComfyUI's Python), `check test [arguments]` (both)."""

import os
import sys

from tools.browser import ABSENT, find_browser, provision_driver
from tools.process import call
from tools.provision import CHECKOUT, provision, provision_tools, run_command, say_now, tools_environment


def lint() -> int:
    """Ruff on the whole checkout. It needs the test tools only, not ComfyUI."""
    tools = provision_tools()
    return call([sys.executable, "-m", "ruff", "check", "."], env=tools_environment(tools), cwd=CHECKOUT)


def pytest(arguments: list[str]) -> int:
    """All layers of the tests, quick ones first; pyproject.toml lists them. Those in a browser need one."""
    host = provision()
    print(f"ComfyUI: {host.origin}", flush=True)
    command = [host.python, "-m", "pytest", "--durations=10", *arguments]
    environment = tools_environment(host.tools)
    if find_browser() is None:
        print(f"The tests in a browser are left out: {ABSENT}.", flush=True)
    else:
        driver = provision_driver(host.python, say_now)
        environment["PYTHONPATH"] = os.pathsep.join([environment["PYTHONPATH"], str(driver)])
    # Without bytecode: the user's own ComfyUI, where there is one, is not ours to write to.
    environment["PYTHONDONTWRITEBYTECODE"] = "1"
    return call(command, env=environment, cwd=CHECKOUT)


def main() -> int:
    command, *arguments = sys.argv[1:] or [""]
    if command == "lint":
        return lint()
    if command == "pytest":
        return pytest(arguments)
    if command == "test":
        return lint() or pytest(arguments)
    raise RuntimeError(f"the command is {command!r}, expected lint, pytest or test")


if __name__ == "__main__":
    run_command(main)
