"""SAG Sampler: what Self-Attention Guidance does on a model, it does on a sampler, and leaves the model alone."""

from __future__ import annotations

from dataclasses import replace

import comfy.samplers
import pytest
import torch
from comfy.model_management import InterruptProcessingException
from torch.testing import assert_close

from tests.host import families, models
from tests.host.graph import call, guide, maps, only, record
from tests.host.observe import MIDDLE, hooks_on, network_calls, new_tensors

FAMILIES = {"U-Net": lambda: models.sd15().sized(8, 8), "DiT": lambda: models.flux().sized(8, 8)}
EACH_FAMILY = pytest.mark.parametrize("build", FAMILIES.values(), ids=FAMILIES)


def select(sampler_name="euler"):
    return call("KSamplerSelect", sampler_name=sampler_name)[0]


def wrap(sampler=None, scale=0.5, blur_sigma=1.5, threshold=1.0, **inputs):
    """SAG Sampler with the settings of `graph.guide`: (SAMPLER, trace)."""
    return call("SAGSampler", sampler=sampler or select(), scale=scale, blur_sigma=blur_sigma, threshold=threshold,
                **inputs)


def schedule(model, steps):
    return call("BasicScheduler", model=model, scheduler="simple", steps=steps, denoise=1.0)[0]


def advanced(guider, sampler, latent, sigmas=None, steps=3, add_noise=True):
    """SamplerCustomAdvanced: (output, denoised_output)."""
    (noise,) = call("RandomNoise", noise_seed=1) if add_noise else call("DisableNoise")
    sigmas = schedule(guider.model_patcher, steps) if sigmas is None else sigmas
    latent = latent if isinstance(latent, dict) else {"samples": latent}
    out = call("SamplerCustomAdvanced", noise=noise, guider=guider, sampler=sampler, sigmas=sigmas, latent_image=latent)
    return [result["samples"] for result in out]


def custom(tiny, model, sampler, steps=3, cfg=3.0):
    """SamplerCustom: (output, denoised_output)."""
    out = call("SamplerCustom", model=model, add_noise=True, noise_seed=1, cfg=cfg, positive=tiny.positive,
               negative=tiny.negative, sampler=sampler, sigmas=schedule(model, steps),
               latent_image={"samples": tiny.latent})
    return [result["samples"] for result in out]


def other(tiny):
    """A third prompt."""
    return models.text(5, **tiny.positive[0][1])


def cfg_guider(tiny, model, cfg=3.0):
    return call("CFGGuider", model=model, positive=tiny.positive, negative=tiny.negative, cfg=cfg)[0]


GUIDERS = {
    "CFG": cfg_guider,
    "CFG 1": lambda tiny, model: cfg_guider(tiny, model, 1.0),
    "Basic": lambda tiny, model: call("BasicGuider", model=model, conditioning=tiny.positive)[0],
    "Dual CFG": lambda tiny, model: call(
        "DualCFGGuider", model=model, cond1=tiny.positive, cond2=other(tiny), negative=tiny.negative, cfg_conds=2.0,
        cfg_cond2_negative=3.0, style="regular")[0],
    "Perp-Neg": lambda tiny, model: call(
        "PerpNegGuider", model=model, positive=tiny.positive, negative=tiny.negative, empty_conditioning=other(tiny),
        cfg=4.0, neg_scale=1.0)[0],
}


def everything(options):
    """All that a model's options hold, by identity, for comparison."""
    if isinstance(options, dict):
        return {key: everything(value) for key, value in options.items()}
    return [everything(value) for value in options] if isinstance(options, list) else id(options)


def assert_same_run(trace, other_trace):
    """Two recordings say the same, bit for bit."""
    one, two = only(trace), only(other_trace)
    assert [(s.sigma, s.layer, s.branch, s.guided) for s in one.steps] == [
        (s.sigma, s.layer, s.branch, s.guided) for s in two.steps]
    assert torch.equal(maps(trace), maps(other_trace))
    assert (one.size, one.threshold, one.notes, one.results) == (two.size, two.threshold, two.notes, two.results)


