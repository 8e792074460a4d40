"""Reading ADM and IDDPM checkpoints: the file, safely, and what its tensors say of the architecture."""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from .config import ADMConfig
from .published import DDPM, IMPROVED, Overrides, complete
from .rename import from_ddpm, unprefixed
from .unet import ADMUNet

# Other families' tensors, for an error that says what the file is instead.
_FOREIGN = (
    ("model.diffusion_model.", "a Stable Diffusion style checkpoint; use the host's checkpoint loader"),
    ("diffusion_model.", "the network of a Stable Diffusion style checkpoint; use the host's checkpoint loader"),
    ("double_blocks.", "a Flux style diffusion model; use the host's diffusion model loader"),
    ("transformer_blocks.", "a diffusion transformer; use the host's diffusion model loader"),
    ("lora_", "a LoRA"),
    ("encoder.conv_in.", "a VAE"),
    ("text_model.", "a text encoder"),
    ("down_blocks.", "another U-Net of diffusers (such as Stable Diffusion's)"),
    ("input_blocks.", "another U-Net (such as Stable Diffusion's) or a classifier"),
)

# In every U-Net of the two code bases, and together in no other model.
_REQUIRED = ("time_embed.0.weight", "input_blocks.0.0.weight", "middle_block.1.qkv.weight",
             "output_blocks.0.0.in_layers.0.weight")

# Block, part and layer in the decoder; three digits are more than any model has, and what has more is left over.
_DECODER = re.compile(r"output_blocks\.(\d{1,3})\.(\d)\.(.*)")

# Where training scripts keep the network among other things, the averaged weights first.
_WRAPPERS = ("ema_state_dict", "model_ema", "ema", "state_dict", "model_state_dict", "model")


def load_checkpoint(path: Path, overrides: Overrides | None = None) -> tuple[dict[str, Tensor], ADMConfig]:
    """The tensors and configuration of a checkpoint: .safetensors, or a .pt that is read without running code.

    Names of DDPM's two other layouts are changed to this one's, so that the tensors fit `ADMUNet`. `overrides` is what
    the user knows better than the file.

    Raises:
        ValueError: the file is damaged, holds code, or is not an ADM; the message names it and says what it is.
    """
    tensors, metadata = read_tensors(path)
    try:
        if "adm_config" in metadata:
            config = ADMConfig.from_json(metadata["adm_config"])
            config = overrides.apply(config) if overrides else config
        else:
            tensors = unprefixed(tensors)
            renamed = from_ddpm(tensors)
            tensors = tensors if renamed is None else renamed
            config = read_config(tensors, renamed is not None, overrides)
        check_fit(tensors, ADMUNet(config, device="meta").state_dict())
    except ValueError as error:
        raise ValueError(f"{path.name}: {error}") from error
    return tensors, config


def read_config(tensors: Mapping[str, Tensor], ddpm: bool = False, overrides: Overrides | None = None) -> ADMConfig:
    """The architecture a state dict belongs to; heads, size and process come from the published models.

    Args:
        tensors: by the names of guided-diffusion.
        ddpm: they were renamed from DDPM's.
        overrides: what the user knows better.

    Raises:
        ValueError: these are not the tensors of an ADM; the message says what they look like.
    """
    if not all(name in tensors for name in _REQUIRED):
        raise ValueError(f"not an ADM / IDDPM checkpoint but {_recognise(tensors)}")

    def width(name: str, dim: int = 0) -> int:
        if name not in tensors:
            raise ValueError(f"an incomplete ADM / IDDPM checkpoint: {name!r} is missing")
        if not tensors[name].ndim > dim or not tensors[name].shape[dim]:
            raise ValueError(f"not an ADM / IDDPM checkpoint: {name!r} is {list(tensors[name].shape)}")
        return tensors[name].shape[dim]

    found = [match.groups() for match in map(_DECODER.match, tensors) if match]
    blocks = 1 + max(int(block) for block, _, _ in found)
    convolved = {int(block) for block, _, layer in found if layer == "conv.weight"}
    resampled = {int(block) for block, part, layer in found if part != "0" and layer == "in_layers.0.weight"}
    # Every level of the decoder but the last ends with an upsampling, after one residual block more than the encoder's.
    per_level = min(convolved | resampled, default=blocks - 1) + 1
    first = [1 + level * per_level for level in range(blocks // per_level)]
    model_channels = width("time_embed.0.weight", dim=1)
    widths = [width(f"input_blocks.{i}.0.out_layers.3.weight") for i in first]
    channel_mult = tuple(w // model_channels if w % model_channels == 0 else w / model_channels for w in widths)
    # guided-diffusion resamples in residual blocks and counts channels per head; improved-diffusion has four heads.
    layout = DDPM if ddpm else {} if resampled else IMPROVED
    overrides = overrides or Overrides()
    shown = ADMConfig(**(layout | overrides.heads | {
        "model_channels": model_channels, "channel_mult": channel_mult, "num_res_blocks": per_level - 1,
        "attention_downsamples": tuple(
            2 ** level for level, i in enumerate(first) if f"input_blocks.{i}.1.qkv.weight" in tensors),
        "in_channels": width("input_blocks.0.0.weight", dim=1), "learn_sigma": width("out.2.weight") == 6,
        "num_classes": width("label_emb.weight") if "label_emb.weight" in tensors else 0,
        "scale_shift_norm": width("input_blocks.1.0.emb_layers.1.weight") == 2 * widths[0],
        "resblock_updown": bool(resampled)}))
    return overrides.apply(complete(shown))


def check_fit(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Compare tensors with those of the network they are to fill (on the device "meta"), before any of it is built.

    Raises:
        ValueError: one is missing, left over, of another shape or not of floating point; the message names it.
    """
    missing, extra = [n for n in expected if n not in tensors], [n for n in tensors if n not in expected]
    if missing or extra:
        raise ValueError(f"the checkpoint does not fit its architecture: {len(missing)} tensors are missing and "
                         f"{len(extra)} left over, such as {(missing + extra)[0]!r}")
    for name, value in expected.items():
        if tensors[name].shape != value.shape:
            raise ValueError(f"the checkpoint does not fit its architecture: {name!r} is {list(tensors[name].shape)} "
                             f"where {list(value.shape)} is needed")
        if not tensors[name].is_floating_point():
            raise ValueError(f"the checkpoint holds {name!r} in {tensors[name].dtype}; only floating point is read")


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a .safetensors or .pt file by their names, and the metadata of the former.

    Raises:
        ValueError: the file is damaged, holds code, or other things than tensors; the message names it.
    """
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
    tensors = _unwrapped(tensors)
    if not _is_state_dict(tensors):
        raise ValueError(f"{path.name} is not a state dict of tensors")
    return tensors, {}


def _unwrapped(value: object) -> object:
    """The state dict among what a training script saved: under a usual name, or the last in a list."""
    if isinstance(value, dict):
        inside = [value[name] for name in _WRAPPERS if isinstance(value.get(name), dict)]
    else:
        inside = list(reversed(value)) if isinstance(value, list | tuple) else []
    return next((entry for entry in inside if entry and _is_state_dict(entry)), value)


def _is_state_dict(value: object) -> bool:
    return isinstance(value, dict) and all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in value.items())


def _recognise(tensors: Mapping[str, Tensor]) -> str:
    for prefix, name in _FOREIGN:
        if any(key.startswith(prefix) for key in tensors):
            return name
    return f"something else: {len(tensors)} tensors, the first is {next(iter(tensors), 'none')!r}"
