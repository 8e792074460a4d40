"""SAG Schedule: which steps are guided, how strongly, and how many runs of the network it takes."""

from __future__ import annotations

import math

import comfy.samplers
import pytest
import torch
from torch.testing import assert_close

from tests.host import models
from tests.host.graph import call, guide, only, sample
from tests.host.observe import assert_unchanged, network_calls

FAMILIES = {"U-Net": lambda: models.sd15().sized(8, 8), "DiT": lambda: models.flux().sized(8, 8)}
nan = float("nan")


@pytest.fixture(params=FAMILIES)
def tiny(request):
    return FAMILIES[request.param]()


def schedule(interval="as guidance", start=0.0, end=1.0, scale_curve="constant", **inputs):
    return call("SAGSchedule", interval=interval, start=start, end=end, scale_curve=scale_curve, **inputs)[0]


def scheduled(tiny, settings=None, **inputs):
    """A model guided by a schedule: (MODEL, trace)."""
    return guide(tiny.model, schedule=schedule(**inputs), **(settings or {}))


def listed(name, values):
    """Inputs of a curve that is a list."""
    return {f"{name}_curve": "list", f"{name}_list": values}


def follow(tiny, guided, trace, sampling=sample, **inputs):
    """Samples, which steps were guided, and the kind of every run of the network."""
    with network_calls(tiny.model) as calls:
        out = sampling(tiny, guided, **inputs)
    assert out.isfinite().all()
    return out, [step.guided for step in only(trace).steps], [c.is_extra for c in calls]


def passes(guided):
    """The runs of the network that steps should take which are guided or not."""
    return [kind for step in guided for kind in ([False, True] if step else [False])]


def on_a_sampler(tiny, sampler, steps=4, sampler_name="euler", cfg=3.0):
    """SamplerCustom with a SAMPLER of its own."""
    (sigmas,) = call("BasicScheduler", model=tiny.model, scheduler="simple", steps=steps, denoise=1.0)
    return call("SamplerCustom", model=tiny.model, add_noise=True, noise_seed=1, cfg=cfg, positive=tiny.positive,
                negative=tiny.negative, sampler=sampler, sigmas=sigmas,
                latent_image={"samples": tiny.latent})[0]["samples"]


# -- off is off, and as it comes it changes nothing ------------------------------------------------------------------


def test_schedule_as_it_comes_changes_nothing(tiny):
    (one, _), (other, _) = scheduled(tiny), guide(tiny.model)
    assert torch.equal(sample(tiny, one), sample(tiny, other))


OFF = {
    "scales of zero": listed("scale", "0, 0, 0, 0"),
    "interval between steps": {"interval": "percent", "start": 0.6, "end": 0.7},
    "interval above all noise": {"interval": "sigma", "start": 1000.0, "end": 999.0},
    "blurs of zero": listed("blur", "0, 0, 0, 0"),
    "all skipped": {"skip_below": 1.0, "settings": {"blur_sigma": 0.05}},
}


@pytest.mark.parametrize("inputs", OFF.values(), ids=OFF)
@pytest.mark.parametrize("cfg", [3.0, 1.0])
def test_off_is_bit_identical_without_an_extra_pass(tiny, inputs, cfg):
    guided, trace = scheduled(tiny, **inputs)
    assert_unchanged(tiny, guided, steps=4, cfg=cfg)
    assert [step.guided for step in only(trace).steps] == [False] * 4


# -- intervals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("start", "end"), [(0.0, 0.1), (0.2, 0.6), (0.4, 1.0), (0.6, 0.7), (0.0, 1.0)])
def test_percent_is_the_guidances_own_interval(tiny, start, end):
    (one, trace), (other, other_trace) = (
        scheduled(tiny, interval="percent", start=start, end=end),
        guide(tiny.model, start_percent=start, end_percent=end))
    out, guided, _ = follow(tiny, one, trace, steps=4)
    expected, guided_by_settings, _ = follow(tiny, other, other_trace, steps=4)
    assert guided == guided_by_settings and torch.equal(out, expected)


