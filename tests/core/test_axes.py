"""Axes of plots: round ticks, and values where they belong."""

from __future__ import annotations

import pytest

from sag_core.axes import Axis, LogAxis


def test_values_lie_between_the_ends_with_room_around_them():
    axis = Axis([0, 10], 100, 200, room=(0.1, 0.3))
    assert [axis(value) for value in (-1, 6, 13)] == pytest.approx([100, 150, 200])
    upwards = Axis([0, 1], 50, 0, room=(0, 0))
    assert (upwards(0), upwards(1)) == (50, 0)


@pytest.mark.parametrize(("values", "ticks"), [
    ([0, 1], [0, 0.2, 0.4, 0.6, 0.8, 1]), ([-3, 4], [-3, -2, -1, 0, 1, 2, 3, 4]), ([0, 0.031], [0, 0.005, 0.01, 0.015,
                                                                                              0.02, 0.025, 0.03]),
    ([120, 460], [150, 200, 250, 300, 350, 400, 450]), ([-1e-7, 1e-7], [-1e-7, -5e-8, 0, 5e-8, 1e-7]),
])
def test_ticks_are_round(values, ticks):
    assert Axis(values, 0, 1, room=(0, 0)).ticks() == pytest.approx(ticks, abs=1e-12)


def test_one_value_has_an_axis_too():
    axis = Axis([3, 3], 0, 100)
    assert 0 < axis(3) < 100 and len(axis.ticks()) >= 2


def test_logarithmic_axis():
    axis = LogAxis([1, 100], 0, 200, room=(0, 0))
    assert [axis(value) for value in (1, 10, 100)] == pytest.approx([0, 100, 200])
    assert axis.ticks() == [1, 2, 5, 10, 20, 50, 100]
