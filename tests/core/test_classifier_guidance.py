"""Classifier guidance against gradients by hand, and against the authors' equation for the noise."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from sag_core.adm.config import ADMConfig
from sag_core.adm.schedule import betas
from sag_core.classifier_guidance import NoiseLevels, classifier_gradient, guide_denoised

T = torch.tensor([3, 5])
LABELS = torch.tensor([1, 0])


def linear(weight):
    """A classifier whose logits are products with `weight` [classes, C, H, W]."""
    return lambda x, timesteps: torch.einsum("bchw,ochw->bo", x, weight.to(x))


def test_gradient_of_a_linear_classifier_is_its_weight_less_the_expected_one(normal):
    weight, x = normal(4, 3, 2, 2), normal(2, 3, 2, 2)
    probs = linear(weight)(x, T).softmax(dim=1)
    expected = weight[LABELS] - torch.einsum("bo,ochw->bchw", probs, weight)
    assert_close(classifier_gradient(linear(weight), x, T, LABELS, 2.5).double(), 2.5 * expected, rtol=1e-5, atol=1e-5)


def test_rows_do_not_depend_on_each_other(normal):
    classify, x = linear(normal(4, 3, 2, 2)), normal(2, 3, 2, 2)
    both = classifier_gradient(classify, x, T, LABELS)
    alone = [classifier_gradient(classify, x[i:i + 1], T[i:i + 1], LABELS[i:i + 1]) for i in range(2)]
    assert_close(both, torch.cat(alone))


@pytest.mark.parametrize("off", [torch.inference_mode, torch.no_grad])
def test_gradients_may_be_switched_off_around_it(normal, off):
    classify, x = linear(normal(4, 3, 2, 2)), normal(2, 3, 2, 2)
    expected = classifier_gradient(classify, x, T, LABELS)
    with off():
        assert torch.equal(classifier_gradient(classify, x + 0, T + 0, LABELS + 0), expected)
    assert not x.requires_grad and not expected.requires_grad


def test_small_gradients_survive_half_precision():
    """The smallest number of float16 is 6e-8; this gradient lies below it."""
    x, weight = torch.zeros(1, 1, 1, 1, dtype=torch.float16), torch.tensor([2.0 ** -24, 0]).view(2, 1, 1, 1)
    found = classifier_gradient(lambda x, t: torch.einsum("bchw,ochw->bo", x, weight.half()), x, T[:1], LABELS[1:])
    assert_close(found.flatten().item(), 2.0 ** -25, rtol=1e-3, atol=0)


def test_the_clean_prediction_moves_as_the_authors_move_the_noise(normal):
    """Algorithm 2: eps' = eps - sqrt(1 - abar) * gradient, x0' = (x - sqrt(1 - abar) * eps') / sqrt(abar)."""
    x, eps, slope, sigma = normal(2, 3, 2, 2), normal(2, 3, 2, 2), normal(2, 3, 2, 2), torch.tensor([0.3, 20.0])
    kept = (1 / (1 + sigma.double() ** 2)).view(2, 1, 1, 1)
    before, after = ((x - (1 - kept).sqrt() * noise) / kept.sqrt() for noise in (eps, eps - (1 - kept).sqrt() * slope))
    assert_close(guide_denoised(before, slope, sigma), after, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_timesteps_are_those_of_the_nearest_noise_level(schedule):
    config = ADMConfig(32, (1,), 1, (), head_channels=32, noise_schedule=schedule, timesteps=50)
    kept = torch.cumprod(1 - betas(config), 0)
    levels = ((1 - kept) / kept).sqrt()
    steps = torch.arange(50)
    for nudge in (0.999, 1, 1.001):
        assert NoiseLevels(config).timestep((levels * nudge).float()).equal(steps)
    assert NoiseLevels(config).timestep(torch.tensor([1e-9, 1e9])).tolist() == [0, 49]
