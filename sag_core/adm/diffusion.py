"""OpenAI's samplers, one step of them.

    ancestral   x_{t-1} ~ N(mu(x_t, x0) + V g, V)                                DDPM (arXiv 2006.11239), eq. 6 and 7
    V           exp(v log beta + (1 - v) log beta~), v learned                   IDDPM (arXiv 2102.09672), eq. 15
    ddim        sqrt(abar_{t-1}) x0 + sqrt(1 - abar_{t-1} - std^2) eps + std z   DDIM (arXiv 2010.02502), eq. 12
    g           scale * grad_x log p(y | x_t)                                    ADM (arXiv 2105.05233), algorithms 1, 2

x_t is variance-preserving, sqrt(abar) x0 + sqrt(1 - abar) eps. A respaced process is one between fewer noise levels, so
everything follows from those of a run, sigma = sqrt(1 / abar - 1): the noise beside a clean sample of full size. The
order of guidances is that of the published code: x0 is the prediction after self-attention guidance, clamped, and the
classifier's gradient comes last.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .respacing import DDIM

METHODS = ("auto", "ancestral", "ddim")
VARIANCES = ("auto", "learned", "large", "small")


@dataclass(frozen=True)
class SamplerSettings:
    """Settings that a user chooses.

    Args:
        respacing: which timesteps are taken, of `space_timesteps`.
        method: "ancestral", "ddim", or "auto": ddim where the respacing says so.
        eta: noise of DDIM, 0 (none) to 1 (as much as the posterior's).
        variance: of ancestral steps: "learned", "large" (beta), "small" (the posterior's), or "auto": learned where
            the model has it, else what its kind was published with.
        start_step: steps left out at the noisy end, to start from an image.
        clip: clamp clean predictions to the range of images, where the model makes images.

    Raises:
        ValueError: a value is out of its range; the message names it.
    """

    respacing: str = "250"
    method: str = "auto"
    eta: float = 0.0
    variance: str = "auto"
    start_step: int = 0
    clip: bool = True

    def __post_init__(self) -> None:
        for name, choices in (("method", METHODS), ("variance", VARIANCES)):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} is {getattr(self, name)!r}; it must be one of {', '.join(choices)}")
        if not 0 <= self.eta <= 1:
            raise ValueError(f"eta is {self.eta}; it must be a number from 0 to 1")
        if self.start_step < 0:
            raise ValueError(f"start_step is {self.start_step}; it must be 0 or more")

    @property
    def is_ddim(self) -> bool:
        """Returns whether the steps are DDIM's."""
        return self.method == "ddim" or self.method == "auto" and self.respacing.strip().startswith(DDIM)


@dataclass(frozen=True)
class Transition:
    """A step of the process, from one noise level to the next: the posterior q(x_{t-1} | x_t, x_0) and its like.

    Args:
        sigma, sigma_next: noise levels; the first is finite and above 0, because steps divide by the noise and by the
            signal in x_t. A next one of 0 is the authors' t = 0, whose result is clean.
        variance_before: of a last step, the posterior's variance at the process's step before.
    """

    sigma: float
    sigma_next: float
    variance_before: float = 0.0

    @property
    def alpha_bar(self) -> float:
        """Signal in x_t."""
        return 1 / (1 + self.sigma ** 2)

    @property
    def alpha_bar_next(self) -> float:
        """Signal in x_{t-1}."""
        return 1 / (1 + self.sigma_next ** 2)

    @property
    def noise(self) -> float:
        """1 - alpha_bar, exact where little is left."""
        return self.sigma ** 2 * self.alpha_bar

    @property
    def noise_next(self) -> float:
        """1 - alpha_bar_next."""
        return self.sigma_next ** 2 * self.alpha_bar_next

    @property
    def beta(self) -> float:
        """Variance that this step of the forward process adds, 1 - alpha_bar / alpha_bar_next."""
        return (self.sigma ** 2 - self.sigma_next ** 2) * self.alpha_bar

    @property
    def posterior_variance(self) -> float:
        """beta~ (DDPM, eq. 7)."""
        return self.beta * self.noise_next / self.noise

    def variance(self, kind: str, fraction: Tensor | None = None) -> Tensor | float:
        """Variance of the model's p(x_{t-1} | x_t).

        The last step adds no noise; its variance weighs a classifier's gradient. There beta~ is 0, and its logarithm
        is that of the step before, as published.

        Args:
            kind: "learned", "large" or "small".
            fraction: of a learned one, the model's second half of channels, [B, C, H, W], where -1 is beta~ and 1 beta.
        """
        last = self.sigma_next == 0
        if kind == "small":
            return self.posterior_variance
        if kind == "large":
            return self.variance_before if last else self.beta
        low = math.log(max(self.variance_before if last else self.posterior_variance, _TINY))
        high = math.log(max(self.beta, _TINY))
        return torch.exp(low + (fraction + 1) / 2 * (high - low))


_TINY = 1e-20  # of levels that repeat
_HIGHEST = 1e30  # whose square is finite


def transitions(sigmas: Sequence[float], process: Sequence[float] = ()) -> list[Transition]:
    """The steps of a run.

    Args:
        sigmas: noise levels, one more than steps; the last may be 0.
        process: noise levels of the respaced process, in any order, for a run that is no more than its last step.

    Raises:
        ValueError: they rise, one but the last is 0, or there is no signal in one.
    """
    steps: list[Transition] = []
    for sigma, sigma_next in zip(sigmas, sigmas[1:], strict=False):
        if not 0 <= sigma_next <= sigma <= _HIGHEST or sigma == 0:
            raise ValueError(f"the noise levels go from {sigma:g} to {sigma_next:g}; this sampler takes levels that "
                             "fall, and 0 as the last alone")
        before = _variance_before(sigma, sigmas, process) if sigma_next == 0 else 0.0
        steps.append(Transition(sigma, sigma_next, before))
    return steps


def _variance_before(sigma: float, *levels: Sequence[float]) -> float:
    """The posterior's variance at the step that ends at `sigma`, from the level above it in the first list with one.

    Where no list has one, nothing is noisier than `sigma`; beta then stands for both ends of a learned variance.
    """
    for candidates in levels:
        above = [level for level in candidates if level > sigma * (1 + 1e-5)]
        if above:
            return Transition(min(above), sigma).posterior_variance
    return Transition(sigma, 0.0).beta


def posterior_mean(x: Tensor, denoised: Tensor, step: Transition) -> Tensor:
    """mu~(x_t, x_0) (DDPM, eq. 7)."""
    of_denoised = math.sqrt(step.alpha_bar_next) * step.beta / step.noise
    of_x = math.sqrt(step.alpha_bar / step.alpha_bar_next) * step.noise_next / step.noise
    return of_denoised * denoised + of_x * x


def ancestral_step(x: Tensor, denoised: Tensor, step: Transition, variance: Tensor | float,
                   noise: Tensor | None = None, gradient: Tensor | None = None) -> Tensor:
    """A step of DDPM, its mean shifted by a classifier (ADM, algorithm 1).

    Args:
        x: noisy sample, variance-preserving, [B, C, H, W].
        denoised: clean prediction.
        step: the noise levels.
        variance: of `Transition.variance`, broadcastable to x.
        noise: standard normal, the shape of x; None at the last step.
        gradient: guidance_scale * grad_x log p(y | x), the shape of x.
    """
    mean = posterior_mean(x, denoised, step)
    if gradient is not None:
        mean = mean + variance * gradient
    return mean if noise is None else mean + variance ** 0.5 * noise


def ddim_step(x: Tensor, denoised: Tensor, step: Transition, eta: float = 0.0, noise: Tensor | None = None,
              gradient: Tensor | None = None) -> Tensor:
    """A step of DDIM, its noise prediction shifted by a classifier (ADM, algorithm 2).

    The noise is the one that the (clamped) clean prediction implies, as published.

    Args:
        x, denoised, step, noise, gradient: of `ancestral_step`.
        eta: 0 is deterministic, 1 has the posterior's variance.
    """
    eps = (x - math.sqrt(step.alpha_bar) * denoised) / math.sqrt(step.noise)
    if gradient is not None:
        eps = eps - math.sqrt(step.noise) * gradient
        denoised = (x - math.sqrt(step.noise) * eps) / math.sqrt(step.alpha_bar)
    std = eta * math.sqrt(step.posterior_variance)
    mean = math.sqrt(step.alpha_bar_next) * denoised + math.sqrt(max(step.noise_next - std ** 2, 0)) * eps
    return mean if noise is None else mean + std * noise
