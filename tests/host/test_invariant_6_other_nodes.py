"""Other nodes keep working: what they own is called, not displaced, in whatever order nodes were added."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from tests.host import models
from tests.host.graph import call, guide, maps, only, record, sample
from tests.host.observe import network_calls

ORDERS = pytest.mark.parametrize("first", ["sag", "other"])
CLOSE = {"rtol": 1e-4, "atol": 2e-3}  # samples are in the hundreds


@pytest.fixture
def tiny():
    return models.sd15()


def perturb(model):
    return call("PerturbedAttentionGuidance", model=model, scale=1.0)[0]


def builtin(model):
    return call("SelfAttentionGuidance", model=model, scale=0.3, blur_sigma=2.0)[0]


def combine(first, model, other, patch=guide, **inputs):
    """This pack's node and another on a model, in either order: (MODEL, trace)."""
    if first == "other":
        return patch(other(model), **inputs)
    patched, trace = patch(model, **inputs)
    return other(patched), trace


@ORDERS
def test_invariant_6_pag_on_the_same_block_adds_what_it_adds_alone(tiny, first):
    base, pag, sag = (sample(tiny, m, steps=1) for m in (tiny.model, perturb(tiny.model), guide(tiny.model)[0]))
    both, trace = combine(first, tiny.model, perturb)
    with network_calls(tiny.model) as calls:
        out = sample(tiny, both, steps=1)
    assert_close(out - base, (pag - base) + (sag - base), **CLOSE)
    assert (pag - base).abs().max() > 1 and (sag - base).abs().max() > 1
    assert [c.is_extra for c in calls] == [False, *([False, True] if first == "other" else [True, False])]
    assert len(only(trace).steps) == 1


@ORDERS
def test_invariant_6_recording_leaves_pag_bit_identical_and_its_pass_unrecorded(tiny, first):
    both, trace = combine(first, tiny.model, perturb, record)
    assert torch.equal(sample(tiny, both), sample(tiny, perturb(tiny.model)))
    alone, alone_trace = record(perturb(tiny.model))
    sample(tiny, alone)
    assert torch.equal(maps(trace), maps(alone_trace))


@ORDERS
def test_invariant_6_builtin_sag_on_the_same_block_acts_too(tiny, first):
    base, stock, sag = (sample(tiny, m, steps=1) for m in (tiny.model, builtin(tiny.model), guide(tiny.model)[0]))
    both, _ = combine(first, tiny.model, builtin)
    out = sample(tiny, both, steps=1)
    assert_close(out - base, (stock - base) + (sag - base), **CLOSE)
    assert all((out - other).abs().max() > 1 for other in (base, stock, sag))


class Observer:
    """A node that owns the middle block's attention in order to see it, and guides by what it saw last."""

    def __init__(self, compute):
        self.compute, self.seen = compute, []

    def __call__(self, model):
        model = model.clone()
        model.set_model_attn1_replace(self.attend, "middle", 0, 0)
        model.set_model_sampler_post_cfg_function(self.guide)
        return model

    def attend(self, q, k, v, extra_options):
        self.seen.append(q.abs().mean().item())
        return self.compute(q, k, v, extra_options["n_heads"])

    def guide(self, args):
        return args["denoised"] * (1 + 0.1 * self.seen[-1])


def by_softmax(q, k, v, heads):
    """Attention as its definition says, for a look at the probabilities."""
    q, k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q, k, v))
    probabilities = torch.softmax(q @ k.mT / q.shape[-1] ** 0.5, dim=-1)
    return (probabilities @ v).transpose(1, 2).flatten(2)


@ORDERS
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_invariant_6_whoever_observes_a_layers_attention_does_not_see_the_extra_pass(first, dtype):
    """Whatever it is called: a copy of the built-in node in another pack, for one."""
    tiny = models.sd15(dtype)
    alone, beside = Observer(by_softmax), Observer(by_softmax)
    sample(tiny, alone(tiny.model), steps=1)
    both, trace = combine(first, tiny.model, beside)
    sample(tiny, both, steps=1)
    assert beside.seen == alone.seen
    assert only(trace).steps[0].guided


def later_images(q, k, v, heads):
    out = by_softmax(q, k, v, heads)
    out[1:] *= 0.5
    return out


def last_token(q, k, v, heads):
    out = by_softmax(q, k, v, heads)
    out[:, -1] *= 0.5
    return out


