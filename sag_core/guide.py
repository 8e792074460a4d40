"""Guiding a whole run: the paper's step, with the masks, schedules and savings that a user may ask for.

With the default settings every step is exactly `guidance.self_attention_guidance`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .corrections import project, rescale
from .degrade import Process, degrade, renoise
from .guidance import WIDEST_BLUR, SAGSettings
from .schedule import Interval, Plan, plan
from .strategies import make_mask


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
        sigmas: noise levels of the run, falling, one more than it has steps.

    Raises:
        ValueError: the schedule holds a list that does not fit the run's steps, or too wide a blur.
    """

    def __init__(self, settings: SAGSettings, process: Process, interval: Interval, sigmas: Sequence[float]):
        settings.schedule.check(len(sigmas) - 1)
        widest = settings.blur_sigma * max(settings.schedule.blur_sigma.values, default=1.0)
        if widest > WIDEST_BLUR:
            raise ValueError(f"blur_sigma times the largest factor of its list is {widest}; it must not be above "
                             f"{WIDEST_BLUR}")
        self.settings, self.process = settings, process
        self.interval, self.sigmas = interval, list(sigmas)
        self._stopped = False
        self._seen = 0
        self._average: Tensor | None = None
        self._last: tuple[Tensor, float] | None = None

    def plan(self, level: float) -> Plan | None:
        """What is to happen at a noise level; None where nothing, and no extra pass is needed."""
        if self._stopped or self.settings.scale == 0:
            return None
        wanted = plan(self.settings.schedule, self.interval, self.sigmas, level)
        if wanted is None or wanted.scale_factor == 0 or self.settings.blur_sigma * wanted.blur_factor == 0:
            return None
        return wanted

    def observe(self, attn_map: Tensor) -> None:
        """A recorded map, of every evaluation whether it is guided or not."""
        decay = self.settings.mask.decay
        if decay == 0 or self._average is None or self._average.shape != attn_map.shape:
            self._average = attn_map
        else:
            self._average = torch.lerp(attn_map, self._average.to(attn_map), decay)
        self._seen += 1

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
            return None
        scale, mask = settings.scale * wanted.scale_factor, None
        if wanted.full or self._last is None:
            self._last = None
            clean = denoised if clip is None else denoised.clamp(*clip)
            mask = make_mask(settings.mask, self._average, settings.threshold, clean, self._seen - 1)
            direction = self._direction(x, denoised, clean, mask, sigma, predict,
                                        settings.blur_sigma * wanted.blur_factor)
            if direction is None:
                return None
            if settings.schedule.economy.reuse:
                self._last = direction, level
        else:
            # A direction is a difference of noise predictions times sigma.
            direction, before = self._last
            direction = direction * (level / before)
        direction = scale * project(direction, base, settings.projection)
        stop_below = settings.schedule.economy.stop_below
        self._stopped = stop_below > 0 and _share(direction, base) < stop_below
        reference = base if settings.rescale_to == "cfg" else denoised
        return Guided(rescale(base + direction, reference, settings.rescale), mask)

    def _direction(self, x: Tensor, denoised: Tensor, clean: Tensor, mask: Tensor, sigma: Tensor,
                   predict: Callable[[Tensor], Tensor], blur_sigma: float) -> Tensor | None:
        """x0_deg - x0(x_deg), None where there is nothing to degrade; `clean` is what is degraded."""
        if not mask.any():
            return None
        degraded = degrade(clean, mask, blur_sigma, self.settings.blur_kernel)
        skip_below = self.settings.schedule.economy.skip_below
        if skip_below > 0 and _share(degraded - clean, clean) < skip_below:
            return None
        return degraded - predict(renoise(x, denoised, degraded, sigma, self.process))


def _share(part: Tensor, whole: Tensor) -> float:
    """How large a part is beside the whole, by their norms."""
    return (part.float().norm() / whole.float().norm().clamp(min=torch.finfo(torch.float32).tiny)).item()
