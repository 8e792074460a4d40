"""Time and memory of guidance, beside the least that a second pass can cost: `make bench`, or with ARGS="--help"."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from benchmarks.host import environment, running
from benchmarks.models import SHAPES, Shape
from benchmarks.progress import say
from benchmarks.recording import Recording, measure_recording
from benchmarks.report import report, write
from benchmarks.sampling import Costs, measure_model

README = Path(__file__).resolve().parent / "README.md"
TOKENS = (64, 1024, 4096)


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """What the user asks for, with everything decided that depends on the machine."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__.split(":")[0])
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--models", default=",".join(SHAPES), help=f"some of {', '.join(SHAPES)}")
    parser.add_argument("--repeats", type=int, help="rounds, each with a run of every variant")
    parser.add_argument("--steps", type=int, help="of a run")
    parser.add_argument("--quick", action="store_true", help="small and few, to see that it works; no figure is true")
    parser.add_argument("--write", action="store_true", help=f"put the report into {README.parent.name}/{README.name}")
    args = parser.parse_args(given)
    args.models = args.models.split(",")
    if unknown := set(args.models) - set(SHAPES):
        parser.error(f"--models: there is no {', '.join(sorted(unknown))}; there are {', '.join(SHAPES)}")
    if args.quick and args.write:
        parser.error("--quick measures nothing that is worth writing down")
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: PyTorch finds no CUDA device here")
    if args.device == "auto":
        args.device = "cuda" if torch.cuda.is_available() else "cpu"
    on_cpu = args.device == "cpu"
    args.repeats = args.repeats or (2 if args.quick else 7 if on_cpu else 15)
    args.steps = args.steps or (2 if args.quick or on_cpu else 20)
    return args


def measure(args: argparse.Namespace) -> str:
    """The report."""
    costs: list[tuple[Shape, Costs]] = []
    recordings: list[Recording] = []
    with torch.inference_mode():
        for name in args.models:
            shape = SHAPES[name].on(args.device)
            shape = shape.small() if args.quick else shape
            say(f"-- {shape}")
            costs.append((shape, measure_model(shape, args.device, args.steps, args.repeats, say)))
        for tokens in TOKENS[:2] if args.quick else TOKENS:
            say(f"-- one attention call, {tokens} tokens")
            recordings.append(measure_recording(tokens, args.device, args.repeats, say))
    how = f"rounds: {args.repeats}, of runs of {args.steps} steps"
    return report(f"{environment(args.device)}; {how}", costs, recordings)


def main() -> None:
    args = arguments()
    with running(args.device):
        text = measure(args)
    print(text)
    if args.write:
        write(README, args.device, text)


if __name__ == "__main__":
    main()
