"""Networks that torch.compile has compiled, while they are listened to.

The host leaves everything in transformer_options out of what compiled code checks before it runs, so that code would
neither ask an override that has come nor notice that one is gone; and it does not look for hooks. A call that is
listened to therefore runs as the network was written; all others, guidance's second pass too, stay compiled.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch


class _Eager:
    """PyTorch's stance towards compiled code is the process's, so those who want it changed are counted."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._stance: AbstractContextManager | None = None

    def enter(self) -> None:
        with self._lock:
            if self._users == 0:
                # PyTorch before 2.6 has no stances; there compiled networks may go unguided, which the node says.
                stance = getattr(torch.compiler, "set_stance", lambda _: nullcontext())
                self._stance = stance("force_eager")
            self._users += 1

    def leave(self) -> None:
        with self._lock:
            self._users -= 1
            if self._users == 0:
                self._stance.__exit__(None, None, None)
                self._stance = None


_EAGER = _Eager()


@contextmanager
def uncompiled() -> Iterator[None]:
    """Run compiled networks as they were written."""
    _EAGER.enter()
    try:
        yield
    finally:
        _EAGER.leave()
