"""A scatter plot with error bars as a picture, for figures that need no more than that."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

WIDTH, HEIGHT, MARGIN = 1100, 700, (90, 40, 40, 80)  # left, top, right, bottom
INK, GRID = (40, 40, 40), (225, 225, 225)


@dataclass(frozen=True)
class Point:
    """A point with an error bar along y.

    Args:
        x, y: where it is.
        low, high: ends of its bar.
        label: written beside it.
        colour: RGB, 0..255.
    """

    x: float
    y: float
    low: float
    high: float
    label: str
    colour: tuple[int, int, int] = (178, 58, 72)


def scatter(points: Sequence[Point], x_title: str, y_title: str) -> Image.Image:
    """The points on axes that start a little before the first of them, y by its logarithm."""
    image = Image.new("RGB", (WIDTH, HEIGHT), "white")
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(18)
    left, top, right, bottom = MARGIN
    x_axis = _Axis([p.x for p in points], left, WIDTH - right)
    y_axis = _LogAxis([v for p in points for v in (p.low, p.high)], HEIGHT - bottom, top)
    for value in x_axis.ticks():
        draw.line([(x_axis(value), top), (x_axis(value), HEIGHT - bottom)], GRID)
        draw.text((x_axis(value), HEIGHT - bottom + 8), f"{value:g}", INK, font, anchor="mt")
    for value in y_axis.ticks():
        draw.line([(left, y_axis(value)), (WIDTH - right, y_axis(value))], GRID)
        draw.text((left - 10, y_axis(value)), f"{value:g}", INK, font, anchor="rm")
    draw.text(((left + WIDTH - right) / 2, HEIGHT - 14), x_title, INK, font, anchor="mb")
    draw.text((left, 8), y_title, INK, font)
    for point in points:
        x, y = x_axis(point.x), y_axis(point.y)
        draw.line([(x, y_axis(point.low)), (x, y_axis(point.high))], point.colour, 3)
        draw.ellipse([x - 7, y - 7, x + 7, y + 7], point.colour)
    labels = []
    for point in sorted(points, key=lambda p: -p.y):
        x, y = x_axis(point.x), y_axis(point.y)
        right_aligned = x > 0.8 * WIDTH
        box = draw.textbbox((x - 12 if right_aligned else x + 12, y), point.label, font,
                            anchor="rm" if right_aligned else "lm")
        while any(_meet(box, other) for other in labels):
            box = (box[0], box[1] + 2, box[2], box[3] + 2)
        labels.append(box)
        draw.text(((box[0]), (box[1] + box[3]) / 2), point.label, INK, font, anchor="lm")
    return image


def _meet(a: Sequence[float], b: Sequence[float]) -> bool:
    """Whether two boxes (left, top, right, bottom) overlap."""
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


class _Axis:
    """From values to pixels, with round ticks."""

    def __init__(self, values: Sequence[float], start: float, end: float):
        low, high = min(values), max(values)
        room = 0.08 * (high - low or 1)
        self.low, self.high, self.start, self.end = low - room, high + 2 * room, start, end

    def __call__(self, value: float) -> float:
        return self.start + (self.end - self.start) * (value - self.low) / (self.high - self.low)

    def ticks(self) -> list[float]:
        span = self.high - self.low
        step = next(m * 10.0 ** e for e in range(-6, 9) for m in (1, 2, 5) if span / (m * 10.0 ** e) <= 8)
        first = -(-self.low // step)
        return [round((first + i) * step, 9) for i in range(int((self.high - first * step) // step) + 1)]


class _LogAxis(_Axis):
    """The same by the logarithm of positive values."""

    def __init__(self, values: Sequence[float], start: float, end: float):
        super().__init__([math.log10(value) for value in values], start, end)

    def __call__(self, value: float) -> float:
        return super().__call__(math.log10(value))

    def ticks(self) -> list[float]:
        round_values = (m * 10.0 ** e for e in range(-6, 9) for m in (1, 2, 5))
        return [value for value in round_values if self.low <= math.log10(value) <= self.high]
