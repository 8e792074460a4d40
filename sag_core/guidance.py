"""Self-Attention Guidance, one step of it (Hong et al., ICCV 2023, arXiv 2210.00939).

The model is shown its own prediction with the parts it attends to blurred away; the sample is steered away from what
it makes of that. In the paper's notation (algorithm 1), with the model's prediction at the noisy sample x:

    A_t     = its self-attention, averaged over heads and summed over queries     (attention.column_mass)
    M_t     = 1[A_t > psi]                                                         (masks.attention_mask)
    x0_deg  = M_t * blur(x0) + (1 - M_t) * x0                                      (degrade.degrade)
    x_deg   = x0_deg, noised with the model's own noise                            (degrade.renoise)
    eps_sag = eps(x) + s * (eps(x) - eps(x_deg))                                   (sag_update)

That is all there is to the paper's method; what goes beyond one step of it (other masks, schedules, steps left out) is
in guide.py. Everything here is in terms of clean predictions, where the last line reads `x0 + s * (x0_deg - x0(x_deg))`
for every parametrisation: eps(x) and eps(x_deg) share sigma, and x_deg was made with the noise eps(x).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from .degrade import Process, degrade, renoise
from .masks import attention_mask
from .schedule import Schedule
from .strategies import MaskOptions

REFERENCES = ("cfg", "branch")
WIDEST_BLUR = 100


@dataclass(frozen=True)
class SAGSettings:
    """What a user chooses.

    Args:
        scale: s, guidance strength; 0 is off, negative steers the other way.
        blur_sigma: standard deviation of the blur, in pixels of the model's own space.
        threshold: psi, the attention above which a token is blurred; 1 is the map's mean.
        layer: whose attention is used, "auto" or names the host's model knows.
        start_percent, end_percent: part of the sampling that is guided, 0..1, both ends included.
        blur_kernel: taps of the blur, odd; 0 follows `blur_sigma`.
        mask: how the mask is made.
        schedule: how guidance goes over the run.
        rescale: how far the spread of the guided prediction is brought back, 0..1; 0 is the paper.
        rescale_to: to whose spread: "cfg", the result without this guidance, or "branch", the guided branch's.
        projection: how much of the guidance parallel to the prediction is taken away, 0..1; 0 is the paper.

    Raises:
        ValueError: a value is out of its range; the message names it.
    """

    scale: float = 0.5
    blur_sigma: float = 2.0
    threshold: float = 1.0
    layer: str = "auto"
    start_percent: float = 0.0
    end_percent: float = 1.0
    blur_kernel: int = 0
    mask: MaskOptions = MaskOptions()
    schedule: Schedule = Schedule()
    rescale: float = 0.0
    rescale_to: str = "cfg"
    projection: float = 0.0

    def __post_init__(self) -> None:
        for name, low, high in (("scale", -10, 10), ("blur_sigma", 0, WIDEST_BLUR), ("threshold", 0, 100),
                                ("start_percent", 0, 1), ("end_percent", 0, 1), ("blur_kernel", 0, 999),
                                ("rescale", 0, 1), ("projection", 0, 1)):
            value = getattr(self, name)
            if not (math.isfinite(value) and low <= value <= high):
                raise ValueError(f"{name} is {value}; it must be a number from {low} to {high}")
        if self.blur_kernel and self.blur_kernel % 2 == 0:
            raise ValueError(f"blur_kernel is {self.blur_kernel}; it must be odd, or 0 to follow blur_sigma")
        if self.start_percent > self.end_percent:
            raise ValueError(f"start_percent is {self.start_percent}, after end_percent {self.end_percent}; "
                             "no step would be guided")
        if self.rescale_to not in REFERENCES:
            raise ValueError(f"rescale_to is {self.rescale_to!r}; it must be one of {', '.join(REFERENCES)}")


def self_attention_guidance(base: Tensor, x: Tensor, denoised: Tensor, attn_map: Tensor, sigma: Tensor,
                            predict: Callable[[Tensor], Tensor], settings: SAGSettings,
                            process: Process = Process.VARIANCE_EXPLODING,
                            clip: tuple[float, float] | None = None) -> Tensor:
    """Guide one denoising step (SAG, algorithm 1); calls the model once more.

    Args:
        base: prediction to add the guidance to: the result of classifier-free guidance, or `denoised` itself.
        x: noisy sample [B, C, H, W] or [B, C, T, H, W].
        denoised: clean prediction at x of the branch that is guided, the one `attn_map` was recorded from.
        attn_map: self-attention map of that pass [B, h, w] or [B, t, h, w].
        sigma: noise level, [B] or scalar.
        predict: clean prediction of the same branch at another noisy sample, at the same sigma.
        settings: scale, blur and threshold; the rest is for guide.py.
        process: how x was made of a clean sample and noise.
        clip: range of clean samples. What is degraded is the prediction clamped to it, as in the authors' pixel-space
            sampler; the noise it is noised with stays the model's own.
    """
    clean = denoised if clip is None else denoised.clamp(*clip)
    mask = attention_mask(attn_map.to(x.device), settings.threshold, x.shape[2:])
    degraded = degrade(clean, mask, settings.blur_sigma, settings.blur_kernel)
    degraded_x = renoise(x, denoised, degraded, sigma, process)
    return sag_update(base, degraded, predict(degraded_x), settings.scale)


def sag_update(base: Tensor, degraded: Tensor, degraded_denoised: Tensor, scale: float) -> Tensor:
    """base + s * (x0_deg - x0(x_deg)): the guidance of SAG (eq. 12) in terms of clean predictions."""
    return base + scale * (degraded - degraded_denoised)
