"""OpenAI's samplers: respacing by hand-made tables, and whole runs against their equations in timesteps and eps."""

from __future__ import annotations

import math

import pytest
import torch
from torch.testing import assert_close

from sag_core.adm.config import ADMConfig
from sag_core.adm.diffusion import SamplerSettings, Transition, ancestral_step, ddim_step, transitions
from sag_core.adm.respacing import space_timesteps
from sag_core.adm.schedule import betas
from tests.core.adm_sampler_reference import Process, sample

# -- respacing --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("timesteps", "respacing", "kept"), [
    (4, "", [0, 1, 2, 3]),
    (4, " ", [0, 1, 2, 3]),
    (10, "1", [0]),
    (10, "2", [0, 9]),
    (10, "4", [0, 3, 6, 9]),
    (10, "10", list(range(10))),
    (10, "3", [0, 4, 9]),  # 4.5 is rounded to even
    (100, "3,2", [0, 24, 49, 50, 99]),  # 24.5 likewise
    (11, "2, 2", [0, 5, 6, 10]),  # the first section is the longer one
    # 7 * 99 / 14 is 49.5 and would be rounded to 50; its sum, which the published code takes, is a little less.
    (100, "15", [0, 7, 14, 21, 28, 35, 42, 49, 57, 64, 71, 78, 85, 92, 99]),
    (300, "10,1,2", [0, 11, 22, 33, 44, 55, 66, 77, 88, 99, 100, 200, 299]),
    (10, "ddim5", [0, 2, 4, 6, 8]),
    (10, "ddim4", [0, 3, 6, 9]),
    (1000, "ddim25", list(range(0, 1000, 40))),
])
def test_respacing_keeps(timesteps, respacing, kept):
    assert space_timesteps(timesteps, respacing) == kept


@pytest.mark.parametrize("timesteps", [1000, 4000])
@pytest.mark.parametrize("count", [25, 100, 250, 999])
def test_respacing_keeps_both_ends_and_every_step_is_nearly_as_long(timesteps, count):
    kept = space_timesteps(timesteps, str(count))
    gaps = {b - a for a, b in zip(kept, kept[1:], strict=False)}
    assert len(kept) == count and kept[0] == 0 and kept[-1] == timesteps - 1
    assert max(gaps) - min(gaps) <= 1


@pytest.mark.parametrize(("respacing", "message"), [
    ("some", r"respacing is 'some'; 'some' is not a number of steps"),
    ("10,x", r"respacing is '10,x'; 'x' is not a number of steps"),
    ("10,", r"respacing is '10,'; '' is not a number of steps"),
    ("-1", "'-1' is not a number of steps"),
    ("0", "'0' is not a number of steps"),
    ("2.5", "'2.5' is not a number of steps"),
    ("ddim", r"respacing is 'ddim'; '' is not"),
    ("ddim70", "no whole stride takes 70 of 100 timesteps. Use 70"),
    ("101", "section 1 of 1 asks for 101 steps, and has 100 of the 100"),
    ("10,51", "section 2 of 2 asks for 51 steps, and has 50 of the 100"),
])
def test_malformed_respacing_is_answered_with_what_is_wrong(respacing, message):
    with pytest.raises(ValueError, match=message):
        space_timesteps(100, respacing)


# -- one step ---------------------------------------------------------------------------------------------------------


def test_a_step_by_hand():
    """abar from 1/2 (sigma 1) to 4/5 (sigma 1/2): beta = 3/8, beta~ = beta (1/5) / (1/2) = 3/20."""
    step = Transition(1.0, 0.5)
    assert step.alpha_bar == 0.5 and step.alpha_bar_next == pytest.approx(0.8)
    assert step.beta == pytest.approx(3 / 8) and step.posterior_variance == pytest.approx(3 / 20)
    x, x0 = torch.tensor([2.0], dtype=torch.float64), torch.tensor([1.0], dtype=torch.float64)
    # sqrt(4/5) (3/8) / (1/2) x0 + sqrt(5/8) (1/5) / (1/2) x
    mean = math.sqrt(0.8) * 0.75 + math.sqrt(0.625) * 0.4 * 2
    assert ancestral_step(x, x0, step, 0.25).item() == pytest.approx(mean)
    noise, gradient = torch.ones_like(x), 3 * torch.ones_like(x)
    assert ancestral_step(x, x0, step, 0.25, noise, gradient).item() == pytest.approx(mean + 0.25 * 3 + 0.5)
    # eps = (2 - sqrt(1/2)) / sqrt(1/2)
    eps = 2 * math.sqrt(2) - 1
    assert ddim_step(x, x0, step).item() == pytest.approx(math.sqrt(0.8) + math.sqrt(0.2) * eps)
    assert ddim_step(x, x0, step, 1.0, noise).item() == pytest.approx(
        math.sqrt(0.8) + math.sqrt(0.2 - 0.15) * eps + math.sqrt(0.15))


