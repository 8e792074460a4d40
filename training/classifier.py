"""Train the embedded classifier of noisy images: `python -m training.classifier [--tiles FOLDER-OR-ARCHIVE]`.

It names the class in x_t at any timestep of the embedded model's own diffusion process (arXiv 2105.05233, sec. 4): that
of an adventurer where tiles are given, else that of a shape.
Checkpoints are written atomically and resumed from without asking; every batch is a function of (seed, step). At the
end the averaged weights are exported to `models/` as float16 safetensors, with the configuration, the recipe and the
accuracy by noise level in the metadata.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from sag_core.adm.classifier import ADMClassifier
from sag_core.adm.classifier_config import ClassifierConfig
from sag_core.adm.config import ADMConfig
from sag_core.adm.schedule import betas
from sag_core.adm.unet import AttentionBlock, ResBlock
from training.data import SHAPES, Draw, data_of
from training.loop import export, loop_arguments, timesteps, train
from training.tiles import tiles_argument
from training.train import CONFIG as MODEL
from training.train import ROOT

# Of both models: they have one process, one size and as many classes.
CONFIG = ClassifierConfig(ADMConfig(
    model_channels=32, channel_mult=(1, 2, 3), num_res_blocks=1, attention_downsamples=(4,), head_channels=32,
    norm_groups=MODEL.norm_groups, learn_sigma=False, image_size=MODEL.image_size,
    noise_schedule=MODEL.noise_schedule, timesteps=MODEL.timesteps), num_classes=len(SHAPES.classes))
LEVELS = 10


def parse_args(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    loop_arguments(parser, steps=3_000, decay=1_000, batch=64, lr=2e-3)
    tiles_argument(parser, note="; without it the classifier is that of shapes")
    parser.add_argument("--weight-decay", type=float, default=0.05)
    parser.add_argument("--checkpoint", type=Path, help="training/checkpoints/NAME.pt unless told")
    parser.add_argument("--out", type=Path, help="models/NAME.safetensors unless told")
    return parser.parse_args(words)


def initialise(model: ADMClassifier) -> None:
    """Start every residual branch at zero, as the published code does."""
    for module in model.modules():
        if isinstance(module, ResBlock | AttentionBlock):
            last = module.out_layers[-1] if isinstance(module, ResBlock) else module.proj_out
            for parameter in last.parameters():
                torch.nn.init.zeros_(parameter)


def noisy(draw: Draw, count: int, generator: torch.Generator, t: Tensor) -> tuple[Tensor, Tensor]:
    """Returns scenes at timesteps t [count], in variance-preserving scale, and their labels [count]."""
    alpha_bar = torch.cumprod(1 - betas(CONFIG.encoder), 0).float()[t, None, None, None]
    scenes = draw(count, generator)
    noise = torch.randn(scenes.image.shape, generator=generator)
    return alpha_bar.sqrt() * scenes.image + (1 - alpha_bar).sqrt() * noise, scenes.label


def batch(step: int, args: argparse.Namespace, draw: Draw) -> tuple[Tensor, ...]:
    """Returns noisy images, stratified timesteps and labels of one step, a function of (seed, step)."""
    generator = torch.Generator().manual_seed(args.seed * 10_000_019 + 5_000_011 + step)
    t = timesteps(args.batch, CONFIG.encoder.timesteps, generator)
    x, label = noisy(draw, args.batch, generator, t)
    return tuple(tensor.to(args.device) for tensor in (x, t, label))


@torch.no_grad()
def accuracy(model: ADMClassifier, draw: Draw, device: str = "cpu", count: int = 512) -> list[float]:
    """Returns the share of new scenes that are named rightly, by tenth of the process, the cleanest first."""
    shares, tenth = [], CONFIG.encoder.timesteps // LEVELS
    for level in range(LEVELS):
        generator = torch.Generator().manual_seed(9_000_000_001 + level)
        t = torch.randint(level * tenth, (level + 1) * tenth, (count,), generator=generator)
        x, label = noisy(draw, count, generator, t)
        shares.append(float((model(x.to(device), t.to(device)).argmax(1).cpu() == label).float().mean()))
    return shares


def main() -> None:
    args = parse_args()
    data = data_of(args.tiles)
    name = f"{data.name}_classifier"
    args.checkpoint = args.checkpoint or ROOT / "training" / "checkpoints" / f"{name}.pt"
    args.out = args.out or ROOT / "models" / f"{name}.safetensors"
    torch.manual_seed(args.seed)
    model = ADMClassifier(CONFIG)
    initialise(model)
    model.to(args.device)

    def loss_of(step: int) -> tuple[Tensor, float]:
        x, t, label = batch(step, args, data.draw)
        with torch.autocast(x.device.type, torch.bfloat16):
            logits = model(x, t)
        loss = F.cross_entropy(logits.float(), label)
        return loss, loss.item()

    recipe = {key: getattr(args, key) for key in ("batch", "lr", "decay", "ema", "weight_decay", "seed", "steps")}
    weights, shown = train(model, loss_of, args, recipe, args.weight_decay)
    model.load_state_dict(weights)
    model.eval()
    named = {}
    for kind, draw in data.kinds.items():
        named[kind] = [round(share, 3) for share in accuracy(model, draw, args.device)]
        print(f"{kind}, named rightly by tenth of the process, the cleanest first:",
              " ".join(f"{share:.1%}" for share in named[kind]))
    export(args.out, weights, recipe | {"loss": round(shown, 6), "accuracy": named}, data.classes,
           adm_classifier_config=CONFIG.to_json())


if __name__ == "__main__":
    main()
