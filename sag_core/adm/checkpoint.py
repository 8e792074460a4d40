"""Reading ADM and IDDPM checkpoints: the file, safely, and what its tensors say of the architecture."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from .config import ADMConfig

# Other families' tensors, for an error that says what the file is instead.
_FOREIGN = (
    ("model.diffusion_model.", "a Stable Diffusion style checkpoint; use the host's checkpoint loader"),
    ("double_blocks.", "a Flux style diffusion model; use the host's diffusion model loader"),
    ("transformer_blocks.", "a diffusion transformer; use the host's diffusion model loader"),
    ("lora_", "a LoRA"),
    ("encoder.conv_in.", "a VAE"),
    ("text_model.", "a text encoder"),
    ("input_blocks.", "another U-Net (such as Stable Diffusion's) or a classifier"),
)

# In every U-Net of the two code bases, and together in no other model.
_REQUIRED = ("time_embed.0.weight", "input_blocks.0.0.weight", "middle_block.1.qkv.weight",
             "output_blocks.0.0.in_layers.0.weight")

# The released models, by width and multipliers: what the tensors cannot tell (the flags in the READMEs).
_GUIDED_DIFFUSION = {
    (192, (1, 2, 3, 4)): {"image_size": 64, "noise_schedule": "cosine", "new_attention_order": True},
    (256, (1, 1, 2, 3, 4)): {"image_size": 128, "num_heads": 4},
    (256, (1, 1, 2, 2, 4, 4)): {"image_size": 256},
    (256, (0.5, 1, 1, 2, 2, 4, 4)): {"image_size": 512},
}
_IMPROVED_DIFFUSION = {
    (128, (1, 2, 2, 2)): {"image_size": 32, "noise_schedule": "cosine", "timesteps": 4000, "timestep_scale": 0.25},
    (128, (1, 2, 3, 4)): {"image_size": 64, "noise_schedule": "cosine", "timesteps": 4000, "timestep_scale": 0.25},
    (192, (1, 2, 3, 4)): {"image_size": 64, "noise_schedule": "cosine", "timesteps": 4000},
    (128, (1, 1, 2, 2, 4, 4)): {"image_size": 256, "num_heads": 1},
}


def load_checkpoint(path: Path) -> tuple[dict[str, Tensor], ADMConfig]:
    """The tensors and configuration of a checkpoint: .safetensors, or a .pt that holds tensors alone.

    Raises:
        ValueError: the file is damaged, holds code, or is not an ADM; the message names it and says what it is.
    """
    tensors, metadata = _read(path)
    try:
        config = ADMConfig.from_json(metadata["adm_config"]) if "adm_config" in metadata else read_config(tensors)
    except ValueError as error:
        raise ValueError(f"{path.name}: {error}") from error
    return tensors, config


def read_config(tensors: Mapping[str, Tensor]) -> ADMConfig:
    """The architecture a state dict belongs to; heads, size and process come from the published models.

    Raises:
        ValueError: these are not the tensors of an ADM; the message says what they look like.
    """
    if not all(name in tensors for name in _REQUIRED):
        raise ValueError(f"not an ADM / IDDPM checkpoint but {_recognise(tensors)}")

    def width(name: str, dim: int = 0) -> int:
        if name not in tensors:
            raise ValueError(f"an incomplete ADM / IDDPM checkpoint: {name!r} is missing")
        return tensors[name].shape[dim]

    blocks = 1 + max(int(name.split(".")[1]) for name in tensors if name.startswith("output_blocks."))
    convolved = {int(name.split(".")[1]) for name in tensors
                 if name.startswith("output_blocks.") and name.endswith(".conv.weight")}
    resampled = {int(name.split(".")[1]) for name in tensors if name.startswith("output_blocks.")
                 and name.split(".")[2] != "0" and name.endswith(".in_layers.0.weight")}
    # Every level of the decoder but the last ends with an upsampling, after one residual block more than the encoder's.
    per_level = min(convolved | resampled, default=blocks - 1) + 1
    first = [1 + level * per_level for level in range(blocks // per_level)]
    model_channels = width("time_embed.0.weight", dim=1)
    widths = [width(f"input_blocks.{i}.0.out_layers.3.weight") for i in first]
    channel_mult = tuple(w // model_channels if w % model_channels == 0 else w / model_channels for w in widths)
    # guided-diffusion resamples in residual blocks and counts channels per head; improved-diffusion has four heads.
    published = _GUIDED_DIFFUSION if resampled else _IMPROVED_DIFFUSION
    heads = {} if resampled else {"num_heads": 4}
    known = published.get((model_channels, channel_mult), {})
    return ADMConfig(
        model_channels=model_channels, channel_mult=channel_mult, num_res_blocks=per_level - 1,
        attention_downsamples=tuple(
            2 ** level for level, i in enumerate(first) if f"input_blocks.{i}.1.qkv.weight" in tensors),
        in_channels=width("input_blocks.0.0.weight", dim=1), learn_sigma=width("out.2.weight") == 6,
        num_classes=width("label_emb.weight") if "label_emb.weight" in tensors else 0,
        scale_shift_norm=width("input_blocks.1.0.emb_layers.1.weight") == 2 * widths[0],
        resblock_updown=bool(resampled), **(heads | known))


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, "pt") as file:
                return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}
        tensors = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "GLOBAL" not in str(error):
            raise ValueError(f"{path.name} is not a checkpoint, or it is damaged: {error}") from error
        raise ValueError(f"{path.name} holds more than tensors and is not loaded: it could run code. "
                         "Convert it to safetensors where you trust it") from error
    except Exception as error:  # on what is no pickle, an unpickler fails in as many ways as there are files
        raise ValueError(f"{path.name} cannot be read; it may be truncated: {error}") from error
    if isinstance(tensors, dict) and isinstance(tensors.get("state_dict"), dict):
        tensors = tensors["state_dict"]
    if not isinstance(tensors, dict) or not all(
            isinstance(name, str) and isinstance(value, Tensor) for name, value in tensors.items()):
        raise ValueError(f"{path.name} is not a state dict of tensors")
    return tensors, {}


def _recognise(tensors: Mapping[str, Tensor]) -> str:
    for prefix, name in _FOREIGN:
        if any(key.startswith(prefix) for key in tensors):
            return name
    return f"something else: {len(tensors)} tensors, the first is {next(iter(tensors), 'none')!r}"
