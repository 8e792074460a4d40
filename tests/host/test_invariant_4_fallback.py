"""A run never fails because of SAG: what cannot be recorded is not guided, is said once, and generation completes."""

from __future__ import annotations

import logging
import sys
from typing import NamedTuple

import comfy.conds
import comfy.model_management
import pytest
import torch
from comfy.patcher_extension import WrappersMP

from benchmarks.host import pack_module
from tests.host import models
from tests.host.features import halves
from tests.host.graph import call, guide, only, record, sample
from tests.host.observe import attention_calls, hooks_on, network_calls


@pytest.fixture
def warnings(caplog):
    """What this pack said in the log."""
    caplog.set_level(logging.WARNING)
    return lambda: [r.getMessage() for r in caplog.records if r.getMessage().startswith("SAG: ")]


def check_notes(trace, warnings, *parts: str) -> None:
    """The notes hold these parts, one each; the log said every note once."""
    notes = only(trace).notes
    assert len(notes) == len(parts)
    for note, part in zip(notes, parts, strict=True):
        assert part in note
    assert warnings() == [f"SAG: {note}" for note in notes]


@pytest.mark.parametrize("node", [guide, record], ids=["guidance", "recording"])
def test_invariant_4_model_without_recordable_attention_is_sampled_as_it_is(node, warnings):
    tiny = models.no_attention()
    expected = sample(tiny)
    patched, trace = node(tiny.model)
    with network_calls(tiny.model) as calls:
        assert torch.equal(sample(tiny, patched), expected)
    assert len(calls) == 2
    check_notes(trace, warnings, "no self-attention that can be recorded")
    image, mask = call("SAGMaskPreview", trace=trace, latent={"samples": expected}, step=-1, style="heatmap")
    assert not image.any() and not mask.any()
    assert warnings()[-1].startswith("SAG: the trace has no steps: BaseModel has no self-attention that can")


def test_invariant_4_a_second_run_is_told_again(warnings):
    tiny = models.no_attention()
    patched, _ = guide(tiny.model)
    sample(tiny, patched)
    sample(tiny, patched)
    assert len(warnings()) == 2


@pytest.mark.parametrize(("layer", "used"), [("output.3", "middle.0"), ("output.3, input.3", "middle.0")])
def test_invariant_4_layer_that_vanished_since_the_node_ran_falls_back_to_auto(layer, used, warnings):
    """Another node may put another network into the model after this one was chosen for."""
    tiny = models.sd15()
    guided, trace = guide(tiny.model, layer=layer)
    smaller = models.sd15(transformer_depth_output=[0, 0, 1, 1]).model
    guided.add_object_patch("diffusion_model", smaller.model.diffusion_model)
    expected, auto_trace = guide(smaller)
    assert torch.equal(sample(tiny, guided), sample(tiny, expected))
    assert {step.layer for step in only(trace).steps} == {used}
    check_notes(trace, warnings, "layer is 'output.3'")
    assert only(auto_trace).notes == []


def test_invariant_4_model_that_lost_all_attention_since_the_node_ran(warnings):
    tiny = models.sd15()
    guided, trace = guide(tiny.model)
    bare = models.no_attention()
    guided.add_object_patch("diffusion_model", bare.model.model.diffusion_model)
    assert torch.equal(sample(tiny, guided), sample(bare))
    check_notes(trace, warnings, "no self-attention that can be recorded")


def merge_tokens(model):
    return call("TomePatchModel", model=model, ratio=0.5)[0]


def tile(model):
    return call("HyperTile", model=model, tile_size=64, swap_size=1, max_depth=0, scale_depth=False)[0]


def thin_out(model):
    """Every other token attends to every other token."""
    model = model.clone()
    model.set_model_attn1_patch(lambda q, k, v, options: (q[:, ::2], k[:, ::2], v[:, ::2]))
    model.set_model_attn1_output_patch(lambda out, options: out.repeat_interleave(2, dim=1))
    return model


def cache(node):
    settings = {"reuse_threshold": 3.0, "start_percent": 0.0, "end_percent": 1.0, "verbose": False}
    return lambda model: call(node, model=model, **settings)[0]


def combine(first, model, other, **settings):
    """Guidance and another node on a model, in either order: (MODEL, trace)."""
    if first == "other":
        return guide(other(model), **settings)
    guided, trace = guide(model, **settings)
    return other(guided), trace


