"""The objective of the embedded model, against blocks and Gaussians written out."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Normal, kl_divergence
from torch.testing import assert_close

from sag_core.adm.config import ADMConfig
from sag_core.adm.schedule import betas
from training.loss import HybridLoss, multiscale_error

CONFIGS = {name: ADMConfig(32, (1,), 1, (), head_channels=32, noise_schedule=name, timesteps=steps)
           for name, steps in (("linear", 1000), ("cosine", 50))}
config = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)


@pytest.fixture
def batch(normal):
    """x0, label, t and eps; t is neither the first nor the last step."""
    return (normal(3, 3, 4, 5, dtype=torch.float32), torch.zeros(3, dtype=torch.long), torch.tensor([1, 7, 48]),
            normal(3, 3, 4, 5, dtype=torch.float32))


def answer(eps, interpolation):
    """A model that says this, whatever it is shown."""
    return lambda x, t, label: torch.cat([eps, interpolation], dim=1)


def error_by_blocks(error, weight):
    """Weighted mean square over blocks of 1, 2, 4, ... pixels a side; incomplete blocks are left out."""
    total, side = 0, 1
    while side <= min(error.shape[-2:]):
        rows, columns = (pixels // side for pixels in error.shape[-2:])
        blocks = error[..., :rows * side, :columns * side].unflatten(-2, (rows, side)).unflatten(-1, (columns, side))
        total, side = total + (weight.view(-1, 1, 1, 1) * blocks.mean((-1, -3)) ** 2).mean(), 2 * side
    return total


def snr_weight(config, t):
    """sigma^2, kept between 1 and 25: what an error of the noise is in terms of the image."""
    alpha_bar = torch.cumprod(1 - betas(config), 0)[t]
    return (1 / alpha_bar - 1).clamp(1, 25).float()


def posterior(config, t, x, x0):
    """q(x_{t-1} | x_t, x0), DDPM eq. 7, float64."""
    beta = betas(config)
    alpha_bar = torch.cat([torch.ones(1, dtype=torch.float64), torch.cumprod(1 - beta, 0)])
    now, before, beta = (table[index].view(-1, 1, 1, 1) for table, index in
                         ((alpha_bar, t + 1), (alpha_bar, t), (beta, t)))
    mean = before.sqrt() * beta / (1 - now) * x0 + (1 - beta).sqrt() * (1 - before) / (1 - now) * x
    return mean, beta * (1 - before) / (1 - now), beta, now


@config
def test_bound_is_zero_where_the_prediction_is_the_true_posterior(config, batch):
    x0, label, t, eps = batch
    loss, simple = HybridLoss(config)(answer(eps, torch.full_like(eps, -1)), x0, label, t, eps)
    assert simple == 0 and loss == 0


@pytest.mark.parametrize(("error", "expected"), [
    ([[2.0, 2.0], [2.0, 2.0]], 4 + 4),
    ([[1.0, -1.0], [1.0, -1.0]], 1),
    ([[4.0, 0.0, 0.0], [0.0, 0.0, 0.0]], 16 / 6 + 1),
], ids=["everywhere", "fine", "odd width"])
def test_multiscale_error_by_hand(error, expected):
    error = torch.tensor(error)[None, None]
    assert multiscale_error(error, torch.ones(1)).item() == pytest.approx(expected)
    assert multiscale_error(error, torch.full((1,), 3.0)).item() == pytest.approx(3 * expected)


@pytest.mark.parametrize("size", [(1, 1), (4, 5), (8, 8), (9, 16)], ids=str)
def test_multiscale_error_is_that_of_the_blocks(normal, size):
    error, weight = normal(2, 3, *size), torch.tensor([1.0, 7.0], dtype=torch.float64)
    assert_close(multiscale_error(error, weight), error_by_blocks(error, weight))


@config
def test_figure_to_watch_is_the_mean_squared_error(config, batch, normal):
    x0, label, t, eps = batch
    predicted = normal(*eps.shape, dtype=torch.float32)
    _, simple = HybridLoss(config)(answer(predicted, torch.full_like(eps, -1)), x0, label, t, eps)
    assert_close(simple, ((predicted - eps) ** 2).mean())


@config
def test_bound_is_the_divergence_of_the_two_gaussians_in_bits(config, batch, normal):
    x0, label, t, eps = batch
    predicted, v = normal(*eps.shape, dtype=torch.float32), normal(*eps.shape, dtype=torch.float32).tanh()
    loss, _ = HybridLoss(config)(answer(predicted, v), x0, label, t, eps)
    bound = loss - error_by_blocks(predicted - eps, snr_weight(config, t))

    _, variance, beta, now = posterior(config, t, 0 * x0.double(), 0 * x0.double())
    x = now.sqrt() * x0 + (1 - now).sqrt() * eps
    mean, *_ = posterior(config, t, x, x0.double())
    predicted_x0 = (x - (1 - now).sqrt() * predicted) / now.sqrt()
    predicted_mean, *_ = posterior(config, t, x, predicted_x0)
    # IDDPM eq. 15, with v from -1..1.
    predicted_variance = torch.exp((v + 1) / 2 * beta.log() + (1 - v) / 2 * variance.log())
    kl = kl_divergence(Normal(mean, variance.sqrt().expand_as(mean)), Normal(predicted_mean, predicted_variance.sqrt()))
    assert_close(bound.double(), kl.mean() / math.log(2), rtol=1e-4, atol=1e-5)


@config
def test_model_sees_the_noisy_image_its_timestep_and_label(config, batch):
    x0, label, t, eps = batch
    seen = []

    def model(*args):
        seen.extend(args)
        return torch.zeros(3, 6, 4, 5)

    HybridLoss(config)(model, x0, label, t, eps)
    now = torch.cumprod(1 - betas(config), 0)[t].view(-1, 1, 1, 1)
    assert_close(seen[0].double(), now.sqrt() * x0 + (1 - now).sqrt() * eps, rtol=1e-5, atol=1e-5)
    assert seen[1] is t and seen[2] is label


@config
def test_bound_teaches_the_variance_and_not_the_noise(config, batch, normal):
    x0, label, t, eps = batch
    predicted, v = (normal(*eps.shape, dtype=torch.float32).requires_grad_() for _ in range(2))
    loss, _ = HybridLoss(config)(answer(predicted, v), x0, label, t, eps)
    to_noise, to_variance = torch.autograd.grad(loss, [predicted, v])
    alone, = torch.autograd.grad(error_by_blocks(predicted - eps, snr_weight(config, t)), [predicted])
    assert_close(to_noise, alone)
    assert (to_variance != 0).any()


@config
def test_first_step_is_finite_and_perfect_prediction_costs_nothing(config, batch):
    x0, label, _, eps = batch
    t = torch.zeros(3, dtype=torch.long)
    loss, _ = HybridLoss(config)(answer(eps, torch.full_like(eps, -1)), x0, label, t, eps)
    assert loss == 0
    loss, _ = HybridLoss(config)(answer(-eps, torch.ones_like(eps)), x0, label, t, eps)
    assert loss.isfinite()
