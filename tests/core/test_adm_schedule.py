"""Noise schedules, against numbers computed by hand and the papers' formulas."""

from __future__ import annotations

import math

import pytest
import torch

from sag_core.adm.config import ADMConfig
from sag_core.adm.schedule import betas


def schedule(name, timesteps):
    return betas(ADMConfig(32, (1,), 1, (), head_channels=32, noise_schedule=name, timesteps=timesteps))


@pytest.mark.parametrize(("timesteps", "first", "second", "last"), [
    (1000, 1e-4, 1e-4 + 0.0199 / 999, 0.02),
    (4000, 2.5e-5, 2.5e-5 + 0.004975 / 3999, 0.005),
    (250, 4e-4, 4e-4 + 0.0796 / 249, 0.08),
])
def test_linear_runs_between_ends_that_scale_with_its_length(timesteps, first, second, last):
    beta = schedule("linear", timesteps)
    assert beta.dtype == torch.float64 and len(beta) == timesteps
    assert beta[[0, 1, -1]].tolist() == pytest.approx([first, second, last], rel=1e-12)
    assert (beta.diff() - beta.diff()[0]).abs().max() < 1e-15


@pytest.mark.parametrize("timesteps", [10, 1000, 4000])
def test_cosine_is_equation_17_of_iddpm(timesteps):
    def f(t):
        return math.cos((t / timesteps + 0.008) / 1.008 * math.pi / 2) ** 2

    beta = schedule("cosine", timesteps)
    assert beta.dtype == torch.float64 and len(beta) == timesteps
    expected = [min(1 - f(t) / f(t - 1), 0.999) for t in range(1, timesteps + 1)]
    assert beta.tolist() == pytest.approx(expected, rel=1e-9)
    assert beta[-1] == 0.999
    # Up to the clipped step, the signal left is f(t) / f(0).
    left = torch.cumprod(1 - beta, 0)[:-1]
    assert left.tolist() == pytest.approx([f(t) / f(0) for t in range(1, timesteps)], rel=1e-9)


@pytest.mark.parametrize(("name", "signal"), [("linear", 4.0358e-5), ("cosine", 2.4288e-9)])
def test_a_thousand_steps_leave_this_much_signal(name, signal):
    assert torch.cumprod(1 - schedule(name, 1000), 0)[-1].item() == pytest.approx(signal, rel=1e-4)