def assert_as_on_the_model(run, model, sampler=None, **settings):
    """`run(model, sampler)` gives the same results and trace, bit for bit, whether model or sampler is guided."""
    guided_model, model_trace = guide(model, **settings)
    guided_sampler, sampler_trace = wrap(sampler, **settings)
    plain = run(model, sampler or select())
    with network_calls(model) as on_model:
        expected = run(guided_model, sampler or select())
    with network_calls(model) as on_sampler:
        results = run(model, guided_sampler)
    assert [c.is_extra for c in on_sampler] == [c.is_extra for c in on_model]
    for result, wanted, unguided in zip(results, expected, plain, strict=True):
        assert torch.equal(result, wanted) and result.isfinite().all()
        assert not torch.equal(result, unguided)
        assert sampler_trace.find(result) is only(sampler_trace)
    assert_same_run(sampler_trace, model_trace)
    assert any(step.guided for step in only(sampler_trace).steps) and not only(sampler_trace).notes
    return only(sampler_trace)


# -- the same as on the model ----------------------------------------------------------------------------------------


@EACH_FAMILY
@pytest.mark.parametrize("guider", GUIDERS.values(), ids=GUIDERS)
def test_any_guider_is_guided_as_on_the_model_bit_for_bit(build, guider):
    tiny = build()
    run = assert_as_on_the_model(lambda model, sampler: advanced(guider(tiny, model), sampler, tiny.latent), tiny.model)
    assert [step.guided for step in run.steps] == [True] * 3


@EACH_FAMILY
@pytest.mark.parametrize("cfg", [3.0, 1.0])
def test_sampler_custom_is_guided_as_on_the_model_bit_for_bit(build, cfg):
    tiny = build()
    assert_as_on_the_model(lambda model, sampler: custom(tiny, model, sampler, cfg=cfg), tiny.model)


# A random network leaves the range of numbers under some samplers, where it predicts noise.
STABLE = {"U-Net": lambda: models.v_prediction().sized(8, 8), "DiT": FAMILIES["DiT"]}
ROUGH = {"dpm_adaptive": {"rtol": 1.0, "atol": 1.0}}  # or it takes a hundred steps


@pytest.mark.filterwarnings("ignore")  # those of the host's own samplers
@pytest.mark.parametrize("build", STABLE.values(), ids=STABLE)
@pytest.mark.parametrize("sampler_name", [
    "euler", "euler_ancestral", "euler_cfg_pp", "heun", "heunpp2", "dpm_2", "lms", "dpm_fast", "dpm_adaptive",
    "dpmpp_2s_ancestral", "dpmpp_sde", "dpmpp_2m_cfg_pp", "dpmpp_2m_sde", "dpmpp_3m_sde", "ddpm", "lcm", "ipndm_v",
    "res_multistep", "gradient_estimation", "er_sde", "seeds_2", "sa_solver", "ddim", "uni_pc", "uni_pc_bh2"])
def test_samplers_are_guided_as_on_the_model_bit_for_bit(build, sampler_name):
    tiny = build()
    sampler = comfy.samplers.sampler_object(sampler_name)
    sampler.extra_options = ROUGH.get(sampler_name, sampler.extra_options)
    assert_as_on_the_model(lambda model, sampler: advanced(cfg_guider(tiny, model), sampler, tiny.latent, steps=2),
                           tiny.model, sampler, scale=0.2)


@EACH_FAMILY
@pytest.mark.parametrize("settings", [
    {"scale": -1.0}, {"blur_sigma": 3.0, "blur_kernel": 5}, {"threshold": 0.4}, {"rescale": 0.7, "projection": 0.5},
    {"start_percent": 0.3, "end_percent": 0.7}, {"rescale": 1.0, "rescale_to": "branch"},
], ids=str)
def test_settings_are_those_of_the_model(build, settings):
    tiny = build()
    assert_as_on_the_model(lambda model, sampler: advanced(cfg_guider(tiny, model), sampler, tiny.latent), tiny.model,
                           **settings)


