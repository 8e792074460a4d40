"""Guiding a whole run: the paper's step, with the masks, schedules and savings that a user may ask for.

With the default settings every step is exactly `guidance.self_attention_guidance`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum, auto

import torch
from torch import Tensor

from .corrections import project, rescale
from .degrade import Process, degrade, renoise
from .guidance import WIDEST_BLUR, SAGSettings
from .progress import Levels
from .schedule import Course, Interval, Plan
from .strategies import make_mask

# A direction grows with the noise level, and is not used again where that has risen by more than so many times.
MOST_RISE = 10.0


class Reason(Enum):
    """Why an evaluation goes without guidance."""

    SCALE = auto()
    OUTSIDE = auto()
    LEFT_OUT = auto()
    FACTOR = auto()
    NO_BLUR = auto()
    STOPPED = auto()
    ATTENTION = auto()
    PREDICTION = auto()
    NO_MASK = auto()
    SKIPPED = auto()
    FAILED = auto()


@dataclass(frozen=True)
class Guided:
    """A guided step.

    Args:
        denoised: the guided prediction.
        mask: what was blurred, [B, 1, H, W] or [B, 1, T, H, W]; None where the last direction was used again.
    """

    denoised: Tensor
    mask: Tensor | None


class Guide:
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
        self.settings, self.process = settings, process
        self.interval = interval
        self.reason: Reason | None = None
        """Why the latest evaluation that was asked for was left alone; None where it was guided, or none was."""
        self.overflowed = False
        """Whether the extra pass has given values that are not finite; its samples were left alone."""
        self._course = Course(settings.schedule, interval, sigmas, levels)
        self._stopped = False
        self._seen = 0
        self._map: Tensor | None = None
        self._average: Tensor | None = None
        self._last: tuple[Tensor, float] | None = None

    def plan(self, level: float) -> Plan | None:
        """What is to happen at a noise level; None where nothing, and no extra pass is needed."""
        return self._asked(level)[0]

    def why_not(self, level: float) -> Reason | None:
        """Returns what the settings have against guiding this noise level; None where they ask for it."""
        return self._asked(level)[1]

    def _asked(self, level: float) -> tuple[Plan | None, Reason | None]:
        if self.settings.scale == 0:
            return None, Reason.SCALE
        if self._stopped:
            return None, Reason.STOPPED
        wanted = self._course.plan(level)
        if wanted is None:
            return None, Reason.LEFT_OUT if level in self.interval else Reason.OUTSIDE
        if self.settings.blur_sigma == 0:
            return None, Reason.NO_BLUR
        if wanted.scale_factor == 0 or wanted.blur_factor == 0:
            return None, Reason.FACTOR
        return wanted, None

    def observe(self, attn_map: Tensor) -> None:
        """A recorded map, of every evaluation whether it is guided or not."""
        decay, self._map, self.reason = self.settings.mask.decay, attn_map, None
        self._seen += 1
        if decay == 0 or self._average is None or self._average.shape != attn_map.shape:
            self._average = attn_map
        else:
            past = self._average.to(attn_map)
            average = torch.where(past.isfinite(), torch.lerp(attn_map, past, decay), attn_map)
            # What is not finite would stay in the average for good.
            self._average = torch.where(attn_map.isfinite(), average, past)

    def __call__(self, base: Tensor, x: Tensor, denoised: Tensor, sigma: Tensor, level: float,
                 predict: Callable[[Tensor], Tensor], clip: tuple[float, float] | None = None) -> Guided | None:
        """Guide one evaluation by the maps observed so far; None where it is left alone.

        Args:
            base: prediction to add the guidance to.
            x: noisy sample [B, C, H, W] or [B, C, T, H, W].
            denoised: clean prediction at x of the branch that is guided.
            sigma: noise level, [B] or scalar, and as a number, `level`.
            predict: clean prediction of the same branch at another noisy sample, at the same sigma.
            clip: range of clean samples, of `self_attention_guidance`.
        """
        settings, wanted = self.settings, self.plan(level)
        if wanted is None:
            self.reason = self.why_not(level)
            return None
        scale, mask = settings.scale * wanted.scale_factor, None
        self.reason = Reason.FAILED  # until it is done, or left alone for another reason
        # Samples are left alone one by one: what another one of the batch meets is not their concern.
        finite = [t.isfinite().flatten(1).all(dim=1) for t in (self._map.to(x.device), denoised)]
        if not (finite[0] & finite[1]).any():
            self.reason = Reason.PREDICTION if finite[0].any() else Reason.ATTENTION
            return None
        if wanted.full or self._last is None or level > MOST_RISE * self._last[1]:
            self._last = None
            clean = denoised if clip is None else denoised.clamp(*clip)
            mask = make_mask(settings.mask, self._average, settings.threshold, clean, self._seen - 1)
            lost = ~(finite[0] & finite[1]).view(-1, *[1] * (mask.ndim - 1))
            mask = mask.masked_fill(lost, 0)
            direction = self._direction(x, denoised, clean, mask, sigma, predict,
                                        settings.blur_sigma * wanted.blur_factor)
            if direction is None:
                return None
            sound = direction.isfinite().flatten(1).all(dim=1).view(lost.shape)
            self.overflowed = self.overflowed or not (sound | lost).all()
            if not sound.any():
                return None
            direction = torch.where(sound, direction, 0)
            if settings.schedule.economy.reuse and level > 0:
                self._last = direction, level
        else:
            # A direction is a difference of noise predictions times sigma. The level before is above 0, and this one
            # at most `MOST_RISE` times as high.
            direction, before = self._last
            direction = direction * (level / before)
        direction = scale * project(direction, base, settings.projection)
        stop_below = settings.schedule.economy.stop_below
        self._stopped = stop_below > 0 and _share(direction, base) < stop_below
        reference = base if settings.rescale_to == "cfg" else denoised
        self.reason = None
        return Guided(rescale(base + direction, reference, settings.rescale), mask)

    def _direction(self, x: Tensor, denoised: Tensor, clean: Tensor, mask: Tensor, sigma: Tensor,
                   predict: Callable[[Tensor], Tensor], blur_sigma: float) -> Tensor | None:
        """x0_deg - x0(x_deg), None where there is nothing to degrade; `clean` is what is degraded."""
        if not mask.any():
            self.reason = Reason.NO_MASK
            return None
        degraded = degrade(clean, mask, blur_sigma, self.settings.blur_kernel)
        skip_below = self.settings.schedule.economy.skip_below
        if skip_below > 0 and _share(degraded - clean, clean) < skip_below:
            self.reason = Reason.SKIPPED
            return None
        return degraded - predict(renoise(x, denoised, degraded, sigma, self.process))


def _share(part: Tensor, whole: Tensor) -> float:
    """How large a part is beside the whole, by their norms; a whole of 0 counts as the smallest there is."""
    return (part.float().norm() / whole.float().norm().clamp(min=torch.finfo(torch.float32).tiny)).item()
