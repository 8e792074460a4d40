"""Work of this pack inside a generation, which may fail without ending it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import comfy.model_management
import torch

T = TypeVar("T")


@dataclass(frozen=True)
class Failure:
    """Failure of a piece of work: its error's text, and whether it was for want of memory."""

    text: str
    out_of_memory: bool


def attempt(work: Callable[[], T]) -> T | Failure:
    """Returns the result of `work`, or why it failed, after freeing the memory that it held. Cancelling still cancels.

    Any node may take part in the work, so that any error may come of it.
    """
    try:
        return work()
    except comfy.model_management.InterruptProcessingException:  # an Exception on older hosts
        raise
    except Exception as error:
        failure = Failure(str(error) or type(error).__name__, _is_out_of_memory(error))
    # The error is gone by now, and with it what its traceback held.
    if failure.out_of_memory:
        comfy.model_management.soft_empty_cache()
    return failure


def _is_out_of_memory(error: Exception) -> bool:
    is_oom = getattr(comfy.model_management, "is_oom", lambda _: False)  # some older hosts have none
    return (isinstance(error, MemoryError | torch.cuda.OutOfMemoryError) or is_oom(error)
            or "not enough memory" in str(error))  # of a CPU
