"""Samplers, schedulers and guiders, on a U-Net and on a transformer."""

from __future__ import annotations

import comfy.samplers
import pytest
import torch
from torch.testing import assert_close

from tests.host import models
from tests.host.features import FAMILIES, Row, follow, skip_without
from tests.host.graph import call, guide, maps, sample, sample_guider
from tests.host.reference import reference

# A random network leaves the range of numbers under some samplers, where it predicts noise.
SMALL = {"U-Net": lambda: models.v_prediction().sized(8, 8), "DiT": lambda: models.flux().sized(8, 8)}


@pytest.fixture(scope="module")
def samplers():
    row = Row("samplers", "KSampler")
    yield row
    if row.is_whole:  # not where pytest was asked for some of the tests
        row.check(f"every evaluation of all {len(comfy.samplers.SAMPLER_NAMES)} samplers")


@pytest.fixture(scope="module")
def schedulers():
    row = Row("schedulers", "KSampler")
    yield row
    if row.is_whole:
        row.check(f"every step of all {len(comfy.samplers.SCHEDULER_NAMES)} schedulers")


@pytest.mark.filterwarnings("ignore")  # those of the host's own samplers
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("sampler_name", comfy.samplers.SAMPLER_NAMES)
def test_every_sampler(samplers, sampler_name, family):
    tiny = SMALL[family]()
    run = follow(tiny, *guide(tiny.model, scale=0.2), sampler_name=sampler_name)
    assert run.is_guided and len(run.steps) >= 2
    assert [step.sigma for step in run.steps] == [c.options["sigmas"].max().item() for c in run.calls if not c.is_extra]
    samplers.add(family, run)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("scheduler", comfy.samplers.SCHEDULER_NAMES)
def test_every_scheduler(schedulers, scheduler, family):
    tiny = SMALL[family]()
    run = follow(tiny, *guide(tiny.model), scheduler=scheduler, steps=3)
    assert run.is_guided
    schedulers.add(family, run)


CFG_PP = [name for name in comfy.samplers.SAMPLER_NAMES if "cfg_pp" in name]


def test_cfg_pp_samplers():
    """They step from the negative's prediction, which guidance leaves as it is, and ask for it at CFG 1 too."""
    row = Row("CFG++ samplers", "KSampler")
    for family, build in FAMILIES.items():
        tiny = build()
        for name in CFG_PP:
            inputs = {"sampler_name": name, "cfg": 1.0, "steps": 2}
            run = follow(tiny, *guide(tiny.model), **inputs)
            assert run.is_guided and run.branches == {"uncond"}
            assert not torch.equal(run.out, sample(tiny, **inputs))
            row.add(family, run)
            if family == "U-Net":
                with reference(tiny.model) as (expected, _):
                    wanted = sample(tiny, expected, **inputs)
                assert_close(run.out, wanted, rtol=0, atol=1e-3 * wanted.abs().max().item())
    row.check(f"guides the negative, at CFG 1 too, in all {len(CFG_PP)} of them")


def custom(tiny, model, steps):
    (sampler,) = call("KSamplerSelect", sampler_name="euler")
    (sigmas,) = call("BasicScheduler", model=model, scheduler="simple", steps=steps, denoise=1.0)
    return call("SamplerCustom", model=model, add_noise=True, noise_seed=1, cfg=3.0, positive=tiny.positive,
                negative=tiny.negative, sampler=sampler, sigmas=sigmas,
                latent_image={"samples": tiny.latent})[0]["samples"]


def other(tiny):
    """A third prompt."""
    return models.text(5, **tiny.positive[0][1])


def basic(tiny, model):
    return call("BasicGuider", model=model, conditioning=tiny.positive)[0]


def ordinary(cfg):
    return lambda tiny, model: call("CFGGuider", model=model, positive=tiny.positive, negative=tiny.negative,
                                    cfg=cfg)[0]


def dual_cfg(style, conds=2.0, negative=3.0):
    return lambda tiny, model: call("DualCFGGuider", model=model, cond1=other(tiny), cond2=tiny.positive,
                                    negative=tiny.negative, cfg_conds=conds, cfg_cond2_negative=negative,
                                    style=style)[0]


def dual_cfg_of_positives(tiny, model):
    """Without a negative the first of the two positives is guided."""
    return call("DualCFGGuider", model=model, cond1=tiny.positive, cond2=other(tiny), negative=tiny.negative,
                cfg_conds=2.0, cfg_cond2_negative=1.0, style="regular")[0]


