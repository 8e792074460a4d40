"""Train the embedded model on procedural scenes: `python -m training.train`.

Checkpoints are written atomically and resumed from without asking. Every batch is a function of (seed, step), so an
interrupted run sees the data it would have seen. At the end the averaged weights are exported to `models/` as float16
safetensors, with the configuration and the recipe in the metadata.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from sag_core.adm.config import ADMConfig
from sag_core.adm.unet import ADMUNet, AttentionBlock, ResBlock
from training.loop import export, loop_arguments, timesteps, train
from training.loss import HybridLoss
from training.scenes import SHAPES, draw

ROOT = Path(__file__).resolve().parent.parent
CONFIG = ADMConfig(
    model_channels=32, channel_mult=(1, 2, 4), num_res_blocks=1, attention_downsamples=(2, 4), head_channels=32,
    norm_groups=8, num_classes=len(SHAPES) + 1, null_label=len(SHAPES), image_size=32,
    noise_schedule="cosine")


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    loop_arguments(parser, steps=6_000, decay=2_500, batch=32, lr=1e-3)
    parser.add_argument("--null", type=float, default=0.5, help="share of labels dropped to the null label")
    parser.add_argument("--checkpoint", type=Path, default=ROOT / "training" / "checkpoints" / "shapes32.pt")
    parser.add_argument("--out", type=Path, default=ROOT / "models" / "shapes32.safetensors")
    return parser.parse_args()


def initialise(model: ADMUNet) -> None:
    """Start every residual branch and the output at zero, as the published code does."""
    for module in model.modules():
        if isinstance(module, ResBlock):
            last = module.out_layers[-1]
        elif isinstance(module, AttentionBlock):
            last = module.proj_out
        else:
            continue
        for parameter in last.parameters():
            torch.nn.init.zeros_(parameter)
    for parameter in model.out[-1].parameters():
        torch.nn.init.zeros_(parameter)


def batch(step: int, args: argparse.Namespace) -> tuple[torch.Tensor, ...]:
    """Images, labels, stratified timesteps and noise of one step, a function of (seed, step)."""
    generator = torch.Generator().manual_seed(args.seed * 10_000_019 + step)
    scenes = draw(args.batch, generator, CONFIG.image_size)
    dropped = torch.rand(args.batch, generator=generator) < args.null
    label = torch.where(dropped, CONFIG.null_label, scenes.label)
    t = timesteps(args.batch, CONFIG.timesteps, generator)
    eps = torch.randn(scenes.image.shape, generator=generator)
    return tuple(tensor.to(args.device) for tensor in (scenes.image, label, t, eps))


def main() -> None:
    args = parse_args()
    torch.manual_seed(args.seed)
    model = ADMUNet(CONFIG)
    initialise(model)
    model.to(args.device)
    objective = HybridLoss(CONFIG)

    def predict(x, t, label):
        with torch.autocast(x.device.type, torch.bfloat16):
            return model(x, t, label)

    def loss_of(step: int) -> tuple[torch.Tensor, float]:
        loss, simple = objective(predict, *batch(step, args))
        return loss, simple.item()

    recipe = {key: getattr(args, key) for key in ("batch", "lr", "decay", "ema", "null", "seed", "steps")}
    weights, shown = train(model, loss_of, args, recipe)
    export(args.out, weights, recipe | {"loss": round(shown, 6)}, SHAPES, adm_config=CONFIG.to_json())


if __name__ == "__main__":
    main()
