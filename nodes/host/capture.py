"""Reading self-attention while the model runs, without changing what it computes.

Two things meet here. Forward hooks on the chosen modules tell which layer is running; the host's attention override,
or the owner of the layer's attention where another node has replaced it, is called with the queries and keys. Both
call what they found in place, so every other node keeps working, in whatever order nodes were added.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ...sag_core.attention import column_mass, sample_queries, split_heads
from ...sag_core.masks import to_grid
from .families import Call, Order, image_first, image_only, transformer_of
from .unmute import Unmuted

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
        maps: by cond, then by layer, the map [B, h, w] or [B, t, h, w].
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


@dataclass
class Listening(Call):
    """A call of the network that is listened to, as far as its thread has come.

    Args:
        previous: another node's attention override.
        layer: the watched layer that runs and has not attended yet.
        features: the spatial size of what entered it, where that is an image.
        seen: layers that have been read; one that runs again in the same call is not.
    """

    previous: Callable | None = None
    layer: str | None = None
    features: tuple[int, ...] = ()
    seen: set[str] = field(default_factory=set)


class Capture:
    """Records the maps of some layers into the `Pass` that is open. Safe for several devices' threads."""

    def __init__(self, layers: dict[str, str]):
        """`layers`: name to record under -> path of the module in the diffusion model."""
        self.layers = layers
        self.current: Pass | None = None
        self._local = threading.local()
        self._lock = threading.Lock()
        self._hooks: dict[int, list] = {}
        self._unmuted: list[tuple[Unmuted, nn.Module]] = []

    @contextmanager
    def listen(self, network: nn.Module, size: tuple[int, ...], inputs: dict, options: dict) -> Iterator[dict]:
        """Listen to one call of the network, made with the transformer_options this gives.

        Args:
            network: the diffusion model.
            size: spatial size of the latent it is given.
            inputs: its other inputs by name.
            options: transformer_options; they are not changed.
        """
        network = getattr(network, "_orig_mod", network)  # what torch.compile has wrapped
        self._attach(network)
        call = Listening(network, size, inputs, previous=options.get(OVERRIDE))
        call.options = options = options | {OVERRIDE: self._attend}
        owners = options.get("patches_replace", {}).get("attn1")
        if owners:
            watched = {key: self._watch(owner) for key, owner in owners.items()}
            options["patches_replace"] = options["patches_replace"] | {"attn1": watched}
        before = [unmuted.options for unmuted, _ in self._unmuted]
        self._local.call = call
        for unmuted, _ in self._unmuted:
            unmuted.options = options
        try:
            yield options
        finally:
            self._local.call = None
            for (unmuted, _), own in zip(self._unmuted, before, strict=True):
                unmuted.options = own

    def detach(self) -> None:
        """Leave nothing on the models."""
        with self._lock:
            for handle in (handle for handles in self._hooks.values() for handle in handles):
                handle.remove()
            self._hooks.clear()
            for unmuted, module in self._unmuted:
                unmuted.release(module)
            self._unmuted.clear()

    def _attach(self, network: nn.Module) -> None:
        """Watch a network's layers, once; a run may use one network per device."""
        with self._lock:
            if id(network) in self._hooks:
                return
            handles = self._hooks[id(network)] = []
            family = transformer_of(network)
            for name, path in self.layers.items():
                block = network.get_submodule(path)
                handles.append(block.register_forward_pre_hook(self._entering(name)))
                handles.append(block.register_forward_hook(self._leaving, always_call=True))
                if family is not None and family.mute:
                    module = block.get_submodule(family.mute)
                    if unmuted := Unmuted.of(module):
                        self._unmuted.append((unmuted, module))

    def _entering(self, name: str) -> Callable:
        def enter(module: nn.Module, args: tuple) -> None:
            call = self._call
            if call is not None and name not in call.seen:
                call.layer = name
                call.features = tuple(args[0].shape[2:]) if args and isinstance(args[0], Tensor) else ()

        return enter

    def _leaving(self, module: nn.Module, args: tuple, output: object) -> None:
        if self._call is not None:
            self._call.layer = None

    @property
    def _call(self) -> Listening | None:
        return getattr(self._local, "call", None)

    def _attend(self, func: Callable, q: Tensor, k: Tensor, v: Tensor, heads: int, *args, **kwargs) -> Tensor:
        """The host's attention override: read, then compute as before."""
        call = self._call
        if call is not None and call.layer is not None:
            mask = args[0] if args else kwargs.get("mask")
            self._see(call, q, k, None if kwargs.get("skip_reshape") else heads,
                      kwargs.get("transformer_options") or call.options, kwargs.get("scale"), mask)
        if call is not None and call.previous is not None:
            return call.previous(func, q, k, v, heads, *args, **kwargs)
        return func(q, k, v, heads, *args, **kwargs)

    def _watch(self, owner: Callable) -> Callable:
        """The owner of a U-Net layer's attention, which the override is not asked about: read, then call it."""
        def watched(q: Tensor, k: Tensor, v: Tensor, extra_options: dict, **kwargs) -> Tensor:
            call = self._call
            if call is not None and call.layer is not None:
                self._see(call, q, k, extra_options["n_heads"], extra_options, None, kwargs.get("mask"))
            return owner(q, k, v, extra_options, **kwargs)

        return watched

    @torch.compiler.disable
    @torch.no_grad()
    def _see(self, call: Listening, q: Tensor, k: Tensor, heads: int | None, options: dict, scale: float | None,
             mask: Tensor | None) -> None:
        """One attention call in a watched layer: q and k are [B, tokens, heads * D], or split where heads is None."""
        layer, current = call.layer, self.current
        # Self-attention comes first in every block; what follows (cross-attention, time, sound) is not asked for.
        call.layer = None
        call.seen.add(layer)
        if current is None:
            return
        call.options = options
        try:
            if heads is not None:
                # Grouped-query attention has fewer heads of keys, of the same width.
                k_heads = k.shape[-1] * heads // q.shape[-1]
                q, k = split_heads(q, heads), split_heads(k, k_heads)
            seen = _read(call, current, q, k, scale, mask)
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, RuntimeError) as error:
            # Recording is not worth a generation, whatever another node or a full GPU makes of it.
            seen = {}
            with self._lock:
                current.problem(f"layer {layer} could not be recorded: {type(error).__name__}: {error}")
        with self._lock:
            for cond, attn_map in seen.items():
                by_layer = current.maps.setdefault(cond, {})
                if layer in by_layer:
                    current.refuse_parts()
                by_layer[layer] = attn_map