def test_layer_is_that_of_the_settings():
    tiny = models.sd15().sized(8, 12)
    run = assert_as_on_the_model(lambda model, sampler: advanced(cfg_guider(tiny, model), sampler, tiny.latent),
                                 tiny.model, layer="input.1, output.0")
    assert run.steps[0].layer == "input.1, output.0" and run.steps[0].attn_map.shape == (1, 8, 12)


@EACH_FAMILY
@pytest.mark.parametrize("seeded", [False, True], ids=["noise", "random noise of the mask's"])
def test_inpainting_is_guided_as_on_the_model(build, seeded):
    tiny = build()
    generator = torch.Generator().manual_seed(4)
    latent = torch.randn(tiny.latent.shape, generator=generator)
    area = torch.zeros(1, *tiny.latent.shape[2:])
    area[:, 2:6, 3:] = 1
    sampler = select("ddim" if seeded else "euler")  # the host's ddim draws noise of its own for the rest
    run = assert_as_on_the_model(
        lambda model, sampler: advanced(cfg_guider(tiny, model), sampler, {"samples": latent, "noise_mask": area}),
        tiny.model, sampler)
    assert [step.guided for step in run.steps] == [True] * 3


@EACH_FAMILY
def test_differential_diffusion_is_guided_as_on_the_model(build):
    tiny = build()
    slope = torch.linspace(0, 1, 8).expand(1, 8, 8)

    def run(model, sampler):
        (model,) = call("DifferentialDiffusion", model=model)
        latent = {"samples": torch.ones_like(tiny.latent), "noise_mask": slope}
        return advanced(cfg_guider(tiny, model), sampler, latent)

    assert_as_on_the_model(run, tiny.model)


@EACH_FAMILY
def test_sigmas_of_the_users_own(build):
    tiny = build()
    sigmas = torch.tensor([0.95, 0.8, 0.35, 0.3, 0.0])
    run = assert_as_on_the_model(
        lambda model, sampler: advanced(cfg_guider(tiny, model), sampler, tiny.latent, sigmas), tiny.model)
    assert [step.sigma for step in run.steps] == pytest.approx([0.95, 0.8, 0.35, 0.3], rel=0.02)


@EACH_FAMILY
def test_last_steps_alone(build):
    """Split Sigmas: the first half with the plain sampler, the second with the guided one."""
    tiny = build()
    high, low = call("SplitSigmas", sigmas=schedule(tiny.model, 4), step=2)
    first, _ = advanced(cfg_guider(tiny, tiny.model), select(), tiny.latent, high)
    run = assert_as_on_the_model(
        lambda model, sampler: advanced(cfg_guider(tiny, model), sampler, first, low, add_noise=False), tiny.model)
    assert [step.sigma for step in run.steps] == pytest.approx(low[:-1].tolist(), rel=1e-4)


@EACH_FAMILY
def test_first_steps_alone_leave_noise_in_the_sample(build):
    """What comes out is scaled by the noise that is left, and the trace knows it all the same."""
    tiny = build()
    high, _ = call("SplitSigmas", sigmas=schedule(tiny.model, 4), step=2)
    assert_as_on_the_model(
        lambda model, sampler: advanced(cfg_guider(tiny, model), sampler, tiny.latent, high), tiny.model)


def test_a_batch_of_images():
    tiny = models.sd15().sized(8, 12, batch=3)
    run = assert_as_on_the_model(lambda model, sampler: advanced(cfg_guider(tiny, model), sampler, tiny.latent),
                                 tiny.model)
    assert run.steps[0].attn_map.shape == (3, 4, 6)


def test_frames_of_a_video_model():
    tiny = models.svd()
    tiny = replace(tiny.sized(8, 8), **{side: [[states, extra | {"concat_latent_image": torch.ones(1, 4, 8, 8)}]
                                               for states, extra in getattr(tiny, side)]
                                        for side in ("positive", "negative")})
    assert_as_on_the_model(lambda model, sampler: advanced(cfg_guider(tiny, model), sampler, tiny.latent), tiny.model)