def test_interval_of_the_schedule_goes_before_the_guidances(tiny):
    guided, trace = scheduled(tiny, {"start_percent": 0.9}, interval="percent", start=0.0, end=0.1)
    assert follow(tiny, guided, trace, steps=4)[1] == [True, False, False, False]
    guided, trace = scheduled(tiny, {"start_percent": 0.9}, interval="as guidance", start=0.0, end=0.1)
    assert follow(tiny, guided, trace, steps=4)[1] == [False] * 4


def test_both_ends_of_an_interval_of_noise_levels_are_guided(tiny):
    levels = comfy.samplers.calculate_sigmas(tiny.model.get_model_object("model_sampling"), "simple", 4).tolist()
    for start, end, expected in ((levels[1], levels[2], [False, True, True, False]),
                                 (levels[1], levels[1], [False, True, False, False]),
                                 (levels[0], levels[3], [True] * 4),
                                 (levels[1] * 0.999, levels[2] * 1.001, [False] * 4)):
        guided, trace = scheduled(tiny, interval="sigma", start=start, end=end)
        _, steps, runs = follow(tiny, guided, trace, steps=4)
        assert steps == expected and runs == passes(expected)


def by_level(tiny, scheduler, curve, end, start=0.0, stop=1.0):
    """The factors of a curve at the four steps of a scheduler, by the part of the process before each, found in a
    table; 0 outside of the interval."""
    sampling = tiny.model.get_model_object("model_sampling")
    table = [(i / 20_000, float(sampling.percent_to_sigma(i / 20_000))) for i in range(1, 20_000)]
    factors = []
    for sigma in comfy.samplers.calculate_sigmas(sampling, scheduler, 4).tolist()[:-1]:
        percent = min(table, key=lambda entry: abs(entry[1] - sigma))[0]
        along = (percent - start) / (stop - start)
        if curve == "cosine":
            along = (1 - math.cos(math.pi * along)) / 2
        factors.append(0.0 if not start <= percent <= stop else 1.0 if curve == "constant" else 1 + (end - 1) * along)
    return factors


# -- curves ----------------------------------------------------------------------------------------------------------


def test_lists_may_be_text_floats_or_sigmas(tiny):
    values = [2.0, 0.0, -1.0, 0.5]
    forms = ["2, 0, -1, 0.5", " 2;0 ; -1.0;5e-1; ", values, tuple(values), torch.tensor(values),
             [*values, 0.0], torch.tensor([*values, 0.0])]  # beside the sigmas, of which there is one more
    outs = []
    for form in forms:
        guided, trace = scheduled(tiny, **listed("scale", form))
        out, steps, runs = follow(tiny, guided, trace, steps=4)
        assert steps == [True, False, True, True] and runs == passes(steps)
        outs.append(out)
    assert all(torch.equal(out, outs[0]) for out in outs)


def test_a_list_of_one_factor_is_the_setting_times_it(tiny):
    (one, _), (other, _) = (scheduled(tiny, **listed("scale", "2, 2"), **listed("blur", "0.5, 0.5")),
                            guide(tiny.model, scale=1.0, blur_sigma=0.75))
    assert torch.equal(sample(tiny, one), sample(tiny, other))


@pytest.mark.parametrize(("curve", "end", "factors"), [
    ("constant", 0.3, "1, 1, 1, 1"), ("linear", 0.4, "1, 0.8, 0.6, 0.4"), ("cosine", 0.0, "1, 0.75, 0.25, 0"),
    ("linear", 0.0, [1, 2 / 3, 1 / 3, 0]),
], ids=["constant", "linear", "cosine", "linear to 0"])
@pytest.mark.parametrize("name", ["scale", "blur"])
def test_curves_are_the_lists_they_stand_for(tiny, name, curve, end, factors):
    # On a scheduler whose first and last step are the model's highest and lowest noise level.
    sampling = {"steps": 4, "scheduler": "normal" if tiny.latent.shape[1] == 4 else "karras"}
    if sampling["scheduler"] == "karras":
        factors = by_level(tiny, "karras", curve, end)
    (one, _), (other, _) = (
        scheduled(tiny, **{f"{name}_curve": curve, f"{name}_end": end}), scheduled(tiny, **listed(name, factors)))
    out, expected = sample(tiny, one, **sampling), sample(tiny, other, **sampling)
    assert_close(out, expected, rtol=0, atol=1e-4 * expected.abs().max().item())


