"""When and how strongly to guide: intervals, curves over the steps, and steps that are left out to save time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

CURVES = ("constant", "linear", "cosine", "list")


@dataclass(frozen=True)
class Interval:
    """Noise levels that are guided, from `sigma_start` down to `sigma_end`, both included."""

    sigma_start: float
    sigma_end: float

    def __contains__(self, sigma: float) -> bool:
        return self.sigma_end <= sigma <= self.sigma_start


@dataclass(frozen=True)
class Curve:
    """Factors of a setting over the guided steps.

    Args:
        shape: "constant": 1; "linear" and "cosine": from 1 at the first guided step to `end` at the last; "list": one
            of `values` for each step of the sampler.
        end: where linear and cosine end.
        values: of a list.

    Raises:
        ValueError: an unknown shape, values that are not finite, or a list without any.
    """

    shape: str = "constant"
    end: float = 0.0
    values: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.shape not in CURVES:
            raise ValueError(f"curve is {self.shape!r}; it must be one of {', '.join(CURVES)}")
        if not math.isfinite(self.end):
            raise ValueError(f"the curve's end is {self.end}; it must be a number")
        for value in self.values:
            if not math.isfinite(value):
                raise ValueError(f"the curve's list holds {value}; its values must be finite")
        if self.shape == "list" and not self.values:
            raise ValueError("the curve is a list without values; give one for every step")

    def factor(self, step: int, first: int, last: int) -> float:
        """The factor at a step, both ends of the guided steps `first` and `last` included."""
        if self.shape == "list":
            return self.values[min(step, len(self.values) - 1)]
        if self.shape == "constant":
            return 1.0
        position = min(max((step - first) / max(last - first, 1), 0.0), 1.0)
        if self.shape == "cosine":
            position = (1 - math.cos(math.pi * position)) / 2
        return 1.0 + (self.end - 1.0) * position

    def check(self, steps: int) -> None:
        """Refuse a list that does not fit the sampler's steps.

        Raises:
            ValueError: the list has another length; the message names both.
        """
        if self.shape == "list" and len(self.values) not in (steps, steps + 1):
            raise ValueError(f"the curve's list has {len(self.values)} values; this run has {steps} steps, so give "
                             f"{steps} of them, or {steps + 1} where they stand beside the SIGMAS")


@dataclass(frozen=True)
class Economy:
    """Which of the guided steps may go without their extra pass.

    Args:
        every: guide one step of so many.
        boost: factor of the scale at the guided steps; None for `every`, which keeps the sum, or for 1 with `reuse`.
        reuse: between them, steer along the last direction, at the new noise level.
        skip_below: leave a step out where degrading changes x0 by less than this share of its own size.
        stop_below: end guiding where a step's guidance is less than this share of x0.

    Raises:
        ValueError: a value is out of its range; the message names it.
    """

    every: int = 1
    boost: float | None = None
    reuse: bool = False
    skip_below: float = 0.0
    stop_below: float = 0.0

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ValueError(f"every is {self.every}; it must be 1 or more")
        for name in ("boost", "skip_below", "stop_below"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name} is {value}; it must be a number, 0 or more")

    @property
    def factor(self) -> float:
        """Of the scale, at the steps that are guided."""
        if self.boost is not None:
            return self.boost
        return 1.0 if self.reuse else float(self.every)


@dataclass(frozen=True)
class Schedule:
    """How guidance goes over a run.

    Args:
        interval: noise levels that are guided; None leaves it to `percent`.
        percent: part of the sampling that is guided, (start, end) in 0..1; None leaves it to the settings.
        scale, blur_sigma: factors of the settings of those names.
        economy: steps that are left out.
    """

    interval: Interval | None = None
    percent: tuple[float, float] | None = None
    scale: Curve = Curve()
    blur_sigma: Curve = Curve()
    economy: Economy = Economy()

    def __post_init__(self) -> None:
        if self.percent is not None:
            start, end = self.percent
            if not (0 <= start <= end <= 1):
                raise ValueError(f"the interval goes from {start} to {end}; as percent, both must be from 0 to 1, the "
                                 "end not before the start")
        if self.interval is not None and not self.interval.sigma_start >= self.interval.sigma_end >= 0:
            raise ValueError(f"the interval goes from sigma {self.interval.sigma_start} to {self.interval.sigma_end}; "
                             "noise falls while sampling, so the start must be the higher one")
        for factor in (*self.blur_sigma.values, self.blur_sigma.end):
            if factor < 0:
                raise ValueError(f"the curve of blur_sigma holds {factor}; a blur cannot be negative")

    def check(self, steps: int) -> None:
        """Refuse lists that do not fit the sampler's steps.

        Raises:
            ValueError: a list has another length; the message names both.
        """
        for name, curve in (("scale", self.scale), ("blur_sigma", self.blur_sigma)):
            try:
                curve.check(steps)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None


@dataclass(frozen=True)
class Plan:
    """What is to happen at one evaluation.

    Args:
        scale_factor, blur_factor: of the settings.
        full: run the extra pass; else the last direction is used again.
    """

    scale_factor: float
    blur_factor: float
    full: bool = True


def plan(schedule: Schedule, interval: Interval, sigmas: Sequence[float], sigma: float) -> Plan | None:
    """What the schedule asks for at a noise level, None where nothing.

    A sampler may evaluate between its steps; such an evaluation belongs to the step it is part of.

    Args:
        schedule: curves and economy.
        interval: noise levels that are guided.
        sigmas: noise levels of the run, one more than it has steps.
        sigma: that of this evaluation.
    """
    if sigma not in interval:
        return None
    steps = max(len(sigmas) - 1, 1)
    guided = [step for step in range(steps) if sigmas[step] in interval]
    # The last step that starts at or before this level; a run that adds noise counts upwards.
    way = 1 if sigmas[0] >= sigmas[-1] else -1
    step = max([i for i in range(steps) if way * (sigmas[i] - sigma) >= -1e-6 * abs(sigma)], default=0)
    first, last = (guided[0], guided[-1]) if guided else (step, step)
    full = (step - first) % schedule.economy.every == 0
    if not full and not schedule.economy.reuse:
        return None
    return Plan(schedule.scale.factor(step, first, last) * schedule.economy.factor,
                schedule.blur_sigma.factor(step, first, last), full)
