"""The cache outside the checkout: a directory per recipe, complete or not there, made by one process at a time.

A recipe is a dictionary of everything that decides what a directory holds. Its hash names the directory, so a changed
pin makes a new one and never alters an old one.
"""

import hashlib
import json
import os
import platform
import shutil
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO

MARKER = "complete.json"
LOCK_POLL_SECONDS = 0.5

if os.name == "nt":
    import msvcrt

    def _try_lock(stream: IO[bytes]) -> None:
        msvcrt.locking(stream.fileno(), msvcrt.LK_NBLCK, 1)
else:
    import fcntl

    def _try_lock(stream: IO[bytes]) -> None:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)


def cache_root(environ: Mapping[str, str], os_name: str = os.name) -> Path:
    """Where the cache lies: $SAG_CACHE, else comfyui-sag in the user's cache directory."""
    if environ.get("SAG_CACHE"):
        return Path(environ["SAG_CACHE"]).expanduser().absolute()
    if environ.get("XDG_CACHE_HOME"):
        return Path(environ["XDG_CACHE_HOME"]) / "comfyui-sag"
    if os_name == "nt" and environ.get("LOCALAPPDATA"):
        return Path(environ["LOCALAPPDATA"]) / "comfyui-sag"
    return Path.home() / ".cache" / "comfyui-sag"


def interpreter_tag() -> list[str]:
    """What compiled packages depend on: implementation, Python version and platform."""
    return [sys.implementation.name, ".".join(platform.python_version_tuple()[:2]), sysconfig.get_platform()]


def directory_name(prefix: str, recipe: Mapping[str, object]) -> str:
    """The name of the directory that holds what `recipe` describes."""
    text = json.dumps(recipe, sort_keys=True)
    return f"{prefix}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def is_complete(directory: Path) -> bool:
    return (directory / MARKER).is_file()


def build_once(
    directory: Path, recipe: Mapping[str, object], build: Callable[[Path], None], say: Callable[[str], None]
) -> None:
    """Have `build` fill `directory`, unless an earlier run completed it; what an interrupted run left is redone."""
    if is_complete(directory):
        return
    directory.parent.mkdir(parents=True, exist_ok=True)
    with _locked(directory.with_suffix(".lock"), say):
        if is_complete(directory):
            return
        if directory.exists():
            say(f"An earlier run did not finish {directory}: starting afresh")
            shutil.rmtree(directory)
        directory.mkdir()
        build(directory)
        (directory / MARKER).write_text(json.dumps(recipe, indent=2), encoding="utf-8")


@contextmanager
def _locked(path: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Hold an exclusive lock on `path`. The system lets go of it when the process ends, however it ends."""
    with path.open("ab") as stream:
        waiting = False
        while True:
            try:
                _try_lock(stream)
                break
            except OSError:
                if not waiting:
                    say(f"Another process is at work on {path.with_suffix('')}: waiting for it")
                    waiting = True
                time.sleep(LOCK_POLL_SECONDS)
        yield
