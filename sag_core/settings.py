"""Settings of the guidance."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .schedule import Schedule
from .strategies import MaskOptions

REFERENCES = ("cfg", "branch")
WIDEST_BLUR = 100


@dataclass(frozen=True)
class SAGSettings:
    """Settings that a user chooses.

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
