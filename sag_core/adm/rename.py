"""Checkpoints of DDPM's architecture (arXiv 2006.11239), renamed to the layout of guided-diffusion.

Two namings are in use: that of the PyTorch port of the authors' code, which DDIM shares (`down.0.block.1.conv1`), and
that of diffusers' UNet2DModel (`down_blocks.0.resnets.1.conv1`). The networks are the same.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

# In every U-Net of the port, and together in no other model.
_REQUIRED = ("temb.dense.0.weight", "conv_in.weight", "down.0.block.0.temb_proj.weight", "mid.attn_1.q.weight")

# What training scripts put before every name.
_PREFIXES = ("module.", "model.", "ema_model.", "_orig_mod.")

_DIFFUSERS_TO_PORT = [(re.compile(pattern), name) for pattern, name in (
    (r"^time_embedding\.linear_1\.", "temb.dense.0."), (r"^time_embedding\.linear_2\.", "temb.dense.1."),
    (r"^(down|up)_blocks\.", r"\1."), (r"^((?:down|up)\.\d+)\.resnets\.", r"\1.block."),
    (r"^((?:down|up)\.\d+)\.attentions\.", r"\1.attn."), (r"\.(down|up)samplers\.0\.", r".\1sample."),
    (r"^mid_block\.resnets\.0\.", "mid.block_1."), (r"^mid_block\.resnets\.1\.", "mid.block_2."),
    (r"^mid_block\.attentions\.0\.", "mid.attn_1."), (r"^conv_norm_out\.", "norm_out."),
    (r"\.time_emb_proj\.", ".temb_proj."), (r"\.conv_shortcut\.", ".nin_shortcut."), (r"\.group_norm\.", ".norm."),
    (r"\.(?:to_q|query)\.", ".q."), (r"\.(?:to_k|key)\.", ".k."), (r"\.(?:to_v|value)\.", ".v."),
    (r"\.(?:to_out\.0|proj_attn)\.", ".proj_out."))]

_PLACES = {"temb.dense.0": "time_embed.0", "temb.dense.1": "time_embed.2", "conv_in": "input_blocks.0.0",
           "mid.block_1": "middle_block.0", "mid.attn_1": "middle_block.1", "mid.block_2": "middle_block.2",
           "norm_out": "out.0", "conv_out": "out.2"}
_LAYERS = {"norm1": "in_layers.0", "conv1": "in_layers.2", "temb_proj": "emb_layers.1", "norm2": "out_layers.0",
           "conv2": "out_layers.3", "nin_shortcut": "skip_connection"}
_BLOCK = re.compile(r"(down|up)\.(\d+)\.(block|attn|downsample|upsample)\.(?:(\d+)\.)?")


def unprefixed(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors without what wrappers of training scripts put before every one of their names."""
    for prefix in _PREFIXES:
        if tensors and all(name.startswith(prefix) for name in tensors):
            return unprefixed({name.removeprefix(prefix): value for name, value in tensors.items()})
    return dict(tensors)


def from_ddpm(tensors: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """Tensors of either naming in guided-diffusion's layout; None where they are of neither.

    q, k and v become one convolution, and the halves of the first time layer change places, because DDPM's timestep
    embedding has its sines first. Names that belong nowhere are left as they are.
    """
    if "time_embedding.linear_1.weight" in tensors:
        tensors = _from_diffusers(tensors)
    if not all(name in tensors for name in _REQUIRED):
        return None
    found = [match.groups() for match in map(_BLOCK.match, tensors) if match]
    levels = 1 + max(int(level) for _, level, _, _ in found)
    blocks = sum(side == "down" and level == "0" and kind == "block" for side, level, kind, _ in set(found))
    attending = {level for side, level, kind, _ in found if side == "up" and kind == "attn"}
    placed = {_place(name, levels, blocks, attending): value for name, value in tensors.items()}
    time = placed["time_embed.0.weight"]
    placed["time_embed.0.weight"] = time.roll(time.shape[-1] // 2, dims=-1)
    return _with_joint_attention(placed)


def _from_diffusers(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    last = max((int(name.split(".")[1]) for name in tensors if re.match(r"up_blocks\.\d+\.", name)), default=0)
    renamed = {}
    for name, value in tensors.items():
        for pattern, replacement in _DIFFUSERS_TO_PORT:
            name = pattern.sub(replacement, name)
        # diffusers numbers the decoder's levels as they run, the port as the encoder's.
        name = re.sub(r"^up\.(\d+)\.", lambda match: f"up.{last - int(match[1])}.", name)
        renamed[name] = value
    return renamed


def _place(name: str, levels: int, blocks: int, attending: set[str]) -> str:
    """Returns the layout's name of a tensor of the port: `blocks` encoder blocks a level, the decoder one more."""
    for old, new in _PLACES.items():
        if name.startswith(old + "."):
            return f"{new}.{_layer(name[len(old) + 1:])}"
    match = _BLOCK.match(name)
    if match is None:
        return name
    side, level, kind, index = match.groups()
    index, rest = int(index or 0), _layer(name[match.end():])
    first = int(level) if side == "down" else levels - 1 - int(level)
    first *= blocks + 1
    if kind == "downsample":
        return f"input_blocks.{first + blocks + 1}.0.{rest.replace('conv.', 'op.')}"
    if kind == "upsample":
        return f"output_blocks.{first + blocks}.{2 if level in attending else 1}.{rest}"
    block = f"input_blocks.{1 + first + index}" if side == "down" else f"output_blocks.{first + index}"
    return f"{block}.{'0' if kind == 'block' else '1'}.{rest}"


def _layer(rest: str) -> str:
    layer, _, parameter = rest.partition(".")
    return f"{_LAYERS[layer]}.{parameter}" if layer in _LAYERS else rest


def _with_joint_attention(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """q, k, v [C, C] or [C, C, 1, 1] as one qkv [3 C, C, 1], and the projection after them [C, C, 1]."""
    for name in [name for name in tensors if re.search(r"\.q\.(weight|bias)$", name)]:
        block, _, parameter = name.rsplit(".", 2)
        names = [f"{block}.{part}.{parameter}" for part in "qkv"]
        parts = [tensors[part] for part in names if part in tensors]
        if len(parts) == 3 and len({part.shape for part in parts}) == 1:
            tensors[f"{block}.qkv.{parameter}"] = _pointwise(torch.cat(parts))
            for part in names:
                del tensors[part]
            projection = f"{block}.proj_out.{parameter}"
            if projection in tensors:
                tensors[projection] = _pointwise(tensors[projection])
    return tensors


def _pointwise(value: Tensor) -> Tensor:
    return value.flatten(1)[..., None] if value.ndim > 1 else value