def _read(call: Listening, current: Pass, q: Tensor, k: Tensor, scale: float | None,
          mask: Tensor | None) -> dict[object, Tensor]:
    """The maps of the guided branch's conds in one attention call; q and k are [B, heads, tokens, D]."""
    conds, ids = call.options["cond_or_uncond"], call.options["uuids"]
    wanted = [i for i, index in enumerate(conds) if index == current.index]
    if not wanted:
        return {}
    grid, order = _image(call)
    rows = q.shape[0] // len(conds)
    # Frames of a video that do not see each other are run as a batch of images.
    frames = max(1, rows // current.rows) if len(grid) == 3 else 1
    image = math.prod(grid) // frames
    first_q, first_k = (order(call, t.shape[2], image) for t in (q, k))
    if (rows * len(conds), rows) != (q.shape[0], current.rows * frames) or not all(
            0 <= first <= t.shape[2] - image for first, t in ((first_q, q), (first_k, k))):
        raise ValueError(f"{q.shape[2]} tokens attend to {k.shape[2]} in {q.shape[0]} rows, where its grid is {grid} "
                         f"and there are {current.rows * len(conds)} images; another node merges, tiles or splits them")
    own_queries, sampled = slice(first_q, first_q + image), sample_queries(image)
    if mask is not None and mask.ndim > 1 and mask.shape[-2] == q.shape[2]:
        mask = mask[..., own_queries, :][..., sampled, :]
    q = q[:, :, own_queries][:, :, sampled]
    maps = {}
    for i in wanted:
        own = slice(i * rows, (i + 1) * rows)
        own_mask = mask[own] if mask is not None and mask.ndim > 2 and mask.shape[0] == q.shape[0] else mask
        mass = column_mass(q[own], k[own], scale, own_mask)[:, first_k:first_k + image]
        maps.setdefault(ids[i], []).append(to_grid(mass.reshape(current.rows, -1), grid))
    return {cond: sum(found) / len(found) for cond, found in maps.items()}


def _image(call: Listening) -> tuple[tuple[int, ...], Order]:
    """The grid of the image's tokens in the running layer, and where they are among the others."""
    family = transformer_of(call.network)
    if family is not None:
        return family.grid(call), family.order
    if "activations_shape" in call.options:
        return tuple(call.options["activations_shape"][2:]), image_only
    return call.features, image_first
