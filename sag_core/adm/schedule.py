"""Noise schedules of the published pixel models (DDPM, arXiv 2006.11239; IDDPM, arXiv 2102.09672)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .config import ADMConfig


def betas(config: ADMConfig) -> Tensor:
    """Forward-process variances beta_t of the training process, float64 [timesteps].

    "linear" runs from 1e-4 to 0.02 at 1,000 steps and is scaled so that other lengths reach the same end point;
    "cosine" is equation 17 of IDDPM, clipped at 0.999.
    """
    steps = config.timesteps
    if config.noise_schedule == "linear":
        scale = 1000 / steps
        return torch.linspace(scale * 1e-4, scale * 0.02, steps, dtype=torch.float64)

    def alpha_bar(t: Tensor) -> Tensor:
        return torch.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2

    t = torch.arange(steps + 1, dtype=torch.float64) / steps
    return (1 - alpha_bar(t[1:]) / alpha_bar(t[:-1])).clamp(max=0.999)
