"""Reading self-attention while the model runs, without changing what it computes.

Two things meet here. Forward hooks on the chosen modules tell which layer is running; the host's attention override,
or the owner of the layer's attention where another node has replaced it, is called with the queries and keys. Both
call what they found in place, so every other node keeps working, in whatever order nodes were added.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ...sag_core.attention import column_mass, split_heads
from ...sag_core.masks import to_grid

SAG_PASS = "sag_pass"
"""Key in transformer_options that marks SAG's extra model pass."""

OVERRIDE = "optimized_attention_override"
IN_PARTS = "the model is run on parts of the sample, which are neither recorded nor guided"


@dataclass
class Pass:
    """The main model pass of one step: what is wanted from it, and what was seen.

    Args:
        index: position of the guided branch among the conds of the pass.
        rows: images in the batch.
        sizes: spatial sizes at which the network may be run for this branch.
        maps: by cond, then by layer, the map [B, h, w].
        in_parts: the network is run on parts of the sample, whose maps are not the sample's.
        problems: why a map could not be had, each once.
    """

    index: int
    rows: int
    sizes: set[tuple[int, ...]]
    maps: dict[object, dict[str, Tensor]] = field(default_factory=dict)
    in_parts: bool = False
    problems: list[str] = field(default_factory=list)

    def refuse_parts(self) -> None:
        """Another node cuts the sample up; what it shows the network is not the sample."""
        self.in_parts = True
        self.problem(IN_PARTS)

    def problem(self, text: str) -> None:
        """Note why a map could not be had."""
        if text not in self.problems:
            self.problems.append(text)


class Capture:
    """Records the maps of some layers into the `Pass` that is open. Safe for several devices' threads."""

    def __init__(self, layers: dict[str, str]):
        """`layers`: name to record under -> path of the module in the diffusion model."""
        self.layers = layers
        self.current: Pass | None = None
        self._local = threading.local()
        self._lock = threading.Lock()
        self._hooks: dict[int, list] = {}

    def attach(self, diffusion_model: nn.Module) -> None:
        """Watch a model's layers, once; a run may use one model per device."""
        with self._lock:
            if id(diffusion_model) in self._hooks:
                return
            handles = self._hooks[id(diffusion_model)] = []
            for name, path in self.layers.items():
                module = diffusion_model.get_submodule(path)
                handles.append(module.register_forward_pre_hook(self._entering(name)))
                handles.append(module.register_forward_hook(self._leaving, always_call=True))

    def detach(self) -> None:
        """Leave nothing on the models."""
        with self._lock:
            for handle in (handle for handles in self._hooks.values() for handle in handles):
                handle.remove()
            self._hooks.clear()

    def instrument(self, options: dict) -> dict:
        """A copy of transformer_options in which attention is read before it is computed as before."""
        previous = options.get(OVERRIDE)

        def override(func: Callable, q: Tensor, k: Tensor, v: Tensor, heads: int, *args, **kwargs) -> Tensor:
            if self._listening():
                mask = args[0] if args else kwargs.get("mask")
                self._see(q, k, None if kwargs.get("skip_reshape") else heads,
                          kwargs.get("transformer_options") or options, kwargs.get("scale"), mask)
            if previous is not None:
                return previous(func, q, k, v, heads, *args, **kwargs)
            return func(q, k, v, heads, *args, **kwargs)

        options = options | {OVERRIDE: override}
        owners = options.get("patches_replace", {}).get("attn1")
        if owners:
            watched = {key: self._watch(owner) for key, owner in owners.items()}
            options["patches_replace"] = options["patches_replace"] | {"attn1": watched}
        return options

    def _watch(self, owner: Callable) -> Callable:
        def watched(q: Tensor, k: Tensor, v: Tensor, extra_options: dict, **kwargs) -> Tensor:
            if self._listening():
                self._see(q, k, extra_options["n_heads"], extra_options, None, kwargs.get("mask"))
            return owner(q, k, v, extra_options, **kwargs)

        return watched

    def _entering(self, name: str) -> Callable:
        def enter(module: nn.Module, args: tuple) -> None:
            self._local.layer = name

        return enter

    def _leaving(self, module: nn.Module, args: tuple, output: object) -> None:
        self._local.layer = None

    def _listening(self) -> bool:
        return self.current is not None and getattr(self._local, "layer", None) is not None

    @torch.no_grad()
    def _see(self, q: Tensor, k: Tensor, heads: int | None, options: dict, scale: float | None,
             mask: Tensor | None) -> None:
        """One attention call in a watched layer: q and k are [B, tokens, heads * D], or split where heads is None."""
        layer = self._local.layer
        # Self-attention comes first in every block; what follows (cross-attention, time) is not asked for.
        self._local.layer = None
        try:
            if heads is not None:
                # Grouped-query attention has fewer heads of keys, of the same width.
                k_heads = k.shape[-1] * heads // q.shape[-1]
                q, k = split_heads(q, heads), split_heads(k, k_heads)
            seen = self._read(layer, q, k, options, scale, mask)
        except (KeyError, ValueError, RuntimeError) as error:
            # Recording is not worth a generation, whatever another node or a full GPU makes of it.
            seen = {}
            with self._lock:
                self.current.problem(f"layer {layer} could not be recorded: {type(error).__name__}: {error}")
        with self._lock:
            for cond, attn_map in seen.items():
                by_layer = self.current.maps.setdefault(cond, {})
                if layer in by_layer:
                    self.current.refuse_parts()
                by_layer[layer] = attn_map

    def _read(self, layer: str, q: Tensor, k: Tensor, options: dict, scale: float | None,
              mask: Tensor | None) -> dict[object, Tensor]:
        """The maps of the guided branch's conds in this call; q and k are [B, heads, tokens, D]."""
        conds, ids, images = options["cond_or_uncond"], options["uuids"], self.current.rows
        wanted = [i for i, index in enumerate(conds) if index == self.current.index]
        grid = tuple(options.get("activations_shape", ())[2:])
        if not wanted:
            return {}
        if q.shape[0] != images * len(conds) or q.shape[2] != math.prod(grid) or k.shape[2] != q.shape[2]:
            raise ValueError(f"{q.shape[2]} tokens attend to {k.shape[2]} in {q.shape[0]} rows, where its grid is "
                             f"{grid} and there are {images * len(conds)} images; another node merges, tiles or "
                             "splits them")
        maps = {}
        for i in wanted:
            rows = slice(i * images, (i + 1) * images)
            maps[ids[i]] = to_grid(column_mass(q[rows], k[rows], scale, _mask_rows(mask, rows, q.shape[0])), grid)
        return maps


def _mask_rows(mask: Tensor | None, rows: slice, batch: int) -> Tensor | None:
    if mask is None or mask.ndim < 3 or mask.shape[0] != batch:
        return mask
    return mask[rows]
