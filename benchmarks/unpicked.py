"""Sheets of samples that nobody picked, without guidance and with SAG beside it, one for every deterministic sampler.

    python3 -m tools.run benchmarks.unpicked --model models/heroes32.safetensors

Seeds count from 0, from left to right and from top to bottom; a row is of a class, in the model's order. The samples
are the host's, and a pixel of theirs is a square of the sheet.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from PIL import Image
from torch import Tensor

from benchmarks.host import call, running
from benchmarks.progress import say
from benchmarks.samples import DETERMINISTIC, classes_of, load_model, sample
from tools.figure import columns, enlarge
from tools.sheet import grid

HERE = Path(__file__).resolve().parent
MODEL = HERE.parent / "models" / "heroes32.safetensors"


def pictures(images: Tensor, factor: int) -> list[Image.Image]:
    """Images, uint8 [B, 3, H, W], with every pixel a square of `factor` pixels."""
    return [enlarge(Image.fromarray(image.movedim(0, 2).numpy()), factor) for image in images]


def rows(count: int, classes: int) -> list[range]:
    """The seeds of every class: from 0, the same number for each.

    Raises:
        ValueError: they cannot be shared out evenly.
    """
    if count < classes or count % classes:
        raise ValueError(f"--count is {count}; it must be a multiple of the model's {classes} classes")
    each = count // classes
    return [range(start, start + each) for start in range(0, count, each)]


def sheet(model, seeds: list[range], labels: bool, sampler: str, steps: int, factor: int) -> Image.Image:
    """Samples in rows, a row for each class, or of no class where the model is not told `labels`."""
    drawn = []
    for number, row in enumerate(seeds):
        drawn += pictures(sample(model, row, number if labels else -1, sampler, steps), factor)
    return grid(drawn, columns=len(seeds[0]))


def run(args: argparse.Namespace) -> None:
    seeds = rows(args.count, len(classes_of(args.model)))
    model = load_model(args.model)
    guided, _ = call("SAGGuidance", model=model, scale=args.scale, blur_sigma=args.blur_sigma, threshold=1.0,
                     layer=args.layer)
    args.out.mkdir(parents=True, exist_ok=True)
    for sampler in args.samplers.split(","):
        sides = []
        for title, patched in ((f"{sampler}, {args.steps} steps", model), (f"with SAG, scale {args.scale:g}", guided)):
            say(f"{args.count} samples of {title}")
            sides.append((title, [sheet(patched, seeds, not args.no_labels, sampler, args.steps, args.enlarge)]))
        path = args.out / f"{args.model.stem}-{sampler}{'-no-class' * args.no_labels}.png"
        columns(sides, across=2).save(path)
        print(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=MODEL)
    parser.add_argument("--samplers", default=",".join(DETERMINISTIC), help=f"some of {', '.join(DETERMINISTIC)}")
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--count", type=int, default=96, help="samples, seeds from 0")
    parser.add_argument("--no-labels", action="store_true", help="do not tell the model the class")
    parser.add_argument("--scale", type=float, default=2.0, help="of SAG; so are the next two")
    parser.add_argument("--blur-sigma", type=float, default=1.0)
    parser.add_argument("--layer", default="auto")
    parser.add_argument("--enlarge", type=int, default=2, help="pixels of the sheet for one of the model, each way")
    parser.add_argument("--out", type=Path, default=HERE / "output" / "unpicked", help="folder")
    args = parser.parse_args()
    try:
        with running("cpu"):
            run(args)
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