def test_a_video_with_sound():
    """The host packs both into one tensor; the picture alone is guided."""
    family = families.FAMILIES["LTX-2, video and sound"]
    tiny = family.at(family.build(), family.square)
    guided_model, model_trace = guide(tiny.model)
    sampler, trace = wrap()
    expected = advanced(cfg_guider(tiny, guided_model), select(), tiny.latent, steps=2)
    results = advanced(cfg_guider(tiny, tiny.model), sampler, tiny.latent, steps=2)
    for result, wanted in zip(results, expected, strict=True):
        assert all(torch.equal(*pair) for pair in zip(result.unbind(), wanted.unbind(), strict=True))
        assert trace.find(result.unbind()[0]) is only(trace)
    assert_same_run(trace, model_trace)
    assert [step.guided for step in only(trace).steps] == [True] * 2


# -- off is off ------------------------------------------------------------------------------------------------------


OFF = {"scale 0": {"scale": 0.0}, "nothing above the threshold": {"threshold": 100.0},
       "interval without a step": {"start_percent": 0.9, "end_percent": 0.9}}


@EACH_FAMILY
@pytest.mark.parametrize("guider", GUIDERS.values(), ids=GUIDERS)
@pytest.mark.parametrize("settings", OFF.values(), ids=OFF)
def test_off_is_bit_identical_without_an_extra_pass(build, guider, settings):
    tiny = build()
    with network_calls(tiny.model) as plain:
        expected = advanced(guider(tiny, tiny.model), select(), tiny.latent)
    sampler, trace = wrap(**settings)
    with network_calls(tiny.model) as calls:
        results = advanced(guider(tiny, tiny.model), sampler, tiny.latent)
    assert all(torch.equal(result, wanted) for result, wanted in zip(results, expected, strict=True))
    assert len(calls) == len(plain) and not any(c.is_extra for c in calls)
    assert [step.guided for step in only(trace).steps] == [False] * 3


@pytest.mark.parametrize("count", [0, 1])
def test_no_steps(count):
    tiny = models.sd15().sized(8, 8)
    sigmas = schedule(tiny.model, 3)[:count]
    latent = torch.ones_like(tiny.latent)
    expected = advanced(cfg_guider(tiny, tiny.model), select(), latent, sigmas)
    results = advanced(cfg_guider(tiny, tiny.model), wrap()[0], latent, sigmas)
    assert all(torch.equal(result, wanted) for result, wanted in zip(results, expected, strict=True))


def test_a_model_without_self_attention_is_sampled_and_the_trace_says_so():
    tiny = models.no_attention().sized(8, 8)
    sampler, trace = wrap()
    results = advanced(cfg_guider(tiny, tiny.model), sampler, tiny.latent)
    assert torch.equal(results[0], advanced(cfg_guider(tiny, tiny.model), select(), tiny.latent)[0])
    assert "no self-attention" in " ".join(only(trace).notes)


def test_a_layer_that_the_model_lacks_is_replaced_and_the_trace_says_so():
    """The node knows no model when it runs; one guided sampler may go through several."""
    unet, dit = (build() for build in FAMILIES.values())
    sampler, trace = wrap(layer="middle.0")
    advanced(cfg_guider(unet, unet.model), sampler, unet.latent)
    assert not only(trace).notes
    advanced(cfg_guider(dit, dit.model), sampler, dit.latent)
    assert "middle.0" in only(trace).notes[0] and "block.1 is used instead" in only(trace).notes[0]
    assert all(step.guided for step in only(trace).steps)


# -- nothing is left -------------------------------------------------------------------------------------------------


