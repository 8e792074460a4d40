"""Axes of plots: from values to places on paper, with round ticks."""

from __future__ import annotations

import math
from collections.abc import Sequence


class Axis:
    """From values to pixels.

    Args:
        values: what must be on the axis; some room is left around them.
        start, end: pixels where the axis starts and ends.
        room: how much is left before and after, as shares of the values' span.
    """

    def __init__(self, values: Sequence[float], start: float, end: float, room: tuple[float, float] = (0.08, 0.16)):
        low, high = min(values), max(values)
        # Values that are the same up to rounding span 1, or what their size can tell apart.
        span = high - low if high - low > 1e-9 * max(abs(low), abs(high)) else max(1, 1e-9 * abs(high))
        self.low, self.high, self.start, self.end = low - room[0] * span, high + room[1] * span, start, end

    def __call__(self, value: float) -> float:
        return self.start + (self.end - self.start) * (value - self.low) / (self.high - self.low)

    def ticks(self) -> list[float]:
        """Round values on the axis, at most nine: multiples of 1, 2 or 5 times a power of ten."""
        span = self.high - self.low
        step = next(m * 10.0 ** e for e in range(-12, 13) for m in (1, 2, 5) if span / (m * 10.0 ** e) <= 8)
        first = math.ceil(self.low / step - 1e-9)
        return [round(i * step, 12) for i in range(first, math.floor(self.high / step + 1e-9) + 1)]


class LogAxis(Axis):
    """The same by the logarithm of positive values."""

    def __init__(self, values: Sequence[float], start: float, end: float, room: tuple[float, float] = (0.08, 0.16)):
        super().__init__([math.log10(value) for value in values], start, end, room)

    def __call__(self, value: float) -> float:
        return super().__call__(math.log10(value))

    def ticks(self) -> list[float]:
        """1, 2 and 5 times the powers of ten on the axis."""
        round_values = (m * 10.0 ** e for e in range(-12, 13) for m in (1, 2, 5))
        return [value for value in round_values if self.low <= math.log10(value) <= self.high]
