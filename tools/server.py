"""A real ComfyUI server for the length of a `with` block."""

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import aiohttp

from tools.client import ComfyClient
from tools.process import capture, spawn, tail
from tools.provision import CHECKOUT, Host

POLL_SECONDS = 0.2
STOP_SECONDS = 10.0
_NOT_PART_OF_THE_PACK = shutil.ignore_patterns(".git", ".venv", "venv", "__pycache__", "demo_output", "checkpoints")


class ComfyServer(ComfyClient):
    """Starts ComfyUI headless on a free port of 127.0.0.1 with the pack installed, and stops it at the end.

    It works in a temporary base directory (`base`: custom_nodes, models, input, output, temp, user), so nothing is
    written into the ComfyUI tree. On a machine without CUDA it runs on the CPU.

    Args:
        host: the ComfyUI to start
        packs: what custom_nodes holds: directories by name; the checkout under its own name where None
        arguments: more command line arguments for ComfyUI
        start_timeout: seconds it may take to answer

    Raises (on entering):
        RuntimeError: the process ended, a pack could not be imported, or it did not answer in time.
    """

    def __init__(
        self,
        host: Host,
        packs: Mapping[str, Path] | None = None,
        arguments: Sequence[str] = (),
        start_timeout: float = 180.0,
    ) -> None:
        port = _free_port()
        super().__init__(f"http://127.0.0.1:{port}")
        self.host = host
        self.packs = {CHECKOUT.name: CHECKOUT} if packs is None else dict(packs)
        self.start_timeout = start_timeout
        self._directory = tempfile.TemporaryDirectory(prefix="comfyui-sag-", ignore_cleanup_errors=True)
        self.base = Path(self._directory.name)
        self._arguments = ["--port", str(port), *arguments]
        self._log = self.base / "comfyui.log"
        self._process: subprocess.Popen | None = None

    def __enter__(self) -> "ComfyServer":
        try:
            for name, source in self.packs.items():
                _link_or_copy(source, self.base / "custom_nodes" / name)
            with self._log.open("wb") as stream:
                self._process = spawn(self._command(), cwd=self.base, env=_environment(), output=stream)
            self._wait_until_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def log_text(self) -> str:
        """Everything the server has printed so far."""
        return self._log.read_text(encoding="utf-8", errors="replace")

    def stop(self) -> None:
        """End the process, by force where it does not follow, and remove the base directory."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._directory.cleanup()

    def _command(self) -> list[str | Path]:
        # The database would otherwise be made in the ComfyUI tree, whatever the base directory.
        return [
            *(self.host.python, self.host.comfyui / "main.py"),
            *("--base-directory", self.base, "--database-url", "sqlite:///:memory:"),
            *("--disable-auto-launch", "--disable-api-nodes"),
            *([] if _has_cuda(self.host.python) else ["--cpu"]),
            *self._arguments,
        ]

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + self.start_timeout
        while not self._answers():
            if self._process.poll() is not None:
                raise self._failure(f"ComfyUI ended with status {self._process.returncode} before it answered")
            if time.monotonic() > deadline:
                raise self._failure(f"ComfyUI did not answer within start_timeout={self.start_timeout:g} s")
            time.sleep(POLL_SECONDS)
        failed = [line for line in self.log_text().splitlines() if "IMPORT FAILED" in line and str(self.base) in line]
        if failed:
            raise self._failure(f"ComfyUI could not import a pack: {failed[0].strip()}")

    def _answers(self) -> bool:
        try:
            self.get_json("/queue")
        except aiohttp.ClientError:
            return False
        return True

    def _failure(self, what: str) -> RuntimeError:
        return RuntimeError(f"{what}. The end of its log:\n{tail(self._log, 60)}")


def _environment() -> dict[str, str]:
    # Without bytecode: the tree and the checkout are not ours to write to.
    return {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONUNBUFFERED": "1", "PYTHONUTF8": "1"}


def _has_cuda(python: Path) -> bool:
    status, _ = capture([python, "-c", "import sys, torch; sys.exit(not torch.cuda.is_available())"])
    return status == 0


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _link_or_copy(source: Path, target: Path) -> None:
    """Put a pack into custom_nodes: a symlink, or a copy where the system refuses those (Windows)."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        target.symlink_to(source, target_is_directory=True)
    except OSError:
        shutil.copytree(source, target, ignore=_NOT_PART_OF_THE_PACK)
