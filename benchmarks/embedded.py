"""How near the embedded model comes to scenes of files it never saw, and whether it repeats those it was trained on.

    python3 -m tools.run benchmarks.embedded --tiles rltiles.tar.xz

Metrics are taken against scenes of the files that are held out: of the model's samples, of other scenes of those files
(the best that a set of this size can reach), and of scenes of the files trained on (the gap that no model can close,
since it is one of the data). Then, for samples and for scenes, the distance to the nearest of many scenes of the files
trained on; a model that repeats scenes would be far nearer to them than new scenes are. Resumes where it was stopped.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from benchmarks.evaluate import report
from benchmarks.features import SceneFeatures, fresh_scenes, scene_net
from benchmarks.host import call, environment, running
from benchmarks.neighbours import Nearest, nearest
from benchmarks.networks import features_of_store
from benchmarks.progress import say
from benchmarks.report import table
from benchmarks.samples import DETERMINISTIC, classes_of, digest, load_model, sample
from benchmarks.store import SampleStore, fill
from benchmarks.unpicked import MODEL, pictures
from tools.sheet import grid
from training.data import Data, heroes
from training.tiles import load, tiles_argument

OUTPUT = Path(__file__).resolve().parent / "output" / "embedded"
BATCH = 32
# First seeds of the sets of scenes; a set of 20,000 takes 40 of them.
REFERENCE, OTHERS, LIBRARY = 3_000_000, 3_100_000, 3_200_000
SHOWN = 32


def samples(args: argparse.Namespace, classes: int) -> SampleStore:
    """The model's samples, a class a batch, drawn where they are missing."""
    store = SampleStore(args.out / f"{args.model.stem}-{digest(args.model)}-{args.sampler}-{args.scale:g}", {
        "model": digest(args.model), "sampler": args.sampler, "steps": args.steps, "scale": args.scale, "batch": BATCH})
    batches = range(args.count // BATCH)
    if store.missing(batches):
        with running("cpu"):
            say(environment("cpu"))
            model = load_model(args.model)
            if args.scale:
                model, _ = call("SAGGuidance", model=model, scale=args.scale, blur_sigma=1.0, threshold=1.0)

            def draw(index: int) -> dict[str, Tensor]:
                seeds, label = range(index * BATCH, (index + 1) * BATCH), index % classes
                return {"images": sample(model, seeds, label, args.sampler, args.steps),
                        "labels": torch.full((BATCH,), label)}

            fill(store, batches, draw, say)
    return store


def neighbour_sheet(images: Tensor, neighbours: Sequence[Tensor], factor: int = 2) -> Image.Image:
    """Triples: an image, the nearest of the library by pixels, the nearest by features."""
    columns = (pictures(part, factor) for part in (images, *neighbours))
    triples = [grid(triple, len(triple)) for triple in zip(*columns, strict=True)]
    return grid(triples, columns=4)


def distance_table(found: dict[str, tuple[Nearest, Nearest]]) -> str:
    """Median and nearest twentieth of the distances of every set."""
    def shown(one: Nearest) -> list[str]:
        return [f"{one.distance.quantile(share):.3g}" for share in (0.5, 0.05)]

    return table(["", "by pixels, of 255: median", "5 %", "by features: median", "5 %"],
                 [[title, *shown(by_pixels), *shown(by_features)] for title, (by_pixels, by_features) in found.items()])


def run(args: argparse.Namespace, data: Data) -> None:
    sets = {kind: fresh_scenes(args.out / f"{kind.replace(' ', '-')}-{args.count}", args.count, OTHERS, data, kind)
            for kind in data.kinds}
    reference = fresh_scenes(args.out / f"reference-{args.reference}", args.reference, REFERENCE, data)
    library = fresh_scenes(args.out / f"library-{args.library}", args.library, LIBRARY, data, "files trained on")
    net = SceneFeatures(scene_net(say, data), data.draw)
    if args.model.is_file():
        title = f"{args.model.stem}, {args.steps} steps of {args.sampler}" + f", SAG {args.scale:g}" * bool(args.scale)
        sets = {title: samples(args, len(classes_of(args.model)))} | sets
    else:
        say(f"there is no model at {args.model}; the scenes alone are compared")
    known, stock, *seen = (features_of_store(store, store.present(), net, say)
                           for store in (reference, library, *sets.values()))
    text, _ = report(known, dict(zip(sets, seen, strict=True)), paired=False)
    print(f"{len(known)} scenes of files held out are the reference; features of {net.name}.\n\n{text}\n")

    scenes = library.images(library.present())
    found = {}
    for (name, store), features in zip(sets.items(), seen, strict=True):
        say(f"neighbours of {name}")
        images = store.images(store.present())[:args.compared]
        found[name] = (nearest(images, scenes.split(500)), nearest(features.pooled[:args.compared], [stock.pooled]))
    print(f"Distance to the nearest of {len(scenes)} scenes of files trained on.\n\n{distance_table(found)}\n")

    name, store = next(iter(sets.items()))
    # Evenly spread over those compared, and so over the classes; nothing is picked.
    shown = torch.arange(SHOWN) * len(found[name][0].index) // SHOWN
    images = store.images(store.present())[shown]
    path = args.out / "neighbours.png"
    neighbour_sheet(images, [scenes[one.index[shown]] for one in found[name]]).save(path)
    print(f"{path}: {name} | the nearest by pixels | the nearest by features")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    tiles_argument(parser)
    parser.add_argument("--model", type=Path, default=MODEL)
    parser.add_argument("--sampler", default=DETERMINISTIC[0], help=f"one of {', '.join(DETERMINISTIC)}")
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--scale", type=float, default=0.0, help="of SAG; 0 is without")
    parser.add_argument("--count", type=int, default=2048, help="samples and scenes of every set")
    parser.add_argument("--reference", type=int, default=4000, help="scenes of files held out to compare with")
    parser.add_argument("--library", type=int, default=20_000, help="scenes of files trained on to find neighbours in")
    parser.add_argument("--compared", type=int, default=512, help="of every set, for neighbours")
    parser.add_argument("--out", type=Path, default=OUTPUT, help="folder")
    args = parser.parse_args()
    try:
        run(args, heroes(load(args.tiles)))
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
