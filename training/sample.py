"""Draw a sheet of samples of a model that was trained here: `python3 -m tools.run training.sample --model FILE`.

A row for every class in the model's order, and one of no class; DDPM's ancestral sampler, without a host.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from sag_core.adm.checkpoint import load_checkpoint
from sag_core.adm.config import ADMConfig
from sag_core.adm.schedule import betas
from sag_core.adm.unet import ADMUNet
from sag_core.render import contact_sheet

ROOT = Path(__file__).resolve().parent.parent


def load(path: Path) -> tuple[ADMUNet, ADMConfig]:
    """Returns the model of a checkpoint, in float32, ready to predict."""
    tensors, config = load_checkpoint(path)
    model = ADMUNet(config)
    model.load_state_dict(tensors)
    return model.eval().requires_grad_(False), config


def ancestral(model: ADMUNet, config: ADMConfig, label: Tensor, steps: int, generator: torch.Generator) -> Tensor:
    """DDPM's sampler (arXiv 2006.11239, algorithm 2) on evenly spaced timesteps: images in [-1, 1] of these labels."""
    alpha_bar = torch.cumprod(1 - betas(config), 0)
    times = torch.arange(1, config.timesteps, config.timesteps // steps).flip(0)
    following = torch.cat([alpha_bar[times[1:]], torch.ones(1, dtype=alpha_bar.dtype)])
    shape = (len(label), 3, config.image_size, config.image_size)
    x = torch.randn(shape, generator=generator)
    for t, after in zip(tqdm(times, unit="step"), following, strict=True):
        here = alpha_bar[t]
        eps = model(x, t.expand(len(x)), label)[:, :3]
        denoised = ((x - (1 - here).sqrt() * eps) / here.sqrt()).clamp(-1, 1)
        beta = 1 - here / after
        mean = (after.sqrt() * beta * denoised + (1 - beta).sqrt() * (1 - after) * x) / (1 - here)
        variance = beta * (1 - after) / (1 - here)
        x = (mean + variance.sqrt() * torch.randn(shape, generator=generator)).float()
    return x


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=ROOT / "models" / "shapes32.safetensors")
    parser.add_argument("--out", type=Path, default=ROOT / "training" / "samples.png")
    parser.add_argument("--columns", type=int, default=10, help="samples of each class")
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--enlarge", type=int, default=2, help="pixels of the sheet for one of the model, each way")
    args = parser.parse_args()

    model, config = load(args.model)
    # A row for every label; the last, the null label, is unconditional.
    label = torch.arange(config.num_classes).repeat_interleave(args.columns)
    images = ancestral(model, config, label, args.steps, torch.Generator().manual_seed(args.seed)) / 2 + 0.5
    images = images.clamp(0, 1).permute(0, 2, 3, 1)
    for side in (1, 2):
        images = images.repeat_interleave(args.enlarge, dim=side)
    sheet = contact_sheet(images, args.columns)[0]
    Image.fromarray((sheet * 255).round().byte().numpy()).save(args.out)
    print(args.out)


if __name__ == "__main__":
    main()
