"""Intervals by resampling: how a metric would vary if other samples had been drawn (Efron, 1979).

A metric here is a function of weights: how often each sample was drawn, [R, N] -> [R]. The first row is the set itself,
every sample once, the others are resamples. The places of a resample follow from (samples, resamples, seed) alone, so
two settings that share their seeds are resampled alike, and their differences are surer than their values.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

# Weights [R, N], each row of sum N -> values [R].
Statistic = Callable[[Tensor], Tensor]
# A share f = 1 - 1/e of the samples is in a resample. As a subset, drawn without replacement, it has the variance of a
# set of N times (1 - f) / f = 1 / (e - 1).
DRAWN_OR_NOT = math.sqrt(math.e - 1)


@dataclass(frozen=True)
class Bootstrap:
    """Which resamples are taken.

    Args:
        samples: N, samples of the set.
        resamples: how many sets are drawn from it, with replacement.
        seed: of the drawing.

    Raises:
        ValueError: there are fewer than 2 samples or 2 resamples.
    """

    samples: int
    resamples: int = 200
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("samples", "resamples"):
            if getattr(self, name) < 2:
                raise ValueError(f"{name} is {getattr(self, name)}; nothing varies with fewer than 2")

    @cached_property
    def weights(self) -> Tensor:
        """[1 + resamples, N] float32: ones, then how often each sample is in each resample."""
        generator = torch.Generator().manual_seed(self.seed)
        # Counted one at a time: torch.multinomial's places would take 8 bytes each.
        return torch.stack([torch.ones(self.samples)] + [
            torch.randint(self.samples, (self.samples,), generator=generator).bincount(minlength=self.samples).float()
            for _ in range(self.resamples)])

    def estimate(self, statistic: Statistic, low: float = -math.inf, high: float = math.inf,
                 spread: float = 1.0) -> Estimate:
        """A metric of the set and of its resamples.

        Args:
            statistic: the metric, by weights.
            low, high: what it cannot pass.
            spread: by which the resamples vary too little; `DRAWN_OR_NOT` where weights above 1 count as 1.
        """
        value, *drawn = statistic(self.weights).tolist()
        drawn = torch.tensor(drawn, dtype=torch.float64)
        # A resample repeats samples and is in effect a smaller set. What depends on the size of the set (FID falls with
        # it, recall rises) would be off by that in every resample, and the interval would miss its own value.
        return Estimate(value, spread * (drawn - drawn.mean()) + value, self, low, high)


@dataclass(frozen=True, eq=False)
class Estimate:
    """A value, and those of the resamples about it.

    Args:
        value: of the samples as they are.
        resamples: of the resamples [R], float64, shifted so that their mean is `value`.
        bootstrap: which resamples they are.
        low, high: what the metric cannot pass, though shifted resamples may.
    """

    value: float
    resamples: Tensor
    bootstrap: Bootstrap
    low: float = -math.inf
    high: float = math.inf

    def interval(self, level: float = 0.9) -> tuple[float, float]:
        """Percentiles that hold `level` of the resamples between them, 0..1.

        It says where the metric of another set of this size would lie, against the same reference.
        """
        if not 0 < level < 1:
            raise ValueError(f"level is {level}; it must lie between 0 and 1")
        ends = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
        low, high = self.resamples.quantile(ends).clamp(self.low, self.high).tolist()
        return low, high

    def __sub__(self, other: Estimate) -> Estimate:
        return combine(lambda a, b: a - b, self, other)


def combine(function: Callable[..., Tensor], *estimates: Estimate) -> Estimate:
    """A function of metrics of settings that share their seeds, resample by resample.

        gain = combine(lambda plain, guided: 1 - guided / plain, fid_plain, fid_guided)

    Raises:
        ValueError: the estimates were not resampled alike.
    """
    if len({estimate.bootstrap for estimate in estimates}) != 1:
        raise ValueError("these were resampled differently, so their resamples are no pairs: "
                         + ", ".join(str(estimate.bootstrap) for estimate in estimates))
    value, *_ = function(*(torch.tensor([estimate.value], dtype=torch.float64) for estimate in estimates)).tolist()
    return Estimate(value, function(*(estimate.resamples for estimate in estimates)), estimates[0].bootstrap)