@pytest.mark.parametrize("first", ["sag", "other"])
@pytest.mark.parametrize("other", [merge_tokens, tile, thin_out], ids=["ToMe", "HyperTile", "tokens left out"])
def test_invariant_4_tokens_merged_or_tiled_by_another_node_are_not_guided(other, first, warnings):
    tiny = models.sd15()
    torch.manual_seed(0)
    expected = sample(tiny, other(tiny.model))
    guided, trace = combine(first, tiny.model, other, layer="input.1")
    torch.manual_seed(0)
    assert torch.equal(sample(tiny, guided), expected)
    assert not torch.equal(expected, sample(tiny))  # the other node did act
    check_notes(trace, warnings, "layer input.1 could not be recorded", "no attention map", "nothing was recorded")


@pytest.mark.parametrize("other", [merge_tokens, tile], ids=["ToMe", "HyperTile"])
def test_invariant_4_layers_that_others_leave_alone_are_guided(other, warnings):
    tiny = models.sd15()
    guided, trace = guide(other(tiny.model))
    sample(tiny, guided)
    assert [step.guided for step in only(trace).steps] == [True, True]
    check_notes(trace, warnings)


@pytest.mark.parametrize("first", ["sag", "other"])
@pytest.mark.parametrize(("node", "notes"), [("EasyCache", ["no attention map"]), ("LazyCache", [])])
def test_invariant_4_steps_that_a_cache_skips_are_not_guided(node, notes, first, warnings):
    tiny = models.sd15()
    with attention_calls(tiny.model) as (watched, calls):
        guided, trace = combine(first, watched, cache(node))
        out = sample(tiny, guided, steps=6)
    steps = only(trace).steps
    assert out.isfinite().all()
    assert 0 < len(steps) < 6 and all(step.guided for step in steps)
    assert [c.is_extra for c in calls if c.q is not None] == [False, True] * len(steps)
    check_notes(trace, warnings, *notes)


def again(apply_model, args):
    """Runs the network twice on the whole sample and takes the mean."""
    return (apply_model(args["input"], args["timestep"], **args["c"])
            + apply_model(args["input"], args["timestep"], **args["c"])) / 2


@pytest.mark.parametrize("wrapper", [halves, again])
def test_invariant_4_network_that_is_run_on_parts_is_not_guided(wrapper, warnings):
    """The last tile's map is no map of the sample."""
    tiny = models.sd15()
    cut = tiny.model.clone()
    cut.set_model_unet_function_wrapper(wrapper)
    guided, trace = guide(cut)
    assert torch.equal(sample(tiny, guided), sample(tiny, cut))
    assert only(trace).steps == []
    check_notes(trace, warnings, "run on parts of the sample", "some steps gave no attention map",
                "nothing was recorded")


def test_invariant_4_tiles_that_are_cut_inside_the_network_are_not_guided(warnings):
    def halves_inside(executor, x, *args, **kwargs):
        left, right = x.chunk(2, dim=-1)
        return torch.cat([executor(left, *args, **kwargs), executor(right, *args, **kwargs)], dim=-1)

    tiny = models.sd15().sized(8, 16)
    cut = tiny.model.clone()
    cut.add_wrapper(WrappersMP.DIFFUSION_MODEL, halves_inside)
    guided, trace = guide(cut)
    assert torch.equal(sample(tiny, guided), sample(tiny, cut))
    assert only(trace).steps == [] and "run on parts of the sample" in only(trace).notes[0]


def test_invariant_4_own_copies_that_fail_cost_no_generation(monkeypatch, warnings):
    def out_of_memory(conds):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    tiny = models.sd15()
    guided, trace = guide(tiny.model)
    monkeypatch.setattr(pack_module("host.run"), "own_copies", out_of_memory)
    assert torch.equal(sample(tiny, guided), sample(tiny))
    check_notes(trace, warnings, "ran out of memory")


def test_invariant_4_conditions_of_types_of_others_are_handed_on_as_they_are():
    class Pair(NamedTuple):
        first: torch.Tensor
        second: int

    seen = []

    def look(executor, x, t, c_concat, c_crossattn, control, transformer_options, **kwargs):
        seen.append(kwargs.pop("pair"))
        return executor(x, t, c_concat, c_crossattn, control, transformer_options, **kwargs)

    tiny = models.sd15()
    pair = Pair(torch.zeros(1), 2)
    model = tiny.model.clone()
    model.add_wrapper(WrappersMP.APPLY_MODEL, look)
    extra = tiny.model.model.extra_conds
    tiny.model.model.extra_conds = lambda **kwargs: extra(**kwargs) | {"pair": comfy.conds.CONDConstant(pair)}
    try:
        guided, trace = guide(model)
        sample(tiny, guided)
    finally:
        del tiny.model.model.extra_conds
    assert all(step.guided for step in only(trace).steps)
    assert len(seen) == 4 and all(type(value) is Pair for value in seen)


