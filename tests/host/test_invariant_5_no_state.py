"""Nothing outlives a run except the trace the user asked for, and runs do not meet."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import comfy.utils
import pytest
import torch
from comfy.model_management import InterruptProcessingException
from torch.testing import assert_close

from tests.host import models
from tests.host.graph import guide, maps, only, record, sample
from tests.host.observe import MIDDLE, hooks_on, network_calls, new_tensors


@pytest.fixture
def tiny():
    return models.sd15()


def everything(options):
    """All that a model's options hold, by identity, for comparison."""
    if isinstance(options, dict):
        return {key: everything(value) for key, value in options.items()}
    return [everything(value) for value in options] if isinstance(options, list) else id(options)


@pytest.mark.parametrize("node", [guide, record], ids=["guidance", "recording"])
def test_invariant_5_a_run_leaves_model_and_options_as_they_were(tiny, node):
    before_plain, before_hooks = everything(tiny.model.model_options), hooks_on(tiny.model)
    patched, _ = node(tiny.model)
    assert everything(tiny.model.model_options) == before_plain
    before = everything(patched.model_options)
    for _ in range(2):
        sample(tiny, patched)
        assert everything(patched.model_options) == before
        assert hooks_on(tiny.model) == before_hooks == 0
    assert "optimized_attention_override" not in patched.model_options["transformer_options"]
    assert not patched.object_patches and not patched.injections


@pytest.mark.parametrize("node", [guide, record], ids=["guidance", "recording"])
def test_invariant_5_no_tensor_is_kept_but_the_maps(tiny, node):
    patched, trace = node(tiny.model)
    sample(tiny, patched)  # what the host keeps, it keeps from now on
    with new_tensors() as kept:
        sample(tiny, patched)
    recorded = [step.attn_map for step in only(trace).steps]
    assert {id(t) for t in kept} == {id(t) for t in recorded}
    for attn_map in recorded:
        assert attn_map.untyped_storage().nbytes() == 4 * 8 * 12
        assert attn_map.device.type == "cpu" and not attn_map.requires_grad


@pytest.mark.parametrize("at", range(2, 6), ids=["first extra pass", "main pass", "extra pass", "last main pass"])
def test_invariant_5_interrupt_in_the_middle_leaves_everything_clean(tiny, at):
    patched, trace = guide(tiny.model)
    expected = sample(tiny, patched, steps=3)
    expected_maps, options = maps(trace), everything(patched.model_options)
    entered = []

    def interrupt(module, args):
        entered.append(module)
        if len(entered) == at:
            raise InterruptProcessingException

    handle = tiny.model.model.diffusion_model.get_submodule(MIDDLE).attn1.register_forward_pre_hook(interrupt)
    with new_tensors() as kept:
        with pytest.raises(InterruptProcessingException):
            sample(tiny, patched, steps=3)
    handle.remove()
    assert not kept
    assert hooks_on(tiny.model) == 0 and everything(patched.model_options) == options
    assert trace.find(expected) is only(trace) and torch.equal(maps(trace), expected_maps)
    assert torch.equal(sample(tiny, patched, steps=3), expected)
    assert torch.equal(maps(trace), expected_maps)


def test_invariant_5_interrupt_between_steps_leaves_everything_clean(tiny):
    """As the server does it: what shows the progress raises when the user has cancelled."""
    patched, _ = guide(tiny.model)
    expected, options = sample(tiny, patched, steps=3), everything(patched.model_options)

    def cancel(*args, **kwargs):
        raise InterruptProcessingException

    comfy.utils.set_progress_bar_global_hook(cancel)
    try:
        with pytest.raises(InterruptProcessingException):
            sample(tiny, patched, steps=3)
    finally:
        comfy.utils.set_progress_bar_global_hook(None)
    assert hooks_on(tiny.model) == 0 and everything(patched.model_options) == options
    assert torch.equal(sample(tiny, patched, steps=3), expected)


def test_invariant_5_clones_of_one_model_do_not_disturb_each_other(tiny):
    weak, weak_trace = guide(tiny.model, scale=0.2)
    strong, strong_trace = guide(tiny.model, scale=2.0, layer="input.3", threshold=0.5)
    recorded, _ = record(tiny.model)
    order = (tiny.model, weak, strong, recorded)
    first = [sample(tiny, model) for model in order]
    weak_maps = maps(weak_trace)
    again = [sample(tiny, model) for model in reversed(order)][::-1]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert torch.equal(first[0], first[3])
    assert not torch.equal(first[0], first[1]) and not torch.equal(first[1], first[2])
    assert torch.equal(maps(weak_trace), weak_maps)
    assert only(strong_trace).steps[0].layer == "input.3" and only(weak_trace).steps[0].layer == "middle.0"


def test_invariant_5_two_guidances_on_one_model_add_up(tiny):
    once, _ = guide(tiny.model, scale=0.5)
    twice, outer_trace = guide(once, scale=0.25)
    sum_of_both, _ = guide(tiny.model, scale=0.75)
    with network_calls(tiny.model) as calls:
        out = sample(tiny, twice)
    assert [c.is_extra for c in calls] == [False, True, True] * 2
    assert_close(out, sample(tiny, sum_of_both), rtol=1e-4, atol=1e-3)
    assert len(only(outer_trace).steps) == 2


def test_invariant_5_recording_a_guided_model_records_what_guidance_saw(tiny):
    guided, guided_trace = guide(tiny.model)
    both, recorded_trace = record(guided)
    alone = sample(tiny, guided)
    assert torch.equal(sample(tiny, both), alone)
    assert torch.equal(maps(recorded_trace), maps(guided_trace))


def test_invariant_5_threads_with_their_own_models_do_not_mix():
    tinies = [models.sd15(), models.sdxl()]
    patched = [guide(tiny.model, threshold=0.9) for tiny in tinies]
    alone = [sample(tiny, model, steps=4) for tiny, (model, _) in zip(tinies, patched, strict=True)]
    alone_maps = [maps(trace) for _, trace in patched]
    together = threading.Barrier(2)

    def work(i):
        with torch.inference_mode():
            together.wait()
            return sample(tinies[i], patched[i][0], steps=4)

    with ThreadPoolExecutor(2) as pool:
        out = list(pool.map(work, range(2)))
    assert all(torch.equal(a, b) for a, b in zip(out, alone, strict=True))
    assert all(torch.equal(maps(trace), a) for (_, trace), a in zip(patched, alone_maps, strict=True))