@pytest.mark.parametrize("scheduler", ["simple", "karras", "beta"])
def test_a_curve_goes_over_the_timesteps_of_the_interval(tiny, scheduler):
    (one, _), (other, _) = (
        scheduled(tiny, interval="percent", start=0.2, end=0.8, scale_curve="linear", scale_end=0.5),
        scheduled(tiny, **listed("scale", by_level(tiny, scheduler, "linear", 0.5, 0.2, 0.8))))
    out, expected = sample(tiny, one, steps=4, scheduler=scheduler), sample(tiny, other, steps=4, scheduler=scheduler)
    assert_close(out, expected, rtol=0, atol=1e-4 * expected.abs().max().item())


def test_a_list_is_not_read_where_the_curve_is_none(tiny):
    (one, _), (other, _) = scheduled(tiny, scale_list="1, 2, 3", blur_list="7"), guide(tiny.model)
    assert torch.equal(sample(tiny, one), sample(tiny, other))


def test_a_list_has_the_steps_of_its_own_sampler(tiny):
    """Of a run over a part of the steps, as in image to image, as many as it does itself."""
    guided, trace = scheduled(tiny, **listed("scale", "1, 0, 1"))
    assert follow(tiny, guided, trace, steps=3, denoise=0.5)[1] == [True, False, True]


# Evaluations of three steps with the factors 1, 0, 1, and those that are guided.
ORDERS = {
    "euler": [True, False, True],
    "dpm_2": [True, True, False, False, True],  # each step evaluates between itself and the next as well
    "dpmpp_sde": [True, True, False, False, True],
    "dpmpp_2m": [True, False, True],
    "uni_pc": [True, False, True],
    "lcm": [True, False, True],
    "euler_ancestral": [True, False, True],
    "euler_cfg_pp": [True, False, True],
}


@pytest.mark.filterwarnings("ignore")  # those of the host's own samplers
@pytest.mark.parametrize("sampler_name", ORDERS)
@pytest.mark.parametrize("build", [lambda: models.v_prediction().sized(8, 8), FAMILIES["DiT"]], ids=FAMILIES)
def test_evaluations_between_steps_belong_to_their_step(build, sampler_name):
    tiny = build()
    guided, trace = scheduled(tiny, **listed("scale", "1, 0, 1"))
    _, steps, runs = follow(tiny, guided, trace, steps=3, sampler_name=sampler_name)
    assert steps == ORDERS[sampler_name] and runs == passes(steps)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("sampler_name", ["heun", "dpmpp_2s_ancestral"])
def test_evaluations_at_the_next_steps_noise_level_belong_to_the_next_step(sampler_name):
    """Nothing but the level tells steps apart: Heun's second evaluation is at the next one's, this one's below it."""
    tiny = models.v_prediction().sized(8, 8)
    guided, trace = scheduled(tiny, **listed("scale", "1, 0, 1"))
    _, steps, runs = follow(tiny, guided, trace, steps=3, sampler_name=sampler_name)
    assert steps == [True, False, False, True, True] and runs == passes(steps)


# -- economy ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("inputs", "expected"), [
    ({"every": 2}, [True, False, True, False, True]), ({"every": 3}, [True, False, False, True, False]),
    ({"every": 9}, [True, False, False, False, False]), ({"every": 2, "boost": 1.3}, [True, False, True, False, True]),
    ({"every": 2, "interval": "percent", "start": 0.1, "end": 1.0}, [False, True, False, True, False]),
], ids=str)
def test_every_nth_step_takes_an_extra_pass(tiny, inputs, expected):
    guided, trace = scheduled(tiny, **inputs)
    _, steps, runs = follow(tiny, guided, trace, steps=5)
    assert steps == expected and runs == passes(expected)


