"""Finding the user's own ComfyUI and its Python, where there is one."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from tools.process import capture

_TREE = ("main.py", "nodes.py", "folder_paths.py", "requirements.txt", "comfy/samplers.py")
_VENV_PYTHON = Path("Scripts/python.exe") if os.name == "nt" else Path("bin/python")


def is_comfyui(directory: Path) -> bool:
    """Whether `directory` is the root of a ComfyUI source tree."""
    return all((directory / name).is_file() for name in _TREE)


def find_comfyui(environ: Mapping[str, str], checkout: Path) -> tuple[Path, str] | None:
    """The user's ComfyUI and a word on how it was found; None where there is none.

    Raises:
        FileNotFoundError: COMFYUI_PATH is set to something that is no ComfyUI.
    """
    if environ.get("COMFYUI_PATH"):
        named = Path(environ["COMFYUI_PATH"]).expanduser().absolute()
        if not is_comfyui(named):
            raise FileNotFoundError(
                f"COMFYUI_PATH is {environ['COMFYUI_PATH']!r}, which is not a ComfyUI directory (one holds "
                f"{', '.join(_TREE)}). Set it to the directory of ComfyUI's main.py, or unset it to have one installed."
            )
        return named, "COMFYUI_PATH"
    for place in _names_of(checkout, environ):
        if place.parent.name == "custom_nodes" and is_comfyui(place.parent.parent):
            return place.parent.parent, "the ComfyUI this checkout lies in"
    return None


def _names_of(checkout: Path, environ: Mapping[str, str]) -> list[Path]:
    """The checkout's path as it was named, as the shell names it (it keeps symlinks, os.getcwd does not), resolved."""
    shell = Path(environ["PWD"]) if environ.get("PWD") else checkout
    as_shell = [shell] if shell.is_absolute() and shell.exists() and shell.samefile(checkout) else []
    return [checkout, *as_shell, checkout.resolve()]


def find_python(environ: Mapping[str, str], comfyui: Path) -> Path:
    """The Python that the user's ComfyUI runs in: named, in a venv of the tree, portable, else the running one.

    Raises:
        FileNotFoundError: COMFYUI_PYTHON is set to no file.
    """
    if environ.get("COMFYUI_PYTHON"):
        named = Path(environ["COMFYUI_PYTHON"]).expanduser().absolute()
        if not named.is_file():
            raise FileNotFoundError(
                f"COMFYUI_PYTHON is {environ['COMFYUI_PYTHON']!r}, which is not a file. Set it to the python "
                "executable that ComfyUI runs in, or unset it."
            )
        return named
    portable = comfyui.parent / "python_embeded" / "python.exe"
    candidates = [comfyui / ".venv" / _VENV_PYTHON, comfyui / "venv" / _VENV_PYTHON, portable]
    return next((python for python in candidates if python.is_file()), Path(sys.executable))


def venv_python(venv: Path) -> Path:
    return venv / _VENV_PYTHON


def require_host_packages(python: Path) -> None:
    """Make sure that `python` is one ComfyUI can run in.

    Raises:
        RuntimeError: it cannot import torch or aiohttp.
    """
    status, printed = capture([python, "-c", "import torch, aiohttp"])
    if status != 0:
        reason = printed.splitlines()[-1] if printed else f"status {status}"
        raise RuntimeError(
            f"{python} cannot import torch and aiohttp ({reason}), so ComfyUI does not run in it. "
            "Set COMFYUI_PYTHON to the Python of your ComfyUI."
        )
