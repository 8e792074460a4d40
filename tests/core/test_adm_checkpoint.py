"""Checkpoints say what they are, and what cannot be read is refused by name without running it."""

from __future__ import annotations

import pickle

import pytest
import torch
from safetensors.torch import save_file

from sag_core.adm.checkpoint import load_checkpoint, read_config
from sag_core.adm.config import ADMConfig
from sag_core.adm.published import Overrides
from sag_core.adm.unet import ADMUNet

# Fields that a state dict shows, whoever trained it.
SHOWN = {
    "one level": {"channel_mult": (1,), "attention_downsamples": (1,), "resblock_updown": False, "num_heads": 4},
    "attention everywhere": {"channel_mult": (1, 2, 1), "attention_downsamples": (1, 2, 4)},
    "attention nowhere": {"attention_downsamples": ()},
    "many blocks": {"num_res_blocks": 4},
    "widths that shrink": {"channel_mult": (2, 1, 3)},
    "half a width": {"channel_mult": (0.5, 1, 1), "model_channels": 128},
    "noise alone": {"learn_sigma": False},
    "classes": {"num_classes": 7},
    "upsampler": {"in_channels": 6},
    "added timestep": {"scale_shift_norm": False},
    "convolutions resample": {"resblock_updown": False, "num_heads": 4},
}


def state_dict(config, device="meta"):
    return ADMUNet(config, device=device).state_dict()


def small(**fields):
    return ADMConfig(**({"model_channels": 64, "channel_mult": (1, 1), "num_res_blocks": 1,
                         "attention_downsamples": (2,)} | fields))


@pytest.mark.parametrize("fields", SHOWN.values(), ids=SHOWN)
def test_architecture_is_read_from_the_tensors(fields):
    assert read_config(state_dict(small(**fields))) == small(**fields)


def test_metadata_says_what_tensors_cannot(tmp_path):
    config = small(num_classes=3, null_label=2, image_size=48, noise_schedule="cosine", timesteps=77,
                   head_channels=16, timestep_scale=0.5)
    state = state_dict(config, "cpu")
    save_file(state, tmp_path / "m.safetensors", {"adm_config": config.to_json()})
    tensors, read = load_checkpoint(tmp_path / "m.safetensors")
    assert read == config
    assert tensors.keys() == state.keys() and all(torch.equal(tensors[name], state[name]) for name in state)


@pytest.mark.parametrize("write", [torch.save, save_file, lambda state, path: torch.save(
    state, path, _use_new_zipfile_serialization=False)], ids=["zip", "safetensors", "legacy"])
def test_tensors_are_read_from_either_kind_of_file(tmp_path, write):
    path = tmp_path / ("m.safetensors" if write is save_file else "m.pt")
    config = small()
    state = state_dict(config, "cpu")
    write(state, path)
    tensors, read = load_checkpoint(path)
    assert read == config
    assert tensors.keys() == state.keys() and all(torch.equal(tensors[name], state[name]) for name in state)


