"""Checks: `check lint` (ruff), `check pytest [arguments]` (in ComfyUI's Python), `check test [arguments]` (both).

`check test` and `check quick` run as many tests at once as there are cores, a file of tests in one process, so that
tests which share a server or a browser start it once.
"""

import os
import sys

from tools.browser import ABSENT, find_browser, provision_driver
from tools.process import call
from tools.provision import CHECKOUT, provision, provision_tools, run_command, say_now, tools_environment


def lint() -> int:
    """Ruff on the whole checkout. It needs the test tools only, not ComfyUI."""
    tools = provision_tools()
    return call([sys.executable, "-m", "ruff", "check", "."], env=tools_environment(tools), cwd=CHECKOUT)


AT_ONCE = ("--numprocesses", "auto", "--dist", "loadfile", "--no-loadscope-reorder")
# The layers whose files take longest first, so that no process is left with one of them at the end.
LAYERS = ("tests/browser", "tests/server", "tests/host", "tests/tools", "tests/core")
# A pass through the method, what it promises and the nodes, in a minute.
QUICK = ("tests/core", "tests/host/test_nodes.py", "tests/host/test_guidance.py",
         *(f"tests/host/test_invariant_{name}.py" for name in ("1_off", "2_recording", "5_no_state", "8_untrusted")))


def pytest(arguments: list[str]) -> int:
    """All layers of the tests, or those that are asked for. Those in a browser need one."""
    host = provision()
    print(f"ComfyUI: {host.origin}", flush=True)
    command = [host.python, "-m", "pytest", "--durations=10", *arguments]
    environment = tools_environment(host.tools)
    if find_browser() is None:
        print(f"The tests in a browser are left out: {ABSENT}.", flush=True)
    else:
        driver = provision_driver(host.python, say_now)
        environment["PYTHONPATH"] = os.pathsep.join([environment["PYTHONPATH"], str(driver)])
    # A process to a core: more threads would only wait for each other.
    environment["OMP_NUM_THREADS"] = "1"
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
        return lint() or pytest([*AT_ONCE, *(arguments or LAYERS)])
    if command == "quick":
        return lint() or pytest([*AT_ONCE, *(arguments or QUICK)])
    raise RuntimeError(f"the command is {command!r}, expected lint, pytest, test or quick")


if __name__ == "__main__":
    run_command(main)