@pytest.mark.parametrize(("fraction", "expected"), [(-1.0, 3 / 20), (1.0, 3 / 8), (0.0, math.sqrt(9 / 160))])
def test_learned_variance_lies_between_the_posteriors_and_beta(fraction, expected):
    variance = Transition(1.0, 0.5).variance("learned", torch.full((2,), fraction, dtype=torch.float64))
    assert_close(variance, torch.full((2,), expected, dtype=torch.float64))


def test_the_last_step_ends_at_the_clean_prediction():
    step = transitions([2.0, 1.0, 0.0])[-1]
    x, x0 = torch.randn(2, 4).double(), torch.randn(2, 4).double()
    assert_close(ancestral_step(x, x0, step, step.variance("small")), x0)
    assert_close(ddim_step(x, x0, step, eta=1.0), x0)
    # Its variance, which weighs a classifier, is as published.
    assert step.variance("small") == 0 and step.variance("large") == Transition(2.0, 1.0).posterior_variance


def test_levels_that_repeat_change_nothing():
    (step,) = transitions([2.0, 2.0])
    x, x0 = torch.randn(4).double(), torch.randn(4).double()
    variance = step.variance("learned", torch.zeros(4).double())
    assert_close(ancestral_step(x, x0, step, variance, torch.randn(4).double()), x)
    assert_close(ddim_step(x, x0, step, 1.0, torch.randn(4).double()), x)


@pytest.mark.parametrize("sigmas", [[1.0, 2.0, 0.0], [1.0, 0.0, 0.5], [0.0, 0.0], [1.0, -1.0], [1.0, math.nan]],
                         ids=str)
def test_levels_that_do_not_fall_are_refused(sigmas):
    with pytest.raises(ValueError, match="the noise levels go from .* to .*levels that fall"):
        transitions(sigmas)


def test_a_run_without_steps_has_none():
    assert transitions([1.0]) == [] and transitions([]) == []


@pytest.mark.parametrize(("wrong", "message"), [
    ({"method": "euler"}, "method is 'euler'; it must be one of auto, ancestral, ddim"),
    ({"variance": "huge"}, "variance is 'huge'"),
    ({"eta": 1.5}, "eta is 1.5; it must be a number from 0 to 1"),
    ({"eta": math.nan}, "eta is nan"),
    ({"start_step": -1}, "start_step is -1"),
])
def test_wrong_settings_are_named(wrong, message):
    with pytest.raises(ValueError, match=message):
        SamplerSettings(**wrong)


@pytest.mark.parametrize(("respacing", "method", "ddim"), [
    ("250", "auto", False), ("ddim25", "auto", True), ("ddim25", "ancestral", False), ("10,10", "ddim", True)])
def test_the_method_is_that_of_the_respacing_unless_chosen(respacing, method, ddim):
    assert SamplerSettings(respacing, method).is_ddim is ddim


# -- whole runs -------------------------------------------------------------------------------------------------------


def network(x, timestep):
    """Some prediction of noise and variance; neighbours matter, and it is not linear."""
    eps = torch.tanh(x + 0.3 * x.roll(1, -1) - 0.2 * x.roll(2, -2)) + 0.1 * math.cos(timestep)
    return torch.cat([eps, torch.sin(3 * x)], dim=1), None


def gradient(x, timestep):
    return torch.cos(2 * x) - 0.3 * x


def levels(process):
    """Noise levels of a process, falling."""
    return (1 / process.alpha_bar - 1).sqrt().flip(0).tolist()


