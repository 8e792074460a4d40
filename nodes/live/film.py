"""The pictures of one run on their way to the browser, prepared in a thread of their own."""

from __future__ import annotations

import threading
from collections import deque
from typing import Protocol

import torch

from .frames import Snapshot, develop

# Steps that may wait for the thread; of more the oldest are dropped, so that sampling never waits.
WAITING = 8
# Steps that are kept of a run; of more every second is left out.
KEPT = 128
VERSION = 1


class Audience(Protocol):
    """Audience of a run.

    Args:
        side: longest side of the pictures, pixels.
    """

    side: int

    def send(self, kind: str, data: dict) -> None:
        """Tell them something, from any thread and without waiting."""

    def keep(self, film: dict) -> str | None:
        """Keep the run, so that it can be looked at later; the name of its file, None where that failed."""


class Film:
    """A run that is watched: frames are sent as they come and kept to its end.

    Args:
        audience: who watches.
        about: what is known of the run before its first step, JSON.
    """

    def __init__(self, audience: Audience, about: dict):
        self.audience, self.about = audience, about
        self.frames: list[dict] = []
        self.dropped = self._count = 0
        self._every = 1
        self._end: dict | None = None
        self._waiting: deque[tuple[Snapshot, dict]] = deque()
        self._news = threading.Condition()
        audience.send("start", about)
        self._thread = threading.Thread(target=self._work, name="sag-live", daemon=True)
        self._thread.start()

    def add(self, snapshot: Snapshot, facts: dict) -> None:
        """A step, and what is to be told of it; returns at once."""
        with self._news:
            if len(self._waiting) == WAITING:
                self._waiting.popleft()
                self.dropped += 1
            self._waiting.append((snapshot, facts))
            self._news.notify()

    def skip(self) -> None:
        """A step that is not shown."""
        with self._news:
            self.dropped += 1

    def close(self, facts: dict) -> None:
        """The run is over; the thread ends when it has sent and kept what waits. Returns at once."""
        with self._news:
            self._end = facts
            self._news.notify()

    def join(self) -> None:
        """Wait until the thread has ended."""
        self._thread.join()

    def _work(self) -> None:
        with torch.inference_mode():
            while (waiting := self._next()) is not None:
                snapshot, facts = waiting
                self._show(facts | develop(snapshot))
        end = self._end | {"dropped": self.dropped}
        kept = self.audience.keep({"version": VERSION, **self.about, "frames": self.frames, "end": end})
        self.audience.send("end", end | {"file": kept})

    def _next(self) -> tuple[Snapshot, dict] | None:
        """The step that waits longest; None after the last."""
        with self._news:
            self._news.wait_for(lambda: self._waiting or self._end is not None)
            return self._waiting.popleft() if self._waiting else None

    def _show(self, frame: dict) -> None:
        self.audience.send("frame", frame)
        if self._count % self._every == 0:
            self.frames.append(frame)
        self._count += 1
        if len(self.frames) > KEPT:
            del self.frames[1::2]
            self._every *= 2
