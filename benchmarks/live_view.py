"""What the live view costs: `make bench-live`.

The same guided runs, queued by a browser that watches and by a script, which is shown nothing.
"""

from __future__ import annotations

import argparse
import gc
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.host import call, environment, first_option, pack_module, running
from benchmarks.measure import Median, Spread, clocked, settled, synchronise
from benchmarks.models import SHAPES, build
from benchmarks.progress import say
from benchmarks.report import table, write
from benchmarks.watcher import Shown, Watcher

README = Path(__file__).resolve().parent / "README.md"
LIMIT = 1.0  # percent
SIDE = 256  # pixels; what the browser asks for unless the user says otherwise
CLOCKED = 3  # runs in which the view's own time is taken


@dataclass(frozen=True)
class Subject:
    """Runs to measure.

    Args:
        title: for people.
        steps: of a run.
        rounds: pairs of runs.
        run: sample once.
    """

    title: str
    steps: int
    rounds: int
    run: Callable[[], object]


@dataclass(frozen=True)
class Cost:
    """What watching costs.

    Args:
        step: milliseconds a step of the runs that nobody watches.
        slower: percent that a watched run takes longer than its neighbour.
        work: percent that it makes this process compute more, in all threads and until everything is sent and kept.
        passed, computing: milliseconds a step that the sampling thread is in the view: by the clock, and computing.
        shown: what arrived of each watched run.
    """

    step: Spread
    slower: Median
    work: Median
    passed: Spread
    computing: Spread
    shown: list[Shown]


@settled()
def measure(subject: Subject, watcher: Watcher, device: str, say: Callable[[str], None]) -> Cost:
    """Runs with and without the view, one after the other in the order A B, B A, A B, ...; then its own time."""
    taken: dict[bool, list[tuple[float, float]]] = {False: [], True: []}
    shown = []

    def sample(watched: bool) -> tuple[float, float]:
        """Seconds that a run took, and that this process computed for it."""
        watcher.queues(watched)
        gc.collect()
        synchronise(device)
        start, computed = time.perf_counter(), time.process_time()
        subject.run()
        synchronise(device)
        seconds = time.perf_counter() - start
        if watched:
            shown.append(watcher.shown())  # the next run is not held up by the rest of this one
        return seconds, time.process_time() - computed

    sample(True)  # what libraries allocate once is not of the first run
    shown.clear()
    for i in range(subject.rounds):
        for watched in (bool(i % 2), not i % 2):
            taken[watched].append(sample(watched))
        say(f"round {i + 1} of {subject.rounds}: {taken[False][-1][0]:.2f} s, watched {taken[True][-1][0]:.2f} s")
    clocks = []
    view = pack_module("host.view").View
    for _ in range(CLOCKED):
        with clocked((pack_module("host.run"), "open_view"), (view, "show"), (view, "close")) as clock:
            sample(True)
        clocks.append(clock)
    step = 1e3 / subject.steps
    pairs = list(zip(taken[False], taken[True], strict=True))
    slower, work = (Median.of([100 * (watched[i] / alone[i] - 1) for alone, watched in pairs]) for i in range(2))
    return Cost(Spread.of([step * seconds for seconds, _ in taken[False]]), slower, work,
                Spread.of([step * clock.passed for clock in clocks]),
                Spread.of([step * clock.computing for clock in clocks]), shown)


def subjects(device: str, quick: bool, rounds: int | None = None) -> list[Subject]:
    """The embedded model, whose steps are the shortest there are, and a network of Stable Diffusion's layout."""
    found = []
    for batch, steps, usual in ((1, 2, 2),) if quick else ((1, 25, 12), (4, 8, 9), (16, 3, 9)):
        found.append(Subject(f"embedded model, {batch} x 32 x 32", steps, rounds or usual, _embedded(batch, steps)))
    shape = SHAPES["sd15"].on(device)
    shape = shape.small() if quick else shape
    steps, usual = (1, 2) if quick else (2, 9) if device == "cpu" else (20, 9)
    model = build(shape)
    guided = _guided(model.model)
    return [*found, Subject(str(shape), steps, rounds or usual, lambda: call(
        "KSampler", model=guided, seed=1, steps=steps, cfg=5.0, sampler_name="euler", scheduler="simple",
        positive=model.positive, negative=model.negative, latent_image={"samples": model.latent}))]


def _embedded(batch: int, steps: int) -> Callable[[], object]:
    guided = _guided(call("SAGLoadADM", ckpt_name=first_option("SAGLoadADM"))[0])
    (label,) = call("SAGClassLabel", label=-1)
    return lambda: call("KSampler", model=guided, seed=1, steps=steps, cfg=1.0, sampler_name="ddim",
                        scheduler="simple", positive=label, negative=label,
                        latent_image={"samples": torch.zeros(batch, 3, 32, 32)})


def _guided(model):
    return call("SAGGuidance", model=model, scale=0.5, blur_sigma=2.0, threshold=1.0)[0]


def report(found: dict[str, Cost]) -> str:
    """What was measured, held against the limit."""
    rows, targets = [], []
    for title, cost in found.items():
        frames, size, dropped = (sum(getattr(shown, name) for shown in cost.shown)
                                 for name in ("frames", "size", "dropped"))
        rows.append([title, str(cost.step), _percent(cost.slower), _percent(cost.work), str(cost.passed),
                     str(cost.computing), f"{size / frames / 1024:.1f}", f"{dropped} of {frames + dropped}"])
        verdict = ("met" if cost.slower.high <= LIMIT else "missed" if cost.slower.low > LIMIT else
                   f"not settled: the interval holds {LIMIT:g} %")
        own = 100 * cost.computing.median / cost.step.median
        targets.append([f"{title}: time of a run", f"<= {LIMIT:g} %", f"{_percent(cost.slower)} %", verdict])
        targets.append([f"{title}: what the sampling thread computes for it", f"<= {LIMIT:g} %", f"{own:.2f} %",
                        "met" if own <= LIMIT else "missed"])
    head = ["", "ms a step, not watched", "slower when watched, %", "more computing, all threads, %",
            "in the view, ms a step", "of which computing", "KiB a step", "steps dropped"]
    return f"{table(head, rows)}\n\n{table(['target', 'limit', 'measured', ''], targets)}"


def _percent(median: Median) -> str:
    return f"{median.value:+.2f} [{median.low:+.2f} to {median.high:+.2f}]"


def main() -> None:
    parser = argparse.ArgumentParser(prog="make bench-live", description=__doc__.splitlines()[0].split(":")[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--rounds", type=int, help="pairs of runs of each model; from 9 on the intervals narrow")
    parser.add_argument("--quick", action="store_true", help="small and few, to see that it works; no figure is true")
    parser.add_argument("--write", action="store_true", help=f"put the report into {README.parent.name}/{README.name}")
    args = parser.parse_args()
    if args.quick and args.write:
        parser.error("--quick measures nothing that is worth writing down")
    with running(args.device, served=True), torch.inference_mode():
        found = {}
        with Watcher(SIDE) as watcher:
            for subject in subjects(args.device, args.quick, args.rounds):
                say(f"-- {subject.title}")
                found[subject.title] = measure(subject, watcher, args.device, say)
        text = f"{environment(args.device)}; pictures of {SIDE} pixels\n\n{report(found)}"
    print(text)
    if args.write:
        write(README, f"live {args.device}", text)


if __name__ == "__main__":
    main()
