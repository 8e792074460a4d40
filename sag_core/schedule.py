"""Schedules of guidance: intervals, curves over the run, and steps that are left out to save time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from .progress import ROUNDING, Count, Levels, percents_of_run

CURVES = ("constant", "linear", "cosine", "list")


@dataclass(frozen=True)
class Interval:
    """Noise levels that are guided, from `sigma_start` down to `sigma_end`, both included up to rounding."""

    sigma_start: float
    sigma_end: float

    def __contains__(self, sigma: float) -> bool:
        return self.sigma_end * (1 - ROUNDING) <= sigma <= self.sigma_start * (1 + ROUNDING)


@dataclass(frozen=True)
class Curve:
    """Factors of a setting over the interval that is guided.

    Args:
        shape: "constant": 1; "linear" and "cosine": from 1 at the interval's start to `end` at its end; "list": one of
            `values` for each step of the sampler, or as many as there are over all steps.
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

    def factor(self, step: float, first: float, last: float) -> float:
        """Returns the factor between the ends `first` and `last`, both included; where they are the same, that of
        `first`. A list has one for every whole step."""
        if self.shape == "list":
            return self.values[min(int(step), len(self.values) - 1)]
        if self.shape == "constant":
            return 1.0
        position = min(max((step - first) / (last - first), 0.0), 1.0) if last > first else 0.0
        if self.shape == "cosine":
            position = (1 - math.cos(math.pi * position)) / 2
        return 1.0 + (self.end - 1.0) * position

    def fits(self, steps: int) -> bool:
        """Returns whether a list has a value for each of so many steps, or one more, as their SIGMAS have."""
        return self.shape != "list" or len(self.values) in (steps, steps + 1)

    def spread(self, step: int, steps: int) -> float:
        """Returns a list's value at a step, its values spread evenly over so many steps from the first to the last."""
        place = min(max(step / max(steps - 1, 1), 0.0), 1.0) * (len(self.values) - 1)
        below = min(int(place), len(self.values) - 1)
        above = min(below + 1, len(self.values) - 1)
        return self.values[below] + (self.values[above] - self.values[below]) * (place - below)


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
    """Schedule of guidance over a run.

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

    def misfits(self, steps: int) -> dict[str, int]:
        """Returns the lists that are not for so many steps: the setting's name and how many values there are."""
        return {name: len(curve.values) for name, curve in (("scale", self.scale), ("blur", self.blur_sigma))
                if not curve.fits(steps)}


@dataclass(frozen=True)
class Plan:
    """Plan for one evaluation.

    Args:
        scale_factor, blur_factor: of the settings.
        full: run the extra pass; else the last direction is used again.
    """

    scale_factor: float
    blur_factor: float
    full: bool = True


class Course:
    """Course of a schedule over the noise levels of a run.

    Curves follow the noise level, and `every` and lists count the steps of the whole process, so that a process that is
    sampled in two runs is guided as in one; `Count` says for which schedulers steps can be counted exactly.

    Args:
        schedule: curves and economy.
        interval: noise levels that are guided.
        sigmas: noise levels of the run, one more than it has steps.
        levels: noise levels of the model; without them the run is taken for the whole process.
    """

    def __init__(self, schedule: Schedule, interval: Interval, sigmas: Sequence[float], levels: Levels | None = None):
        self.schedule, self.interval, self.levels = schedule, interval, levels
        self.steps = max(len(sigmas) - 1, 1)
        self.ends = len(sigmas) > 1 and sigmas[-1] <= 0
        # The level a run stops at is that of the next run's first step.
        self.starts = list(sigmas[:-1] if self.ends else sigmas) or [0.0]
        self.rises = self.starts[0] < self.starts[-1]
        self.first = next((i for i, sigma in enumerate(self.starts[:self.steps]) if sigma in interval), None)
        self._percent = percents_of_run(sigmas) if levels is None else levels.percents()

    def plan(self, sigma: float) -> Plan | None:
        """Returns what is asked for at a noise level, None where nothing.

        A sampler may evaluate between its steps; such an evaluation belongs to the step it is part of.
        """
        if sigma not in self.interval:
            return None
        step, schedule = self._step(sigma), self.schedule
        full = schedule.economy.every == 1 or self._guided_before(step) % schedule.economy.every == 0
        if not full and not schedule.economy.reuse:
            return None
        return Plan(self._factor(schedule.scale, step) * schedule.economy.factor,
                    self._factor(schedule.blur_sigma, step), full)

    def _step(self, sigma: float) -> int:
        """The last step that starts at or before this level, the first of those that start at the same one."""
        way = -1 if self.rises else 1  # a run that adds noise counts upwards
        begun = [i for i, start in enumerate(self.starts) if way * (start - sigma) >= -ROUNDING * abs(sigma)]
        return self.starts.index(self.starts[max(begun, default=0)])

    def _guided_before(self, step: int) -> int:
        """Returns the number of steps of the interval before this one."""
        if self.first is None:
            return 0
        earlier = self._count.since(self.interval.sigma_start) if self.first == 0 and self._count else 0
        return earlier + step - self.first

    def _factor(self, curve: Curve, step: int) -> float:
        if curve.shape == "constant":
            return 1.0
        if curve.shape != "list":
            ends = (self._percent(sigma) for sigma in (self.interval.sigma_start, self.interval.sigma_end))
            return curve.factor(self._percent(self.starts[step]), *ends)
        if curve.fits(self.steps):
            return curve.factor(step, 0, self.steps)
        if self._count is None:
            return curve.spread(step, self.steps)
        step += self._count.before
        if any(curve.fits(total) for total in self._count.totals):
            return curve.factor(step, 0, self._count.total)
        return curve.spread(step, self._count.total)

    @cached_property
    def _count(self) -> Count | None:
        """Of the steps of the whole process; None where it is this run alone, or one that adds noise."""
        whole = self.ends and self.starts[0] >= self.levels.highest * (1 - ROUNDING) if self.levels else True
        if whole or self.rises or min(self.starts) <= 0:
            return None
        return Count(self.starts, self.ends, self._percent, self.levels.highest, self.levels.lowest)


def plan(schedule: Schedule, interval: Interval, sigmas: Sequence[float], sigma: float,
         levels: Levels | None = None) -> Plan | None:
    """Returns what a schedule asks for at one noise level of a run; the arguments are those of `Course`."""
    return Course(schedule, interval, sigmas, levels).plan(sigma)
