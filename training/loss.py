"""The objective of the embedded model: IDDPM's hybrid loss with a multi-scale noise error."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from sag_core.adm.config import ADMConfig
from sag_core.adm.schedule import betas


def multiscale_error(error: Tensor, weight: Tensor) -> Tensor:
    """Weighted squared error at every resolution: of the pixels, and of averages over blocks of 2, 4, 8, ... pixels.

    The plain error hardly sees the coarsest structure: an image's mean colour is one of a thousand dimensions, yet at
    high noise a small error in it is a wrong colour of everything (after simple diffusion, arXiv 2301.11093, sec. 3.2).

    Args:
        error: [B, C, H, W]; the coarsest scale is the largest power of two that fits.
        weight: of each sample [B].
    """
    scales = range(min(error.shape[-2:]).bit_length())
    return sum((weight * F.avg_pool2d(error, 2 ** k).square().mean(dim=(1, 2, 3))).mean() for k in scales)


class HybridLoss:
    """Error of the predicted noise plus the variational bound of the learned variance (arXiv 2102.09672, sec. 3.1).

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
        # Truncated SNR weighting (arXiv 2202.00512, sec. 4): above sigma 1 the error of the image counts, not that of
        # the noise, or high noise levels would be learned last. Bounded: the highest ones hold no image at all.
        self.weight = ((1 - alpha_bar) / alpha_bar).clamp(1, 25).float()
        self.log_beta = beta.log().float()
        # The posterior variance is 0 at t = 0; the published code uses the next one there.
        self.log_variance = torch.cat([variance[1:2], variance[1:]]).log().float()
        # (mean difference)^2 = weight * (noise difference)^2
        self.mean_weight = (beta ** 2 / ((1 - beta) * (1 - alpha_bar))).float()

    def __call__(self, model: Callable, x0: Tensor, label: Tensor, t: Tensor, eps: Tensor) -> tuple[Tensor, Tensor]:
        """Loss to minimise, and the mean squared error of the noise as a figure to watch; both scalars.

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
        error = predicted - eps
        log_var = torch.lerp(at(self.log_variance), at(self.log_beta), (interpolation + 1) / 2)
        truth = at(self.log_variance)
        squared_mean = at(self.mean_weight) * error.detach().square()
        kl = 0.5 * (log_var - truth - 1 + (truth - log_var).exp() + squared_mean * (-log_var).exp())
        loss = multiscale_error(error, self.weight.to(x0.device)[t]) + kl.mean() / math.log(2)
        return loss, error.detach().square().mean()