def dual_model(cfg):
    def build(tiny, model):
        skip_without("DualModelGuider")
        return call("DualModelGuider", model=model, model_negative=tiny.model, positive=tiny.positive,
                    negative=tiny.negative, cfg=cfg)[0]

    return build


def perp_neg(neg_scale):
    return lambda tiny, model: call("PerpNegGuider", model=model, positive=tiny.positive, negative=tiny.negative,
                                    empty_conditioning=other(tiny), cfg=4.0, neg_scale=neg_scale)[0]


def perp_neg_node(tiny, model):
    (model,) = call("PerpNeg", model=model, empty_conditioning=other(tiny), neg_scale=1.0)
    return ordinary(4.0)(tiny, model)


def advanced(guider):
    return lambda tiny, model, steps: sample_guider(tiny, model, guider(tiny, model), steps)[0]


# What samples, whose prediction and attention guide, and how often the guidance of KSampler is added to the result.
GUIDERS = {
    "Sampler Custom": ("SamplerCustom", custom, "uncond", 1),
    "Basic Guider": ("BasicGuider", advanced(basic), "cond", 1),
    "CFG Guider": ("CFGGuider", advanced(ordinary(3.0)), "uncond", 1),
    "CFG Guider at CFG 1": ("CFGGuider", advanced(ordinary(1.0)), "cond", 1),
    "Dual CFG Guider": ("DualCFGGuider", advanced(dual_cfg("regular")), "uncond", 1),
    "Dual CFG Guider, nested": ("DualCFGGuider", advanced(dual_cfg("nested")), "uncond", 3),
    "Dual CFG Guider without a negative": ("DualCFGGuider", advanced(dual_cfg_of_positives), "cond", 1),
    "Dual Model CFG Guider": ("DualModelGuider", advanced(dual_model(3.0)), "cond", 1),
    "Perp-Neg Guider": ("PerpNegGuider", advanced(perp_neg(1.0)), "uncond", 1),
    "Perp-Neg Guider without a negative": ("PerpNegGuider", advanced(perp_neg(0.0)), "cond", 1),
    "Perp-Neg": ("PerpNeg", advanced(perp_neg_node), "uncond", 1),
}


@pytest.mark.parametrize("name", GUIDERS)
def test_guiders(name):
    node_name, sampling, branch, factor = GUIDERS[name]
    row = Row(name, node_name)
    for family, build in FAMILIES.items():
        tiny = build()
        run = follow(tiny, *guide(tiny.model), sampling, steps=3)
        assert run.is_guided and run.branches == {branch} and len(run.steps) == 3
        row.add(family, run)
        # In the first step all guiders see the same sample: map and guidance are those of KSampler.
        (guided, trace), (plainly, plain_trace) = guide(tiny.model), guide(tiny.model)
        cfg = {"uncond": 3.0, "cond": 1.0}[branch]
        expected = factor * (sample(tiny, plainly, steps=1, cfg=cfg) - sample(tiny, steps=1, cfg=cfg))
        given = sampling(tiny, guided, steps=1) - sampling(tiny, tiny.model, steps=1)
        assert_close(maps(trace), maps(plain_trace), rtol=1e-3, atol=1e-3)
        assert_close(given, expected, rtol=0, atol=1e-3 * expected.abs().max().item())
    times = "" if factor == 1 else f", {factor} times as strong where cfg_cond2_negative is {factor}"
    row.check(f"guides the {'negative' if branch == 'uncond' else 'positive'}{times}")


def test_dual_model_guider_at_cfg_1():
    """It gives out the positive's prediction as it is, without a word to the nodes that would change it."""
    row = Row("Dual Model CFG Guider at CFG 1", "DualModelGuider")
    for family, build in FAMILIES.items():
        tiny, sampling = build(), advanced(dual_model(1.0))
        run = follow(tiny, *guide(tiny.model), sampling, steps=3)
        assert torch.equal(run.out, sampling(tiny, tiny.model, steps=3))
        assert len(run.notes) == 1 and len(run.steps) == 3 and run.branches == {"cond"}
        row.add(family, run)
    row.check("the result is the same, bit for bit")


def test_dual_model_guider_is_guided_by_its_main_model_alone():
    """The host does not ask the other model's wrappers; what is patched there does nothing."""
    skip_without("DualModelGuider")
    tiny = models.sd15()
    guided, trace = guide(tiny.model)

    def sampling(negative):
        (guider,) = call("DualModelGuider", model=tiny.model, model_negative=negative, positive=tiny.positive,
                         negative=tiny.negative, cfg=3.0)
        return sample_guider(tiny, tiny.model, guider)[0]

    assert torch.equal(sampling(guided), sampling(tiny.model))
    assert not trace.recordings
