"""Self-Attention Guidance (Hong et al., ICCV 2023, arXiv 2210.00939).

The model is shown its own prediction with the parts it attends to blurred away; the sample is steered away from what
it makes of that. In the paper's notation (algorithm 1), with the model's prediction at the noisy sample x:

    A_t     = its self-attention, averaged over heads and summed over queries     (attention.column_mass)
    M_t     = 1[A_t > psi]                                                         (masks.attention_mask)
    x0_deg  = M_t * blur(x0) + (1 - M_t) * x0                                      (degrade.degrade)
    x_deg   = x0_deg, noised with the model's own noise                            (degrade.renoise)
    eps_sag = eps(x) + s * (eps(x) - eps(x_deg))                                   (sag_direction)

Everything here is in terms of clean predictions, where the last line reads `x0 + s * (x0_deg - x0(x_deg))` for every
parametrisation: eps(x) and eps(x_deg) share sigma, and x_deg was made with the noise eps(x).

`sag_direction` is the paper's step. `self_attention_guidance` takes it once; `SelfAttentionGuidance` takes it through a
run, with the masks, schedules, savings and corrections that a user may ask for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum, auto

import torch
from torch import Tensor

from .corrections import project, rescale
from .degrade import Process, degrade, renoise
from .masks import attention_mask
from .progress import Levels
from .schedule import Course, Interval
from .settings import WIDEST_BLUR, SAGSettings
from .strategies import make_mask


def sag_direction(x: Tensor, denoised: Tensor, mask: Tensor, sigma: Tensor, predict: Callable[[Tensor], Tensor],
                  blur_sigma: float, blur_kernel: int = 0, process: Process = Process.VARIANCE_EXPLODING,
                  clip: tuple[float, float] | None = None, least_change: float = 0.0) -> Tensor | None:
    """Returns x0_deg - x0(x_deg), what guidance of scale 1 adds to a prediction (SAG, eq. 10 to 12).

    Args:
        x: noisy sample [B, C, H, W] or [B, C, T, H, W].
        denoised: clean prediction at x of the branch that is guided.
        mask: what is blurred, [B, 1, H, W] or [B, 1, T, H, W] in 0..1.
        sigma: noise level, [B] or scalar.
        predict: clean prediction of the same branch at another noisy sample, at the same sigma; called once.
        blur_sigma, blur_kernel: of `gaussian_blur`.
        process: how x was made of a clean sample and noise.
        clip: range of clean samples. What is degraded is the prediction clamped to it, as in the authors' pixel-space
            sampler; the noise it is noised with stays the model's own.
        least_change: share of the prediction's norm that the blur must change for the model to be asked again; 0 is
            the paper.

    Returns:
        Like x; None where the blur changes too little.
    """
    clean = denoised if clip is None else denoised.clamp(*clip)
    degraded = degrade(clean, mask, blur_sigma, blur_kernel)
    if least_change > 0 and _share(degraded - clean, clean) < least_change:
        return None
    degraded_x = renoise(x, denoised, degraded, sigma, process)
    return degraded - predict(degraded_x)


def self_attention_guidance(base: Tensor, x: Tensor, denoised: Tensor, attn_map: Tensor, sigma: Tensor,
                            predict: Callable[[Tensor], Tensor], scale: float = 0.5, threshold: float = 1.0,
                            blur_sigma: float = 2.0, **options) -> Tensor:
    """Guide one denoising step (SAG, algorithm 1).

    Args:
        base: prediction to add the guidance to: the result of classifier-free guidance, or `denoised` itself.
        attn_map: self-attention map that goes with `denoised`, [B, h, w] or [B, t, h, w], mean 1.
        scale: s, guidance strength.
        threshold: psi, the attention above which a token is blurred.
        x, denoised, sigma, predict, blur_sigma, options: of `sag_direction`.

    Example:
        >>> x = torch.randn(1, 4, 8, 8)
        >>> denoiser = lambda x: 0.5 * x
        >>> attn_map = torch.tensor([[[2.0, 0.0], [1.0, 1.0]]])
        >>> guided = self_attention_guidance(denoiser(x), x, denoiser(x), attn_map, torch.tensor(1.0), denoiser)
        >>> changed = (guided != denoiser(x))[0].any(dim=0)
        >>> changed[:4, :4].all().item(), changed[4:].any().item(), changed[:, 4:].any().item()
        (True, False, False)
    """
    mask = attention_mask(attn_map.to(x.device), threshold, x.shape[2:])
    return base + scale * sag_direction(x, denoised, mask, sigma, predict, blur_sigma, **options)


class Reason(Enum):
    """Reason why an evaluation goes without guidance."""

    SCALE = auto()  # 0
    OUTSIDE = auto()  # of the interval
    LEFT_OUT = auto()  # by the schedule's `every`
    FACTOR = auto()  # of the schedule is 0
    NO_BLUR = auto()  # blur_sigma is 0
    STOPPED = auto()  # by `stop_below`
    ATTENTION = auto()  # not finite
    PREDICTION = auto()  # not finite
    NO_MASK = auto()  # nothing is attended to
    SKIPPED = auto()  # by `skip_below`
    OVERFLOW = auto()  # of the extra pass


@dataclass(frozen=True)
class Decision:
    """Decision about an evaluation, taken once, before the model is run.

    Args:
        level: noise level.
        scale, blur_sigma: of this evaluation.
        reuse: the last direction may be used again, without an extra pass.
        reason: why nothing is to happen; None where the evaluation is to be guided.
    """

    level: float
    scale: float = 0.0
    blur_sigma: float = 0.0
    reuse: bool = False
    reason: Reason | None = None

    @property
    def guides(self) -> bool:
        """Returns whether the evaluation is to be guided."""
        return self.reason is None


@dataclass(frozen=True)
class GuidedStep:
    """A guided evaluation.

    Args:
        denoised: the guided prediction.
        mask: what was blurred, [B, 1, H, W] or [B, 1, T, H, W]; None where the last direction was used again.
        overflowed: the extra pass of some images was not finite; these are as they were.
    """

    denoised: Tensor
    mask: Tensor | None
    overflowed: bool = False


# A direction grows with the noise level, and is not used again where that has risen by more than so many times.
MOST_RISE = 10.0


class SelfAttentionGuidance:
    """Guides the evaluations of one run, in their order.

    Args:
        settings: what the user chose.
        process: how a noisy sample is made of a clean one and noise.
        interval: noise levels that are guided.
        sigmas: noise levels of the run, one more than it has steps.
        levels: noise levels of the model, of `Course`.

    Raises:
        ValueError: the schedule holds too wide a blur.
    """

    def __init__(self, settings: SAGSettings, process: Process, interval: Interval, sigmas: Sequence[float],
                 levels: Levels | None = None):
        widest = settings.blur_sigma * max(settings.schedule.blur_sigma.values, default=1.0)
        if widest > WIDEST_BLUR:
            raise ValueError(f"blur_sigma times the largest factor of its list is {widest}; it must not be above "
                             f"{WIDEST_BLUR}")
        self.settings, self.process, self.interval = settings, process, interval
        self._course = Course(settings.schedule, interval, sigmas, levels)
        self._stopped = False
        self._seen = 0
        self._map: Tensor | None = None
        self._average: Tensor | None = None
        self._last: tuple[Tensor, float, Tensor] | None = None

    def decide(self, level: float) -> Decision:
        """Returns what is to happen at an evaluation at this noise level."""
        settings = self.settings
        if settings.scale == 0:
            return Decision(level, reason=Reason.SCALE)
        if self._stopped:
            return Decision(level, reason=Reason.STOPPED)
        plan = self._course.plan(level)
        if plan is None:
            return Decision(level, reason=Reason.LEFT_OUT if level in self.interval else Reason.OUTSIDE)
        if settings.blur_sigma == 0:
            return Decision(level, reason=Reason.NO_BLUR)
        if plan.scale_factor == 0 or plan.blur_factor == 0:
            return Decision(level, reason=Reason.FACTOR)
        return Decision(level, settings.scale * plan.scale_factor, settings.blur_sigma * plan.blur_factor,
                        reuse=not plan.full)

    def observe(self, attn_map: Tensor) -> None:
        """Take in the map of an evaluation, [B, h, w] or [B, t, h, w], whether that is guided or not."""
        decay, self._map = self.settings.mask.decay, attn_map
        self._seen += 1
        if decay == 0 or self._average is None or self._average.shape != attn_map.shape:
            self._average = attn_map
        else:
            past = self._average.to(attn_map)
            average = torch.where(past.isfinite(), torch.lerp(attn_map, past, decay), attn_map)
            # What is not finite would stay in the average for good.
            self._average = torch.where(attn_map.isfinite(), average, past)

    def __call__(self, decision: Decision, base: Tensor, x: Tensor, denoised: Tensor, sigma: Tensor,
                 predict: Callable[[Tensor], Tensor], clip: tuple[float, float] | None = None) -> GuidedStep | Reason:
        """Guide an evaluation by the maps observed so far.

        Args:
            decision: of `decide`.
            base: prediction to add the guidance to.
            x, denoised, sigma, predict, clip: of `sag_direction`.

        Returns:
            The guided step, or why there is none.
        """
        if not decision.guides:
            return decision.reason
        # Images are left alone one by one: what another one of the batch meets is not their concern.
        finite_map, finite = (t.isfinite().flatten(1).all(dim=1) for t in (self._map.to(x.device), denoised))
        sound = finite_map & finite
        if not sound.any():
            return Reason.PREDICTION if finite_map.any() else Reason.ATTENTION
        mask, kept = None, sound
        if decision.reuse and self._last is not None and decision.level <= MOST_RISE * self._last[1]:
            # A direction is a difference of noise predictions times sigma. The level before is above 0, and this one
            # at most `MOST_RISE` times as high.
            direction, before, guided = self._last
            direction, kept = direction * (decision.level / before), sound & guided
        else:
            self._last = None
            mask = self._mask(denoised, clip, sound)
            if not mask.any():
                return Reason.NO_MASK
            direction = sag_direction(x, denoised, mask, sigma, predict, decision.blur_sigma, self.settings.blur_kernel,
                                      self.process, clip, self.settings.schedule.economy.skip_below)
            if direction is None:
                return Reason.SKIPPED
            whole = direction.isfinite().flatten(1).all(dim=1)
            if not whole.any():
                return Reason.OVERFLOW
            kept = sound & whole
            direction = torch.where(_per_image(kept, x), direction, 0)
            if self.settings.schedule.economy.reuse and decision.level > 0:
                self._last = direction, decision.level, kept
        guided = self._corrected(base, decision.scale, direction, denoised)
        return GuidedStep(torch.where(_per_image(kept, x), guided, base), mask, overflowed=bool((kept != sound).any()))

    def _mask(self, denoised: Tensor, clip: tuple[float, float] | None, sound: Tensor) -> Tensor:
        """Returns what is blurred of the images that can be guided; nothing of the others."""
        settings, clean = self.settings, denoised if clip is None else denoised.clamp(*clip)
        mask = make_mask(settings.mask, self._average, settings.threshold, clean, self._seen - 1)
        return mask.masked_fill(~_per_image(sound, mask), 0)

    def _corrected(self, base: Tensor, scale: float, direction: Tensor, denoised: Tensor) -> Tensor:
        """Returns `base` with the guidance, projected and rescaled as the settings ask for."""
        settings = self.settings
        direction = scale * project(direction, base, settings.projection)
        stop_below = settings.schedule.economy.stop_below
        self._stopped = stop_below > 0 and _share(direction, base) < stop_below
        return rescale(base + direction, base if settings.rescale_to == "cfg" else denoised, settings.rescale)


def _per_image(values: Tensor, x: Tensor) -> Tensor:
    """Values of each image [B], to be broadcast to x [B, ...]."""
    return values.view(-1, *[1] * (x.ndim - 1))


def _share(part: Tensor, whole: Tensor) -> float:
    """Returns the norm of a part relative to the whole's; a whole of 0 counts as the smallest there is."""
    return (part.float().norm() / whole.float().norm().clamp(min=torch.finfo(torch.float32).tiny)).item()