@ORDERS
@pytest.mark.parametrize("compute", [later_images, last_token])
def test_invariant_6_whoever_changes_attention_anywhere_acts_in_the_extra_pass(tiny, first, compute):
    observer = Observer(compute)
    both, _ = combine(first, tiny.model, observer)
    sample(tiny, both, steps=1)
    assert len(observer.seen) == 2


@ORDERS
def test_invariant_6_an_observer_that_begins_to_act_acts_in_the_extra_pass(tiny, first):
    """It is judged at every step by what it computes, not once and not by its name."""
    steps = []

    def later(q, k, v, heads):
        steps.append(None)
        return by_softmax(q, k, v, heads) * (1 if len(steps) == 1 else 0.5)

    both, trace = combine(first, tiny.model, Observer(later))
    sample(tiny, both, steps=2)
    assert len(steps) == 3  # of the second step both passes
    assert [step.guided for step in only(trace).steps] == [True, True]


@ORDERS
def test_invariant_6_recording_leaves_builtin_sag_bit_identical(tiny, first):
    both, trace = combine(first, tiny.model, builtin, record)
    assert torch.equal(sample(tiny, both), sample(tiny, builtin(tiny.model)))
    alone, alone_trace = record(tiny.model)
    sample(tiny, alone, steps=1)
    assert_close(maps(trace)[0], maps(alone_trace)[0])


def watching(kind, seen):
    """A node that owns the attention (`override`, or replacement of the middle block's under either key)."""
    from comfy.ldm.modules.attention import optimized_attention

    def owner(q, k, v, extra_options):
        seen.append((q.double().sum().item(), k.double().sum().item()))
        return 0.5 * optimized_attention(q, k, v, extra_options["n_heads"])

    def override(func, q, k, v, *args, **kwargs):
        seen.append((q.double().sum().item(), k.double().sum().item()))
        return 0.5 * func(q, k, v, *args, **kwargs)

    def node(model):
        model = model.clone()
        if kind == "override":
            model.model_options["transformer_options"]["optimized_attention_override"] = override
        elif kind == "block":
            model.set_model_attn1_replace(owner, "middle", 0)
        else:
            model.set_model_attn1_replace(owner, "middle", 0, 0)
        return model

    return node


@ORDERS
@pytest.mark.parametrize("kind", ["override", "block", "transformer"])
def test_invariant_6_owners_of_attention_are_called_with_the_same_q_and_k(tiny, kind, first):
    alone_seen, seen = [], []
    expected = sample(tiny, watching(kind, alone_seen)(tiny.model))
    both, trace = combine(first, tiny.model, watching(kind, seen), record)
    assert torch.equal(sample(tiny, both), expected)
    assert not torch.equal(expected, sample(tiny))
    assert seen == alone_seen and len(seen) == 2 * (14 if kind == "override" else 1)
    assert len(only(trace).steps) == 2


@ORDERS
@pytest.mark.parametrize("kind", ["override", "block", "transformer"])
def test_invariant_6_owners_of_attention_act_in_the_extra_pass(tiny, kind, first):
    seen = []
    both, _ = combine(first, tiny.model, watching(kind, seen))
    sample(tiny, both, steps=1)
    assert len(seen) == 2 * (14 if kind == "override" else 1)


def test_invariant_6_wrappers_of_the_network_see_both_passes(tiny):
    seen = []

    def wrapper(apply_model, args):
        seen.append(bool(args["c"]["transformer_options"].get("sag_pass")))
        return 0.9 * apply_model(args["input"], args["timestep"], **args["c"])

    model = tiny.model.clone()
    model.set_model_unet_function_wrapper(wrapper)
    guided, _ = guide(model)
    sample(tiny, guided)
    assert seen == [False, True, False, True]


def test_invariant_6_guidance_takes_its_place_in_the_chain_of_other_nodes(tiny):
    before, after = [], []

    def watch(seen):
        return lambda args: seen.append(args["denoised"]) or args["denoised"]

    model = tiny.model.clone()
    model.set_model_sampler_post_cfg_function(watch(before))
    model, _ = guide(model)
    model.set_model_sampler_post_cfg_function(watch(after))
    out = sample(tiny, model, steps=1)
    assert_close(tiny.model.model.process_latent_out(before[0]), sample(tiny, steps=1), **CLOSE)
    assert_close(tiny.model.model.process_latent_out(after[0]), out, **CLOSE)
    assert (before[0] - after[0]).abs().max() > 1