@EACH_FAMILY
@pytest.mark.parametrize("guider", GUIDERS.values(), ids=GUIDERS)
def test_model_and_guider_are_left_as_they_were(build, guider):
    tiny = build()
    own = guider(tiny, tiny.model)
    options, of_model, of_guider = own.model_options, everything(tiny.model.model_options), vars(own).copy()
    sampler, _ = wrap()
    for _ in range(2):
        advanced(own, sampler, tiny.latent)
        assert own.model_options is options and everything(own.model_options) == of_model
        assert everything(tiny.model.model_options) == of_model
        assert {name: value for name, value in vars(own).items() if name in of_guider} == of_guider
    assert hooks_on(tiny.model) == 0
    assert not tiny.model.object_patches and not tiny.model.injections and not tiny.model.wrappers


def watching(sampler, seen):
    """A sampler around another that looks at the guider before and after it."""
    def watched(model, x, sigmas, wrapped_sampler=None, **kwargs):
        guider = model.inner_model
        seen.append((guider.model_options, everything(guider.model_options)))
        given = kwargs["extra_args"]
        before = given.copy(), everything(given["model_options"])
        try:
            return wrapped_sampler.sampler_function(model, x, sigmas, **kwargs, **wrapped_sampler.extra_options)
        finally:
            seen.append((guider.model_options, everything(guider.model_options)))
            assert (given, everything(given["model_options"])) == before

    return comfy.samplers.KSAMPLER(watched, extra_options={"wrapped_sampler": sampler})


@EACH_FAMILY
@pytest.mark.parametrize("error", [None, InterruptProcessingException, ValueError], ids=str)
@pytest.mark.parametrize("at", [1, 2, 4], ids=["main pass", "extra pass", "second extra pass"])
def test_the_guiders_options_are_restored_where_the_sampler_returns_or_fails(build, error, at):
    tiny = build()
    seen, entered = [], []

    def stop(module, args, kwargs):
        entered.append(module)
        if error is not None and len(entered) == at:
            raise error("stopped")

    guider, (sampler, trace) = cfg_guider(tiny, tiny.model), wrap()
    expected = advanced(guider, sampler, tiny.latent)
    handle = tiny.model.model.diffusion_model.register_forward_pre_hook(stop, with_kwargs=True)
    try:
        if error is None or error is ValueError and at != 1:  # the extra pass may fail
            advanced(guider, watching(sampler, seen), tiny.latent)
        else:
            with pytest.raises(error):
                advanced(guider, watching(sampler, seen), tiny.latent)
    finally:
        handle.remove()
    (before, held_before), (after, held_after) = seen
    assert before is after and held_before == held_after
    assert hooks_on(tiny.model) == 0
    if error is InterruptProcessingException or error is ValueError and at == 1:
        assert len(trace.recordings) == 1
    assert torch.equal(advanced(guider, sampler, tiny.latent)[0], expected[0])


def test_no_tensor_is_kept_but_the_maps():
    tiny = models.sd15().sized(8, 8)
    sampler, trace = wrap()
    guider = cfg_guider(tiny, tiny.model)
    advanced(guider, sampler, tiny.latent)  # what the host keeps, it keeps from now on
    with new_tensors() as kept:
        advanced(guider, sampler, tiny.latent)
    assert {id(t) for t in kept} == {id(step.attn_map) for step in only(trace).steps}


def test_an_interrupt_leaves_no_tensors_behind():
    tiny = models.sd15().sized(8, 8)
    sampler, trace = wrap()
    guider = cfg_guider(tiny, tiny.model)
    advanced(guider, sampler, tiny.latent)
    entered = []

    def interrupt(module, args):
        entered.append(module)
        if len(entered) == 4:
            raise InterruptProcessingException

    handle = tiny.model.model.diffusion_model.get_submodule(MIDDLE).attn1.register_forward_pre_hook(interrupt)
    with new_tensors() as kept:
        with pytest.raises(InterruptProcessingException):
            advanced(guider, sampler, tiny.latent)
        handle.remove()
        entered.clear()
        for name in ("conds", "inner_model", "loaded_models"):  # the host's own, which the next run replaces
            guider.__dict__.pop(name, None)
    assert not kept


