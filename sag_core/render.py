"""Attention maps as pictures: heat map, mask, overlay, contact sheet. Images are [B, H, W, 3] in 0..1."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

# Anchors of a perceptually uniform, colour-blind safe ramp: lightness rises evenly from near black to pale yellow.
_RAMP = ((0.00, 0.00, 0.02), (0.16, 0.05, 0.33), (0.39, 0.09, 0.43), (0.60, 0.16, 0.38), (0.80, 0.26, 0.27),
         (0.94, 0.43, 0.13), (0.98, 0.66, 0.08), (0.95, 0.87, 0.37), (0.99, 1.00, 0.75))


def normalise(attn_map: Tensor) -> Tensor:
    """A map [B, 1, H, W] stretched to 0..1, each sample by itself; a flat one becomes 0."""
    low, high = (extreme(attn_map, dim=(1, 2, 3), keepdim=True) for extreme in (torch.amin, torch.amax))
    return (attn_map - low) / (high - low).clamp(min=torch.finfo(attn_map.dtype).eps)


def colour(values: Tensor) -> Tensor:
    """Values 0..1 [B, 1, H, W] as colours [B, H, W, 3]."""
    ramp = torch.tensor(_RAMP, dtype=values.dtype, device=values.device)
    position = values[:, 0].clamp(0, 1) * (len(ramp) - 1)
    below = position.long().clamp(max=len(ramp) - 2)
    return torch.lerp(ramp[below], ramp[below + 1], (position - below)[..., None])


def heatmap(attn_map: Tensor) -> Tensor:
    """The map [B, 1, H, W] in colour, each sample from its lowest to its highest value."""
    return colour(normalise(attn_map))


def overlay(image: Tensor, attn_map: Tensor, mask: Tensor, opacity: float = 0.6) -> Tensor:
    """The heat map over an image, strong where the mask is 1 and the image nearly grey elsewhere.

    Args:
        image: [B, H, W, 3] in 0..1.
        attn_map, mask: [B, 1, H, W] at the image's size; one batch entry serves all images.
    """
    grey = image.mean(dim=-1, keepdim=True).expand_as(image)
    weight = opacity * rearrange(mask, "b 1 h w -> b h w 1").to(image)
    return torch.lerp(grey * 0.8 + image * 0.2, heatmap(attn_map).to(image), weight)


def resize(values: Tensor, size: Sequence[int]) -> Tensor:
    """Nearest-neighbour resize of [B, 1, H, W], so that tokens stay visible as the blocks they are."""
    return F.interpolate(values, size=tuple(size), mode="nearest-exact")


def contact_sheet(images: Tensor, columns: int, gap: int = 2) -> Tensor:
    """Images [B, H, W, 3] laid out in rows of `columns` on black, one picture [1, H', W', 3].

    Raises:
        ValueError: there are no images, or `columns` is below 1.
    """
    if columns < 1 or not len(images):
        raise ValueError(f"a sheet needs images and columns; there are {len(images)} and {columns}")
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    padded = F.pad(images, (0, 0, 0, gap, 0, gap, 0, rows * columns - len(images)))
    sheet = rearrange(padded, "(r c) h w d -> 1 (r h) (c w) d", c=columns)
    return sheet[:, :-gap, :-gap] if gap else sheet
