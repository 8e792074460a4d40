"""Measuring calls that return nothing: their time side by side, their peak of memory, what the network was asked."""

from __future__ import annotations

import gc
import json
import math
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from pathlib import Path

import torch

Run = Callable[[], object]
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Spread:
    """The middle half of some measurements."""

    low: float
    median: float
    high: float

    @classmethod
    def of(cls, values: list[float]) -> Spread:
        if len(values) == 1:
            return cls(values[0], values[0], values[0])
        return cls(*statistics.quantiles(values, n=4, method="inclusive"))

    def __str__(self) -> str:
        digits = 1 if self.median >= 20 else 2 if self.median >= 2 else 3
        return f"{self.median:.{digits}f} [{self.low:.{digits}f}-{self.high:.{digits}f}]"


@dataclass(frozen=True)
class Median:
    """A median and an interval that holds the true one with `CONFIDENCE`, whatever the values are distributed like."""

    low: float
    value: float
    high: float

    @classmethod
    def of(cls, values: list[float]) -> Median:
        """The interval lies between two of the values, as many from either end; of less than six it is all of them."""
        values, n = sorted(values), len(values)
        k, outside = 0, 2 * 0.5 ** n  # probability that the true median lies beyond the k-th value from either end
        while outside <= 1 - CONFIDENCE:
            k += 1
            outside += 2 * math.comb(n, k) * 0.5 ** n
        k = max(k - 1, 0)
        return cls(values[k], statistics.median(values), values[n - 1 - k])


@dataclass
class Clock:
    """Seconds that a thread was in some functions: by the clock, and those of them that it was computing."""

    passed: float = 0.0
    computing: float = 0.0


@contextmanager
def clocked(*places: tuple[object, str]) -> Iterator[Clock]:
    """Clock functions, none of which calls another; each is named by its module or class, and its name there."""
    clock, functions = Clock(), [(owner, name, getattr(owner, name)) for owner, name in places]

    def timed(function: Callable) -> Callable:
        @wraps(function)
        def call(*args, **kwargs):
            passed, computing = time.perf_counter(), time.thread_time()
            try:
                return function(*args, **kwargs)
            finally:
                clock.computing += time.thread_time() - computing
                clock.passed += time.perf_counter() - passed

        return call

    try:
        for owner, name, function in functions:
            setattr(owner, name, timed(function))
        yield clock
    finally:
        for owner, name, function in functions:
            setattr(owner, name, function)


def seconds(runs: Mapping[str, Run], repeats: int, device: str, say: Callable[[str], None]) -> dict[str, list[float]]:
    """Seconds of every run, `repeats` times each: round by round, each round in an order of its own.

    What disturbs a machine for longer than a round disturbs all runs alike, and none always follows the same other.
    """
    taken: dict[str, list[float]] = {name: [] for name in runs}
    order = list(runs)
    shuffle = random.Random(0).shuffle
    for i in range(repeats):
        shuffle(order)
        for name in order:
            gc.collect()
            synchronise(device)
            start = time.perf_counter()
            runs[name]()
            synchronise(device)
            taken[name].append(time.perf_counter() - start)
        say(f"round {i + 1} of {repeats}: {sum(times[-1] for times in taken.values()):.1f} s")
    return taken


def ratio(taken: Mapping[str, list[float]], name: str, base: str) -> Spread:
    """How much longer one run takes than another, compared round by round."""
    return Spread.of([a / b for a, b in zip(taken[name], taken[base], strict=True)])


def peak_memory(run: Run, device: str) -> int:
    """Bytes that a run holds at its peak, on top of what is held before it; it runs once, untimed.

    On CUDA the allocator counts. On a CPU every allocation is taken from PyTorch's profiler, with those that operators
    make inside for themselves: exact, where the size of the process is neither exact nor repeatable.
    """
    gc.collect()
    if device == "cuda":
        synchronise(device)
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        synchronise(device)
        return torch.cuda.max_memory_allocated() - before
    with torch.autograd.profiler.profile(profile_memory=True) as profile:
        run()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profile.export_chrome_trace(str(path))
        events = json.loads(path.read_text("utf-8", "replace"))["traceEvents"]
    allocations = [event for event in events if event.get("name") == "[memory]"]
    allocations.sort(key=lambda event: event["ts"])
    held = peak = 0
    for event in allocations:
        held += event["args"]["Bytes"]
        peak = max(peak, held)
    return peak


@contextmanager
def settled() -> Iterator[None]:
    """Objects that are there already are not looked through again whenever garbage is collected before a run."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


@contextmanager
def network_calls(network: torch.nn.Module) -> Iterator[list[int]]:
    """How many rows of a batch every call of a network has, in order."""
    rows = []
    handle = network.register_forward_pre_hook(lambda module, args: rows.append(len(args[0])))
    try:
        yield rows
    finally:
        handle.remove()


def synchronise(device: str) -> None:
    """Wait until a device has done all that it was asked."""
    if device == "cuda":
        torch.cuda.synchronize()