def test_the_sampler_that_comes_in_is_not_changed():
    tiny, plain = FAMILIES["U-Net"](), select("dpmpp_2m")
    before = vars(plain).copy()
    first, first_trace = wrap(plain)
    second, second_trace = wrap(plain)
    assert vars(plain) == before and first is not second and first_trace is not second_trace
    expected = advanced(cfg_guider(tiny, tiny.model), plain, tiny.latent)
    advanced(cfg_guider(tiny, tiny.model), first, tiny.latent)
    assert torch.equal(advanced(cfg_guider(tiny, tiny.model), plain, tiny.latent)[0], expected[0])
    assert not second_trace.recordings


@pytest.mark.parametrize("settings", [{"eta": 0.0}, {"eta": 1.0, "s_noise": 0.5}], ids=str)
def test_options_of_the_sampler_are_kept(settings):
    tiny = models.v_prediction().sized(8, 8)
    (sampler,) = call("SamplerEulerAncestral", **{"eta": 1.0, "s_noise": 1.0, **settings})
    assert_as_on_the_model(lambda model, sampler: advanced(cfg_guider(tiny, model), sampler, tiny.latent), tiny.model,
                           sampler, scale=0.2)


# -- beside other samplers and guidances -----------------------------------------------------------------------------


def lowered(sampler, amount=0.1):
    """A sampler around another, as published nodes are made: it tells the model of less noise than there is."""
    def sample(model, x, sigmas, wrapped_sampler=None, **kwargs):
        def told(x, sigma, **extra_args):
            return model(x, sigma * (1 - amount), **extra_args)

        for name in ("inner_model", "sigmas"):
            if hasattr(model, name):
                setattr(told, name, getattr(model, name))
        return wrapped_sampler.sampler_function(told, x, sigmas, **kwargs, **wrapped_sampler.extra_options)

    return comfy.samplers.KSAMPLER(sample, extra_options={"wrapped_sampler": sampler})


class Doubled:
    """A model that is asked twice; the mean of both."""

    def __init__(self, model):
        self.inner_model = model

    def __call__(self, x, sigma, **extra_args):
        return (self.inner_model(x, sigma, **extra_args) + self.inner_model(x, sigma, **extra_args)) / 2


def doubled(sampler):
    """A sampler around another that wraps the model in an object, as the host's own do."""
    def sample(model, x, sigmas, wrapped_sampler=None, **kwargs):
        return wrapped_sampler.sampler_function(Doubled(model), x, sigmas, **kwargs, **wrapped_sampler.extra_options)

    return comfy.samplers.KSAMPLER(sample, extra_options={"wrapped_sampler": sampler})


@EACH_FAMILY
@pytest.mark.parametrize("around", [lowered, doubled])
@pytest.mark.parametrize("order", ["guided inside", "guided outside"])
def test_samplers_within_samplers_are_guided_as_on_the_model(build, around, order):
    tiny = build()
    guided_model, model_trace = guide(tiny.model)
    expected = advanced(cfg_guider(tiny, guided_model), around(select("heun")), tiny.latent)
    inner, inner_trace = wrap(select("heun"))
    outer, outer_trace = wrap(around(select("heun")))
    sampler, trace = (around(inner), inner_trace) if order == "guided inside" else (outer, outer_trace)
    results = advanced(cfg_guider(tiny, tiny.model), sampler, tiny.latent)
    for result, wanted in zip(results, expected, strict=True):
        assert torch.equal(result, wanted) and trace.find(result) is only(trace)
    assert_same_run(trace, model_trace)
    assert all(step.guided for step in only(trace).steps)


@EACH_FAMILY
def test_a_sampler_that_hides_the_guider_is_not_guided_and_not_stopped(build):
    """It hands on a bare function, in which nobody can find whose options the run has."""
    def bare(model, x, sigmas, wrapped_sampler=None, **kwargs):
        return wrapped_sampler.sampler_function(lambda *args, **extra: model(*args, **extra), x, sigmas, **kwargs)

    def around(sampler):
        return comfy.samplers.KSAMPLER(bare, extra_options={"wrapped_sampler": sampler})

    tiny = build()
    expected = advanced(cfg_guider(tiny, tiny.model), around(select()), tiny.latent)
    results = advanced(cfg_guider(tiny, tiny.model), around(wrap()[0]), tiny.latent)
    assert torch.equal(results[0], expected[0])


