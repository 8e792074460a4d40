"""Reading self-attention while the model runs, without changing what it computes.

Two things meet here. Forward hooks on the chosen modules tell which layer is running; the host's attention override,
or the owner of the layer's attention where another node has replaced it, is called with the queries and keys. Both
call what they found in place, so every other node keeps working, in whatever order nodes were added.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from ...sag_core.attention import split_heads
from .attention import Listening, Pass, is_plain_attention, read_maps
from .compiled import uncompiled
from .families import self_attention_of, transformer_of
from .unmute import unmuted

SAG_PASS = "sag_pass"
"""Key in transformer_options that marks SAG's extra model pass."""

OVERRIDE = "optimized_attention_override"


class Capture:
    """Records the maps of some layers into the `Pass` that is open. Safe for several devices' threads."""

    def __init__(self, layers: dict[str, str]):
        """`layers`: name to record under -> path of the module in the diffusion model."""
        self.layers = layers
        self.current: Pass | None = None
        self._local = threading.local()
        self._lock = threading.Lock()

    @contextmanager
    def listen(self, network: nn.Module, size: tuple[int, ...], inputs: dict, options: dict) -> Iterator[dict]:
        """Listen to one call of the network, made with the transformer_options this gives; nothing stays on it.

        Args:
            network: the diffusion model.
            size: spatial size of the latent it is given.
            inputs: its other inputs by name.
            options: transformer_options; they are not changed.
        """
        network = getattr(network, "_orig_mod", network)  # what torch.compile has wrapped
        call = Listening(network, size, inputs, previous=options.get(OVERRIDE))
        call.options = options = options | {OVERRIDE: self._attend}
        owners = options.get("patches_replace", {}).get("attn1")
        if owners:
            watched = {key: self._watch(key, owner) for key, owner in owners.items()}
            options["patches_replace"] = options["patches_replace"] | {"attn1": watched}
        family = transformer_of(network)
        with ExitStack() as stack:
            stack.enter_context(uncompiled())
            entrance = getattr(network, "input_blocks", None)
            if entrance is not None:
                stack.callback(entrance[0][0].register_forward_pre_hook(self._whole(size)).remove)
            for name, path in self.layers.items():
                block = network.get_submodule(path)
                attention = self_attention_of(block, family)
                for module, enter, leave in ((block, self._enter(name), self._leave),
                                             (attention, self._attend_from, self._attend_until)):
                    stack.callback(module.register_forward_pre_hook(enter).remove)
                    stack.callback(module.register_forward_hook(leave, always_call=True).remove)
                if family is not None and family.mute:
                    stack.enter_context(unmuted(attention, options))
            stack.callback(setattr, self._local, "call", None)
            self._local.call = call
            yield options

    def _whole(self, size: tuple[int, ...]) -> Callable:
        """A hook for the first convolution of a U-Net, which refuses tiles that were cut on the way to it.

        `size` is that of the latent; the network may have padded it.
        """
        def enter(module: nn.Module, args: tuple) -> None:
            current, seen = self.current, args[0].shape[2:]
            if current is not None and any(side < whole for side, whole in zip(seen, size[-2:], strict=True)):
                with self._lock:
                    current.refuse_parts()

        return enter

    def _enter(self, name: str) -> Callable:
        """A hook for the start of a layer."""
        def enter(module: nn.Module, args: tuple) -> None:
            call = self._call
            if call is not None and name not in call.seen:
                call.layer = name
                call.features = tuple(args[0].shape[2:]) if args and isinstance(args[0], Tensor) else ()

        return enter

    def _attend_from(self, module: nn.Module, args: tuple) -> None:
        """A hook for the start of a layer's self-attention.

        Attention outside of it is another: to the text, over time. It must not be taken for self-attention that another
        node has replaced by a computation of its own.
        """
        if self._call is not None:
            self._call.attending = True

    def _attend_until(self, module: nn.Module, args: tuple, output: object) -> None:
        """A hook for the end of a layer's self-attention."""
        if self._call is not None:
            self._call.attending = False

    def _leave(self, module: nn.Module, args: tuple, output: object) -> None:
        """A hook for the end of a layer."""
        call = self._call
        if call is None:
            return
        if call.layer is not None and self.current is not None:
            with self._lock:
                self.current.problem(f"layer {call.layer} could not be recorded: another node computes its "
                                     "self-attention")
        call.layer = None

    @property
    def _call(self) -> Listening | None:
        return getattr(self._local, "call", None)

    def _attend(self, func: Callable, q: Tensor, k: Tensor, v: Tensor, heads: int, *args, **kwargs) -> Tensor:
        """The host's attention override: read, then compute as before."""
        call = self._call
        if call is not None and call.layer is not None and call.attending:
            mask = args[0] if args else kwargs.get("mask")
            self._see(call, q, k, v, None if kwargs.get("skip_reshape") else heads,
                      kwargs.get("transformer_options") or call.options, kwargs.get("scale"), mask)
        if call is not None and call.previous is not None:
            return call.previous(func, q, k, v, heads, *args, **kwargs)
        return func(q, k, v, heads, *args, **kwargs)

    def _watch(self, key: object, owner: Callable) -> Callable:
        """The owner of a U-Net layer's attention, which the override is not asked about: read, then call it."""
        def watched(q: Tensor, k: Tensor, v: Tensor, extra_options: dict, **kwargs) -> Tensor:
            call = self._call
            if call is not None and call.layer is not None:
                self._see(call, q, k, v, extra_options["n_heads"], extra_options, None, kwargs.get("mask"))
            out = owner(q, k, v, extra_options, **kwargs)
            if call is not None:
                self._judge(key, out, q, k, v, extra_options)
            return out

        return watched

    @torch.no_grad()
    def _judge(self, key: object, out: Tensor, q: Tensor, k: Tensor, v: Tensor, options: dict) -> None:
        """Note whether an owner of attention changes it, or computes it as the layer would in order to observe it."""
        current = self.current
        if current is None:
            return
        try:
            plain = is_plain_attention(out, q, k, v, options["n_heads"])
        except (AttributeError, LookupError, RuntimeError, TypeError, ValueError):
            plain = torch.tensor(False)  # of another shape: not the layer's
        with self._lock:
            current.observers[key] = current.observers[key].to(plain) & plain if key in current.observers else plain

    @torch.no_grad()
    def _see(self, call: Listening, q: Tensor, k: Tensor, v: Tensor, heads: int | None, options: dict,
             scale: float | None, mask: Tensor | None) -> None:
        """One attention call in a watched layer: q, k, v are [B, tokens, heads * D], or split where heads is None."""
        family = transformer_of(call.network)
        if family is not None and family.same_tokens and q.shape[-2] != k.shape[-2]:
            return  # what another node has put before it, to an image prompt for one
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
            recorded_as = getattr(call.network, "recorded_as", None)
            if recorded_as is not None:
                q, k = recorded_as(q, k, v)
            seen = read_maps(call, current, q, k, scale, mask)
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
