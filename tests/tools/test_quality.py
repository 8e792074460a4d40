"""The figures of cost and quality: the Frechet distance, the plot, and what the settings ask for."""

from __future__ import annotations

import numpy
import pytest
import scipy.linalg
import torch

from benchmarks.cost_quality import SETTINGS, STEPS
from benchmarks.metrics.frechet import Moments, frechet_distance
from benchmarks.plot import Point, scatter
from sag_core.schedule import Economy, Interval, Schedule, plan


def correlated(seed, count=400, size=6):
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(size, size, generator=generator)
    return torch.randn(count, size, generator=generator) @ mix + torch.randn(size, generator=generator)


def test_frechet_distance_is_that_of_scipys_matrix_root():
    a, b = correlated(1).double().numpy(), correlated(2).double().numpy()
    root = scipy.linalg.sqrtm(numpy.cov(a.T) @ numpy.cov(b.T)).real
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + numpy.trace(numpy.cov(a.T) + numpy.cov(b.T) - 2 * root)
    found = frechet_distance(Moments.of(torch.from_numpy(a)), Moments.of(torch.from_numpy(b)))
    assert found == pytest.approx(expected, rel=1e-6)


def test_frechet_distance_by_hand():
    """Moved by 2 and stretched by 3 in one direction: 2^2 + (3 - 1)^2."""
    line = torch.tensor([[-1.0], [1.0]]) / 2 ** 0.5
    assert frechet_distance(Moments.of(line), Moments.of(3 * line + 2)) == pytest.approx(8)
    assert frechet_distance(Moments.of(line), Moments.of(line)) == pytest.approx(0, abs=1e-12)


def test_points_are_drawn_where_they_are():
    red, blue = (200, 0, 0), (0, 0, 200)
    image = scatter([Point(0, 1, 0.5, 1.5, "a", red), Point(100, 3, 2.5, 3.5, "b", blue)], "x", "y")
    pixels = torch.from_numpy(numpy.array(image)).long()
    centre = {}
    for colour in (red, blue):
        places = (pixels == torch.tensor(colour)).all(dim=-1).nonzero().float()
        centre[colour] = places.mean(dim=0)
        assert len(places) > 100
    assert centre[red][0] > centre[blue][0] and centre[red][1] < centre[blue][1]  # y grows upwards


@pytest.mark.parametrize(("name", "share"), [
    ("every 2", 1 / 2), ("every 5", 1 / 5), ("every 5 half", 1 / 5), ("every 5 reuse", 1 / 5)])
def test_settings_that_leave_steps_out_take_the_passes_their_names_say(name, share):
    schedule = SETTINGS[name].schedule
    economy = Schedule(economy=Economy(every=schedule["every"], reuse=schedule.get("between") == "last direction"))
    sigmas = [float(STEPS - i) for i in range(STEPS + 1)]
    plans = [plan(economy, Interval(100.0, 0.0), sigmas, sigma) for sigma in sigmas[:-1]]
    assert sum(one is not None and one.full for one in plans) / STEPS == pytest.approx(share)
