"""Other nodes may edit in place every tensor they can reach; guidance is that of the model's own prediction."""

from __future__ import annotations

import pytest
import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from tests.host import models
from tests.host.features import FAMILIES, node
from tests.host.graph import call, guide, sample
from tests.host.test_compatibility_windows import wan

WINDOWS = node("ContextWindowsManual", context_length=3, context_overlap=1, context_stride=1, dim=2, freenoise=False,
               context_schedule="standard_static", closed_loop=False, fuse_method="pyramid", causal_window_fix=False)
MODELS = FAMILIES | {"windows": wan}


@pytest.fixture(params=MODELS)
def model(request):
    """A tiny model, and its MODEL, in context windows where the parameter says so."""
    tiny = MODELS[request.param]()
    return tiny, WINDOWS(tiny.model) if request.param == "windows" else tiny.model


def halve(prediction: Tensor) -> Tensor:
    prediction[prediction.abs() > 0.1] *= 0.5
    return prediction


def branches_before_cfg(args: dict) -> list[Tensor]:
    return [halve(out) for out in args["conds_out"] if out is not None]


def branches_after_cfg(args: dict) -> Tensor:
    halve(args["cond_denoised"])
    if args["uncond_denoised"] is not None:
        halve(args["uncond_denoised"])
    return args["denoised"]


def result_after_cfg(args: dict) -> Tensor:
    return halve(args["denoised"])


def on_copies(edit):
    """The edit by a node that copies what it edits."""
    def edit_copies(args: dict):
        def copied(value):
            if isinstance(value, Tensor):
                return value.clone()
            return [None if part is None else part.clone() for part in value] if isinstance(value, list) else value

        predictions = ("conds_out", "cond_denoised", "uncond_denoised", "denoised")
        return edit({key: copied(value) if key in predictions else value for key, value in args.items()})

    return edit_copies


HOOKS = {"pre-CFG": ("set_model_sampler_pre_cfg_function", branches_before_cfg),
         "post-CFG, branches": ("set_model_sampler_post_cfg_function", branches_after_cfg),
         "post-CFG, result": ("set_model_sampler_post_cfg_function", result_after_cfg)}


@pytest.mark.parametrize("first", ["sag", "other"])
@pytest.mark.parametrize("hook", HOOKS)
def test_a_node_that_edits_predictions_in_place_is_as_one_that_edits_copies(model, hook, first):
    tiny, plain = model
    method, edit = HOOKS[hook]

    def sampled(edit, guided: bool) -> Tensor:
        patched = plain.clone()
        if guided and first == "sag":
            patched, _ = guide(patched)
        getattr(patched, method)(edit)
        if guided and first == "other":
            patched, _ = guide(patched)
        return sample(tiny, patched)

    assert torch.equal(sampled(edit, guided=False), sampled(on_copies(edit), guided=False))
    assert torch.equal(sampled(edit, guided=True), sampled(on_copies(edit), guided=True))
    assert not torch.equal(sampled(edit, guided=True), sampled(edit, guided=False))


def tensors_in(value) -> list[Tensor]:
    """Every tensor in the conds a node is handed."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        value = value.values()
    elif hasattr(value, "cond"):
        value = [value.cond]
    elif not isinstance(value, list | tuple):
        return []
    return [tensor for part in value for tensor in tensors_in(part)]


REACHED = {
    "noisy sample": lambda args: [args["input"]],
    "noise level": lambda args: [args["sigma"]],
    "conditionings": lambda args: tensors_in([cond["model_conds"] for name in ("cond", "uncond")
                                              for cond in args[name] or ()]),
}


@pytest.mark.parametrize("cfg", [3.0, 1.0])
@pytest.mark.parametrize("reached", REACHED)
def test_what_the_model_was_asked_is_asked_again_whatever_was_done_to_it_meanwhile(model, reached, cfg):
    """One node edits what it reaches before guidance acts, another brings it back afterwards."""
    tiny, plain = model
    kept = []

    def disturb(args: dict) -> Tensor:
        kept[:] = [(tensor, tensor.clone()) for tensor in REACHED[reached](args)]
        assert kept
        for tensor, _ in kept:
            tensor.mul_(0.5)
        return args["denoised"]

    def restore(args: dict) -> Tensor:
        for tensor, before in kept:
            tensor.copy_(before)
        return args["denoised"]

    patched = plain.clone()
    patched.set_model_sampler_post_cfg_function(disturb)
    patched, _ = guide(patched)
    patched.set_model_sampler_post_cfg_function(restore)
    undisturbed, _ = guide(plain)
    assert torch.equal(sample(tiny, patched, cfg=cfg), sample(tiny, undisturbed, cfg=cfg))


@pytest.mark.parametrize("kind", [WrappersMP.PREDICT_NOISE, WrappersMP.CALC_COND_BATCH, WrappersMP.APPLY_MODEL])
def test_wrappers_that_edit_what_they_hand_back_in_place_are_as_those_that_edit_copies(kind):
    tiny = models.sd15()

    def wrapper(copies: bool):
        def edit(out):
            if isinstance(out, list):
                return [edit(part) for part in out]
            return None if out is None else halve(out.clone() if copies else out)

        return lambda executor, *args, **kwargs: edit(executor(*args, **kwargs))

    def sampled(copies: bool) -> Tensor:
        model, _ = guide(tiny.model)
        model.add_wrapper(kind, wrapper(copies))
        return sample(tiny, model)

    assert torch.equal(sampled(copies=False), sampled(copies=True))


def test_a_mask_that_is_edited_after_the_node_ran_is_the_one_it_was_given():
    tiny = models.sd15()
    mask = torch.zeros(1, 16, 24)
    mask[:, 4:12, 6:18] = 1
    (options,) = call("SAGMaskOptions", strategy="self-attention", mask=mask, combine="replace")
    guided, _ = guide(tiny.model, mask_options=options)
    expected = sample(tiny, guided)
    mask.zero_()
    assert torch.equal(sample(tiny, guided), expected)


def test_a_guided_step_copies_the_prediction_once_and_one_that_is_not_guided_never():
    tiny = models.sd15()
    copied = []

    class Counted(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            if function is torch.ops.aten.clone.default and args[0].shape == tiny.latent.shape:
                copied.append(args[0])
            return function(*args, **(kwargs or {}))

    def copies(model) -> int:
        copied.clear()
        with torch.inference_mode(False), torch.no_grad(), Counted():
            sample(tiny, model, steps=1)
        return len(copied)

    plain = copies(tiny.model)
    assert copies(guide(tiny.model, start_percent=1.0)[0]) == plain
    assert copies(guide(tiny.model, scale=0)[0]) == plain
    assert copies(guide(tiny.model)[0]) == plain + 2  # the prediction, and the sample it is of
