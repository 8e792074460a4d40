"""A Chromium that is there, and what drives it. Nothing installs a browser; `.ci/run` does where it is to be tested."""

import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from tools import cache, install
from tools.process import capture

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "microsoft-edge", "msedge")
PLACES = (
    "/snap/bin/chromium",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
    "C:/Program Files/Google/Chrome/Application/chrome.exe",
    "C:/Program Files (x86)/Microsoft/Edge/Application/msedge.exe",
)
ABSENT = "no Chromium was found; install Chromium or Chrome, or set SAG_BROWSER to its executable"


def find_browser(environ: Mapping[str, str] = os.environ) -> Path | None:
    """Chromium or a browser made of it: named by SAG_BROWSER, on the path, or where it is usually installed.

    Raises:
        FileNotFoundError: SAG_BROWSER names no file.
    """
    if environ.get("SAG_BROWSER"):
        named = Path(environ["SAG_BROWSER"]).expanduser().absolute()
        if not named.is_file():
            raise FileNotFoundError(f"SAG_BROWSER is {environ['SAG_BROWSER']!r}, which is not a file. Set it to the "
                                    "executable of Chromium, or unset it.")
        return named
    found = [path for name in NAMES if (path := shutil.which(name, path=environ.get("PATH")))]
    return next((Path(path) for path in [*found, *PLACES] if Path(path).is_file()), None)


def provision_driver(python: Path, say: install.Say) -> Path:
    """Install what drives the browser for this Python; the directory that holds it, for PYTHONPATH."""
    recipe = {"tools": list(install.BROWSER_TOOLS), "interpreter": _tag(python)}
    directory = cache.cache_root(os.environ) / cache.directory_name("browser", recipe)
    version = recipe["interpreter"][1]
    cache.build_once(directory, recipe, lambda target: install.install_driver(target, version, say), say)
    return directory


def _tag(python: Path) -> list[str]:
    """`cache.interpreter_tag` of another Python."""
    if python == Path(sys.executable):
        return cache.interpreter_tag()
    code = "import platform, sys, sysconfig; print(sys.implementation.name, *platform.python_version_tuple()[:2], " \
           "sysconfig.get_platform())"
    status, printed = capture([python, "-c", code])
    if status != 0:
        raise RuntimeError(f"{python} does not run: {printed}")
    name, major, minor, platform = printed.split()
    return [name, f"{major}.{minor}", platform]
