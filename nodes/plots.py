"""Curves, intervals and tables as pictures, for results that people should see.

Everything is drawn at twice its size and made smaller, because Pillow's lines have no smooth edges.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

from ..sag_core.axes import Axis

# Okabe and Ito's palette, which the colour-blind can tell apart; black is for what others are compared with.
COLOURS = ((0, 0, 0), (0, 114, 178), (213, 94, 0), (0, 158, 115), (204, 121, 167), (230, 159, 0), (86, 180, 233))
PAPER, INK, FAINT, LINE, STRIPE = (255, 255, 255), (40, 40, 40), (110, 110, 110), (222, 222, 222), (245, 246, 248)
TEXT, HEADING = 19, 23
_FINE = 2


@dataclass(frozen=True)
class Curve:
    """A curve of a plot: points (x, y), its name, and the number of its colour in `COLOURS`."""

    name: str
    points: Sequence[tuple[float, float]]
    colour: int


@dataclass(frozen=True)
class Estimate:
    """A value with its interval, and what it is of."""

    name: str
    value: float
    low: float
    high: float
    note: str = ""


class _Sheet:
    """White paper, on which lengths are in pixels of the finished picture."""

    def __init__(self, width: int, height: int) -> None:
        self._image = Image.new("RGB", (width * _FINE, height * _FINE), PAPER)
        self._draw = ImageDraw.Draw(self._image)

    def line(self, points: Sequence[tuple[float, float]], colour: tuple, width: float = 1) -> None:
        self._draw.line([_fine(p) for p in points], colour, round(width * _FINE), joint="curve")

    def dot(self, centre: tuple[float, float], radius: float, colour: tuple) -> None:
        (x, y), r = _fine(centre), radius * _FINE
        self._draw.ellipse((x - r, y - r, x + r, y + r), colour)

    def box(self, corners: tuple[float, float, float, float], colour: tuple) -> None:
        self._draw.rectangle(tuple(v * _FINE for v in corners), colour)

    def text(self, at: tuple[float, float], text: str, anchor: str, colour: tuple = INK, size: int = TEXT) -> None:
        self._draw.text(_fine(at), text, colour, _font(size * _FINE), anchor=anchor)

    def upright(self, at: tuple[float, float], text: str) -> None:
        """Text that is read from below, centred there."""
        width, height = round(text_width(text) * _FINE) + 8, TEXT * _FINE * 2
        label = Image.new("RGB", (width, height), PAPER)
        ImageDraw.Draw(label).text((width / 2, height / 2), text, INK, _font(TEXT * _FINE), anchor="mm")
        (x, y), label = _fine(at), label.rotate(90, expand=True)
        self._image.paste(label, (round(x - label.width / 2), round(y - label.height / 2)))

    def finished(self) -> Image.Image:
        return self._image.reduce(_FINE)


def curves(lines: Sequence[Curve], title: str, x_title: str, y_title: str) -> Image.Image:
    """Curves on common axes, each with its name in the legend on the right."""
    legend = max(text_width(curve.name) for curve in lines) + 70
    left, top, right, bottom = 95, 62, 760, 500
    sheet = _Sheet(round(right + legend + 20), 570)
    points = [point for curve in lines for point in curve.points]
    x_axis = Axis([x for x, _ in points], left, right, (0.02, 0.04))
    y_axis = Axis([y for _, y in points], bottom, top, (0.08, 0.08))
    _grid(sheet, x_axis, y_axis, (left, top, right, bottom))
    sheet.text((left, 30), title, "lm", size=HEADING)
    sheet.text(((left + right) / 2, bottom + 52), x_title, "mm")
    sheet.upright((26, (top + bottom) / 2), y_title)
    for row, curve in enumerate(lines):
        colour, at = COLOURS[curve.colour % len(COLOURS)], [(x_axis(x), y_axis(y)) for x, y in curve.points]
        sheet.line(at, colour, 3)
        for point in at:
            sheet.dot(point, 5, colour)
        height = top + 16 + 30 * row
        sheet.line([(right + 16, height), (right + 44, height)], colour, 3)
        sheet.dot((right + 30, height), 5, colour)
        sheet.text((right + 54, height), curve.name, "lm")
    return sheet.finished()


def intervals(rows: Sequence[Estimate], title: str, x_title: str, reference: float,
              limits: tuple[float, float]) -> Image.Image:
    """Values with their intervals below each other, beside a dashed line at the value they are compared with."""
    names, notes = (max(text_width(text) for text in texts) for texts in ([r.name for r in rows],
                                                                          [r.note for r in rows]))
    left, top, step = max(120, names + 40), 70, 46
    right, bottom = left + 560, top + step * len(rows)
    sheet = _Sheet(round(right + notes + 50), round(bottom + 75))
    axis = Axis(limits, left, right, (0, 0))
    for value in axis.ticks():
        sheet.line([(axis(value), top), (axis(value), bottom)], LINE)
        sheet.text((axis(value), bottom + 18), f"{value:g}", "mm", FAINT)
    for y in range(round(top), round(bottom), 12):
        sheet.line([(axis(reference), y), (axis(reference), y + 6)], INK, 2)
    sheet.text((24, 32), title, "lm", size=HEADING)
    sheet.text(((left + right) / 2, bottom + 50), x_title, "mm")
    for index, row in enumerate(rows):
        y, colour = top + step * (index + 0.5), COLOURS[1 if index == 0 else 6]
        sheet.text((left - 20, y), row.name, "rm")
        sheet.line([(axis(row.low), y), (axis(row.high), y)], colour, 4)
        for end in (row.low, row.high):
            sheet.line([(axis(end), y - 8), (axis(end), y + 8)], colour, 3)
        sheet.dot((axis(row.value), y), 8, colour)
        sheet.text((right + 20, y), row.note, "lm")
    return sheet.finished()


def table(headings: Sequence[str], rows: Sequence[Sequence[str]], title: str) -> Image.Image:
    """A table: the first column to the left, numbers to the right."""
    columns = list(zip(headings, *rows, strict=True))
    widths = [max(text_width(text) for text in column) + 36 for column in columns]
    widths[0] = max(widths[0], text_width(title, HEADING) + 48 - sum(widths[1:]))
    top, height = 64, 38
    sheet = _Sheet(round(sum(widths) + 24), top + height * (len(rows) + 1) + 16)
    sheet.text((24, 34), title, "lm", size=HEADING)
    for index, row in enumerate([headings, *rows]):
        y = top + height * index
        if index % 2 == 0 and index:
            sheet.box((12, y, sum(widths) + 12, y + height), STRIPE)
        x = 12.0
        for column, (text, width) in enumerate(zip(row, widths, strict=True)):
            at = (x + 12, y + height / 2) if column == 0 else (x + width - 12, y + height / 2)
            sheet.text(at, text, "lm" if column == 0 else "rm", FAINT if index == 0 else INK)
            x += width
    sheet.line([(12, top + height), (sum(widths) + 12, top + height)], INK, 1.5)
    return sheet.finished()


def text_width(text: str, size: int = TEXT) -> float:
    """Returns the width of a text, in pixels."""
    return _font(size * _FINE).getlength(text) / _FINE


def _grid(sheet: _Sheet, x_axis: Axis, y_axis: Axis, frame: tuple[float, float, float, float]) -> None:
    left, top, right, bottom = frame
    for value in x_axis.ticks():
        sheet.line([(x_axis(value), top), (x_axis(value), bottom)], LINE)
        sheet.text((x_axis(value), bottom + 18), f"{value:g}", "mm", FAINT)
    for value in y_axis.ticks():
        sheet.line([(left, y_axis(value)), (right, y_axis(value))], LINE)
        sheet.text((left - 10, y_axis(value)), f"{value:g}", "rm", FAINT)
    sheet.line([(left, top), (left, bottom), (right, bottom)], FAINT, 1.5)


def _fine(point: tuple[float, float]) -> tuple[float, float]:
    return point[0] * _FINE, point[1] * _FINE


def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(size=size)
