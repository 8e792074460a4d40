"""Position of a run in the whole process, by its noise levels alone.

A host may sample one process in two runs (KSamplerAdvanced, SplitSigmas) and keeps nothing between them. What a
schedule asks for at a step must therefore follow from noise levels, so that two runs do what one would have done.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

# Two noise levels are the same up to the float32 arithmetic of samplers that go by logarithms.
ROUNDING = 1e-6
# Parts of a step that are rounding: of arithmetic, of an interval's end, and of levels put on a model's table.
_ARITHMETIC, _END, _TABLE = 1e-4, 0.02, 0.1


@dataclass(frozen=True, eq=False)
class Levels:
    """Noise levels of a model.

    Args:
        percent_to_sigma: noise level at a part of the process, 0 (noise) to 1 (clean); it never rises.
        highest, lowest: of the levels that are sampled, both above 0.
    """

    percent_to_sigma: Callable[[float], float]
    highest: float
    lowest: float

    def percents(self) -> Callable[[float], float]:
        """The inverse of `percent_to_sigma`: 0 at the highest level and above it, 1 at the lowest and below."""
        known: dict[float, float] = {}

        def percent(sigma: float) -> float:
            if sigma not in known:
                low, high = 0.0, 1.0
                for _ in range(40):
                    middle = (low + high) / 2
                    low, high = (middle, high) if float(self.percent_to_sigma(middle)) > sigma else (low, middle)
                known[sigma] = high
            return known[sigma]

        return percent


def percents_of_run(sigmas: Sequence[float]) -> Callable[[float], float]:
    """The same for an unknown model: the run is the whole process, and its steps are parts of equal length."""
    levels = sorted({sigma for sigma in sigmas if sigma > 0}, reverse=True) or [0.0]

    def percent(sigma: float) -> float:
        if sigma >= levels[0]:
            return 0.0
        for i, (above, below) in enumerate(zip(levels, levels[1:], strict=False)):
            if sigma >= below:  # below `above`, so the two differ
                return (i + (above - sigma) / (above - below)) / (len(levels) - 1)
        return 1.0

    return percent


class Count:
    """Counts the steps of the whole process, as if all of them were spaced as this run's are.

    Exact for the host's schedulers that space their steps evenly in the model's timestep (normal, simple,
    sgm_uniform, ddim_uniform), in sigma^(1/7) (karras), in log sigma (exponential) or in atan sigma (kl_optimal); an
    estimate for others. A run of fewer than three levels does not show its spacing; timesteps are assumed.

    Args:
        levels: noise levels of the run above 0, in its order, and that of the next run's first step if there is one.
        ends: whether the run goes on to 0.
        percent: part of the process before a noise level.
        highest, lowest: of the model's noise levels.
    """

    def __init__(self, levels: Sequence[float], ends: bool, percent: Callable[[float], float], highest: float,
                 lowest: float):
        self._levels, self._highest, self._lowest = list(levels), highest, lowest
        ways = (percent, lambda sigma: -sigma ** (1 / 7), lambda sigma: -math.log(sigma),
                lambda sigma: -math.atan(sigma))
        self._place = min(ways, key=self._unevenness)
        self._step = self._spacing(self._place)
        self.before = self._before()
        left = 0.0 if ends else self._steps(self._levels[-1], lowest)
        whole = round(left)
        after = {0} if ends else {whole, whole + 1} if abs(left - whole) < _TABLE else {math.floor(left) + 1}
        so_far = self.before + len(self._levels) - (not ends)
        # Some schedulers end with a step at the lowest level, others a step above it.
        self.totals = {so_far + steps for steps in after}
        self.total = so_far if ends else so_far + math.floor(left + _ARITHMETIC) + 1

    def since(self, sigma: float) -> int:
        """Returns how many steps before the run's first start at this noise level or below it."""
        if sigma >= self._highest:
            return self.before
        return min(self.before, max(0, math.floor(self._steps(sigma, self._levels[0]) + _END)))

    def _before(self) -> int:
        steps = self._steps(self._highest, self._levels[0])
        if steps < 1 - _ARITHMETIC:
            return 0  # ddim_uniform begins almost a step below the highest level
        if _ARITHMETIC < self._steps(self._levels[-1], self._lowest) < _TABLE:
            return math.floor(steps + _ARITHMETIC)  # and ends a little above the lowest
        return math.floor(steps + _TABLE)

    def _steps(self, start: float, end: float) -> float:
        """Steps between two noise levels; 0 where the run's own spacing is none, or rises."""
        return (self._place(end) - self._place(start)) / self._step if self._step > 0 else 0.0

    def _spacing(self, place: Callable[[float], float]) -> float:
        return (place(self._levels[-1]) - place(self._levels[0])) / max(len(self._levels) - 1, 1)

    def _unevenness(self, place: Callable[[float], float]) -> float:
        """By how much of a step the run's levels are off an even spacing."""
        step = self._spacing(place)
        if len(self._levels) < 3 or not step > 0:
            return 0.0  # the same for all, of which the first is taken
        places = [place(level) for level in self._levels]
        return max(abs(at - places[0] - i * step) for i, at in enumerate(places)) / step
