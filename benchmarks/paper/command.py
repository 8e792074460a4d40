"""The command: draw what is missing, score it, and write the page."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace

from benchmarks.features import SceneFeatures, fresh_scenes, scene_net
from benchmarks.host import environment, running
from benchmarks.networks import features_of_store
from benchmarks.paper import page
from benchmarks.paper.attention import look
from benchmarks.paper.calibration import calibration_table
from benchmarks.paper.cost import cost_table
from benchmarks.paper.draw import ROOT, Artist
from benchmarks.paper.score import Score, Verdict, judge, score_ways
from benchmarks.paper.tables import SEEDS, TABLES, TUNING, TUNING_SEEDS, Table
from benchmarks.progress import say
from benchmarks.report import write
from benchmarks.shards import barrier, group

OUTPUT = ROOT / "benchmarks" / "output" / "paper"
DOCS = ROOT / "docs"


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """What the user asks for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.paper", description=__doc__)
    parser.add_argument("--quick", action="store_true",
                        help="a few samples of few steps, to see that it works; no figure is true")
    parser.add_argument("--tune", action="store_true", help="draw and score the tuning table alone")
    parser.add_argument("--tables", default=",".join(TABLES), help=f"some of {', '.join(TABLES)}")
    parser.add_argument("--batches", type=int, default=len(SEEDS), help="of every way")
    parser.add_argument("--batch", type=int, default=32, help="samples of a batch")
    parser.add_argument("--write", action="store_true", help="write it into docs/results.md, with its figures")
    args = parser.parse_args(given)
    args.tables = args.tables.split(",")
    if unknown := set(args.tables) - set(TABLES):
        parser.error(f"--tables: there is no {', '.join(sorted(unknown))}; there are {', '.join(TABLES)}")
    if args.write and (args.quick or set(args.tables) != set(TABLES)):
        parser.error("--write needs the full run of all tables")
    if args.quick:
        args.batch, args.batches = 8, 1
    return args


def main(given: Sequence[str] | None = None) -> None:
    args = arguments(given)
    with group() as (rank, _):
        if rank == 0:
            scene_net(say)
        barrier()
        net = SceneFeatures(scene_net())
        with running("cpu"):
            _run(args, rank, net)


def _run(args: argparse.Namespace, rank: int, net: SceneFeatures) -> None:
    """This process's share of the drawing; the first one's scores and page."""
    artist = Artist(args.batch, OUTPUT / ("quick" if args.quick else "samples"))
    batches = list(TUNING_SEEDS if args.tune else range(args.batches))
    tables = {"tuning": TUNING} if args.tune else {key: TABLES[key] for key in args.tables}
    if args.quick:
        tables = {key: _short(table) for key, table in tables.items()}
    ways = list({way.name: way for table in tables.values() for way in table.rows.values()}.values())
    for done, index in enumerate(batches):  # a batch of every way, so that stopping early leaves fair tables
        for way in ways:
            artist.fill(way, [index], lambda text: None)
        say(f"batch {done + 1} of {len(batches)} drawn, of {len(ways)} ways")
    if rank == 0:
        reference = fresh_scenes(OUTPUT / "fresh-scenes", 4000)
        known = features_of_store(reference, reference.present(), net)
        scores = score_ways(artist, ways, batches, known, net, 20 if args.quick else 200, say)
        seen = calibration_table(known, net, 100 if args.quick else artist.batch * len(batches))
        _report(args, artist, tables, scores, batches, seen)


def _short(table: Table) -> Table:
    """The same table of ten steps."""
    return replace(table, rows={name: replace(way, respacing="ddim10" if way.respacing.startswith("ddim") else "10")
                                for name, way in table.rows.items()})


def _report(args: argparse.Namespace, artist: Artist, tables: Mapping[str, Table], scores: Mapping[str, Score],
            batches: Sequence[int], calibration: str) -> None:
    found: dict[str, list[Verdict]] = {key: judge(table, scores) for key, table in tables.items()}
    pictures = DOCS / "results" if args.write else OUTPUT / "figures"
    parts = []
    for key, table in tables.items():
        page.save(page.figure(table, scores), pictures / f"{key}.png")
        parts.append(page.section(table, scores, found[key], f"results/{key}.png"))
    if not args.tune:
        parts.append("## What the metric sees\n\n" + calibration)
        seen = look(100 if args.quick else 1000)
        parts.append("## What the model attends to\n\n" + page.attention_section(seen))
        parts.append("## Cost\n\n" + cost_table(artist, 1 if args.quick else 7, say))
    count, overview = artist.batch * len(batches), [] if args.tune else [page.summary(found, tables)]
    text = "\n\n".join([f"{environment('cpu')}\n\n{count} samples of every way.", *overview, *parts])
    print(text)
    if args.write:
        write(DOCS / "results.md", "tuning" if args.tune else "results", text)
