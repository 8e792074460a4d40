"""Lists of numbers as users write them."""

from __future__ import annotations

import math


def numbers(name: str, values: object) -> tuple[float, ...]:
    """A list as text, FLOATS or SIGMAS.

    Raises:
        ValueError: some of it is no finite number; the message names the input.
    """
    if isinstance(values, str):
        values = [word for word in values.replace(";", ",").split(",") if word.strip()]
    elif hasattr(values, "tolist"):
        values = values.tolist()
    found = []
    for value in values if isinstance(values, (list, tuple)) else [values]:
        try:
            number = float(value)
        except (TypeError, ValueError):
            held = value.strip() if isinstance(value, str) else value
            raise ValueError(f"{name} holds {held!r}, which is no number") from None
        if not math.isfinite(number):
            raise ValueError(f"{name}: the list holds {number}; its values must be finite")
        found.append(number)
    return tuple(found)
