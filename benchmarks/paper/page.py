"""docs/results.md: every table with its figure, and what became of the paper's claims."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image

from benchmarks.host import pack_module
from benchmarks.metrics import Estimate
from benchmarks.paper.attention import Seen, gain
from benchmarks.paper.score import HIGHER_IS_BETTER, LEVEL, Score, Verdict
from benchmarks.paper.tables import Table
from benchmarks.report import table as markdown

COLUMNS = {"FID": 2, "sFID": 2, "KID": 4, "IS": 2, "precision": 3, "recall": 3, "accuracy": 3}


def section(table: Table, scores: Mapping[str, Score], verdicts: Sequence[Verdict], figure: str) -> str:
    """A table of the page."""
    source = f"*The paper: {table.source}.*" if table.source else ""
    parts = [f"## {table.title}", source, rows(table, scores), f"![{table.title}]({figure})",
             claims(verdicts) if verdicts else "", table.note]
    return "\n\n".join(part for part in parts if part)


def rows(table: Table, scores: Mapping[str, Score]) -> str:
    """The metrics of every row."""
    found = {name: scores[way.name] for name, way in table.rows.items()}
    columns = [name for name in COLUMNS if any(name in score.estimates for score in found.values())]
    heads = [table.axis, *(f"{name} {'(up)' if HIGHER_IS_BETTER[name] else '(down)'}" for name in columns), "passes"]
    body = [[name, *(shown(score.estimates.get(column), COLUMNS[column]) for column in columns), str(score.passes)]
            for name, score in found.items()]
    return markdown(heads, body)


def shown(estimate: Estimate | None, digits: int) -> str:
    """A value with its interval."""
    if estimate is None:
        return "-"
    low, high = estimate.interval(LEVEL)
    return f"{estimate.value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def claims(verdicts: Sequence[Verdict]) -> str:
    """What the paper says, and whether it is so here."""
    return markdown(["the paper's direction", "its figures", "by", "improves here by", "reproduced"], [
        [v.claim.text, v.claim.paper or "-", v.claim.measure, percent(v.change), v.text] for v in verdicts])


def percent(estimate: Estimate) -> str:
    """A share with its interval, in percent."""
    low, high = estimate.interval(LEVEL)
    return f"{estimate.value:+.1%} [{low:+.1%}, {high:+.1%}]"


def figure(table: Table, scores: Mapping[str, Score]) -> Image.Image:
    """The FID of every row with its interval, beside a dashed line at the row that others are compared with."""
    plots = pack_module("plots")
    estimates = {name: scores[way.name].estimates["FID"] for name, way in table.rows.items()}
    drawn = []
    for name, estimate in estimates.items():
        low, high = estimate.interval(LEVEL)
        title = f"{table.axis} {name}" if table.axis else name
        drawn.append(plots.Estimate(title, estimate.value, low, high, f"{estimate.value:.2f}"))
    reach = (0.0, 1.05 * max(row.high for row in drawn))
    reference = estimates.get(table.base, next(iter(estimates.values()))).value
    return plots.intervals(drawn, table.title, f"FID (lower is better), {LEVEL:.0%} intervals", reference, reach)


def attention_section(seen: Sequence[Seen]) -> str:
    """What masks meet, by layer."""
    body = []
    for one in seen:
        size = f"{one.grid[0]} x {one.grid[1]}"
        body.append([one.layer, size, f"{one.threshold:g}", f"{one.iou.mean():.3f}", f"{one.random.mean():.3f}",
                     f"{gain(one):+.0%}", f"{one.detail.nanmean():+.3f}"])
    return markdown(["layer", "grid", "psi", "IoU", "random mask", "gain", "log-magnitude over all patches"], body)


def summary(found: Mapping[str, Sequence[Verdict]], tables: Mapping[str, Table]) -> str:
    """All claims in one table, in the page's order."""
    return markdown(["table", "claim", "reproduced"], [
        [tables[key].title, verdict.claim.text, verdict.text] for key, verdicts in found.items()
        for verdict in verdicts])


def save(image: Image.Image, path: Path) -> None:
    """A figure of few colours, as small as it can be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image.quantize(64).save(path, optimize=True)
