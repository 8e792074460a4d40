"""What the metric sees: its value for scenes that were made worse in a known way."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.features import FEATURES
from benchmarks.metrics.frechet import Moments, frechet_distance
from benchmarks.networks import FeatureNet, Features, features_of
from benchmarks.paper.draw import to_bytes
from benchmarks.report import table
from sag_core.degrade import gaussian_blur
from training.scenes import draw

SEED = 6_000_000


def _noise(level: float) -> Callable[[Tensor], Tensor]:
    return lambda images: images + level * torch.randn(images.shape, generator=torch.Generator().manual_seed(SEED))


CHANGES: dict[str, Callable[[Tensor], Tensor]] = {
    "fresh scenes": lambda images: images,
    "noise of 0.05": _noise(0.05), "noise of 0.1": _noise(0.1), "noise of 0.2": _noise(0.2),
    "blur of 0.5 pixels": lambda images: gaussian_blur(images, 0.5),
    "blur of 1 pixel": lambda images: gaussian_blur(images, 1.0),
    "half of the contrast": lambda images: images / 2,
}


def calibration_table(reference: Features, net: FeatureNet, count: int) -> str:
    """FID of changed scenes in the features of all stages, and of the last alone."""
    scenes = draw(count, torch.Generator().manual_seed(SEED)).image
    body = []
    for name, change in CHANGES.items():
        pooled = features_of(to_bytes(change(scenes)), net).pooled
        distances = [frechet_distance(Moments.of(reference.pooled[:, part]), Moments.of(pooled[:, part]))
                     for part in (slice(None), slice(-FEATURES, None))]
        body.append([name, *(f"{distance:.2f}" for distance in distances)])
    return table(["", "FID, all stages", "FID, last stage alone"], body)
