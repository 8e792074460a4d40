"""One attention call of a watched layer: whose rows it holds, where the image is among its tokens, and their maps."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from ...sag_core.attention import column_mass, sample_queries, split_heads
from ...sag_core.masks import to_grid
from .families import Call, image_first, image_only, transformer_of

IN_PARTS = "the model is run on parts of the sample, which are neither recorded nor guided"

Index = slice | Tensor


@dataclass
class Pass:
    """The main model pass of one step: what is wanted from it, and what was seen.

    Args:
        index: position of the guided branch among the conds of the pass.
        rows: images in the batch.
        sizes: spatial sizes at which the network may be run for this branch.
        maps: by cond, then by layer, the map [B, h, w] or [B, t, h, w].
        in_parts: the network is run on parts of the sample, whose maps are not the sample's.
        problems: why a map could not be had, each once.
        observers: by key, whether the owner of a layer's attention only observes it: computes what the layer would.
    """

    index: int
    rows: int
    sizes: set[tuple[int, ...]]
    maps: dict[object, dict[str, Tensor]] = field(default_factory=dict)
    in_parts: bool = False
    problems: list[str] = field(default_factory=list)
    observers: dict[object, Tensor] = field(default_factory=dict)

    def refuse_parts(self) -> None:
        """Another node cuts the sample up; what it shows the network is not the sample."""
        self.in_parts = True
        self.problem(IN_PARTS)

    def problem(self, text: str) -> None:
        """Note why a map could not be had."""
        if text not in self.problems:
            self.problems.append(text)


@dataclass
class Listening(Call):
    """A call of the network that is listened to, as far as its thread has come.

    Args:
        previous: another node's attention override.
        layer: the watched layer that runs and has not attended yet.
        attending: whether that layer's self-attention runs.
        features: the spatial size of what entered it, where that is an image.
        seen: layers that have been read; one that runs again in the same call is not.
    """

    previous: Callable | None = None
    layer: str | None = None
    attending: bool = False
    features: tuple[int, ...] = ()
    seen: set[str] = field(default_factory=set)


def read_maps(call: Listening, current: Pass, q: Tensor, k: Tensor, scale: float | None,
              mask: Tensor | None) -> dict[object, Tensor]:
    """The maps of the guided branch's conds in one attention call.

    Args:
        call: the call of the network that it is part of.
        current: the pass that the call is part of.
        q, k: queries [B, heads, tokens, D] and keys [B, heads_k, tokens_k, D].
        scale, mask: of `column_mass`.

    Returns:
        By cond, [rows, h, w] or [rows, t, h, w], mean 1; nothing where the call is for the other branch.

    Raises:
        ValueError: the image's tokens are not there; the layer does not attend as its model does by itself.
    """
    conds, ids, batch = call.options["cond_or_uncond"], call.options["uuids"], q.shape[0]
    wanted = [i for i, index in enumerate(conds) if index == current.index]
    if not wanted:
        return {}
    grid, queries, keys = _find_image(call, current, q, k)
    tokens = q.shape[2]
    q = q[:, :, queries]
    sampled = sample_queries(q.shape[2])
    if mask is not None and mask.ndim > 1 and mask.shape[-2] == tokens:
        mask = mask[..., queries, :][..., sampled, :]
    q = q[:, :, sampled]
    maps = {}
    for i in wanted:
        own = slice(i * batch // len(conds), (i + 1) * batch // len(conds))
        own_mask = mask[own] if mask is not None and mask.ndim > 2 and mask.shape[0] == batch else mask
        mass = column_mass(q[own], k[own], scale, own_mask)[:, keys]
        maps.setdefault(ids[i], []).append(to_grid(mass.reshape(current.rows, -1), grid))
    return {cond: sum(found) / len(found) for cond, found in maps.items()}


def is_plain_attention(out: Tensor, q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """Returns whether an output is softmax attention of these, for every token: a boolean tensor without dimensions.

    Args:
        out: [B, tokens, heads * D].
        q, k, v: [B, tokens, heads * D].
        heads: number of heads.
    """
    parts = (split_heads(part, heads) for part in (q, k, v))
    expected = F.scaled_dot_product_attention(*parts).transpose(1, 2).flatten(2).float()
    off = (out.float() - expected).norm(dim=-1)
    # Ways to compute it differ by a few roundings; bfloat16 has three digits.
    return (off <= (0.05 if out.dtype == torch.bfloat16 else 0.01) * expected.norm(dim=-1)).all()


def _find_image(call: Listening, current: Pass, q: Tensor, k: Tensor) -> tuple[tuple[int, ...], Index, Index]:
    """The grid of the image's tokens, and where they are among the queries and among the keys."""
    family, places = transformer_of(call.network), None
    if family is not None:
        grid, order = family.grid(call), family.order
        places = family.places(call, grid)
    elif "activations_shape" in call.options:
        grid, order = tuple(call.options["activations_shape"][2:]), image_only
    else:
        grid, order = call.features, image_first
    images = current.rows * len(call.options["cond_or_uncond"])
    # Frames of a video that do not see each other are run as a batch of images.
    frames = max(1, q.shape[0] // images) if len(grid) == 3 else 1
    keys = queries = math.prod(grid) // frames if places is None else int(places[-1]) + 1
    if order is image_first:
        queries = min(queries, q.shape[2])  # LTXV asks its guides' tokens, which come last, in a call of their own
    first_query, first_key = order(call, q.shape[2], queries), order(call, k.shape[2], keys)
    if q.shape[0] != images * frames or not (0 <= first_query <= q.shape[2] - queries
                                             and 0 <= first_key <= k.shape[2] - keys):
        raise ValueError(f"{q.shape[2]} tokens attend to {k.shape[2]} in {q.shape[0]} rows, where its grid is {grid} "
                         f"and there are {images} images; another node merges, tiles or splits them, or a mask leaves "
                         "some out")
    if places is not None:
        return grid, first_query + places.to(q.device), first_key + places.to(k.device)
    return grid, slice(first_query, first_query + queries), slice(first_key, first_key + keys)
