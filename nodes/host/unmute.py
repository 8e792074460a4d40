"""Attention that does not pass on the host's options, made to pass them on while a run listens.

Three of the host's families (PixArt, HunyuanDiT, ErnieImage) call `optimized_attention` without transformer_options,
so no override is ever asked. Their modules are given a `forward` of their own for the time of a run: the class's code,
in which the name `optimized_attention` stands for a call with the options added.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FunctionType, MethodType

from torch import nn

_LOCK = threading.Lock()  # several runs may come to one module at once


def rebound_forward(module: nn.Module, **names: object) -> MethodType:
    """The forward of a module's class, in which some global names stand for something else."""
    plain = type(module).forward
    names = plain.__globals__ | names
    copy = FunctionType(plain.__code__, names, plain.__name__, plain.__defaults__, plain.__closure__)
    copy.__kwdefaults__ = plain.__kwdefaults__
    return MethodType(copy, module)


@contextmanager
def unmuted(module: nn.Module, options: dict) -> Iterator[None]:
    """Let a module hand transformer_options to the attention it calls in this thread, where it would not by itself."""
    forward = Unmuted.of(module)
    if forward is None:
        yield
        return
    outer, forward.options = forward.options, options
    try:
        yield
    finally:
        forward.options = outer
        forward.release(module)


class Unmuted:
    """A module's `forward` that hands `options` of its thread to the attention it calls."""

    def __init__(self, module: nn.Module):
        plain = type(module).forward
        self._local = threading.local()
        self._users = 0

        def attend(*args, **kwargs):
            if self.options is not None:
                kwargs.setdefault("transformer_options", self.options)
            return plain.__globals__["optimized_attention"](*args, **kwargs)

        self._forward = rebound_forward(module, optimized_attention=attend)

    def __call__(self, *args, **kwargs):
        return self._forward(*args, **kwargs)

    @property
    def options(self) -> dict | None:
        """transformer_options of the network's call that runs in this thread."""
        return getattr(self._local, "options", None)

    @options.setter
    def options(self, options: dict | None) -> None:
        self._local.options = options

    @classmethod
    def of(cls, module: nn.Module) -> Unmuted | None:
        """The module's, shared with other runs; None where another node has given it a `forward` of its own."""
        with _LOCK:
            forward = module.__dict__.get("forward")
            if forward is None:
                forward = module.forward = cls(module)
            if not isinstance(forward, cls):
                return None
            forward._users += 1
            return forward

    def release(self, module: nn.Module) -> None:
        """The last run to leave takes it off the module."""
        with _LOCK:
            self._users -= 1
            if self._users == 0 and module.__dict__.get("forward") is self:
                del module.forward
