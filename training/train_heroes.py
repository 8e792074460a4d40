"""Train the embedded model on adventurers: `python -m training.train_heroes --tiles FOLDER-OR-ARCHIVE`.

Checkpoints are written atomically and resumed from without asking. Every batch is a function of (seed, step), so an
interrupted run sees the data it would have seen. At the end the averaged weights are exported to `models/` as float16
safetensors, with the configuration and the recipe in the metadata. `--export-now` exports those of the last checkpoint.
"""

from __future__ import annotations

import argparse

from sag_core.adm.config import ADMConfig
from training.data import heroes
from training.heroes import CLASSES
from training.loop import export, load_state, loop_arguments
from training.tiles import load, tiles_argument
from training.train import model_arguments, recipe, train_model

CONFIG = ADMConfig(
    model_channels=32, channel_mult=(1, 2, 6), num_res_blocks=1, attention_downsamples=(2, 4), head_channels=32,
    resblock_updown=False, norm_groups=8, num_classes=len(CLASSES) + 1, null_label=len(CLASSES), image_size=32,
    noise_schedule="cosine")


def parse_args(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    loop_arguments(parser, steps=32_000, decay=8_000, batch=64, lr=1e-3)
    model_arguments(parser, "heroes32")
    tiles_argument(parser)
    parser.add_argument("--export-now", action="store_true", help="export the last checkpoint instead of training on")
    return parser.parse_args(words)


def export_checkpoint(args: argparse.Namespace) -> None:
    """Export the averaged weights of the last checkpoint, with its step in the metadata.

    Raises:
        SystemExit: there is no checkpoint, or it was begun with other options.
    """
    state = load_state(args.checkpoint, recipe(args))
    if state is None:
        raise SystemExit(f"There is no checkpoint at {args.checkpoint}: train first, or give --checkpoint.")
    export(args.out, state["ema"], recipe(args) | {"loss": round(state["loss"], 6), "at_step": state["step"]}, CLASSES,
           adm_config=CONFIG.to_json())


def main() -> None:
    args = parse_args()
    if args.export_now:
        export_checkpoint(args)
    else:
        train_model(args, CONFIG, heroes(load(args.tiles)))


if __name__ == "__main__":
    main()
