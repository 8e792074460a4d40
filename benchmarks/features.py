"""Features of the embedded model's world: a small classifier of procedural scenes, and the Frechet distance in it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from training.scenes import SHAPES, draw

FEATURES = 64
STEPS, BATCH = 1500, 64


class SceneNet(nn.Module):
    """Images [B, 3, 32, 32] in [-1, 1] -> 64 features; trained to name the shape."""

    def __init__(self):
        super().__init__()
        widths = (3, 24, 48, FEATURES)
        self.layers = nn.Sequential(*[
            layer for before, after in zip(widths, widths[1:], strict=False)
            for layer in (nn.Conv2d(before, after, 3, padding=1), nn.GroupNorm(4, after), nn.SiLU(),
                          nn.Conv2d(after, after, 3, padding=1, stride=2), nn.GroupNorm(4, after), nn.SiLU())])
        self.head = nn.Linear(FEATURES, len(SHAPES))

    def features(self, images: Tensor) -> Tensor:
        """The mean over places of the last layer, [B, 64]."""
        return self.layers(images).mean(dim=(2, 3))

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images))


def scene_net(folder: Path, say=print) -> SceneNet:
    """The classifier, trained on scenes that no benchmark uses, or as `folder` keeps it."""
    path, net = folder / f"scene-net-{STEPS}.safetensors", SceneNet()
    if path.exists():
        net.load_state_dict(load_file(path))
        return net.eval().requires_grad_(False)
    torch.manual_seed(0)
    net = SceneNet()
    optimiser = torch.optim.AdamW(net.parameters(), lr=2e-3)
    falling = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, STEPS)
    for step in range(STEPS):
        scenes = draw(BATCH, torch.Generator().manual_seed(1_000_000 + step))
        loss = F.cross_entropy(net(scenes.image), scenes.label)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        falling.step()
        if step % 250 == 0:
            say(f"training the feature network: step {step} of {STEPS}, loss {loss.item():.3f}")
    net.eval().requires_grad_(False)
    scenes = draw(512, torch.Generator().manual_seed(2_000_000))
    say(f"it names {(net(scenes.image).argmax(1) == scenes.label).float().mean():.1%} of new shapes")
    folder.mkdir(parents=True, exist_ok=True)
    save_file(net.state_dict(), path)
    return net


@dataclass(frozen=True)
class Moments:
    """Mean [D] and covariance [D, D] of features, float64."""

    mean: Tensor
    covariance: Tensor

    @classmethod
    def of(cls, features: Tensor) -> Moments:
        features = features.double()
        return cls(features.mean(0), torch.cov(features.T).view(features.shape[1], -1))


def frechet_distance(a: Moments, b: Moments) -> float:
    """|mean_a - mean_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)) (FID, arXiv 1706.08500)."""
    values, vectors = torch.linalg.eigh(a.covariance)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    # C_a C_b and the symmetric root(C_a) C_b root(C_a) have the same eigenvalues.
    cross = torch.linalg.eigvalsh(root @ b.covariance @ root).clamp(min=0).sqrt().sum()
    distance = (a.mean - b.mean).square().sum() + a.covariance.trace() + b.covariance.trace() - 2 * cross
    return distance.item()
