"""Train the embedded model on adventurers: `python -m training.train_heroes --tiles FOLDER-OR-ARCHIVE`.

Checkpoints are written atomically and resumed from without asking. Every batch is a function of (seed, step), so an
interrupted run sees the data it would have seen. At the end the averaged weights are exported to `models/` as float16
safetensors, with the configuration and the recipe in the metadata. `--export-now` exports those of the last checkpoint.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from sag_core.adm.config import ADMConfig
from sag_core.adm.unet import ADMUNet
from training.heroes import CLASSES, Composer
from training.loop import export, loop_arguments, timesteps, train
from training.loss import HybridLoss
from training.tiles import SOURCE, load
from training.train import ROOT, initialise

CONFIG = ADMConfig(
    model_channels=32, channel_mult=(1, 2, 6), num_res_blocks=1, attention_downsamples=(2, 4), head_channels=32,
    resblock_updown=False, norm_groups=8, num_classes=len(CLASSES) + 1, null_label=len(CLASSES), image_size=32,
    noise_schedule="cosine")


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    loop_arguments(parser, steps=32_000, decay=8_000, batch=64, lr=1e-3)
    parser.add_argument("--tiles", type=Path, required=True, help=f"tiles: {SOURCE}")
    parser.add_argument("--null", type=float, default=0.5, help="share of labels dropped to the null label")
    parser.add_argument("--checkpoint", type=Path, default=ROOT / "training" / "checkpoints" / "heroes32.pt")
    parser.add_argument("--out", type=Path, default=ROOT / "models" / "heroes32.safetensors")
    parser.add_argument("--export-now", action="store_true", help="export the last checkpoint instead of training on")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    recipe = {key: getattr(args, key) for key in ("batch", "lr", "decay", "ema", "null", "seed", "steps")}
    if args.export_now:
        state = torch.load(args.checkpoint, map_location="cpu", weights_only=True)
        export(args.out, state["ema"], recipe | {"loss": round(state["loss"], 6), "at_step": state["step"]}, CLASSES,
               adm_config=CONFIG.to_json())
        return
    composer = Composer(load(args.tiles))
    torch.manual_seed(args.seed)
    model = ADMUNet(CONFIG)
    initialise(model)
    model.to(args.device)
    objective = HybridLoss(CONFIG)

    def batch(step: int) -> tuple[torch.Tensor, ...]:
        """Images, labels, stratified timesteps and noise of one step, a function of (seed, step)."""
        generator = torch.Generator().manual_seed(args.seed * 10_000_019 + step)
        scenes = composer.draw(args.batch, generator)
        dropped = torch.rand(args.batch, generator=generator) < args.null
        label = torch.where(dropped, CONFIG.null_label, scenes.label)
        t = timesteps(args.batch, CONFIG.timesteps, generator)
        eps = torch.randn(scenes.image.shape, generator=generator)
        return tuple(tensor.to(args.device) for tensor in (scenes.image, label, t, eps))

    def predict(x, t, label):
        with torch.autocast(x.device.type, torch.bfloat16):
            return model(x, t, label)

    def loss_of(step: int) -> tuple[torch.Tensor, float]:
        loss, simple = objective(predict, *batch(step))
        return loss, simple.item()

    weights, shown = train(model, loss_of, args, recipe)
    export(args.out, weights, recipe | {"loss": round(shown, 6)}, CLASSES, adm_config=CONFIG.to_json())


if __name__ == "__main__":
    main()
