"""Every reason for which steps go without guidance has a sentence of its own, on the node and in the live view."""

from __future__ import annotations

import pytest
import torch

from benchmarks.host import pack_module
from tests.host import models
from tests.host.graph import call, guide, only, record, sample
from tests.host.test_live import Watcher

pytestmark = pytest.mark.usefixtures("every_step_is_shown")
nan = float("nan")


def without_attention_that_is_finite(model, steps=None):
    """The layer is shown NaN among its queries, and attends without: its map is spoilt and its output is not."""
    model, evaluations = model.clone(), []

    def count(apply_model, args):
        evaluations.append(None)
        return apply_model(args["input"], args["timestep"], **args["c"])

    def spoil(q, k, v, options):
        spoilt = q.clone()
        if options["block"][0] == "middle" and (steps is None or len(evaluations) - 1 in steps):
            spoilt[:, 0] = nan
        return spoilt, k, v

    def attend(q, k, v, options):
        q, k, v = (t.unflatten(-1, (options["n_heads"], -1)).transpose(1, 2) for t in (q.nan_to_num(), k, v))
        return torch.nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)

    model.set_model_unet_function_wrapper(count)
    model.set_model_attn1_patch(spoil)
    model.set_model_attn1_replace(attend, "middle", 0)
    return model


def without_prediction_that_is_finite(model):
    model = model.clone()
    model.set_model_unet_function_wrapper(lambda apply_model, args: apply_model(
        args["input"], args["timestep"], **args["c"]) * nan)
    return model


def without_the_network(model):
    model = model.clone()
    model.set_model_unet_function_wrapper(lambda apply_model, args: args["input"] * 0.5)
    return model


def without_post_cfg(model):
    """A node in front that computes the guided prediction by itself and asks no post-CFG function."""
    model = model.clone()

    def alone(executor, x, timestep, model_options, seed):
        executor(x, timestep, model_options | {"sampler_post_cfg_function": []}, seed)
        return x * 0.5

    import comfy.patcher_extension as extension

    model.add_wrapper(extension.WrappersMP.PREDICT_NOISE, alone)
    return model


def in_parts(model):
    model = model.clone()
    model.set_model_unet_function_wrapper(lambda apply_model, args: (
        apply_model(args["input"], args["timestep"], **args["c"])
        + apply_model(args["input"], args["timestep"], **args["c"])) / 2)
    return model


def plain(model):
    return model


def schedule(**inputs):
    return {"schedule": call("SAGSchedule", **{"interval": "as guidance", "start": 0.0, "end": 1.0,
                                               "scale_curve": "constant", **inputs})[0]}


def own_mask(value):
    return {"mask_options": call("SAGMaskOptions", strategy="self-attention", mask=torch.full((1, 8, 8), value))[0]}


SKIPPED = "blurring changes the prediction by less than skip_below"
EMPTY = "the mask is empty"
# What is done to the model, settings, notes, and the words of the live view with how many steps they are of.
REASONS = {
    "scale 0": (plain, {"scale": 0.0}, [], {"scale is 0": 4}),
    "outside the interval": (plain, {"start_percent": 0.6, "end_percent": 0.7}, [], {"outside the interval": 4}),
    "attention": (without_attention_that_is_finite, {}, ["no step was guided: the layer's attention is not finite"],
                  {"attention not finite": 4}),
    "prediction": (without_prediction_that_is_finite, {}, ["prediction is not finite"], None),
    "threshold": (plain, {"threshold": 100.0}, [EMPTY], {"nothing to blur": 4}),
    "own mask": (plain, own_mask(0.0), [EMPTY], {"nothing to blur": 4}),
    "skipped": (plain, schedule(skip_below=1.0) | {"blur_sigma": 0.05}, [SKIPPED],
                {"changes less than skip_below": 4}),
    "stopped": (plain, schedule(stop_below=1.0), [], {"ended by stop_below": 3}),
    "factor": (plain, schedule(scale_curve="list", scale_list="0, 0, 0, 0"), ["multiplies scale or blur by 0"],
               {"the schedule's factor is 0": 4}),
    "blur 0": (plain, {"blur_sigma": 0.0}, ["blur_sigma is 0"], {"blur_sigma is 0": 4}),
    "every": (plain, schedule(every=2), [], {"left out by the schedule": 2}),
    "in parts": (in_parts, {}, ["run on parts", "some steps gave no attention map", "no self-attention was seen"],
                 {"no attention map": 4}),
    "never run": (without_the_network, {}, ["some steps gave no attention map", "layer middle.0 was not run"],
                  {"no attention map": 4}),
    "several": (lambda model: without_attention_that_is_finite(model, steps=[1]), {"threshold": 100.0},
                ["for more than one reason"], {"nothing to blur": 3, "attention not finite": 1}),
    "outside, and empty": (plain, {"threshold": 100.0, "start_percent": 0.4}, [EMPTY],
                           {"outside the interval": 2, "nothing to blur": 2}),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("prepare", "settings", "notes", "why"), REASONS.values(), ids=REASONS)
