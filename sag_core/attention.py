"""From queries and keys to the self-attention map A_t, in memory linear in the number of tokens.

Exact up to 16,384 queries; of more, as videos have, a sample stands for all.
"""

from __future__ import annotations

import math

import torch
from einops import rearrange, repeat
from torch import Tensor

# Logits are taken in chunks of as many elements as there are in the queries, or this many where those are few.
SMALLEST_CHUNK = 2 ** 18
# All queries count up to the first number, so many of more: under 2% of what the attention itself computes.
EXACT_QUERIES = 16_384
SAMPLED_QUERIES = 512
GOLDEN_RATIO = (5 ** 0.5 - 1) / 2


@torch.no_grad()
def column_mass(q: Tensor, k: Tensor, scale: float | None = None, mask: Tensor | None = None,
                chunk_elements: int | None = None) -> Tensor:
    """Returns the attention each key receives: softmax(q k^T), mean over heads, sum over queries (SAG, sec. 4.2).

    Rows of the softmax sum to one, so the result sums to the number of queries; where queries and keys are the same
    tokens its mean is 1. Queries are taken a chunk at a time and the probabilities are never all in memory.

    Args:
        q: queries [B, heads, Q, D].
        k: keys [B, heads_k, K, D]; heads_k divides heads (grouped-query attention).
        scale: factor of the logits, D ** -0.5 where None.
        mask: added to the logits, or where boolean True keeps a key; broadcastable to [B, heads, Q, K], and where it
            has three dimensions [B, Q, K].
        chunk_elements: logits held in memory at a time; at least one query is.

    Returns:
        [B, K], float32 (float64 for float64 inputs).

    Raises:
        ValueError: the shapes are not those of attention.
    """
    if q.ndim != 4 or k.ndim != 4:
        raise ValueError(f"q and k must be [B, heads, tokens, D]; they are {tuple(q.shape)} and {tuple(k.shape)}")
    if q.shape[0] != k.shape[0] or q.shape[-1] != k.shape[-1] or q.shape[1] % max(k.shape[1], 1):
        raise ValueError(f"q {tuple(q.shape)} and k {tuple(k.shape)} do not attend to each other")
    if not (q.numel() and k.numel()):
        raise ValueError(f"q {tuple(q.shape)} and k {tuple(k.shape)} hold no tokens")
    batch, heads, queries, dim = q.shape
    dtype = torch.promote_types(q.dtype, torch.float32)
    scale = dim ** -0.5 if scale is None else scale
    k = repeat(k.to(dtype), "b h k d -> (b h group) d k", group=heads // k.shape[1])
    if mask is not None:
        mask = _align_mask(mask)

    keys = k.shape[2]
    mass = torch.zeros(batch, keys, dtype=dtype, device=q.device)
    chunk = max(1, (chunk_elements or max(SMALLEST_CHUNK, q.numel())) // (batch * heads * keys))
    # Two buffers for all chunks: memory that is allocated anew for each may take longer to map than to fill.
    size = batch * heads * min(chunk, queries) * keys
    buffers = [torch.empty(size, dtype=dtype, device=q.device) for _ in range(2)]
    for start in range(0, queries, chunk):
        rows = slice(start, min(start + chunk, queries))
        shape = (batch * heads, rows.stop - start, keys)
        logits, weights = (buffer[:math.prod(shape)].view(shape) for buffer in buffers)
        torch.bmm((q[:, :, rows].to(dtype) * scale).flatten(0, 1), k, out=logits)
        if mask is not None:
            part, split = mask[:, :, rows] if mask.shape[2] > 1 else mask, logits.unflatten(0, (batch, heads))
            split.masked_fill_(~part, -torch.inf) if part.dtype == torch.bool else split.add_(part)
        torch.softmax(logits, dim=-1, out=weights)
        if mask is not None:
            # A query that may see no key at all (padding) is left out; what else is not a number stays so.
            weights.masked_fill_(logits.amax(dim=-1, keepdim=True) == -torch.inf, 0)
        mass += weights.unflatten(0, (batch, heads)).sum(dim=(1, 2))
    return mass / heads


def sample_queries(count: int) -> Tensor | slice:
    """Which of `count` queries to take the attention of, as an index: all, or of very many an even sample.

    The sample is one query of every stretch of equal length, at a place in it that follows the golden ratio, so that
    it meets rows and columns of the image evenly whatever its width. How far the map is then from the exact one is
    measured in tests/core/test_attention.py.
    """
    if count <= EXACT_QUERIES:
        return slice(None)
    stretch = torch.arange(SAMPLED_QUERIES, dtype=torch.float64)
    return ((stretch + stretch * GOLDEN_RATIO % 1) * (count / SAMPLED_QUERIES)).long()


def split_heads(x: Tensor, heads: int) -> Tensor:
    """[B, tokens, heads * D] -> [B, heads, tokens, D]."""
    return rearrange(x, "b n (h d) -> b h n d", h=heads)


def _align_mask(mask: Tensor) -> Tensor:
    """A mask [..., Q, K] or [B, Q, K] as [B or 1, heads or 1, Q or 1, K]."""
    if mask.ndim == 3:
        return mask[:, None]
    return mask[(None,) * (4 - mask.ndim)]
