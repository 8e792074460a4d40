"""A tiny ADM checkpoint in the layout of the published ones, and loading it the way users do."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from sag_core.adm.config import ADMConfig
from sag_core.adm.unet import ADMUNet
from tests.host.graph import call
from tests.host.models import Tiny

CHANNELS, CLASSES = 64, 10


def published_layout(classes: int = CLASSES) -> dict[str, tuple[int, ...]]:
    """Names and shapes of guided-diffusion with two levels of 64 channels, attention on the lower one."""
    wide = 4 * CHANNELS
    shapes = {"time_embed.0": (wide, CHANNELS), "time_embed.2": (wide, wide), "input_blocks.0.0": (CHANNELS, 3, 3, 3)}

    def residual(name: str, channels: int = CHANNELS) -> None:
        shapes.update({
            f"{name}.in_layers.0": (channels,), f"{name}.in_layers.2": (CHANNELS, channels, 3, 3),
            f"{name}.emb_layers.1": (2 * CHANNELS, wide),
            f"{name}.out_layers.0": (CHANNELS,), f"{name}.out_layers.3": (CHANNELS, CHANNELS, 3, 3)})
        if channels != CHANNELS:
            shapes[f"{name}.skip_connection"] = (CHANNELS, channels, 1, 1)

    def attention(name: str) -> None:
        shapes.update({f"{name}.norm": (CHANNELS,), f"{name}.qkv": (3 * CHANNELS, CHANNELS, 1),
                       f"{name}.proj_out": (CHANNELS, CHANNELS, 1)})

    for name in ("input_blocks.1.0", "input_blocks.2.0", "input_blocks.3.0", "middle_block.0", "middle_block.2",
                 "output_blocks.1.2"):
        residual(name)
    for block in range(4):
        residual(f"output_blocks.{block}.0", 2 * CHANNELS)
    for name in ("input_blocks.3.1", "middle_block.1", "output_blocks.0.1", "output_blocks.1.1"):
        attention(name)
    shapes.update({"out.0": (CHANNELS,), "out.2": (6, CHANNELS, 3, 3)})
    named = {f"{name}.weight": shape for name, shape in shapes.items()}
    named |= {f"{name}.bias": shape[:1] for name, shape in shapes.items()}
    return named | ({"label_emb.weight": (classes, wide)} if classes else {})


def weights(classes: int = CLASSES) -> dict[str, Tensor]:
    """Random weights of that layout."""
    return random_tensors(published_layout(classes))


def load(folder: Path, classes: int = CLASSES, name: str = "tiny.safetensors", metadata: dict | None = None) -> Tiny:
    """The checkpoint, written into the host's folder and loaded by the node, with two class labels as its conds."""
    save_file(weights(classes), folder / name, metadata)
    return loaded(name)


def loaded(name: str, **inputs) -> Tiny:
    """A file in the host's folder as the node loads it."""
    model, _ = call("SAGLoadADM", ckpt_name=name, **inputs)
    conds = [call("SAGClassLabel", label=label)[0] for label in (3, 7)]
    return Tiny(model, torch.zeros(1, 3, 16, 24), *conds)


def random_network(**fields) -> dict[str, Tensor]:
    """A state dict of two narrow levels with attention on the lower one, and what `ADMConfig` says else; no layer is
    zero."""
    config = ADMConfig(**({"model_channels": 32, "channel_mult": (1, 2), "num_res_blocks": 1, "head_channels": 16,
                           "attention_downsamples": (2,)} | fields))
    return random_tensors({name: value.shape for name, value in ADMUNet(config, device="meta").state_dict().items()})


def random_tensors(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Random weights of these shapes that keep activations near 1, and attention that is far from even."""
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for name, shape in shapes.items():
        value = torch.randn(shape, generator=generator)
        if len(shape) > 1:
            value *= (2 if "qkv" in name or ".q." in name or ".k." in name else 1) * value[0].numel() ** -0.5
        else:
            value = 0.1 * value + (1 if name.endswith("weight") else 0)
        tensors[name] = value
    return tensors
