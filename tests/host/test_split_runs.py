"""A process that is sampled in two runs is guided as in one."""

from __future__ import annotations

import comfy.samplers
import pytest
from torch.testing import assert_close

from benchmarks.host import pack_module
from sag_core.schedule import Curve, Economy, Interval, Schedule, plan
from tests.host import models
from tests.host.graph import call, guide, only
from tests.host.test_schedule_node import listed, schedule

FAMILIES = {"U-Net": lambda: models.sd15().sized(8, 8), "DiT": lambda: models.flux().sized(8, 8)}
STEPS = 10
VALUES = ", ".join(str(round(1.5 - 0.3 * (i % 5), 2)) for i in range(STEPS))
SCHEDULES = {
    "linear": {"scale_curve": "linear", "blur_curve": "linear", "blur_end": 2.0},
    "cosine": {"scale_curve": "cosine", "scale_end": 0.2},
    "linear in an interval": {"scale_curve": "linear", "interval": "percent", "start": 0.25, "end": 0.75},
    "list": listed("scale", VALUES), "list beside the sigmas": listed("scale", VALUES + ", 0"),
    "list of another length": listed("scale", ", ".join(str(i / 10) for i in range(17))),
    "every 3": {"every": 3}, "every 2 in an interval": {"every": 2, "interval": "percent", "start": 0.15, "end": 1.0},
}


@pytest.fixture(params=FAMILIES)
def tiny(request):
    return FAMILIES[request.param]()


def advanced(tiny, model, start, end, latent, scheduler="normal", sampler_name="euler"):
    """KSamplerAdvanced over a part of the steps."""
    return call("KSamplerAdvanced", model=model, add_noise="enable" if start == 0 else "disable", noise_seed=1,
                steps=STEPS, cfg=3.0, sampler_name=sampler_name, scheduler=scheduler, positive=tiny.positive,
                negative=tiny.negative, latent_image=latent, start_at_step=start, end_at_step=end,
                return_with_leftover_noise="disable" if end >= STEPS else "enable")[0]


def in_parts(tiny, parts, scheduler, sampler_name="euler", **inputs):
    """The samples, and which steps were guided, of runs one after another."""
    model, trace = guide(tiny.model, scale=1.5, schedule=schedule(**inputs))
    latent, guided = {"samples": tiny.latent}, []
    for start, end in zip(parts, parts[1:], strict=False):
        latent = advanced(tiny, model, start, end, latent, scheduler, sampler_name)
        guided += [step.guided for step in only(trace).steps]
    return latent["samples"], guided, trace


@pytest.mark.parametrize("scheduler", ["normal", "simple", "karras"])
@pytest.mark.parametrize("inputs", SCHEDULES.values(), ids=SCHEDULES)
def test_two_runs_are_guided_as_one(tiny, scheduler, inputs):
    expected, guided, _ = in_parts(tiny, [0, STEPS], scheduler, **inputs)
    out, found, _ = in_parts(tiny, [0, 4, STEPS], scheduler, **inputs)
    assert found == guided
    assert_close(out, expected, rtol=0, atol=2e-5 * expected.abs().max().item())


