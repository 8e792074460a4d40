"""A scatter plot with error bars as a picture, for figures that need no more than that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

from sag_core.axes import Axis, LogAxis

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
    x_axis = Axis([p.x for p in points], left, WIDTH - right)
    y_axis = LogAxis([v for p in points for v in (p.low, p.high)], HEIGHT - bottom, top)
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
