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
from training.data import SHAPES, Data, Draw
from training.loop import export, loop_arguments, timesteps, train
from training.loss import HybridLoss

ROOT = Path(__file__).resolve().parent.parent
CONFIG = ADMConfig(
    model_channels=32, channel_mult=(1, 2, 4), num_res_blocks=1, attention_downsamples=(2, 4), head_channels=32,
    norm_groups=8, num_classes=len(SHAPES.classes) + 1, null_label=len(SHAPES.classes), image_size=32,
    noise_schedule="cosine")
RECIPE = ("batch", "lr", "decay", "ema", "null", "seed", "steps")


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    loop_arguments(parser, steps=6_000, decay=2_500, batch=32, lr=1e-3)
    model_arguments(parser, SHAPES.name)
    return parser.parse_args()


def model_arguments(parser: argparse.ArgumentParser, name: str) -> None:
    """Options of the training of a diffusion model."""
    parser.add_argument("--null", type=float, default=0.5, help="share of labels dropped to the null label")
    parser.add_argument("--checkpoint", type=Path, default=ROOT / "training" / "checkpoints" / f"{name}.pt")
    parser.add_argument("--out", type=Path, default=ROOT / "models" / f"{name}.safetensors")


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


def batch(step: int, args: argparse.Namespace, config: ADMConfig, draw: Draw) -> tuple[torch.Tensor, ...]:
    """Returns images, labels, stratified timesteps and noise of one step, a function of (seed, step)."""
    generator = torch.Generator().manual_seed(args.seed * 10_000_019 + step)
    scenes = draw(args.batch, generator)
    dropped = torch.rand(args.batch, generator=generator) < args.null
    label = torch.where(dropped, config.null_label, scenes.label)
    t = timesteps(args.batch, config.timesteps, generator)
    eps = torch.randn(scenes.image.shape, generator=generator)
    return tuple(tensor.to(args.device) for tensor in (scenes.image, label, t, eps))


def train_model(args: argparse.Namespace, config: ADMConfig, data: Data) -> None:
    """Train a diffusion model on scenes to the last step, and export it."""
    torch.manual_seed(args.seed)
    model = ADMUNet(config)
    initialise(model)
    model.to(args.device)
    objective = HybridLoss(config)

    def predict(x, t, label):
        with torch.autocast(x.device.type, torch.bfloat16):
            return model(x, t, label)

    def loss_of(step: int) -> tuple[torch.Tensor, float]:
        loss, simple = objective(predict, *batch(step, args, config, data.draw))
        return loss, simple.item()

    weights, shown = train(model, loss_of, args, recipe(args))
    export(args.out, weights, recipe(args) | {"loss": round(shown, 6)}, data.classes, adm_config=config.to_json())


def recipe(args: argparse.Namespace) -> dict[str, object]:
    """Returns the options that decide the result."""
    return {name: getattr(args, name) for name in RECIPE}


def main() -> None:
    train_model(parse_args(), CONFIG, SHAPES)


if __name__ == "__main__":
    main()