@pytest.mark.parametrize("scheduler", ["normal", "simple", "sgm_uniform", "karras", "exponential", "kl_optimal"])
@pytest.mark.parametrize("steps", [10, 20, 25, 30, 50])
def test_steps_before_a_run_are_counted_by_its_noise_levels(tiny, scheduler, steps):
    sampling = tiny.model.get_model_object("model_sampling")
    sigmas = comfy.samplers.calculate_sigmas(sampling, scheduler, steps).tolist()
    levels, everywhere = pack_module("host.process").levels_of(sampling), Interval(sigmas[0], 0.0)
    for asked in (Schedule(economy=Economy(every=3)),
                  Schedule(scale=Curve("list", values=tuple(float(step) for step in range(steps))))):
        expected = [plan(asked, everywhere, sigmas, sigma, levels) for sigma in sigmas[:-1]]
        for at in (steps // 3, steps // 2, steps * 2 // 3):
            parts = sigmas[:at + 1], sigmas[at:]
            found = [plan(asked, everywhere, part, sigma, levels) for part in parts for sigma in part[:-1]]
            assert found == expected


@pytest.mark.parametrize("inputs", [{"scale_curve": "linear"}, {"every": 2}], ids=str)
def test_guidance_in_an_interval_of_noise_levels_is_the_same_in_two_runs(tiny, inputs):
    levels = comfy.samplers.calculate_sigmas(tiny.model.get_model_object("model_sampling"), "normal", STEPS).tolist()
    inputs = {"interval": "sigma", "start": levels[2], "end": levels[7], **inputs}
    expected, guided, _ = in_parts(tiny, [0, STEPS], "normal", **inputs)
    assert guided[0:2] == [False] * 2 and guided[2] and guided[8:] == [False] * 2
    out, found, _ = in_parts(tiny, [0, 5, STEPS], "normal", **inputs)
    assert found == guided
    assert_close(out, expected, rtol=0, atol=2e-5 * expected.abs().max().item())


def test_curves_are_the_same_for_any_scheduler_split_anywhere(tiny):
    for scheduler in ("beta", "ddim_uniform"):
        expected, _, _ = in_parts(tiny, [0, STEPS], scheduler, scale_curve="linear")
        for at in (1, 5):
            out, _, _ = in_parts(tiny, [0, at, STEPS], scheduler, scale_curve="linear")
            assert_close(out, expected, rtol=0, atol=2e-5 * expected.abs().max().item())


def test_split_sigmas_are_guided_as_one(tiny):
    model, _ = guide(tiny.model, scale=1.5, schedule=schedule(scale_curve="linear", every=3))
    (sigmas,) = call("BasicScheduler", model=model, scheduler="normal", steps=STEPS, denoise=1.0)
    (sampler,) = call("KSamplerSelect", sampler_name="heun")

    def custom(part, latent, noise):
        return call("SamplerCustom", model=model, add_noise=noise, noise_seed=1, cfg=3.0, positive=tiny.positive,
                    negative=tiny.negative, sampler=sampler, sigmas=part, latent_image=latent)[0]

    expected = custom(sigmas, {"samples": tiny.latent}, True)["samples"]
    high, low = call("SplitSigmas", sigmas=sigmas, step=5)
    out = custom(low, custom(high, {"samples": tiny.latent}, True), False)["samples"]
    assert_close(out, expected, rtol=0, atol=2e-5 * expected.abs().max().item())


# -- lists -----------------------------------------------------------------------------------------------------------


def test_a_list_serves_samplers_of_four_and_of_eight_steps_and_says_so(tiny):
    model, trace = guide(tiny.model, schedule=schedule(**listed("scale", "2, 0, 1, 0.5"), **listed("blur", "1, 1, 1")))
    for steps, notes in ((4, 1), (8, 2)):
        out = call("KSampler", model=model, seed=1, steps=steps, cfg=3.0, sampler_name="euler", scheduler="simple",
                   positive=tiny.positive, negative=tiny.negative, latent_image={"samples": tiny.latent}, denoise=1.0)
        assert out[0]["samples"].isfinite().all()
        assert len(only(trace).notes) == notes
        assert f"blur_list has 3 values and this run {steps} steps" in only(trace).notes[-1] or steps == 4
    assert any("scale_list has 4 values and this run 8 steps" in note for note in only(trace).notes)


def test_a_list_of_the_runs_own_steps_is_read_step_by_step_wherever_the_run_begins(tiny):
    """Image to image; as before."""
    model, trace = guide(tiny.model, schedule=schedule(**listed("scale", "1, 0, 1")))
    call("KSampler", model=model, seed=1, steps=3, cfg=3.0, sampler_name="euler", scheduler="simple",
         positive=tiny.positive, negative=tiny.negative, latent_image={"samples": tiny.latent}, denoise=0.5)
    assert [step.guided for step in only(trace).steps] == [True, False, True] and only(trace).notes == []


@pytest.mark.parametrize("scheduler", ["beta", "ddim_uniform", "linear_quadratic"])
def test_every_counts_from_the_first_step_of_a_whole_run_whatever_its_scheduler(tiny, scheduler):
    _, guided, _ = in_parts(tiny, [0, STEPS], scheduler, every=3)
    assert guided == [i % 3 == 0 for i in range(len(guided))] and len(guided) >= STEPS - 1
