"""The attention map of the published code of SAG, which has heads of its own.

That code splits a layer's q, k and v for its map by the flag `num_heads`, 4 unless given, and with heads first, however
the model attends. Where the model counts `num_head_channels` or has the newer order, as at 256 pixels, the split mixes
channels of q, k and v. The published figures were made so.
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor

HEADS = 4


def authors_split(q: Tensor, k: Tensor, v: Tensor, new_attention_order: bool = False) -> tuple[Tensor, Tensor]:
    """Returns what the published code takes for queries and keys [B, 4, N, D'], of the same channels.

    Args:
        q, k, v: of the layer as the model splits them, [B, heads, N, D].
        new_attention_order: of `ADMConfig`.

    Raises:
        ValueError: the channels do not split into 4 heads.
    """
    channels = q.shape[1] * q.shape[3]
    if channels % HEADS:
        raise ValueError(f"the authors' map needs {HEADS} heads, and the layer has {channels} channels")
    order = "three h d" if new_attention_order else "h three d"
    qkv = rearrange(torch.stack([q, k, v]), f"three b h n d -> b ({order}) n")
    q, k, _ = rearrange(qkv, "b (h three d) n -> three b h n d", three=3, h=HEADS)
    return q, k
