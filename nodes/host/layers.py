"""Self-attention layers of a model: their names, where they are, and which one `auto` means.

A layer is found by the name of its module inside the diffusion model, so that the same names serve whatever the
attention call itself reveals of its place.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from torch import nn

from .families import transformer_of

# U-Nets: SD's transformer blocks (with their index) and ADM's bare attention blocks.
_UNET = re.compile(r"(input|middle|output)_blocks?\.(?:(\d+)\.)?(\d+)(?:\.transformer_blocks\.(\d+))?")
_RANGE = re.compile(r"(\w+)\.(\d+)-(\d+)")


def find_layers(diffusion_model: nn.Module) -> dict[str, str]:
    """Names of the self-attention layers of a model and the modules they live in, in the order they run.

    Of a U-Net: "input.4", "middle.0", "output.2", each the first transformer of its block, and with the index of the
    transformer inside the block, "output.2.1". Of others: "block.0", "block.1", ...
    """
    family = transformer_of(diffusion_model)
    if family is not None:
        blocks = [f"{path}.{name}" for path in family.blocks
                  for name, _ in _child(diffusion_model, path).named_children()]
    else:
        blocks = [path for path, module in diffusion_model.named_modules() if _is_cascade_attention(module)]
    return {f"block.{i}": path for i, path in enumerate(blocks)} or _unet_layers(diffusion_model)


def choose_layers(spec: str, layers: dict[str, str]) -> list[str]:
    """Names meant by what the user wrote: "auto", a name, a range ("output.2-4"), or several separated by commas.

    Raises:
        ValueError: the model has no such layer; the message lists those it has.
    """
    chosen = []
    for word in (part.strip() for part in spec.split(",")):
        if word == "auto":
            names = [default_layer(layers)] if layers else []
        elif match := _RANGE.fullmatch(word):
            side, first, last = match.group(1), int(match.group(2)), int(match.group(3))
            names = [name for name in short_names(layers)
                     if name.startswith(f"{side}.") and first <= int(name.split(".")[1]) <= last]
        else:
            names = [word] if word in layers else []
        if not names:
            raise ValueError(f"layer is {word!r}; this model has {describe(layers)}")
        chosen += [name for name in names if name not in chosen]
    return chosen


def default_layer(layers: dict[str, str]) -> str:
    """Returns the layer that `auto` means.

    In a U-Net the middle block's first self-attention, else the deepest there is; in others the block in the middle,
    where the tokens are neither still the latent's nor already the output's.
    """
    names = short_names(layers)
    if "middle.0" in names:
        return "middle.0"
    encoder = [name for name in names if name.startswith("input.")]
    if encoder:
        return encoder[-1]
    return names[len(names) // 2] if names[0].startswith("block.") else names[0]


def describe(layers: dict[str, str]) -> str:
    """The layers of a model, for an error message."""
    names = short_names(layers)
    if not names:
        return "no self-attention that can be recorded"
    if names[0] == "block.0":
        return f"auto, block.0 to block.{len(names) - 1}"
    return f"auto, {', '.join(names)}"


def short_names(layers: dict[str, str]) -> Sequence[str]:
    """The names without those that differ only by a transformer index."""
    return [name for name in layers if name.count(".") == 1]


def _unet_layers(diffusion_model: nn.Module) -> dict[str, str]:
    layers = {}
    for path, module in diffusion_model.named_modules():
        match = _UNET.fullmatch(path)
        if match is None or not _is_self_attention(module):
            continue
        side, block, _, index = match.groups()
        block, index = int(block or 0), int(index or 0)
        if index == 0:
            layers[f"{side}.{block}"] = path
        layers[f"{side}.{block}.{index}"] = path
    return layers


def _is_self_attention(module: nn.Module) -> bool:
    if type(module).__name__ == "AttentionBlock":
        return True
    return hasattr(module, "attn1") and not getattr(module, "disable_self_attn", False)


def _is_cascade_attention(module: nn.Module) -> bool:
    """Stable Cascade's blocks, in which the image attends to itself and to the text at once."""
    return type(module).__name__ == "AttnBlock" and getattr(module, "self_attn", False)


def _child(module: nn.Module, path: str) -> nn.Module:
    """A submodule, empty where the network lacks it."""
    for name in path.split("."):
        module = getattr(module, name, nn.Module())
    return module
