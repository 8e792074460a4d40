"""From the self-attention map to the mask of what the model attends to."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from torch import Tensor


def attention_mask(attn_map: Tensor, threshold: float, size: Sequence[int]) -> Tensor:
    """M_t = 1[A_t > psi], upsampled to the sample by nearest neighbour (SAG, eq. 9).

    Args:
        attn_map: self-attention map [B, h, w] or [B, t, h, w]; its mean is 1.
        threshold: psi, in units of the map's mean.
        size: spatial size of the sample, (H, W) or (T, H, W).

    Returns:
        [B, 1, H, W] or [B, 1, T, H, W] of 0 and 1, in the map's dtype.

    Example:
        >>> attention_mask(torch.tensor([[[2.0, 0.5]]]), threshold=1.0, size=(2, 4)).int().tolist()
        [[[[1, 1, 0, 0], [1, 1, 0, 0]]]]
    """
    return place(attn_map > threshold, size).to(attn_map.dtype)


def place(attn_map: Tensor, size: Sequence[int]) -> Tensor:
    """Put a map on the sample: [B, h, w] -> [B, 1, H, W], or [B, t, h, w] -> [B, 1, T, H, W].

    Where the grid is that of patches with a power-of-two side, the last of which may hang over the edge, every token
    gets exactly its own patch; else the map is stretched by nearest neighbour.
    """
    size = tuple(size)
    if attn_map.ndim != len(size) + 1:
        raise ValueError(f"a map of shape {tuple(attn_map.shape)} cannot be placed on a sample of size {size}")
    grid = tuple(attn_map.shape[1:])
    patch = [_patch(tokens, pixels) for tokens, pixels in zip(grid, size, strict=True)]
    if None in patch:
        wide = attn_map[:, None].to(torch.promote_types(attn_map.dtype, torch.float32))
        return F.interpolate(wide, size=size, mode="nearest").to(attn_map.dtype)
    for dim, (side, pixels) in enumerate(zip(patch, size, strict=True), start=1):
        attn_map = attn_map.repeat_interleave(side, dim=dim).narrow(dim, 0, pixels)
    return attn_map[:, None]


def mean_over_tokens(values: Tensor, grid: Sequence[int]) -> Tensor:
    """The mean of pixels [B, H, W] or [B, T, H, W] over those of each token, by the rule of `place`: [B, h, w]."""
    tokens = torch.arange(math.prod(grid), dtype=torch.float32, device=values.device).view(1, *grid)
    owner = place(tokens, values.shape[1:]).long().flatten()
    total = values.new_zeros(len(values), tokens.numel()).index_add_(1, owner, values.flatten(1))
    count = values.new_zeros(tokens.numel()).index_add_(0, owner, torch.ones_like(owner, dtype=values.dtype))
    return (total / count.clamp(min=1)).view(-1, *grid)


def fuse(attn_maps: Sequence[Tensor]) -> Tensor:
    """Average maps of several layers on the finest of their grids."""
    finest = max((m.shape[1:] for m in attn_maps), key=lambda grid: grid.numel())
    return sum(place(m, finest)[:, 0] for m in attn_maps) / len(attn_maps)


def to_grid(mass: Tensor, grid: Sequence[int]) -> Tensor:
    """Column mass [B, tokens] on its grid, scaled to mean 1: [B, h, w] or [B, t, h, w].

    A mass of 0, where a mask hides every token, stays 0; one that is not finite gives a map that is not.

    Raises:
        ValueError: the grid does not hold that many tokens.
    """
    grid = tuple(grid)
    if mass.shape[1] != math.prod(grid):
        raise ValueError(f"{mass.shape[1]} tokens do not fill a grid of {grid}")
    mean = reduce(mass, "b n -> b 1", "mean")
    names = " ".join("thw"[-len(grid):])
    mean = mean.clamp(min=torch.finfo(mean.dtype).tiny)
    return rearrange(mass / mean, f"b ({names}) -> b {names}", **dict(zip(names.split(), grid, strict=True)))


def _patch(tokens: int, pixels: int) -> int | None:
    """Side of the power-of-two patches that cut `pixels` into `tokens`, None where there is none."""
    side = 1
    while -(-pixels // side) > tokens:
        side *= 2
    return side if -(-pixels // side) == tokens else None