class Bomb:
    """Creates a file when unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("name", ["m.pt", "m.safetensors"])
@pytest.mark.parametrize("write", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value, 2))],
                         ids=["torch.save", "pickle"])
def test_code_is_refused_by_name_and_never_run(tmp_path, write, name):
    write({"input_blocks.0.0.weight": Bomb(tmp_path / "exploded")}, tmp_path / name)
    with pytest.raises(ValueError, match=name):
        load_checkpoint(tmp_path / name)
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("name", ["m.pt", "m.safetensors"])
@pytest.mark.parametrize("share", [0, 0.001, 0.3, 0.9, 0.9999])
def test_truncated_file_is_refused_by_name(tmp_path, name, share):
    path = tmp_path / name
    (torch.save if name == "m.pt" else save_file)(state_dict(small(), "cpu"), path)
    whole = path.read_bytes()
    path.write_bytes(whole[:int(share * len(whole))])
    with pytest.raises(ValueError, match=name):
        load_checkpoint(path)


@pytest.mark.parametrize("name", ["m.pt", "m.safetensors"])
@pytest.mark.parametrize("content", [b"text", b"\x80\x02", b"\x80\x02.", b"PK\x03\x04", bytes(64), bytes(range(256))],
                         ids=str)
def test_other_file_is_refused_by_name(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=name):
        load_checkpoint(tmp_path / name)


@pytest.mark.parametrize("value", [3, [torch.ones(1)], {"epoch": 3}, {0: torch.ones(1)}], ids=str)
def test_file_of_other_things_than_named_tensors_is_refused_by_name(tmp_path, value):
    torch.save(value, tmp_path / "m.pt")
    with pytest.raises(ValueError, match="m.pt is not a state dict of tensors"):
        load_checkpoint(tmp_path / "m.pt")


def test_missing_file_is_refused_by_name(tmp_path):
    with pytest.raises(ValueError, match="nowhere.pt"):
        load_checkpoint(tmp_path / "nowhere.pt")


def without(*prefixes):
    return {name: value for name, value in state_dict(small()).items() if not name.startswith(prefixes)}


@pytest.mark.parametrize(("tensors", "named"), [
    ({}, "0 tensors"),
    ({"weight": torch.ones(1)}, "1 tensors, the first is 'weight'"),
    ({"model.diffusion_model.input_blocks.0.0.weight": torch.ones(1)}, "Stable Diffusion"),
    ({"double_blocks.0.img_attn.qkv.weight": torch.ones(1)}, "Flux"),
    ({"lora_unet_x": torch.ones(1)}, "LoRA"),
    (without("output_blocks."), "classifier"),
    (without("middle_block.1.") | {"middle_block.1.transformer_blocks.0.x": torch.ones(1)}, "another U-Net"),
    (without("input_blocks.1.0.emb_layers"), r"input_blocks\.1\.0\.emb_layers\.1\.weight"),
    ({"diffusion_model.input_blocks.0.0.weight": torch.ones(1)}, "Stable Diffusion"),
    ({"down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.weight": torch.ones(1)}, "U-Net of diffusers"),
    (state_dict(small()) | {"time_embed.0.weight": torch.ones(3)}, r"'time_embed\.0\.weight' is \[3\]"),
    (state_dict(small()) | {"input_blocks.0.0.weight": torch.ones(64, 0, 3, 3)}, r"is \[64, 0, 3, 3\]"),
], ids=["nothing", "one tensor", "Stable Diffusion", "Flux", "LoRA", "classifier", "its U-Net alone", "incomplete",
        "no prefix", "diffusers", "flat", "empty"])
def test_other_tensors_are_refused_with_what_they_look_like(tensors, named):
    with pytest.raises(ValueError, match=named):
        read_config(tensors)


@pytest.mark.parametrize(("change", "named"), [
    ({"out.2.weight": torch.ones(5, 64, 3, 3)}, r"'out\.2\.weight' is \[5, 64, 3, 3\] where \[3, 64, 3, 3\] is needed"),
    ({"middle_block.0.in_layers.2.weight": torch.ones(64, 64)}, r"'middle_block\.0.*' is \[64, 64\] where"),
    ({"middle_block.3.weight": torch.ones(1)}, r"0 tensors are missing and 1 left over, such as 'middle_block\.3"),
    ({"output_blocks.9.0.weight": torch.ones(1)}, r"an incomplete .*'input_blocks\.5\..*' is missing"),
    ({"output_blocks.123456789012.0.weight": torch.ones(1)}, "left over, such as 'output_blocks.123456789012"),
    ({"output_blocks.3": torch.ones(1)}, "left over, such as 'output_blocks.3'"),
    ({"out.0.bias": torch.ones(64, dtype=torch.int8)}, r"'out\.0\.bias' in torch\.int8"),
], ids=["another output", "flat", "left over", "another decoder", "a giant number", "no part", "whole numbers"])
def test_tensors_that_do_not_fit_are_refused_by_name(tmp_path, change, named):
    save_file(state_dict(small(), "cpu") | change, tmp_path / "m.safetensors")
    with pytest.raises(ValueError, match=f"m.safetensors: .*{named}"):
        load_checkpoint(tmp_path / "m.safetensors")


def test_metadata_that_asks_for_a_giant_builds_nothing(tmp_path):
    giant = ADMConfig(4096, (64,) * 8, 16, (1,), resblock_updown=False)
    save_file(state_dict(small(), "cpu"), tmp_path / "m.safetensors", {"adm_config": giant.to_json()})
    with pytest.raises(ValueError, match="m.safetensors: the checkpoint does not fit its architecture"):
        load_checkpoint(tmp_path / "m.safetensors")


def test_metadata_can_be_overruled(tmp_path):
    config = small(noise_schedule="cosine", timesteps=77)
    save_file(state_dict(config, "cpu"), tmp_path / "m.safetensors", {"adm_config": config.to_json()})
    _, read = load_checkpoint(tmp_path / "m.safetensors", Overrides(timesteps=100, num_heads=2))
    assert read == small(noise_schedule="cosine", timesteps=100, num_heads=2)


def test_configuration_that_is_none_is_refused_by_name(tmp_path):
    save_file({"x": torch.ones(1)}, tmp_path / "m.safetensors", {"adm_config": '{"model_channels": 0}'})
    with pytest.raises(ValueError, match="m.safetensors"):
        load_checkpoint(tmp_path / "m.safetensors")
