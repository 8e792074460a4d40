"""The map of the published code, which splits q, k and v for it by heads of its own; restated here from the layer."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file
from torch.testing import assert_close

from sag_core.adm.config import ADMConfig
from tests.host import adm
from tests.host.graph import guide, maps, only, record, sample
from tests.host.models import Tiny

SHAPE = {"model_channels": 32, "channel_mult": (2, 4), "num_res_blocks": 1, "attention_downsamples": (2,)}
HEADS = {
    "more heads": {"num_heads": 0, "head_channels": 16},
    "newer order": {"num_heads": 0, "head_channels": 32, "new_attention_order": True},
    "one head": {"num_heads": 1},
    "as theirs": {"num_heads": 4},
}


def load(folder, authors_map, **fields) -> Tiny:
    config = ADMConfig(**SHAPE | fields)
    save_file(adm.random_network(**SHAPE | fields), folder / "heads.safetensors", {"adm_config": config.to_json()})
    return adm.loaded("heads.safetensors", authors_map=authors_map)


def published_maps(model, run) -> torch.Tensor:
    """The map of the middle block at every step of a run, as the published code takes it from what its qkv gives."""
    seen = []

    def see(module, args, out):
        # 4 heads; of each a third of its channels in a row is q, the next k.
        rows, channels, tokens = out.shape
        heads = out.double().reshape(rows * 4, channels // 4, tokens)
        q, k, _ = heads.split(channels // 12, dim=1)
        weights = torch.softmax(torch.einsum("bct,bcs->bts", q, k) / (channels // 12) ** 0.5, dim=-1)
        seen.append(weights.reshape(rows, 4, tokens, tokens).mean(1).sum(1).unflatten(-1, (8, 12)))

    handle = model.model.diffusion_model.middle_block[1].qkv.register_forward_hook(see)
    run()
    handle.remove()
    return torch.stack(seen)


@pytest.mark.parametrize("fields", HEADS.values(), ids=HEADS)
def test_the_map_is_that_of_the_published_code(checkpoints, fields):
    theirs, own = load(checkpoints, True, **fields), load(checkpoints, False, **fields)
    recorded, trace = record(theirs.model)
    expected = published_maps(theirs.model, lambda: sample(theirs, recorded, cfg=1.0))
    assert only(trace).notes == []
    assert_close(maps(trace).double(), expected, rtol=0, atol=1e-4)
    recorded, own_trace = record(own.model)
    sample(own, recorded, cfg=1.0)
    same = torch.allclose(maps(own_trace), maps(trace), atol=1e-5)
    assert same is (fields == HEADS["as theirs"])


def test_what_the_model_draws_is_the_same_bit_for_bit(checkpoints):
    theirs, own = (load(checkpoints, authors_map, head_channels=16) for authors_map in (True, False))
    assert torch.equal(sample(theirs), sample(own))
    assert torch.equal(sample(theirs, record(theirs.model)[0]), sample(own))


def test_guidance_goes_by_it(checkpoints):
    theirs, own = (load(checkpoints, authors_map, head_channels=16) for authors_map in (True, False))
    assert not torch.equal(sample(theirs, guide(theirs.model)[0]), sample(own, guide(own.model)[0]))


def test_both_branches_and_every_image_have_their_own(checkpoints):
    theirs = load(checkpoints, True, head_channels=16).sized(16, 24, batch=2)
    recorded, trace = record(theirs.model)
    sample(theirs, recorded, cfg=3.0, steps=1)
    (attn_map,) = maps(trace)
    assert attn_map.shape == (2, 8, 12) and not torch.allclose(attn_map[0], attn_map[1])
    assert_close(attn_map.mean((1, 2)), torch.ones(2))


def test_channels_that_do_not_split_are_said_and_sampled_without_guidance(checkpoints):
    odd = {"model_channels": 6, "channel_mult": (1, 1), "head_channels": 3, "norm_groups": 6}
    theirs = load(checkpoints, True, **odd)
    guided, trace = guide(theirs.model)
    assert torch.equal(sample(theirs, guided), sample(theirs))
    assert any("the authors' map needs 4 heads, and the layer has 6 channels" in note for note in only(trace).notes)
