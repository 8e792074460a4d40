"""The figures as Markdown tables that can be read in a terminal, and the targets they are held against."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from benchmarks.measure import Spread
from benchmarks.models import Shape
from benchmarks.recording import ATTENTION, BUILTIN_CALL, PACK, Recording
from benchmarks.sampling import BUILTIN, FLOOR, PLAIN, RECORD, SAG, VARIANTS, Costs

MIB = 2 ** 20
TIME_LIMIT, MEMORY_LIMIT, RECORDING_LIMIT, SMALLER_LIMIT = 1.02, 1.02, 1.01, 20
SMALLER_AT = 4096  # tokens


def report(circumstances: str, costs: Sequence[tuple[Shape, Costs]], recordings: Sequence[Recording]) -> str:
    """Everything that was measured."""
    parts = [circumstances]
    parts += [f"**{shape}**\n\n{cost_table(cost)}" for shape, cost in costs]
    parts += [f"**One attention call, recorded**\n\n{recording_table(recordings)}"]
    parts += [f"**Targets**\n\n{target_table(costs, recordings)}"]
    return "\n\n".join(parts)


def cost_table(costs: Costs) -> str:
    """One model: a row for every way to sample it."""
    rows = []
    for name, variant in VARIANTS.items():
        cost = costs[name]
        if cost is None:
            rows.append([variant.title, *["n/a"] * 6])
            continue
        calls, peak = " + ".join(map(str, cost.calls)), cost.peak / costs[FLOOR].peak
        rows.append([variant.title, calls, str(cost.step), f"{cost.over[PLAIN].median:.3f}",
                     f"{cost.over[FLOOR].median:.3f}", f"{cost.peak / MIB:.1f}", f"{peak:.3f}"])
    return table(["", "rows a step", "ms a step", "over CFG", "over floor", "peak MiB", "over floor"], rows)


def recording_table(recordings: Iterable[Recording]) -> str:
    """One attention call: a row for every number of tokens."""
    rows = [[str(r.tokens), *(str(r.taken[name]) for name in (ATTENTION, PACK, BUILTIN_CALL)),
             f"{r.pack / MIB:.1f}", f"{r.builtin / MIB:.1f}", f"{r.smaller:.0f}"] for r in recordings]
    return table(["tokens", "not recorded, ms", "this pack, ms", "ComfyUI's SAG, ms", "this pack, extra MiB",
                  "ComfyUI's SAG, extra MiB", "times smaller"], rows)


def target_table(costs: Iterable[tuple[Shape, Costs]], recordings: Iterable[Recording]) -> str:
    """What was set out for, what was measured."""
    rows = []
    for shape, cost in costs:
        sag, floor, builtin, record = (cost[name] for name in (SAG, FLOOR, BUILTIN, RECORD))
        rows.append(_limit(f"{shape.title}: time of SAG over the floor", sag.over[FLOOR], TIME_LIMIT))
        rows.append(_limit(f"{shape.title}: peak memory of SAG over the floor", sag.peak / floor.peak, MEMORY_LIMIT))
        rows.append(_limit(f"{shape.title}: time of recording over CFG", record.over[PLAIN], RECORDING_LIMIT))
        if builtin is not None:
            rows.append(_limit(f"{shape.title}: time of SAG over ComfyUI's own", sag.over[BUILTIN], 1))
            rows.append(_limit(f"{shape.title}: peak memory of SAG over ComfyUI's own", sag.peak / builtin.peak, 1))
    for r in recordings:
        if r.tokens >= SMALLER_AT:
            rows.append([f"{r.tokens} tokens: recording takes less memory than ComfyUI's SAG",
                         f">= {SMALLER_LIMIT} times", f"{r.smaller:.0f} times",
                         "met" if r.smaller >= SMALLER_LIMIT else "missed"])
    return table(["target", "limit", "measured", ""], rows)


def _limit(target: str, measured: Spread | float, limit: float) -> list[str]:
    """A row of the targets; the median decides, and it is said where the middle half of the rounds does not agree."""
    if not isinstance(measured, Spread):
        return [target, f"<= {limit}", f"{measured:.3f}", "met" if measured <= limit else "missed"]
    verdict = "met" if measured.median <= limit else "missed"
    if measured.low <= limit < measured.high:
        verdict += ", within the noise"
    return [target, f"<= {limit}", str(measured), verdict]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, padded; the first column to the left, the others to the right."""
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    rules = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    lines = [[row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
             for row in [head, rules, *rows]]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def write(readme: Path, device: str, text: str) -> None:
    """Replace what a README says between a device's markers.

    Raises:
        ValueError: it has no such markers.
    """
    begin, end = f"<!-- {device}: begin -->", f"<!-- {device}: end -->"
    before, found, rest = readme.read_text("utf-8").partition(begin)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        raise ValueError(f"{readme.name} has no place between {begin} and {end}")
    readme.write_text(f"{before}{begin}\n{text}\n{end}{after}", "utf-8")
