"""Noise process of a model of the host."""

from __future__ import annotations

import comfy.model_sampling

from ...sag_core.degrade import Process
from ...sag_core.progress import Levels

# ComfyUI older than 0.24 has no model that works in this scale, and no name for it.
_DDPM = getattr(comfy.model_sampling, "V_PREDICTION_DDPM", None)


def process_of(sampling) -> Process:
    """The noise process of a model, by its `model_sampling`."""
    if isinstance(sampling, comfy.model_sampling.CONST):
        return Process.FLOW_MATCHING
    if _DDPM is not None and isinstance(sampling, _DDPM):
        return Process.VARIANCE_PRESERVING
    return Process.VARIANCE_EXPLODING


def levels_of(sampling) -> Levels:
    """The noise levels of a model, by its `model_sampling`."""
    # Above 0, because schedulers space steps by the logarithm too.
    highest, lowest = (max(float(level), 1e-9) for level in (sampling.sigma_max, sampling.sigma_min))
    return Levels(sampling.percent_to_sigma, highest, lowest)