@pytest.mark.parametrize(("inputs", "factors"), [
    ({"every": 2}, "2, 0, 2, 0"), ({"every": 3}, "3, 0, 0, 3"), ({"every": 2, "boost": 1.5}, "1.5, 0, 1.5, 0"),
    ({"boost": 2.0}, "2, 2, 2, 2"),
], ids=str)
def test_scale_of_the_steps_that_remain_is_multiplied(tiny, inputs, factors):
    (one, _), (other, _) = scheduled(tiny, **inputs), scheduled(tiny, **listed("scale", factors))
    assert torch.equal(sample(tiny, one, steps=4), sample(tiny, other, steps=4))


def test_last_direction_costs_nothing_and_counts_as_guided(tiny):
    guided, trace = scheduled(tiny, every=2, between="last direction")
    out, steps, runs = follow(tiny, guided, trace, steps=5)
    assert steps == [True] * 5 and runs == passes([True, False, True, False, True])
    plain, left_out = sample(tiny, steps=5), sample(tiny, scheduled(tiny, every=2, boost=1.0)[0], steps=5)
    assert not torch.equal(out, plain) and not torch.equal(out, left_out)


def test_last_direction_is_that_of_the_noise_level_in_the_sample():
    """Two Euler steps, written out: what was noise at the first is as much noise at the second."""
    tiny = models.sd15().sized(8, 8)
    levels = comfy.samplers.calculate_sigmas(tiny.model.get_model_object("model_sampling"), "simple", 2).double()
    seen = []

    def watch(args):
        seen.append((args["input"].double(), args["denoised"].double()))
        return args["denoised"]

    def watched(model):
        model = model.clone()
        model.set_model_sampler_post_cfg_function(watch)
        return model

    guided, _ = scheduled(tiny, every=2, between="last direction")
    sample(tiny, watched(guided))
    (_, first), (x, second) = seen
    seen.clear()
    sample(tiny, watched(tiny.model), steps=2)
    added = (first - seen[0][1]) * levels[1] / levels[0]
    seen.clear()

    # The second step of a run that is not guided there, and was guided before as this one was.
    once, _ = scheduled(tiny, **listed("scale", "1, 0"))
    sample(tiny, watched(once))
    assert_close(seen[1][0], x, rtol=1e-5, atol=1e-5)
    assert_close(second - seen[1][1], added, rtol=0, atol=1e-3 * added.abs().max().item())


def test_steps_are_skipped_and_guidance_is_ended_by_how_much_they_change(tiny):
    for inputs, expected in (({"skip_below": 0.0}, [True] * 4), ({"stop_below": 1.0}, [True, False, False, False]),
                             ({"stop_below": 1e-9}, [True] * 4), ({"skip_below": 1e-9}, [True] * 4)):
        guided, trace = scheduled(tiny, **inputs)
        _, steps, runs = follow(tiny, guided, trace, steps=4)
        assert steps == expected and runs == passes(expected)


def test_a_stopped_run_does_not_stop_the_next(tiny):
    guided, trace = scheduled(tiny, stop_below=1.0)
    first = follow(tiny, guided, trace, steps=4)
    second = follow(tiny, guided, trace, steps=4)
    assert torch.equal(first[0], second[0]) and first[1:] == second[1:]


@pytest.mark.parametrize("inputs", [
    listed("scale", "1, 0, 2, 1"), {"every": 2}, {"every": 2, "between": "last direction"},
    {"interval": "percent", "start": 0.2, "end": 0.6, "scale_curve": "cosine"}, {"blur_curve": "linear"},
    {"stop_below": 1.0},
], ids=str)
def test_schedules_act_on_samplers_as_on_models(tiny, inputs):
    chosen = schedule(**inputs)
    guided, trace = guide(tiny.model, schedule=chosen)
    expected = follow(tiny, guided, trace, steps=4)
    (plain,) = call("KSamplerSelect", sampler_name="euler")
    sampler, trace = call("SAGSampler", sampler=plain, scale=0.5, blur_sigma=1.5, threshold=1.0, schedule=chosen)
    out, steps, runs = follow(tiny, sampler, trace, on_a_sampler)
    assert torch.equal(out, expected[0]) and (steps, runs) == expected[1:]


