"""Store of finished runs: the latest in memory, earlier ones in temporary files once they take too much of it."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load, save

from .recording import Recording, RunMissing

# Bytes that earlier runs of a trace may take: in memory, in files, and in memory where no file can be written.
MEMORY, DISK, WITHOUT_FILES = 16 * 2**20, 4 * 2**30, 512 * 2**20
_PREFIX = "sag-runs-"


@dataclass
class _Run:
    """A run, in one of three places: in memory, in a file, or nowhere any more, which `gone` gives the reason of."""

    number: int
    results: set[str]
    nbytes: int
    recording: Recording | None
    path: Path | None = None
    digest: bytes = b""
    gone: str = ""


class Store:
    """Runs by their results, for several threads.

    Files lie in a folder of the store's own, which is removed with it or when Python ends. They are believed only as
    long as they are what was written.

    Args:
        folder: where that folder is made; None for the system's folder of temporary files.
        memory, disk, without_files: bytes that earlier runs may take, see above; the latest is always in memory.
    """

    def __init__(self, folder: Path | None = None, memory: int = MEMORY, disk: int = DISK,
                 without_files: int = WITHOUT_FILES) -> None:
        self._parent, self._memory, self._disk = folder, memory, disk
        self._without_files = max(memory, without_files)
        self._folder: Path | None = None
        self._runs: list[_Run] = []
        self._count, self._warned = 0, False
        self._lock = threading.RLock()

    def __bool__(self) -> bool:
        return bool(self._runs)

    def __deepcopy__(self, memo: dict) -> Store:
        """The same store: a copy of a model, which other nodes may make, records where its trace is looked at."""
        return self

    def add(self, recording: Recording, note: Callable[[str], None]) -> None:
        """Keep a run; results that it shares with earlier ones are its own from now on."""
        with self._lock:
            for run in list(self._runs):
                if run.results & recording.results:
                    run.results -= recording.results
                    if not run.results:
                        self._runs.remove(run)
                        self._drop(run, "")
            self._count += 1
            self._runs.append(_Run(self._count, set(recording.results), recording.nbytes(), recording))
            problem = self._make_room()
        if problem and not self._warned:
            self._warned = True
            note(f"earlier runs of the trace cannot be put into a file: {problem}; they stay in memory, and the oldest "
                 "will have to go")

    def find(self, result: str) -> Recording | None:
        """The run with a result, None where there never was one.

        Raises:
            RunMissing: it is gone; the message says why.
        """
        with self._lock:
            for run in self._runs:
                if result in run.results:
                    return self._get(run)
        return None

    def all(self) -> list[Recording]:
        """Every run that is not gone, newest last."""
        found = []
        with self._lock:
            for run in self._runs:
                try:
                    found.append(self._get(run))
                except RunMissing:
                    continue
        return found

    def _get(self, run: _Run) -> Recording:
        if run.path is not None:
            try:
                return self._read(run)
            except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
                self._drop(run, str(error))
        if run.recording is not None:
            return run.recording
        if run.gone:
            raise RunMissing(f"run {run.number} of this trace is gone, because its file cannot be read: {run.gone}. "
                             "Sample it again, with another seed where its result is kept")
        raise RunMissing(f"run {run.number} of this trace is gone, because later runs needed its room. "
                         "Sample it again, with another seed where its result is kept")

    def _make_room(self) -> str:
        """Put earlier runs into files, the oldest first; why that failed, empty where it did not."""
        problem = ""
        for run in self._beyond(self._memory, lambda run: run.recording is not None):
            try:
                self._write(run)
            except (OSError, SafetensorError, MemoryError, RuntimeError) as error:
                problem = f"{type(error).__name__}: {error}"
                break  # one try a run is enough
        for run in [*self._beyond(self._without_files, lambda run: run.recording is not None),
                    *self._beyond(self._disk, lambda run: run.path is not None)]:
            self._drop(run, "")
        return problem

    def _beyond(self, limit: int, counts: Callable[[_Run], bool]) -> list[_Run]:
        """The oldest of the earlier runs that count, so that the others take no more than a limit."""
        earlier = [run for run in self._runs[:-1] if counts(run)]
        excess, found = sum(run.nbytes for run in earlier) - limit, []
        for run in earlier:
            if excess <= 0:
                break
            found.append(run)
            excess -= run.nbytes
        return found

    def _write(self, run: _Run) -> None:
        if self._folder is None or not self._folder.is_dir():
            if self._parent is not None:
                self._parent.mkdir(parents=True, exist_ok=True)
            self._folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=self._parent))
            weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        path = self._folder / f"{run.number}.safetensors"
        data = save(run.recording.tensors(), {"recording": run.recording.description()})
        try:
            # In one piece and not through a memory map, because a full disk is to be an error and no signal.
            path.write_bytes(data)
        except OSError:
            path.unlink(missing_ok=True)
            raise
        run.path, run.digest, run.recording = path, _digest(data), None

    def _read(self, run: _Run) -> Recording:
        data = run.path.read_bytes()
        if _digest(data) != run.digest:
            raise ValueError(f"{run.path} has been changed")
        header = json.loads(data[8:8 + int.from_bytes(data[:8], "little")])
        return Recording.from_parts(header["__metadata__"]["recording"], load(data), set(run.results))

    def _drop(self, run: _Run, why: str) -> None:
        """Let go of a run."""
        if run.path is not None:
            try:
                run.path.unlink(missing_ok=True)
            except OSError:  # goes with the folder
                pass
        run.recording, run.path, run.gone = None, None, why


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()
