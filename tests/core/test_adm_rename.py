"""DDPM's two other namings: the renamed network is the original one, number for number."""

from __future__ import annotations

import math

import pytest
import torch
from safetensors.torch import save_file
from torch.testing import assert_close

from sag_core.adm.checkpoint import load_checkpoint, read_config
from sag_core.adm.published import PUBLISHED
from sag_core.adm.rename import from_ddpm, unprefixed
from sag_core.adm.unet import ADMUNet
from tests.core.adm_reference import as_diffusers, ddpm, ddpm_shapes

SHAPES = {
    "attention at one level": (32, (1, 2), 1, (1,)),
    "two blocks": (32, (1, 2, 2), 2, (1,)),
    "attention at the highest level": (32, (1, 2), 1, (0,)),
    "attention everywhere": (32, (1, 3, 2), 1, (0, 1, 2)),
    "no attention but the middle": (32, (1, 1), 1, ()),
    "one level": (32, (1,), 2, (0,)),
}


def weights(*shape, seed=0):
    """Random tensors of the port's network, biases and norms included, that keep activations near 1."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, size in ddpm_shapes(*shape).items():
        noise = torch.randn(size, generator=generator, dtype=torch.float64)
        fan_in = noise[0].numel() if noise.ndim > 1 else 4
        tensors[name] = noise / math.sqrt(fan_in) + (noise.ndim == 1)
    return tensors


NAMINGS = {
    "port": lambda state, levels: state,
    "diffusers": as_diffusers,
    "diffusers, older": lambda state, levels: as_diffusers(state, levels, old_attention=True),
}


@pytest.mark.parametrize("naming", NAMINGS.values(), ids=NAMINGS)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_the_renamed_network_is_the_original(normal, shape, naming):
    state, levels = weights(*shape), len(shape[1])
    renamed = from_ddpm(naming(state, levels))
    config = read_config(renamed, ddpm=True)
    model = ADMUNet(config, dtype=torch.float64)
    model.load_state_dict(renamed)
    x, t = normal(2, 3, 8, 12), torch.tensor([17, 250])
    expected = ddpm(state, x, t, levels)
    assert_close(model.requires_grad_(False)(x, t), expected, rtol=1e-5, atol=1e-5)
    assert sum(value.numel() for value in renamed.values()) == sum(value.numel() for value in state.values())


PUBLISHED_SHAPES = {  # arXiv 2006.11239, appendix B: 35.7 and 114 million parameters
    "DDPM CIFAR-10 32x32": (35.7, (128, (1, 2, 2, 2), 2, (1,))),
    "DDPM LSUN or CelebA-HQ 256x256": (114, (128, (1, 1, 2, 2, 4, 4), 2, (4,))),
}


@pytest.mark.parametrize("name", PUBLISHED_SHAPES)
@pytest.mark.parametrize("naming", NAMINGS.values(), ids=NAMINGS)
def test_published_models_are_known_in_every_naming(name, naming):
    millions, shape = PUBLISHED_SHAPES[name]
    state = {key: torch.empty(size, device="meta") for key, size in ddpm_shapes(*shape).items()}
    renamed = from_ddpm(naming(state, len(shape[1])))
    assert read_config(renamed, ddpm=True) == PUBLISHED[name]
    assert sum(value.numel() for value in renamed.values()) / 1e6 == pytest.approx(millions, abs=0.5)


def wrapped(state):
    return {
        "bare": state,
        "under a name": {"state_dict": state, "step": 3},
        "averaged weights first": {"model": weights(*SHAPES["two blocks"], seed=1), "ema": state},
        "in a list, averaged weights last": [weights(*SHAPES["two blocks"], seed=1), {"lr": 0.1}, 3, state],
        "after a prefix": {f"module.{name}": value for name, value in state.items()},
        "after two prefixes": {"model": {f"_orig_mod.module.{name}": value for name, value in state.items()}},
    }


@pytest.mark.parametrize("kind", wrapped({}))
def test_what_training_scripts_save_is_unwrapped(tmp_path, kind):
    state = weights(*SHAPES["two blocks"])
    torch.save(wrapped(state)[kind], tmp_path / "m.ckpt")
    tensors, config = load_checkpoint(tmp_path / "m.ckpt")
    expected = from_ddpm(state)
    assert config == read_config(expected, ddpm=True)
    assert tensors.keys() == expected.keys() and all(torch.equal(tensors[name], expected[name]) for name in expected)


def test_prefixes_that_some_tensors_lack_are_part_of_their_names():
    state = {"module.a": torch.ones(1), "b": torch.ones(1)}
    assert unprefixed(state).keys() == state.keys()
    assert unprefixed({}) == {}


def test_other_networks_are_not_renamed():
    assert from_ddpm({}) is None
    assert from_ddpm({"input_blocks.0.0.weight": torch.ones(1)}) is None
    assert from_ddpm({"time_embedding.linear_1.weight": torch.ones(1, 1), "conv_in.weight": torch.ones(1)}) is None


@pytest.mark.parametrize(("name", "change"), [
    ("mid.attn_1.k.weight", None), ("up.0.block.1.conv2.bias", None), ("down.0.downsample.conv.weight", None),
    ("mid.attn_1.v.weight", lambda value: value[:5]), ("temb.dense.0.weight", lambda value: value[0]),
    ("mid.attn_1.proj_out.weight", lambda value: value[0, 0]), ("conv_out.weight", lambda value: value[:, :7]),
    ("down.0.block.0.conv1.weight", lambda value: value.to(torch.int8)), ("conv_in.weight", lambda value: value.sum()),
    ("a.b", lambda value: torch.ones(1)), ("down.7.block.0.conv1.weight", lambda value: torch.ones(1)),
])
def test_damaged_ones_are_refused_by_name(tmp_path, name, change):
    state = weights(*SHAPES["two blocks"])
    value = state.pop(name, None)
    if change:
        state[name] = change(value).contiguous()
    save_file(state, tmp_path / "m.safetensors")
    with pytest.raises(ValueError, match="m.safetensors: "):
        load_checkpoint(tmp_path / "m.safetensors")
