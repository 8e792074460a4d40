"""Guidance under every kind of conditioning and start, against the reference as a post-CFG function."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from comfy.patcher_extension import WrappersMP, add_wrapper_with_key
from torch.testing import assert_close

from tests.host import models
from tests.host.graph import call, guide, maps, only, sample, sample_guider
from tests.host.observe import network_calls
from tests.host.reference import reference


def combine(*conditionings):
    first, *others = conditionings
    for other in others:
        (first,) = call("ConditioningCombine", conditioning_1=first, conditioning_2=other)
    return first


def strength(conditioning, value):
    return call("ConditioningSetAreaStrength", conditioning=conditioning, strength=value)[0]


def area(conditioning, width, height, x, y, value=1.0):
    """In pixels of the image, which is 192 x 128."""
    return call("ConditioningSetArea", conditioning=conditioning, width=width, height=height, x=x, y=y,
                strength=value)[0]


def mask(conditioning, value=1.0, bounds="default", low=0.0):
    shape = torch.full((1, 128, 192), low)
    shape[:, 32:, 64:160] = 1
    return call("ConditioningSetMask", conditioning=conditioning, mask=shape, strength=value, set_cond_area=bounds)[0]


def during(conditioning, start, end):
    return call("ConditioningSetTimestepRange", conditioning=conditioning, start=start, end=end)[0]


def other(seed=5):
    return models.text(seed)


def check(tiny, **inputs):
    """The pack's guidance is the reference's; the branch of every step, as the trace tells it."""
    guided, trace = guide(tiny.model)
    with reference(tiny.model) as (expected, rule):
        out, wanted = sample(tiny, guided, **inputs), sample(tiny, expected, **inputs)
    size = wanted.abs().max().item()
    assert_close(out, wanted, rtol=0, atol=1e-4 * size)
    assert (out - sample(tiny, **inputs)).abs().max() > 0.01 * size
    branches = [step.branch for step in only(trace).steps]
    assert branches == [("cond", "uncond")[index] for index in rule.branches]
    assert all(step.guided for step in only(trace).steps) and only(trace).notes == []
    return branches


def bases(tiny):
    """Conditionings to try on either side; each covers the whole image with some weight, as the host needs."""
    own = tiny.negative
    return {
        "several": combine(own, other(5), other(6)),
        "several strengths": combine(strength(own, 0.3), strength(other(5), 1.5), strength(other(6), 0.7)),
        "longer text": combine(own, models.text(5, tokens=14), models.text(6, tokens=21)),
        "area": combine(own, area(other(5), 96, 64, 64, 32, 0.8)),
        "areas that overlap": combine(own, area(other(5), 128, 64, 0, 0), area(other(6), 128, 96, 64, 32, 2.0)),
        "area in percent": combine(own, call("ConditioningSetAreaPercentage", conditioning=other(5), width=0.5,
                                             height=0.5, x=0.25, y=0.5, strength=1.0)[0]),
        "mask": mask(own, 0.6, low=0.2),
        "masks": combine(own, mask(other(5), 0.6), mask(other(6), 2.0)),
        "mask with bounds": combine(own, mask(other(5), 1.0, "mask bounds")),
    }


@pytest.mark.parametrize("kind", bases(models.Tiny(None, None, None, models.text(2))))
@pytest.mark.parametrize("side", ["negative", "positive"])
def test_combined_areas_and_masks_on_either_side(side, kind):
    tiny = models.sd15()
    assert check(tiny, **{side: bases(tiny)[kind]}) == ["uncond"] * 2


@pytest.mark.parametrize("kind", ["several strengths", "areas that overlap", "masks"])
def test_combined_areas_and_masks_without_a_negative(kind):
    tiny = models.sd15()
    assert check(tiny, cfg=1.0, positive=bases(tiny)[kind]) == ["cond"] * 2


@pytest.mark.parametrize("kind", ["several strengths", "area", "masks"])
def test_combined_areas_and_masks_in_a_batch(kind):
    tiny = models.sd15().sized(batch=2)
    assert check(tiny, negative=bases(tiny)[kind]) == ["uncond"] * 2


def test_negative_that_ends_early_hands_over_to_the_positive():
    tiny = models.sd15()
    assert check(tiny, steps=4, negative=during(tiny.negative, 0.0, 0.4)) == ["uncond"] * 2 + ["cond"] * 2


def test_negative_that_starts_late_takes_over_from_the_positive():
    tiny = models.sd15()
    assert check(tiny, steps=4, negative=during(tiny.negative, 0.4, 1.0)) == ["cond"] * 2 + ["uncond"] * 2


def test_prompts_that_follow_each_other():
    tiny = models.sd15()
    negative = combine(during(tiny.negative, 0.0, 0.6), during(other(5), 0.4, 1.0))
    assert check(tiny, steps=4, negative=negative, positive=during(tiny.positive, 0.0, 1.0)) == ["uncond"] * 4


def test_no_prompt_at_all_in_some_steps_is_not_guided_and_does_not_fail():
    tiny = models.sd15()
    guided, trace = guide(tiny.model)
    both = {"negative": during(tiny.negative, 0.0, 0.4), "positive": during(tiny.positive, 0.0, 0.4)}
    assert sample(tiny, guided, steps=4, **both).isfinite().all()
    assert [step.guided for step in only(trace).steps] == [True, True]


def test_image_to_image():
    tiny = models.sd15()
    latent = {"samples": 3 * torch.randn(tiny.latent.shape, generator=torch.Generator().manual_seed(4))}
    assert check(tiny, latent=latent, denoise=0.5) == ["uncond"] * 2


@pytest.mark.parametrize("build", [models.sd15, models.inpaint])
@pytest.mark.parametrize("cfg", [1.0, 3.0])
def test_inpainting(build, cfg):
    tiny = build()
    latent = {"samples": torch.randn(tiny.latent.shape, generator=torch.Generator().manual_seed(4))}
    hole = torch.zeros(1, 128, 192)
    hole[:, 32:96, 64:160] = 1
    (latent,) = call("SetLatentNoiseMask", samples=latent, mask=hole)
    check(tiny, latent=latent, cfg=cfg)
    guided, _ = guide(tiny.model)
    out = sample(tiny, guided, latent=latent, cfg=cfg)
    kept = torch.ones(16, 24, dtype=torch.bool)
    kept[4:12, 8:20] = False
    assert_close(out[..., kept], latent["samples"][..., kept], rtol=0, atol=1e-4)


def test_conds_that_share_an_id_are_told_apart():
    """Nodes that cut a prompt into areas while sampling copy it, id and all."""
    tiny = models.sd15()
    halves = ((16, 12, 0, 0), (16, 12, 0, 12))

    def cut(executor, model, conds, x, sigma, model_options):
        conds = [cond and [one if "area" in one else one | {"area": half} for half in halves for one in cond]
                 for cond in conds]
        return executor(model, conds, x, sigma, model_options)

    cutting = tiny.model.clone()
    cutting.add_wrapper(WrappersMP.CALC_COND_BATCH, cut)
    conds = {side: combine(*(area(getattr(tiny, side), 96, 128, x, 0) for x in (0, 96)))
             for side in ("positive", "negative")}
    (guided, trace), (expected, expected_trace) = guide(cutting), guide(tiny.model)
    out, wanted = sample(tiny, guided, steps=1), sample(tiny, expected, steps=1, **conds)
    assert_close(maps(trace), maps(expected_trace), rtol=1e-3, atol=1e-3)
    assert_close(out, wanted, rtol=0, atol=1e-4 * wanted.abs().max().item())


@pytest.mark.parametrize("restrict", [area, lambda cond, *_: mask(cond), lambda cond, *_: cond],
                         ids=["area", "mask", "whole"])
@pytest.mark.parametrize("side", ["negative", "positive"])
def test_default_prompt_takes_what_the_others_leave(side, restrict):
    tiny = models.sd15()
    own = restrict(getattr(tiny, side), 96, 64, 64, 32)
    (default,) = call("ConditioningSetDefaultCombine", cond=own, cond_DEFAULT=other())
    assert check(tiny, **{side: default}) == ["uncond"] * 2


def test_two_default_prompts_share_what_the_others_leave():
    tiny = models.sd15()
    both = combine(other(), other(6))
    (default,) = call("ConditioningSetDefaultCombine", cond=area(tiny.negative, 96, 64, 64, 32), cond_DEFAULT=both)
    assert check(tiny, negative=default) == ["uncond"] * 2


def test_default_prompt_that_is_left_nothing_changes_nothing():
    tiny = models.sd15()
    (default,) = call("ConditioningSetDefaultCombine", cond=tiny.negative, cond_DEFAULT=other())
    guided, trace = guide(tiny.model)
    assert torch.equal(sample(tiny, guided, negative=default), sample(tiny, guided))
    assert maps(trace).shape == (2, 1, 8, 12)


def test_a_lora_acts_in_the_extra_pass_too():
    tiny = models.sd15()
    tiny = replace(tiny, model=tiny.model.clone())
    name = "diffusion_model.middle_block.1.transformer_blocks.0.attn1.to_v.weight"
    change = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
    assert tiny.model.add_patches({name: ("diff", (change,))}, 0.5) == [name]
    check(tiny)


def test_map_of_two_areas_is_put_together_at_the_size_of_the_sample():
    tiny = models.sd15()
    guided, trace = guide(tiny.model)
    left, right = (area(other(seed), 96, 128, x, 0) for seed, x in ((5, 0), (6, 96)))
    sample(tiny, guided, negative=combine(left, right))
    assert maps(trace).shape == (2, 1, 16, 24)
    assert maps(trace).isfinite().all() and (maps(trace) >= 0).all()


@pytest.mark.parametrize("cfg", [2.0, 1.0])
def test_guider_with_two_positives_is_guided_on_its_negative(cfg):
    tiny = models.sd15()
    guided, trace = guide(tiny.model)

    def dual(model):
        (guider,) = call("DualCFGGuider", model=model, cond1=tiny.positive, cond2=other(), negative=tiny.negative,
                         cfg_conds=2.0, cfg_cond2_negative=cfg, style="regular")
        return sample_guider(tiny, model, guider)[0]

    out = dual(guided)
    assert out.isfinite().all() and not torch.equal(out, dual(tiny.model))
    assert {step.branch for step in only(trace).steps} == {"uncond" if cfg != 1 else "cond"}


def test_guider_with_three_branches_is_guided_on_its_negative():
    tiny = models.sd15()
    guided, trace = guide(tiny.model)
    (guider,) = call("PerpNegGuider", model=guided, positive=tiny.positive, negative=tiny.negative,
                     empty_conditioning=other(), cfg=4.0, neg_scale=1.0)
    with network_calls(tiny.model) as calls:
        assert sample_guider(tiny, guided, guider)[0].isfinite().all()
    assert [c.options["cond_or_uncond"] for c in calls if c.is_extra] == [[1], [1]]
    assert {step.branch for step in only(trace).steps} == {"uncond"}


@pytest.mark.parametrize("rebuilt", [{0}, {1}, {0, 1}], ids=["positive", "negative", "both"])
def test_negative_is_known_where_another_node_rebuilds_the_conds(rebuilt):
    tiny = models.sd15()
    guided, trace = guide(tiny.model)
    expected = sample(tiny, guided)

    def rebuild(executor, model, conds, *args):
        copies = [list(cond) if cond and i in rebuilt else cond for i, cond in enumerate(conds)]
        return executor(model, copies, *args)

    add_wrapper_with_key(WrappersMP.CALC_COND_BATCH, "other", rebuild, guided.model_options, is_model_options=True)
    assert torch.equal(sample(tiny, guided), expected)
    assert {step.branch for step in only(trace).steps} == {"uncond"}


def test_flow_sampling_of_a_u_net():
    """x = (1 - sigma) x0 + sigma n: the degraded sample keeps the noise n."""
    tiny = models.sd15()
    (flow,) = call("ModelSamplingSD3", model=tiny.model, shift=3.0)
    check(replace(tiny, model=flow), denoise=0.6)