def test_invariant_4_recorder_that_fails_costs_no_generation(monkeypatch, warnings):
    """A full GPU, for one."""
    def out_of_memory(*args):
        raise torch.OutOfMemoryError("no memory left")

    tiny = models.sd15()
    guided, trace = guide(tiny.model)
    monkeypatch.setattr(pack_module("host.attention"), "column_mass", out_of_memory)
    assert torch.equal(sample(tiny, guided), sample(tiny))
    check_notes(trace, warnings, "OutOfMemoryError: no memory left", "some steps gave no attention map",
                "nothing was recorded")


def out_of_memory(out):
    raise torch.cuda.OutOfMemoryError("CUDA out of memory")


def fails(out):
    raise ValueError("not made for this pass")


def overflows(out):
    return out * float("nan")


FAULTS = {"OOM": (out_of_memory, "ran out of memory"), "error": (fails, "not made for this pass"),
          "NaN": (overflows, "not finite")}


def with_faulty_extra_pass(model, fault, at: tuple[int, ...] | None = None):
    """A model whose extra passes go wrong, all of them or those of these places among them."""
    passes = []

    def wrapper(apply_model, args):
        out = apply_model(args["input"], args["timestep"], **args["c"])
        if not args["c"]["transformer_options"].get("sag_pass"):
            return out
        passes.append(None)
        return fault(out) if at is None or len(passes) - 1 in at else out

    model = model.clone()
    model.set_model_unet_function_wrapper(wrapper)
    return model


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("build", [models.sd15, models.flux], ids=["U-Net", "DiT"])
def test_invariant_4_extra_pass_that_goes_wrong_costs_no_generation(build, fault, warnings):
    tiny = build()
    guided, trace = guide(with_faulty_extra_pass(tiny.model, FAULTS[fault][0]))
    assert torch.equal(sample(tiny, guided, steps=3), sample(tiny, steps=3))
    assert [step.guided for step in only(trace).steps] == [False] * 3
    check_notes(trace, warnings, FAULTS[fault][1])
    assert hooks_on(tiny.model) == 0


@pytest.mark.parametrize("fault", FAULTS)
def test_invariant_4_steps_beside_the_one_that_goes_wrong_are_guided(fault, warnings):
    tiny = models.sd15()
    guided, trace = guide(with_faulty_extra_pass(tiny.model, FAULTS[fault][0], at=(1,)))
    assert sample(tiny, guided, steps=3).isfinite().all()
    assert [step.guided for step in only(trace).steps] == [True, False, True]
    check_notes(trace, warnings, FAULTS[fault][1])


def test_invariant_4_what_the_failed_pass_allocated_is_freed(monkeypatch):
    """Before the next pass needs the room."""
    emptied = []
    monkeypatch.setattr(comfy.model_management, "soft_empty_cache", lambda *_: emptied.append(sys.exc_info()[0]))
    tiny = models.sd15()
    guided, _ = guide(with_faulty_extra_pass(tiny.model, out_of_memory))
    sample(tiny, guided, steps=2)
    assert emptied.count(None) >= 2  # outside of the handler, which keeps what the error holds


def test_invariant_4_cancelling_in_the_extra_pass_cancels(warnings):
    def cancel(out):
        raise comfy.model_management.InterruptProcessingException

    tiny = models.sd15()
    guided, _ = guide(with_faulty_extra_pass(tiny.model, cancel))
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        sample(tiny, guided)
    assert warnings() == [] and hooks_on(tiny.model) == 0


def test_invariant_4_maps_that_cannot_be_put_together_cost_no_generation(monkeypatch, warnings):
    def no_room(*args):
        raise RuntimeError("no room")

    tiny = models.sd15()
    guided, trace = guide(tiny.model)
    monkeypatch.setattr(pack_module("host.run"), "combine", no_room)
    assert torch.equal(sample(tiny, guided), sample(tiny))
    check_notes(trace, warnings, "could not be put together: no room", "no attention map", "nothing was recorded")