def test_a_reason_has_its_own_sentence(prepare, settings, notes, why, caplog):
    tiny, watcher = models.sd15().sized(8, 8), Watcher()
    settings = {"scale": 0.5, "blur_sigma": 1.5, "threshold": 1.0} | settings
    chosen = pack_module("settings").settings_of(**settings)
    told = []
    model, trace = pack_module("host.patch").guide_model(prepare(tiny.model), chosen, told.append, lambda: watcher)
    sample(tiny, model, steps=4)
    assert len(told) == len(notes) and all(part in text for part, text in zip(notes, told, strict=True))
    assert only(trace).notes == told
    if why is not None:
        assert watcher.of("end")[0]["why"] == why
        assert [frame["why"] for frame in watcher.of("frame") if frame["why"]] == [
            frame["why"] for frame in watcher.of("frame") if not frame["guided"]]


def test_sentences_differ():
    told = [tuple(notes) for _, _, notes, _ in REASONS.values() if notes]
    assert len(set(told)) == len(told) - 2  # the mask is empty in three of them


def test_model_without_self_attention_has_its_own_sentence():
    tiny = models.no_attention()
    model, trace = guide(tiny.model)
    sample(tiny, model)
    (note,) = only(trace).notes
    assert "no self-attention that can be recorded" in note


def test_guidance_that_nobody_asks_for_has_its_own_sentence():
    tiny = models.sd15().sized(8, 8)
    guided, trace = guide(tiny.model)
    sample(tiny, without_post_cfg(guided))
    (note,) = only(trace).notes
    assert "nothing asked for the guidance" in note


@pytest.mark.parametrize("settings", [{}, {"mask_options": call("SAGMaskOptions", strategy="inverse", decay=0.5)[0]}],
                         ids=["plain", "running average"])
def test_steps_of_attention_that_is_not_finite_are_sampled_unguided_and_the_others_guided(settings):
    tiny = models.sd15().sized(8, 8)
    spoilt = [0]  # the first evaluation; later ones are counted with the extra passes
    guided, trace = guide(without_attention_that_is_finite(tiny.model, steps=spoilt), **settings)
    out = sample(tiny, guided, steps=3)
    assert out.isfinite().all()
    assert [step.guided for step in only(trace).steps] == [True, True]
    assert only(trace).notes == ["some steps were not guided: the layer's attention is not finite (NaN)"]
    assert all(step.attn_map.isfinite().all() for step in only(trace).steps)


def test_attention_that_is_not_finite_changes_nothing_and_is_not_kept():
    tiny = models.sd15().sized(8, 8)
    spoilt = without_attention_that_is_finite(tiny.model)
    for node in (guide, record):
        patched, trace = node(spoilt)
        assert torch.equal(sample(tiny, patched), sample(tiny, spoilt))
        assert only(trace).steps == []
        (note,) = only(trace).notes
        assert "attention is not finite (NaN)" in note and "choose another layer" in note
