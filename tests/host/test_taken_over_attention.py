"""Another node computes a layer's self-attention by itself: attention to the text is never taken for it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from tests.host.families import FAMILIES
from tests.host.graph import guide, only, sample
from tests.host.models import Tiny
from tests.host.observe import hooks_on

# Families that also attend to the text, and how the modules of their self-attention are called.
SELF_ATTENTION = {
    "Stable Diffusion 1.x": "attn1", "SDXL": "attn1", "PixArt sigma": "attn", "HunyuanDiT 1.2": "attn1",
    "Anima": "self_attn", "Kandinsky 5 image": "self_attention", "Wan 2.1 T2V, Wan 2.2 T2V 14B": "self_attn",
    "LTXV": "attn1", "Cosmos 1": "blocks.0"}


@contextmanager
def own_kernel(network, name: str) -> Iterator[list]:
    """A node's kernel instead of the host's attention, in all self-attention of a network: the same, computed apart."""
    inside, calls = [], []
    hooks = [hook for path, module in network.named_modules() if f".{path}".endswith(f".{name}") for hook in (
        module.register_forward_pre_hook(lambda *_: inside.append(True)),
        module.register_forward_hook(lambda *_: inside.pop() and None))]
    users = {module: module.optimized_attention for module in list(sys.modules.values())
             if getattr(module, "__name__", "").startswith("comfy.ldm") and hasattr(module, "optimized_attention")}

    def kernel(host):
        def attend(q, k, v, heads, *args, **kwargs):
            if not inside:
                return host(q, k, v, heads, *args, **kwargs)
            calls.append(q.shape)
            if not kwargs.get("skip_reshape"):
                q, k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q, k, v))
            out = F.scaled_dot_product_attention(q, k, v)
            return out if kwargs.get("skip_output_reshape") else out.transpose(1, 2).flatten(2)

        return attend

    try:
        for module, host in users.items():
            module.optimized_attention = kernel(host)
        yield calls
    finally:
        for module, host in users.items():
            module.optimized_attention = host
        for hook in hooks:
            hook.remove()


def with_tokens(tiny: Tiny, count: int) -> Tiny:
    """The prompts, made as long as asked for; HunyuanDiT's have a length of their own, longer than its image."""
    if type(tiny.model.model).__name__ == "HunyuanDiT":
        return tiny

    def longer(prompt: list) -> list:
        mask = {"attention_mask": torch.ones(1, count, dtype=torch.long)}
        return [[states.repeat(1, -(-count // states.shape[1]), 1)[:, :count],
                 options | (mask if "attention_mask" in options else {})] for states, options in prompt]

    return replace(tiny, positive=longer(tiny.positive), negative=longer(tiny.negative))


@pytest.mark.parametrize("more", [0, 5])
@pytest.mark.parametrize("family", SELF_ATTENTION)
def test_self_attention_that_another_node_computes_is_not_guided_and_said(family, more):
    kind = FAMILIES[family]
    tiny = kind.at(kind.build(), kind.square)
    guided, trace = guide(tiny.model)
    sample(tiny, guided, steps=1)
    tokens = only(trace).steps[0].attn_map[0].numel()
    tiny = with_tokens(tiny, tokens + more)
    with own_kernel(tiny.model.model.diffusion_model, SELF_ATTENTION[family]) as calls:
        expected = sample(tiny)
        assert torch.equal(sample(tiny, guided), expected)
    assert calls and only(trace).steps == []
    assert "another node computes its self-attention" in only(trace).notes[0]
    assert hooks_on(tiny.model) == 0


@pytest.mark.parametrize("family", SELF_ATTENTION)
def test_with_a_text_of_as_many_tokens_as_the_image_self_attention_is_recorded(family):
    kind = FAMILIES[family]
    tiny = kind.at(kind.build(), kind.square)
    guided, trace = guide(tiny.model)
    sample(tiny, guided, steps=1)
    tiny = with_tokens(tiny, only(trace).steps[0].attn_map[0].numel())
    sample(tiny, guided, steps=1)
    (step,) = only(trace).steps
    assert step.guided and only(trace).notes == []


@pytest.mark.parametrize("name", ["attn1", "attn2"])
def test_a_module_that_another_node_put_in_the_place_of_attention_is_called_and_is_no_hindrance(name):
    """The second attention of a block may be computed by anything; of the first, what it sees is recorded."""
    tiny = FAMILIES["Stable Diffusion 1.x"].build()
    network = tiny.model.model.diffusion_model
    block = network.middle_block[1].transformer_blocks[0]
    host = getattr(block, name)

    class Wrapped(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.calls = 0
            self.inner = host

        def forward(self, *args, **kwargs):
            self.calls += 1
            return self.inner(*args, **kwargs)

    wrapped = Wrapped()
    guided, trace = guide(tiny.model)
    setattr(block, name, wrapped)
    try:
        sample(tiny, guided, steps=1)
    finally:
        setattr(block, name, host)
    assert wrapped.calls and [step.guided for step in only(trace).steps] == [True]


@pytest.mark.parametrize("tokens", [4, 5])
def test_attention_that_another_node_puts_before_it_is_not_taken_for_it(tokens):
    """To an image prompt, for one, from a place where the host lets nodes edit queries and keys."""
    from comfy.ldm.modules.attention import optimized_attention

    tiny = FAMILIES["Flux.1 dev"].at(FAMILIES["Flux.1 dev"].build(), FAMILIES["Flux.1 dev"].square)
    calls = []

    def prompt(q, k, v, pe=None, attn_mask=None, extra_options=None):
        keys = k[:, :, :tokens]
        calls.append(optimized_attention(q, keys, v[:, :, :tokens], q.shape[1], skip_reshape=True,
                                         transformer_options=extra_options))
        return {"q": q, "k": k, "v": v, "pe": pe}

    plain, expected = guide(tiny.model, layer="block.1")
    sample(tiny, plain, steps=1)
    patched = tiny.model.clone()
    patched.set_model_patch(prompt, "attn1_patch")
    guided, trace = guide(patched, layer="block.1")
    sample(tiny, guided, steps=1)
    assert calls
    assert torch.equal(only(trace).steps[0].attn_map, only(expected).steps[0].attn_map)
