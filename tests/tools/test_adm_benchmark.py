"""The plain network that the pixel models are timed beside is the same network."""

from __future__ import annotations

import math

import pytest
import torch
from torch.testing import assert_close

from benchmarks.adm import RUNS, Memory, Timing, narrow, report
from benchmarks.measure import Spread
from benchmarks.plain_adm import PlainUNet
from sag_core.adm.config import ADMConfig
from sag_core.adm.published import PUBLISHED
from sag_core.adm.unet import ADMUNet

SMALL = {"model_channels": 32, "channel_mult": (1, 2, 2), "num_res_blocks": 1, "attention_downsamples": (2,),
         "head_channels": 16}


@pytest.mark.parametrize("fields", [
    {}, {"resblock_updown": False, "num_heads": 4}, {"scale_shift_norm": False}, {"timestep_scale": 0.25}], ids=str)
def test_plain_network_is_the_same(fields):
    config = ADMConfig(**SMALL, **fields)
    model, generator = ADMUNet(config, dtype=torch.float64).requires_grad_(False), torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        parameter.data = noise / math.sqrt(parameter[0].numel() if parameter.ndim > 1 else 4)
    x, t = torch.randn(2, 3, 8, 12, generator=generator, dtype=torch.float64), torch.tensor([17.0, 250.0])
    assert_close(PlainUNet(model.state_dict(), config)(x, t), model(x, t), rtol=1e-6, atol=1e-6)


def test_narrow_networks_have_the_published_layout():
    for name in RUNS:
        published, config = PUBLISHED[name], narrow(PUBLISHED[name])
        levels = range(len(published.channel_mult))
        assert [2 * config.width(level) for level in levels] == [published.width(level) for level in levels]
        assert [config.heads(config.width(level)) for level in levels] == [
            published.heads(published.width(level)) for level in levels]


def test_limits_are_held_against_what_was_measured():
    timing = Timing(Spread(1, 1.1, 2), Spread(1, 1, 2), Spread(1, 1.1, 2))
    text = report({"a": (timing, [Memory((1, 8, 8), 2 ** 20, 2 ** 20), Memory((2, 8, 8), 2 ** 20, 2 ** 21)])})
    assert [line.rsplit("|", 2)[1].strip() for line in text.splitlines() if line.startswith("| a")] == [
        "missed", "met", "missed"]
