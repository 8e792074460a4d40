"""Settings of the guidance that go over a list of values, along one or two directions of a grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from ..sag_core.settings import SAGSettings
from ..sag_core.strategies import STRATEGIES

VARIED = ("scale", "blur_sigma", "threshold", "layer", "strategy", "blur_kernel", "start_percent", "end_percent",
          "rescale", "projection")
NONE = "none"
MOST_CELLS = 400
Thing = TypeVar("Thing")


@dataclass(frozen=True, eq=False)
class Grid:
    """Settings in rows and columns.

    Args:
        columns: what is written above each column.
        rows: what is written beside each row; none where one setting alone varies.
        settings: of every cell, row by row.
    """

    columns: Sequence[str]
    rows: Sequence[str]
    settings: Sequence[SAGSettings]

    def laid_out(self, cells: Sequence[Thing]) -> list[list[Thing]]:
        """One thing for every cell, in rows."""
        return [list(cells[start:start + len(self.columns)]) for start in range(0, len(cells), len(self.columns))]

    @property
    def names(self) -> list[str]:
        """Returns the label of every cell, row by row."""
        return [f"{column}, {row}" if row else column for row in self.rows or [""] for column in self.columns]


def grid_of(base: SAGSettings, x_setting: str, x_values: str, y_setting: str, y_values: str) -> Grid:
    """The grid of settings that inputs mean.

    Args:
        base: what all cells share.
        x_setting, x_values: what goes from left to right, one of `VARIED`, and its values.
        y_setting, y_values: what goes from top to bottom; the setting may be `NONE`.

    Raises:
        ValueError: a value that its setting does not take, a setting twice, or too many cells; the message names it.
    """
    if x_setting == y_setting:
        raise ValueError(f"x_setting and y_setting are both {x_setting!r}; choose two, or {NONE!r} for y_setting")
    across = values_of("x", x_setting, x_values)
    down = [] if y_setting == NONE else values_of("y", y_setting, y_values)
    cells = len(across) * max(len(down), 1)
    if cells > MOST_CELLS:
        raise ValueError(f"x_values and y_values make {cells} cells, each a run; {MOST_CELLS} are the most")
    settings = []
    for y in down or [None]:
        for x in across:
            own = base if y is None else _with(base, "y", y_setting, y)
            settings.append(_with(own, "x", x_setting, x))
    return Grid([_named(x_setting, x) for x in across], [_named(y_setting, y) for y in down], settings)


def values_of(direction: str, setting: str, text: str) -> list[float | int | str]:
    """The values of a setting, as a user writes them: separated by semicolons where there are some, else by commas.

    Raises:
        ValueError: there are none, or the setting does not take one; the message names it.
    """
    if setting not in VARIED:
        raise ValueError(f"{direction}_setting is {setting!r}; it must be one of {', '.join(VARIED)}")
    words = [word.strip() for word in text.split(";" if ";" in text else ",") if word.strip()]
    if not words:
        raise ValueError(f"{direction}_values is empty; give the values of {setting}, separated by commas")
    return [_value(direction, setting, word) for word in words]


def _value(direction: str, setting: str, word: str) -> float | int | str:
    if setting == "strategy" and word not in STRATEGIES:
        raise ValueError(f"{direction}_values holds {word!r}; a strategy is one of {', '.join(STRATEGIES)}")
    if setting in ("layer", "strategy"):
        return word
    kind, what = (int, "whole number") if setting == "blur_kernel" else (float, "number")
    try:
        value = kind(word)
    except ValueError:
        raise ValueError(f"{direction}_values holds {word!r}, which is no {what}, as {setting} takes") from None
    _with(SAGSettings(), direction, setting, value)
    return value


def _with(settings: SAGSettings, direction: str, setting: str, value: float | int | str) -> SAGSettings:
    try:
        if setting == "strategy":
            return replace(settings, mask=replace(settings.mask, strategy=value))
        return replace(settings, **{setting: value})
    except ValueError as error:
        raise ValueError(f"{direction}_values holds {value!r}: {error}") from error


def _named(setting: str, value: float | int | str) -> str:
    return f"{setting} {value}" if isinstance(value, str) else f"{setting} {value:g}"
