"""Networks whose parameters are all random, so that none can be left out of a comparison unnoticed."""

from __future__ import annotations

import math

import torch
from torch import nn


def randomised(model: nn.Module) -> nn.Module:
    """The model with random parameters that keep activations near 1, norms and biases included; the same every time."""
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        fan_in = parameter[0].numel() if parameter.ndim > 1 else 4
        parameter.data = (noise / math.sqrt(fan_in) + (parameter.ndim == 1)).to(parameter.dtype)
    return model.requires_grad_(False)
