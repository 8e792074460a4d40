"""Scale 0, or outside the interval: bit-identical to the unpatched model, and no extra pass."""

from __future__ import annotations

import pytest
import torch

from tests.host import models
from tests.host.graph import call, guide, maps, only, sample, sample_basic
from tests.host.observe import assert_unchanged, network_calls


@pytest.fixture
def tiny():
    return models.sd15()


def guided_steps(trace) -> list[bool]:
    return [step.guided for step in only(trace).steps]


@pytest.mark.parametrize("cfg", [3.0, 1.0])
@pytest.mark.parametrize("build", models.UNETS.values(), ids=models.UNETS)
def test_invariant_1_scale_0_is_bit_identical_without_an_extra_pass(build, cfg):
    tiny = build()
    guided, trace = guide(tiny.model, scale=0.0)
    assert_unchanged(tiny, guided, cfg=cfg, steps=1)
    assert guided_steps(trace) == [False]


@pytest.mark.parametrize("cfg", [3.0, 1.0])
@pytest.mark.parametrize("build", models.UNETS.values(), ids=models.UNETS)
def test_invariant_1_guidance_is_exactly_one_extra_pass_an_evaluation(build, cfg):
    tiny = build()
    guided, trace = guide(tiny.model)
    with network_calls(tiny.model) as plain:
        expected = sample(tiny, cfg=cfg, steps=1)
    with network_calls(tiny.model) as calls:
        out = sample(tiny, guided, cfg=cfg, steps=1)
    assert not torch.equal(out, expected) and out.isfinite().all()
    assert [call.is_extra for call in calls] == [False, True] * len(plain)
    assert guided_steps(trace) == [True] * len(plain)


@pytest.mark.parametrize(("start", "end", "expected"), [
    (0.0, 0.0, [False] * 4), (1.0, 1.0, [False] * 4), (0.0, 0.1, [True, False, False, False]), (0.6, 0.7, [False] * 4),
    (0.4, 1.0, [False, False, True, True]), (0.2, 0.6, [False, True, True, False]), (0.0, 1.0, [True] * 4),
])
def test_invariant_1_only_steps_inside_the_interval_take_an_extra_pass(tiny, start, end, expected):
    # Four simple steps lie at 0, 25, 50 and 75 percent.
    guided, trace = guide(tiny.model, start_percent=start, end_percent=end)
    with network_calls(tiny.model) as calls:
        sample(tiny, guided, steps=4)
    assert guided_steps(trace) == expected
    assert sum(call.is_extra for call in calls) == sum(expected)


def test_invariant_1_interval_without_a_step_is_bit_identical(tiny):
    guided, _ = guide(tiny.model, start_percent=0.6, end_percent=0.7)
    assert torch.equal(sample(tiny, guided, steps=4), sample(tiny, steps=4))


def test_invariant_1_steps_before_a_late_start_are_those_of_the_unpatched_model(tiny):
    guided, _ = guide(tiny.model, start_percent=0.4)

    def first_half(model):
        (latent,) = call(
            "KSamplerAdvanced", model=model, add_noise="enable", noise_seed=1, steps=4, cfg=3.0, sampler_name="euler",
            scheduler="simple", positive=tiny.positive, negative=tiny.negative, latent_image={"samples": tiny.latent},
            start_at_step=0, end_at_step=2, return_with_leftover_noise="enable")
        return latent["samples"]

    assert torch.equal(first_half(guided), first_half(tiny.model))
    assert not torch.equal(sample(tiny, guided, steps=4), sample(tiny, steps=4))


def test_invariant_1_maps_are_recorded_where_nothing_is_guided(tiny):
    off, trace = guide(tiny.model, scale=0.0)
    sample(tiny, off, steps=3)
    assert maps(trace).shape == (3, 1, 8, 12)


def test_invariant_1_holds_without_a_negative(tiny):
    off, _ = guide(tiny.model, scale=0.0)
    for out, expected in zip(sample_basic(tiny, off), sample_basic(tiny, tiny.model), strict=True):
        assert torch.equal(out, expected)
