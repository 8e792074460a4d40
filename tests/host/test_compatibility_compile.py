"""torch.compile: a compiled model is guided as one that is not, and no run compiles what another has compiled."""

from __future__ import annotations

import os
import shutil

import comfy.ldm.flux.math
import comfy.ldm.modules.attention
import pytest
import torch
from comfy_api.torch_helpers import set_torch_compile_wrapper
from comfy_extras.nodes_torch_compile import skip_torch_compile_dict
from torch._dynamo.utils import counters
from torch.testing import assert_close

from tests.host import models
from tests.host.features import FAMILIES, Row, combine, follow, node
from tests.host.graph import guide, maps, record, sample


def one_level():
    """A U-Net that is soon compiled: it attends in the middle block alone."""
    return models.sd15(transformer_depth=[0], transformer_depth_output=[0, 0], channel_mult=[1], num_res_blocks=[1])


BUILDS = dict(zip(FAMILIES, (one_level, models.flux), strict=True))


def compiled(model):
    """What the node does, with a backend that takes no C++ compiler."""
    model = model.clone(disable_dynamic=True)
    set_torch_compile_wrapper(model=model, backend="eager", options={"guard_filter_fn": skip_torch_compile_dict})
    return model


@pytest.fixture(autouse=True)
def _nothing_is_compiled_yet():
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


@pytest.fixture(params=FAMILIES)
def family(request, monkeypatch):
    """Attention is that of a GPU, which can be part of a compiled network."""
    for module in (comfy.ldm.modules.attention, comfy.ldm.flux.math):
        monkeypatch.setattr(module, "optimized_attention", comfy.ldm.modules.attention.attention_pytorch)
    return request.param


def compilations() -> int:
    """How often a function has been compiled."""
    return counters["frames"]["ok"]


def assert_as_uncompiled(tiny, model, patch=guide, **inputs):
    """A compiled model is sampled, guided or recorded as one that is not."""
    (patched, trace), (expected, expected_trace) = patch(model), patch(tiny.model)
    run, wanted = follow(tiny, patched, trace, **inputs), sample(tiny, expected, **inputs)
    assert_close(run.out, wanted, rtol=0, atol=1e-4 * wanted.abs().max().item())
    assert run.notes == [] and len(run.steps) == 2 and all(step.guided == (patch is guide) for step in run.steps)
    assert_close(maps(trace), maps(expected_trace), rtol=1e-3, atol=1e-3)
    return run


@pytest.fixture(scope="module")
def row():
    row = Row("torch.compile", "TorchCompileModel")
    yield row
    if row.is_whole:  # not where pytest was asked for some of the tests
        row.check("as without, but for rounding; further runs compile nothing")


def test_runs_of_a_compiled_model(row, family):
    """What is compiled for plain runs is not taken for guided ones, or does for them; those add nothing each time."""
    tiny = BUILDS[family]()
    model, plain, counts = compiled(tiny.model), sample(tiny), []
    assert_close(sample(tiny, model), plain, rtol=0, atol=1e-4 * plain.abs().max().item())
    for _ in range(4):
        row.add(family, assert_as_uncompiled(tiny, model))
        counts.append(compilations())
    assert counts == counts[:1] * 4
    assert_as_uncompiled(tiny, model, record)
    assert_close(sample(tiny, model), plain, rtol=0, atol=1e-4 * plain.abs().max().item())


def test_guided_runs_come_first(family):
    """What is compiled for guided runs does for plain ones. At CFG 1 both passes of a step have the same shape."""
    tiny = BUILDS[family]()
    model, plain = compiled(tiny.model), sample(tiny, cfg=1.0)
    for _ in range(2):
        assert_as_uncompiled(tiny, model, cfg=1.0)
    assert compilations()
    assert_close(sample(tiny, model, cfg=1.0), plain, rtol=0, atol=1e-4 * plain.abs().max().item())


def test_a_guided_model_is_compiled(family):
    tiny = BUILDS[family]()
    (guided, trace), expected = combine("sag", tiny.model, compiled), sample(tiny, guide(tiny.model)[0])
    for _ in range(2):
        run = follow(tiny, guided, trace)
        assert run.is_guided and len(run.steps) == 2 and compilations()
        assert_close(run.out, expected, rtol=0, atol=1e-4 * expected.abs().max().item())


def test_attention_that_cannot_be_compiled():
    """On a CPU the host's attention looks at the free memory, and the network is compiled in pieces."""
    tiny = one_level()
    assert_as_uncompiled(tiny, compiled(tiny.model), cfg=1.0)


@pytest.mark.skipif("SAG_TEST_INDUCTOR" not in os.environ or not shutil.which("c++"),
                    reason="takes minutes and a C++ compiler; SAG_TEST_INDUCTOR=1 runs it")
def test_inductor(family):
    tiny = BUILDS[family]()
    model = node("TorchCompileModel", backend="inductor")(tiny.model)
    for _ in range(2):
        assert_as_uncompiled(tiny, model, cfg=1.0)