# -- refused ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["scale", "blur"])
@pytest.mark.parametrize("values", ["1", "1, 2, 3", "1, 2, 3, 4, 5, 6"])
def test_a_list_of_another_length_is_spread_over_the_run_and_said_once(tiny, name, values):
    count = len(values.split(","))
    spread = ", ".join(str(1 + i * (count - 1) / 3) for i in range(4))
    chosen, same = schedule(**listed(name, values)), schedule(**listed(name, spread))
    (plain,) = call("KSamplerSelect", sampler_name="euler")
    sampler, trace = call("SAGSampler", sampler=plain, scale=0.5, blur_sigma=1.5, threshold=1.0, schedule=chosen)
    expected, _ = call("SAGSampler", sampler=plain, scale=0.5, blur_sigma=1.5, threshold=1.0, schedule=same)
    guided, of_model = guide(tiny.model, schedule=chosen)
    for out, wanted in ((on_a_sampler(tiny, sampler), on_a_sampler(tiny, expected)),
                        (sample(tiny, guided, steps=4), sample(tiny, guide(tiny.model, schedule=same)[0], steps=4))):
        assert_close(out, wanted, rtol=0, atol=1e-4 * wanted.abs().max().item())
    for recording in (only(trace), only(of_model)):
        (note,) = recording.notes
        assert note.startswith(f"{name}_list has {count} values and this run 4 steps")


@pytest.mark.parametrize(("inputs", "message"), [
    (listed("scale", "1, x, 2"), "scale_list holds 'x', which is no number"),
    (listed("blur", "1, 2.3.4"), r"blur_list holds '2\.3\.4', which is no number"),
    (listed("scale", "1 2 3"), "scale_list holds '1 2 3', which is no number"),
    (listed("scale", "1, nan"), "list holds nan"), (listed("blur", [1.0, nan]), "list holds nan"),
    (listed("scale", torch.tensor([1.0, float("inf")])), "list holds inf"),
    (listed("scale", ""), "list without values"), (listed("blur", " , ;"), "list without values"),
    (listed("blur", []), "list without values"), (listed("blur", "1, -1"), "blur"),
    ({"interval": "percent", "start": 0.6, "end": 0.4}, "from 0.6 to 0.4"),
    ({"interval": "percent", "start": 0.0, "end": 7.0}, "from 0.0 to 7.0; as percent"),
    ({"interval": "percent", "start": nan, "end": 1.0}, "from nan to 1.0"),
    ({"interval": "sigma", "start": 1.0, "end": 2.0}, "from sigma 1.0 to 2.0"),
    ({"interval": "sigma", "start": 0.0, "end": 1.0}, "from sigma 0.0 to 1.0"),  # the inputs as they come
    ({"interval": "sigma", "start": nan, "end": 0.0}, "from sigma nan to 0.0"),
    ({"scale_end": nan}, "end is nan"), ({"blur_end": float("inf")}, "end is inf"),
    ({"every": 0}, "every is 0"), ({"boost": nan}, "boost is nan"), ({"skip_below": nan}, "skip_below is nan"),
    ({"stop_below": -1.0}, "stop_below is -1.0"),
], ids=str)
def test_bad_schedules_are_refused_by_name_when_the_node_runs(inputs, message):
    with pytest.raises(ValueError, match=message):
        schedule(**inputs)


@pytest.mark.parametrize("values", [[1.0, None], [1.0, "x"], torch.ones(2, 2), [[1.0], [2.0]]], ids=str)
@pytest.mark.parametrize("name", ["scale", "blur"])
def test_links_that_hold_something_else_are_refused_by_name(name, values):
    with pytest.raises(ValueError, match=f"{name}_list holds"):
        schedule(**listed(name, values))