def run(process, x, noises, clip=True, guided=False, ddim=False, eta=0.0, variance="learned", steps=None):
    """A sampler of sag_core's functions, in the noise levels of the process or the last `steps` of them."""
    whole = levels(process)
    taken = len(whole) if steps is None else steps
    for step, timestep in zip(transitions([*whole[-taken:], 0.0], whole), process.kept[:taken][::-1], strict=True):
        eps, fraction = network(x, timestep)[0].chunk(2, dim=1)
        denoised = (x - math.sqrt(step.noise) * eps) / math.sqrt(step.alpha_bar)
        denoised = denoised.clamp(-1, 1) if clip else denoised
        shift = gradient(x, timestep) if guided else None
        noise = next(noises) if step.sigma_next and (eta > 0 or not ddim) else None
        if ddim:
            x = ddim_step(x, denoised, step, eta, noise, shift)
        else:
            x = ancestral_step(x, denoised, step, step.variance(variance, fraction), noise, shift)
    return x


def compare(normal, schedule, respacing, guided, **method):
    beta = betas(ADMConfig(32, (1,), 1, (), head_channels=32, noise_schedule=schedule))
    process = Process(beta, space_timesteps(1000, respacing))
    x, noises = normal(2, 3, 4, 6, dtype=torch.float64), [normal(2, 3, 4, 6, dtype=torch.float64) for _ in range(25)]
    expected = sample(network, process, x, iter(noises), gradient=gradient if guided else None, **method)
    assert_close(run(process, x, iter(noises), guided=guided, **method), expected, rtol=1e-7, atol=1e-9)
    assert expected.isfinite().all()


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize("respacing", ["25", "ddim25", "10,5,10", "2"])
@pytest.mark.parametrize("method", [
    {"variance": "learned"}, {"variance": "large"}, {"variance": "small"},
    {"ddim": True}, {"ddim": True, "eta": 0.7},
], ids=str)
@pytest.mark.parametrize("guided", [False, True], ids=["alone", "classifier"])
def test_a_run_is_that_of_the_authors_equations(normal, schedule, respacing, method, guided):
    compare(normal, schedule, respacing, guided, **method)


@pytest.mark.parametrize("steps", [1, 2, 3])
@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize("respacing", ["250", "ddim25", "3"])
@pytest.mark.parametrize("variance", ["learned", "large", "small"])
def test_the_end_of_a_run_is_that_of_the_authors_equations(normal, schedule, respacing, variance, steps):
    """At the last step the logarithm of the variance is the process's of the step before, be that in the run or not."""
    compare(normal, schedule, respacing, guided=True, variance=variance, steps=steps)


def test_a_single_step_of_other_levels_takes_the_nearest_level_above_it():
    (step,) = transitions([0.5, 0.0], [4.0, 1.0, 0.5, 0.1])
    assert step.variance_before == Transition(1.0, 0.5).posterior_variance
    (step,) = transitions([0.3, 0.0], [4.0, 1.0, 0.5, 0.1])
    assert step.variance_before == Transition(0.5, 0.3).posterior_variance
    assert transitions([2.0, 0.3, 0.0], [4.0, 1.0, 0.5, 0.1])[-1].variance_before == (
        Transition(2.0, 0.3).posterior_variance)


@pytest.mark.parametrize("sigmas", [[4.0, 0.0], [2.0, 2.0, 0.0]], ids=str)
def test_the_variance_of_a_last_step_is_that_of_a_step_whatever_the_run(sigmas):
    """From the noisiest level of all, and after one that repeats: neither nothing nor without bounds."""
    step = transitions(sigmas, [4.0, 1.0])[-1]
    variance = step.variance("learned", torch.tensor([-1.2, -1.0, 0.0, 1.0, 1.2]).double())
    assert variance.min() > 0.1 * step.beta and variance.max() < 2 * step.beta
    assert step.variance("large") > 0.1 * step.beta


@pytest.mark.parametrize("guided", [False, True], ids=["alone", "classifier"])
def test_a_run_without_clamping_is_that_of_the_authors_equations(normal, guided):
    compare(normal, "linear", "25", guided, clip=False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_steps_keep_the_dtype(dtype):
    x, step = torch.randn(3).to(dtype), Transition(1.0, 0.5)
    variance = step.variance("learned", torch.zeros(3, dtype=dtype))
    assert ancestral_step(x, x, step, variance, x, x).dtype == ddim_step(x, x, step, 0.5, x, x).dtype == dtype
