"""The network that finds the adventurer in a picture: `python -m training.segmenter --tiles FOLDER-OR-ARCHIVE`.

Scenes come with exact masks, pictures that a model draws do not: this network gives them theirs, so that what the model
attends to can be held against objects in its own pictures (benchmarks). It is trained like the other networks here.

    segmenter = load_segmenter(WEIGHTS)
    objects = segmenter.masks(images)      # [B, 3, 32, 32] in [-1, 1] -> [B, 1, 32, 32], 0 or 1
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from sag_core.analysis import iou
from sag_core.degrade import gaussian_blur
from training.data import Draw, heroes
from training.loop import export, loop_arguments, train
from training.tiles import load, tiles_argument
from training.train import ROOT

WEIGHTS = ROOT / "models" / "heroes32_segmenter.safetensors"
# A place of the network is a block of so many pixels each way: a third of the time, and masks are as fine as pixels.
BLOCK = 2
WIDTHS = (32, 32, 48)
GROUPS = 8


class Segmenter(nn.Module):
    """A U-Net of three resolutions: images [B, 3, H, W] in [-1, 1] -> logits of the object [B, 1, H, W]."""

    def __init__(self):
        super().__init__()
        entering = (3 * BLOCK ** 2, *WIDTHS)
        self.down = nn.ModuleList(_stage(before, after) for before, after in zip(entering, WIDTHS, strict=False))
        self.up = nn.ModuleList(_stage(below + beside, beside)
                                for beside, below in zip(WIDTHS, WIDTHS[1:], strict=False))
        self.out = nn.Conv2d(WIDTHS[0], BLOCK ** 2, 1)

    def forward(self, images: Tensor) -> Tensor:
        seen = [self.down[0](F.pixel_unshuffle(images, BLOCK))]
        for stage in self.down[1:]:
            seen.append(stage(F.avg_pool2d(seen[-1], 2)))
        found = seen.pop()
        for stage, beside in zip(reversed(self.up), reversed(seen), strict=True):
            found = stage(torch.cat([F.interpolate(found, scale_factor=2.0), beside], dim=1))
        return F.pixel_shuffle(self.out(found), BLOCK)

    @torch.no_grad()
    def masks(self, images: Tensor) -> Tensor:
        """Returns 1 where the object is and 0 elsewhere, [B, 1, H, W]."""
        return (self(images) > 0).to(images.dtype)


def _stage(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(before, after, 3, padding=1), nn.GroupNorm(GROUPS, after), nn.SiLU(),
                         nn.Conv2d(after, after, 3, padding=1), nn.GroupNorm(GROUPS, after), nn.SiLU())


def load_segmenter(path: Path = WEIGHTS) -> Segmenter:
    """Returns the network of a file, in float32, ready to predict.

    Raises:
        ValueError: the file cannot be read, or holds another network.
    """
    network = Segmenter()
    try:
        network.load_state_dict(load_file(path))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise ValueError(f"{path} is no segmenter ({error}); `make train-segmenter` makes one") from error
    return network.eval().requires_grad_(False)


def imperfect(images: Tensor, generator: torch.Generator) -> Tensor:
    """Returns images as a model might draw them: a little soft, flat and noisy, each by another amount."""
    def uniform(low: float, high: float) -> Tensor:
        return torch.rand(len(images), 1, 1, 1, generator=generator) * (high - low) + low

    touched = (uniform(0, 1) < 0.75).float()
    images = torch.lerp(images, gaussian_blur(images, 0.7), uniform(0, 1) * touched)
    images = images * torch.lerp(torch.ones(()), uniform(0.8, 1.1), touched)
    return images + uniform(0, 0.2) * touched * torch.randn(images.shape, generator=generator)


def batch(step: int, args: argparse.Namespace, draw: Draw) -> tuple[Tensor, Tensor]:
    """Returns images and object masks (0 or 1) of one step, a function of (seed, step)."""
    generator = torch.Generator().manual_seed(args.seed * 10_000_019 + 7_000_003 + step)
    scenes = draw(args.batch, generator)
    images, objects = imperfect(scenes.image, generator), (scenes.mask > 0.5).float()
    return images.to(args.device), objects.to(args.device)


def mean_iou(network: Segmenter, draw: Draw, imperfectly: bool = False, count: int = 1000, seed: int = 9_000_000_011,
             ) -> float:
    """Returns the mean over new scenes of intersection / union of the found and the exact object."""
    generator = torch.Generator().manual_seed(seed)
    scenes = draw(count, generator)
    images = imperfect(scenes.image, generator) if imperfectly else scenes.image
    device = next(network.parameters()).device
    found = torch.cat([network.masks(part.to(device)).cpu() for part in images.split(100)])
    return iou(found[:, 0], (scenes.mask[:, 0] > 0.5).float()).mean().item()


def parse_args(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    loop_arguments(parser, steps=5_000, decay=2_500, batch=32, lr=3e-3)
    tiles_argument(parser)
    parser.add_argument("--weight-decay", type=float, default=0.01)
    parser.add_argument("--checkpoint", type=Path, default=ROOT / "training" / "checkpoints" / "heroes32_segmenter.pt")
    parser.add_argument("--out", type=Path, default=WEIGHTS)
    return parser.parse_args(words)


def main() -> None:
    args = parse_args()
    data = heroes(load(args.tiles))
    torch.manual_seed(args.seed)
    network = Segmenter().to(args.device)

    def loss_of(step: int) -> tuple[Tensor, float]:
        images, objects = batch(step, args, data.draw)
        with torch.autocast(images.device.type, torch.bfloat16):
            logits = network(images)
        loss = F.binary_cross_entropy_with_logits(logits.float(), objects)
        return loss, loss.item()

    recipe = {key: getattr(args, key) for key in ("batch", "lr", "decay", "ema", "weight_decay", "seed", "steps")}
    weights, shown = train(network, loss_of, args, recipe, args.weight_decay)
    # As they are exported, in float16.
    network.load_state_dict({name: tensor.half() for name, tensor in weights.items()})
    network.eval()
    found = {f"{kind}{', imperfect' * imperfectly}": round(mean_iou(network, draw, imperfectly), 4)
             for kind, draw in data.kinds.items() for imperfectly in (False, True)}
    for kind, value in found.items():
        print(f"{kind}: IoU {value:.1%}")
    export(args.out, weights, recipe | {"loss": round(shown, 6), "iou": found}, ("adventurer",))


if __name__ == "__main__":
    main()
