"""Metrics of sample sets against a reference, with intervals: sample stores or folders of pictures.

    python3 -m tools.run benchmarks.evaluate scenes:4000 benchmarks/output/plain benchmarks/output/guided --paired
    python3 -m tools.run benchmarks.evaluate photos/ samples/ --inception weights-inception-2015-12-05-6726825d.pth
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from benchmarks.features import SceneFeatures, fresh_scenes, scene_net
from benchmarks.inception import InceptionFeatures
from benchmarks.metrics import HIGHER_IS_BETTER, Bootstrap, Estimate, measure
from benchmarks.networks import FeatureNet, Features, features_of_folder, features_of_store
from benchmarks.progress import say
from benchmarks.report import table
from benchmarks.shards import barrier, group
from benchmarks.store import DESCRIPTION, SampleStore
from training.data import SHAPES, Data, data_of
from training.tiles import tiles_argument

OUTPUT = Path(__file__).resolve().parent / "output"
SCENES = "scenes:"


def features(place: str, net: FeatureNet, say, data: Data = SHAPES) -> Features:
    """Features of a store, of a folder of pictures, or of so many fresh scenes of the data."""
    if place.startswith(SCENES):
        if not (number := place.removeprefix(SCENES)).isdecimal() or int(number) < 2:
            raise ValueError(f"{place} says no number of scenes; write for instance {SCENES}4000")
        name = "fresh-scenes" if data is SHAPES else f"{data.name}-fresh-scenes"
        store = fresh_scenes(OUTPUT / f"{name}-{number}", int(number), data=data)
    elif (Path(place) / DESCRIPTION).is_file():
        store = SampleStore.open(Path(place))
    elif Path(place).is_dir():
        return features_of_folder(Path(place), net)
    else:
        raise FileNotFoundError(f"{place} is no folder; name a sample store, a folder of pictures, or {SCENES}4000")
    # The others may not be done with what they draw: none is to miss a batch that the next one sees.
    barrier()
    if not (batches := store.present()):
        raise ValueError(f"{place} has no samples yet")
    return features_of_store(store, batches, net, say)


def metric_table(found: dict[str, dict[str, Estimate]], level: float) -> str:
    """A row for every set, or difference of two."""
    rows = [[title, str(estimates["FID"].bootstrap.samples),
             *(shown(estimates[name], level) for name in HIGHER_IS_BETTER)] for title, estimates in found.items()]
    return table(["", "samples", *HIGHER_IS_BETTER], rows)


def shown(estimate: Estimate, level: float) -> str:
    """The value and its interval."""
    low, high = estimate.interval(level)
    return f"{estimate.value:.4g} [{low:.4g}, {high:.4g}]"


def report(reference: Features, sets: dict[str, Features], paired: bool, resamples: int = 200, level: float = 0.9,
           neighbours: int = 3, seed: int = 0) -> tuple[str, dict[str, dict[str, Estimate]]]:
    """Tables of the metrics, and of the differences to the first set where they are `paired`; and the metrics.

    Raises:
        ValueError: sets are paired that are not of one size.
    """
    counts = {title: len(samples) for title, samples in sets.items()}
    if paired and len(set(counts.values())) > 1:
        raise ValueError(f"paired sets have as many samples as each other, of the same seeds; these have {counts}")
    bootstraps = {count: Bootstrap(count, resamples, seed) for count in counts.values()}
    found = {title: measure(reference, samples, bootstraps[len(samples)], neighbours)
             for title, samples in sets.items()}
    text = metric_table(found, level)
    dimensions = reference.pooled.shape[1]
    if few := [title for title, count in counts.items() if count <= dimensions]:
        text += f"\n\nFewer samples than features ({dimensions}): the FID of {', '.join(few)} is far too high."
    if paired and len(found) > 1:
        first, *others = found
        differences = {f"{title} - {first}": {name: found[title][name] - found[first][name] for name in found[title]}
                       for title in others}
        text += "\n\n" + metric_table(differences, level)
    return text, found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reference", help=f"a sample store, a folder of pictures, or {SCENES}N for N fresh scenes")
    parser.add_argument("samples", nargs="+", help="sample stores or folders of pictures")
    tiles_argument(parser, note=": scenes are adventurers drawn from those held out, not shapes")
    parser.add_argument("--inception", type=Path, metavar="FILE",
                        help="compare by Inception-v3 with these weights, not by the classifier of scenes")
    parser.add_argument("--device", default="cpu", help="for Inception-v3")
    parser.add_argument("--paired", action="store_true", help="the sets share their seeds: show their differences")
    parser.add_argument("--resamples", type=int, default=200)
    parser.add_argument("--level", type=float, default=0.9, help="of the intervals, 0..1")
    parser.add_argument("--neighbours", type=int, default=3, help="k of precision and recall")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write values and intervals there as well")
    args = parser.parse_args()
    try:
        with group() as (rank, _):
            run(args, rank)
    except (FileNotFoundError, ValueError) as error:
        sys.exit(f"error: {error}")


def run(args: argparse.Namespace, rank: int) -> None:
    data = data_of(args.tiles)
    if args.inception:
        net = InceptionFeatures(args.inception, args.device)
    else:
        if rank == 0:
            scene_net(say, data)
        barrier()
        net = SceneFeatures(scene_net(say, data), data.draw)
    reference, *samples = (features(place, net, say, data) for place in (args.reference, *args.samples))
    if rank:
        return
    text, found = report(reference, dict(zip(args.samples, samples, strict=True)), args.paired, args.resamples,
                         args.level, args.neighbours)
    higher = [name for name, up in HIGHER_IS_BETTER.items() if up]
    print(f"{len(reference)} images of reference, features of {net.name}; brackets hold {args.level:.0%} of "
          f"{args.resamples} resamples.\nHigher is better for {', '.join(higher)}, lower for the others.\n\n{text}")
    if args.json:
        values = {title: {name: {"value": estimate.value, "interval": estimate.interval(args.level)}
                          for name, estimate in estimates.items()} for title, estimates in found.items()}
        args.json.write_text(json.dumps(values, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
