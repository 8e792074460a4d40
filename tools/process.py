"""Starting other programs: the one place that does, always as a list of arguments and never through a shell."""

import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO

HEARTBEAT_SECONDS = 20.0


def spawn(
    command: Sequence[str | Path],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    output: IO[bytes] | int | None = None,
) -> subprocess.Popen:
    """Start `command` with standard output and error both going to `output` (None: to the terminal)."""
    arguments = [str(part) for part in command]
    errors = None if output is None else subprocess.STDOUT
    return subprocess.Popen(arguments, env=env, cwd=cwd, stdout=output, stderr=errors)  # noqa: S603 (our own commands)


def call(command: Sequence[str | Path], *, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> int:
    """Run `command` in the terminal and return its exit status."""
    with spawn(command, env=env, cwd=cwd) as process:
        return process.wait()


def capture(command: Sequence[str | Path]) -> tuple[int, str]:
    """Run `command` and return its exit status and everything it printed."""
    with spawn(command, output=subprocess.PIPE) as process:
        printed, _ = process.communicate()
    return process.returncode, printed.decode("utf-8", "replace").strip()


def call_logged(
    command: Sequence[str | Path], log: Path, *, env: Mapping[str, str], say: Callable[[str], None]
) -> None:
    """Run `command` with its output appended to `log`, saying now and then that it is still at work.

    Raises:
        RuntimeError: where the exit status is not 0, with the last lines of the output.
    """
    started = time.monotonic()
    with log.open("ab") as stream, spawn(command, env=env, output=stream) as process:
        while True:
            try:
                status = process.wait(timeout=HEARTBEAT_SECONDS)
                break
            except subprocess.TimeoutExpired:
                say(f"    still at work after {time.monotonic() - started:.0f} s")
    if status != 0:
        shown = " ".join(str(part) for part in command)
        raise RuntimeError(f"`{shown}` ended with status {status}. The end of {log}:\n{tail(log)}")


def tail(log: Path, lines: int = 30) -> str:
    """The last lines of a log file, indented to stand out inside an error message."""
    text = log.read_text(encoding="utf-8", errors="replace") if log.exists() else "(nothing was written)"
    return "\n".join("    " + line for line in text.splitlines()[-lines:])
