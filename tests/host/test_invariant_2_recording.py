"""Recording alone never changes the output: bit-identical."""

from __future__ import annotations

import pytest
import torch

from tests.host import adm, models
from tests.host.graph import maps, only, record, sample, sample_basic
from tests.host.observe import assert_unchanged


@pytest.mark.parametrize("cfg", [3.0, 1.0])
@pytest.mark.parametrize("build", models.UNETS.values(), ids=models.UNETS)
def test_invariant_2_recording_alone_is_bit_identical(build, cfg):
    tiny = build()
    recorded, trace = record(tiny.model)
    assert_unchanged(tiny, recorded, cfg=cfg, steps=1)
    assert {step.branch for step in only(trace).steps} == {"uncond" if cfg != 1 else "cond"}
    assert maps(trace).mean(dim=(-1, -2)).sub(1).abs().max() < 1e-5
    assert only(trace).notes == []


def test_invariant_2_recording_a_pixel_model_is_bit_identical(checkpoints):
    tiny = adm.load(checkpoints)
    recorded, trace = record(tiny.model)
    assert torch.equal(sample(tiny, recorded), sample(tiny))
    assert maps(trace).shape == (2, 1, 8, 12)


def test_invariant_2_recording_every_layer_at_once_is_bit_identical():
    tiny = models.sdxl()
    recorded, trace = record(tiny.model, layer="input.3, middle.0.0, middle.0.1, output.0-1")
    assert torch.equal(sample(tiny, recorded), sample(tiny))
    assert maps(trace).shape == (2, 1, 8, 12)


@pytest.mark.filterwarnings("ignore")  # those of the host's own samplers
@pytest.mark.parametrize("sampler_name", ["euler_ancestral", "dpmpp_2m_sde", "heun", "euler_cfg_pp"])
def test_invariant_2_recording_does_not_touch_the_random_numbers_of_a_sampler(sampler_name):
    tiny = models.sd15()
    recorded, _ = record(tiny.model)
    expected = sample(tiny, sampler_name=sampler_name, steps=3)
    assert torch.equal(sample(tiny, recorded, sampler_name=sampler_name, steps=3), expected)


def test_invariant_2_holds_without_a_negative():
    tiny = models.sd15()
    recorded, _ = record(tiny.model)
    for out, expected in zip(sample_basic(tiny, recorded), sample_basic(tiny, tiny.model), strict=True):
        assert torch.equal(out, expected)
