"""Classifier guidance (Dhariwal and Nichol, arXiv 2105.05233, sec. 4), for any sampler.

`classifier_gradient` is what a classifier of noisy images wants changed. OpenAI's ancestral sampler shifts the mean of
the next sample by variance * gradient (algorithm 1). Every other sampler is guided through its clean prediction:
algorithm 2's eps - sqrt(1 - abar) * gradient, written for x0, is `guide_denoised`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from .adm.config import ADMConfig
from .adm.schedule import betas

# Half precision has no numbers below 6e-8, which a gradient per pixel of a large image comes near. A power of two is
# taken out again without a rounding error.
_LIFT = 64.0


def classifier_gradient(classify: Callable[[Tensor, Tensor], Tensor], x: Tensor, timesteps: Tensor, labels: Tensor,
                        scale: float = 1.0) -> Tensor:
    """scale * grad_x log p(labels | x) of a classifier, also where gradients are switched off around it.

    Args:
        classify: `classify(x, timesteps)` -> logits [B, classes].
        x: noisy sample [B, C, H, W] as the classifier knows it, in variance-preserving scale.
        timesteps: of the classifier's process [B].
        labels: wanted class of each sample [B], 0 .. classes - 1.
        scale: strength; 1 samples p(x) p(y | x), more than 1 sharpens p(y | x).

    Returns:
        Float32 [B, C, H, W]; rows do not depend on each other.
    """
    with torch.inference_mode(False), torch.enable_grad():
        # Clones, because tensors made in inference mode cannot take part.
        x, timesteps, labels = (tensor.detach().clone() for tensor in (x, timesteps, labels))
        x.requires_grad_()
        log_p = F.log_softmax(classify(x, timesteps).float(), dim=-1)
        wanted = log_p.gather(1, labels[:, None]).sum()
        (slope,) = torch.autograd.grad(wanted * _LIFT, x)
    return slope.float() * (scale / _LIFT)


def guide_denoised(denoised: Tensor, gradient: Tensor, sigma: Tensor) -> Tensor:
    """x0 + sigma^2 * grad log p(y | x) with the gradient taken by x = x0 + sigma * noise (algorithm 2 for x0).

    Args:
        denoised: clean prediction [B, C, H, W].
        gradient: by the variance-preserving x / sqrt(1 + sigma^2), of the same shape.
        sigma: noise level [B], noise / signal, 0 or more and with a finite square.
    """
    sigma = sigma.view(-1, *[1] * (denoised.ndim - 1)).to(gradient)
    return denoised + (gradient * sigma ** 2 / (1 + sigma ** 2).sqrt()).to(denoised)


class NoiseLevels:
    """A training process as noise levels: which of its timesteps has a noise level."""

    def __init__(self, config: ADMConfig):
        kept = torch.cumprod(1 - betas(config), 0)
        self.log_sigmas = ((1 - kept) / kept).log() / 2

    def timestep(self, sigma: Tensor) -> Tensor:
        """The timestep [B] whose noise level is nearest to sigma [B], by their logarithms; the first for sigma 0."""
        levels = self.log_sigmas.to(sigma.device)
        return (sigma.double().log()[:, None] - levels).abs().argmin(dim=1)
