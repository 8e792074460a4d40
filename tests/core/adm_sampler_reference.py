"""OpenAI's samplers with SAG and a classifier, restated in float64 as their code has them: tables, timesteps and eps.

Nothing here knows of noise levels in the host's sense. `Process` is the respaced training process; `sample` walks it
from its last timestep to 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


class Process:
    """Tables of a respaced process, one entry for each kept timestep of the training process."""

    def __init__(self, betas: Tensor, kept: list[int]):
        alpha_bar, last, respaced = torch.cumprod(1 - betas.double(), 0), 1.0, []
        for t in kept:
            respaced.append(1 - alpha_bar[t] / last)
            last = alpha_bar[t]
        self.kept = kept
        self.beta = torch.stack(respaced)
        self.alpha_bar = torch.cumprod(1 - self.beta, 0)
        self.previous = torch.cat([torch.ones(1, dtype=torch.float64), self.alpha_bar[:-1]])
        self.posterior_variance = self.beta * (1 - self.previous) / (1 - self.alpha_bar)
        self.log_posterior_variance = torch.cat([self.posterior_variance[1:2], self.posterior_variance[1:]]).log()
        self.mean_of_x0 = self.beta * self.previous.sqrt() / (1 - self.alpha_bar)
        self.mean_of_x = (1 - self.previous) * (1 - self.beta).sqrt() / (1 - self.alpha_bar)

    def x0(self, x: Tensor, t: int, eps: Tensor) -> Tensor:
        return x / self.alpha_bar[t].sqrt() - (1 / self.alpha_bar[t] - 1).sqrt() * eps

    def eps(self, x: Tensor, t: int, x0: Tensor) -> Tensor:
        return (x / self.alpha_bar[t].sqrt() - x0) / (1 / self.alpha_bar[t] - 1).sqrt()

    def mean(self, x: Tensor, t: int, x0: Tensor) -> Tensor:
        return self.mean_of_x0[t] * x0 + self.mean_of_x[t] * x

    def noised(self, x0: Tensor, t: int, noise: Tensor) -> Tensor:
        return self.alpha_bar[t].sqrt() * x0 + (1 - self.alpha_bar[t]).sqrt() * noise

    def variance(self, kind: str, t: int, fraction: Tensor) -> tuple[Tensor, Tensor]:
        """Variance, and its logarithm as noise is scaled by it."""
        if kind == "learned":
            weight = (fraction + 1) / 2
            log = weight * self.beta[t].log() + (1 - weight) * self.log_posterior_variance[t]
            return log.exp(), log
        if kind == "large":
            large = torch.cat([self.posterior_variance[1:2], self.beta[1:]])[t]
            return large, large.log()
        return self.posterior_variance[t], self.log_posterior_variance[t]


@dataclass(frozen=True)
class SAG:
    """The authors' guidance with its kernel of 31 taps.

    Args:
        scale: s of the paper.
        blur_sigma: in pixels.
        threshold: psi.
    """

    scale: float = 0.5
    blur_sigma: float = 3.0
    threshold: float = 1.0

    def degrade(self, x0: Tensor, attn_map: Tensor) -> Tensor:
        """Blur x0 where the map [B, h, w], of which a cell is a square of pixels, is above the threshold."""
        side = x0.shape[-1] // attn_map.shape[-1]
        mask = (attn_map > self.threshold).double()[:, None]
        mask = mask.repeat_interleave(side, 2).repeat_interleave(side, 3)
        line = torch.exp(-0.5 * (torch.linspace(-15, 15, 31, dtype=torch.float64) / self.blur_sigma) ** 2)
        line = line / line.sum()
        kernel = torch.outer(line, line).expand(x0.shape[1], 1, 31, 31)
        blurred = F.conv2d(F.pad(x0, (15,) * 4, mode="reflect"), kernel, groups=x0.shape[1])
        return blurred * mask + x0 * (1 - mask)


Network = Callable[[Tensor, int], tuple[Tensor, Tensor]]
"""network(x, timestep) -> the prediction [B, 2 C, H, W], noise and variance, and the map of its attention [B, h, w]."""


@torch.no_grad()
def sample(network: Network, process: Process, x: Tensor, noises: Iterator[Tensor], ddim: bool = False,
           eta: float = 0.0, variance: str = "learned", sag: SAG | None = None, clip: bool = True,
           gradient: Callable[[Tensor, int], Tensor] | None = None, negative: Network | None = None,
           cfg: float = 1.0, steps: int | None = None) -> Tensor:
    """The sample that x becomes, in the last `steps` steps of the process or all of them.

    `gradient(x, timestep)` is the scaled gradient of a classifier. A `negative` network makes classifier-free guidance,
    of which SAG guides the negative branch and the positive one gives the variance.
    """
    def image(x0: Tensor) -> Tensor:
        return x0.clamp(-1, 1) if clip else x0

    for t in reversed(range(len(process.kept) if steps is None else steps)):
        time = process.kept[t]
        out, attn_map = network(x, time)
        eps, fraction = out.chunk(2, dim=1)
        guided, own = network, eps
        if negative is not None:
            other, attn_map = negative(x, time)
            guided, own = negative, other.chunk(2, dim=1)[0]
            eps = own + cfg * (eps - own)
        if sag is not None:
            degraded = sag.degrade(image(process.x0(x, t, own)), attn_map)
            low, _ = guided(process.noised(degraded, t, own), time)
            eps = eps + sag.scale * (own - low.chunk(2, dim=1)[0])
        x0 = image(process.x0(x, t, eps))
        noise = next(noises) if t > 0 and (eta > 0 or not ddim) else torch.zeros_like(x)
        if ddim:
            eps = process.eps(x, t, x0)
            if gradient is not None:
                eps = eps - (1 - process.alpha_bar[t]).sqrt() * gradient(x, time)
                x0 = process.x0(x, t, eps)
            before = process.previous[t]
            sigma = eta * ((1 - before) / (1 - process.alpha_bar[t])).sqrt()
            sigma = sigma * (1 - process.alpha_bar[t] / before).sqrt()
            x = before.sqrt() * x0 + (1 - before - sigma ** 2).sqrt() * eps + sigma * noise
        else:
            spread, log = process.variance(variance, t, fraction)
            mean = process.mean(x, t, x0)
            if gradient is not None:
                mean = mean + spread * gradient(x, time)
            x = mean + torch.exp(0.5 * log) * noise
    return x