@EACH_FAMILY
def test_a_sampler_guided_twice_adds_both_up(build):
    tiny = build()
    once, inner_trace = wrap(scale=0.5)
    twice, outer_trace = wrap(once, scale=0.25)
    with network_calls(tiny.model) as calls:
        out, denoised = advanced(cfg_guider(tiny, tiny.model), twice, tiny.latent)
    assert [c.is_extra for c in calls] == [False, True, True] * 3
    both, _ = wrap(scale=0.75)
    expected = advanced(cfg_guider(tiny, tiny.model), both, tiny.latent)[0]
    assert_close(out, expected, rtol=0, atol=1e-4 * expected.abs().max().item())
    for trace in (inner_trace, outer_trace):
        assert trace.find(out) is trace.find(denoised) is only(trace)
        assert [step.guided for step in only(trace).steps] == [True] * 3
    assert torch.equal(maps(inner_trace), maps(outer_trace))


@EACH_FAMILY
def test_model_and_sampler_guided_at_once_both_act(build):
    tiny = build()
    guided, model_trace = guide(tiny.model, scale=0.5)
    sampler, sampler_trace = wrap(scale=0.25)
    with network_calls(tiny.model) as calls:
        out, denoised = advanced(cfg_guider(tiny, guided), sampler, tiny.latent)
    assert [c.is_extra for c in calls] == [False, True, True] * 3
    expected = advanced(cfg_guider(tiny, tiny.model), wrap(scale=0.75)[0], tiny.latent)[0]
    assert_close(out, expected, rtol=0, atol=1e-4 * expected.abs().max().item())
    for trace in (model_trace, sampler_trace):
        assert trace.find(out) is trace.find(denoised) is only(trace)
        assert [step.guided for step in only(trace).steps] == [True] * 3


@EACH_FAMILY
def test_a_recorded_model_stays_recorded(build):
    tiny = build()
    recorded, record_trace = record(tiny.model)
    sampler, trace = wrap()
    alone = advanced(cfg_guider(tiny, tiny.model), wrap()[0], tiny.latent)[0]
    out = advanced(cfg_guider(tiny, recorded), sampler, tiny.latent)[0]
    assert torch.equal(out, alone)
    assert torch.equal(maps(record_trace), maps(trace))


def test_other_nodes_post_cfg_functions_come_before_the_guidance():
    tiny = models.sd15().sized(8, 8)
    doubling = tiny.model.clone()
    doubling.set_model_sampler_post_cfg_function(lambda args: 2 * args["denoised"])
    guided_after, _ = guide(doubling)
    expected = advanced(cfg_guider(tiny, guided_after), select(), tiny.latent)[0]
    assert torch.equal(advanced(cfg_guider(tiny, doubling), wrap()[0], tiny.latent)[0], expected)


class Own(comfy.samplers.Sampler):
    """A sampler that does not consist of a function, as some nodes have."""

    def sample(self, model_wrap, sigmas, extra_args, callback, noise, *args, **kwargs):
        return noise


@pytest.mark.parametrize("sampler", [Own(), object(), select], ids=["Own", "object", "function"])
def test_a_sampler_of_another_kind_is_refused_by_name(sampler):
    with pytest.raises(ValueError, match=rf"sampler is a {type(sampler).__name__}, which cannot be wrapped; put Self-"
                                         "Attention Guidance on the model"):
        wrap(sampler)


@pytest.mark.parametrize(("settings", "message"), [
    ({"scale": float("nan")}, "scale is nan"), ({"blur_kernel": 4}, "blur_kernel is 4"),
    ({"start_percent": 0.8, "end_percent": 0.2}, "start_percent is 0.8, after end_percent 0.2"),
])
def test_bad_settings_are_refused_by_name_before_sampling(settings, message):
    with pytest.raises(ValueError, match=message):
        wrap(**settings)
