"""The hybrid objective of improved diffusion models (IDDPM, arXiv 2102.09672, section 3.1)."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from sag_core.adm.config import ADMConfig
from sag_core.adm.schedule import betas


class HybridLoss:
    """Mean squared error of the predicted noise plus the variational bound of the learned variance.

    The bound's mean is detached, so that it teaches the variance alone (L_hybrid with L_vlb in bits).
    """

    def __init__(self, config: ADMConfig):
        beta = betas(config)
        alpha_bar = torch.cumprod(1 - beta, 0)
        previous = torch.cat([torch.ones(1, dtype=beta.dtype), alpha_bar[:-1]])
        variance = beta * (1 - previous) / (1 - alpha_bar)
        self.timesteps = config.timesteps
        self.signal = alpha_bar.sqrt().float()
        self.noise = (1 - alpha_bar).sqrt().float()
        self.log_beta = beta.log().float()
        # The posterior variance is 0 at t = 0; the published code uses the next one there.
        self.log_variance = torch.cat([variance[1:2], variance[1:]]).log().float()
        # (mean difference)^2 = weight * (noise difference)^2
        self.mean_weight = (beta ** 2 / ((1 - beta) * (1 - alpha_bar))).float()

    def __call__(self, model: Callable, x0: Tensor, label: Tensor, t: Tensor, eps: Tensor) -> tuple[Tensor, Tensor]:
        """Loss to minimise and its noise-prediction part, both scalars.

        Args:
            model: `model(x, t, label)` -> [B, 6, H, W], noise and variance interpolation.
            x0: images [B, 3, H, W] in [-1, 1].
            label: class of each image [B].
            t: timestep of each image [B], 0 .. timesteps - 1.
            eps: standard normal noise, like `x0`.
        """
        def at(table: Tensor) -> Tensor:
            return table.to(x0.device)[t][:, None, None, None]

        predicted, interpolation = model(at(self.signal) * x0 + at(self.noise) * eps, t, label).float().chunk(2, dim=1)
        simple = (predicted - eps).square().mean()
        log_var = torch.lerp(at(self.log_variance), at(self.log_beta), (interpolation + 1) / 2)
        truth = at(self.log_variance)
        squared_mean = at(self.mean_weight) * (predicted.detach() - eps).square()
        kl = 0.5 * (log_var - truth - 1 + (truth - log_var).exp() + squared_mean * (-log_var).exp())
        return simple + kl.mean() / math.log(2), simple.detach()
