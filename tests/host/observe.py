"""Looking at the host while it runs, without this pack's help."""

from __future__ import annotations

import gc
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tests.host.graph import sample
from tests.host.models import Tiny

MIDDLE = "middle_block.1.transformer_blocks.0"


@dataclass(frozen=True)
class Call:
    """One call of the network: its transformer_options, and what one self-attention layer saw in it."""

    options: dict
    q: Tensor | None = None
    k: Tensor | None = None
    grid: tuple[int, int] | None = None

    @property
    def is_extra(self) -> bool:
        return bool(self.options.get("sag_pass"))

    def rows(self, index: int, own: uuid.UUID | None = None) -> tuple[Tensor, Tensor]:
        """q and k of the rows of one branch, of one of its conds where several share the call."""
        conds, ids = self.options["cond_or_uncond"], self.options["uuids"]
        at = next(i for i in range(len(conds)) if conds[i] == index and own in (None, ids[i]))
        return self.q.chunk(len(conds))[at], self.k.chunk(len(conds))[at]


@contextmanager
def network_calls(model) -> Iterator[list[Call]]:
    """Every call of a model's network, in order."""
    calls = []

    def before(module, args, kwargs):
        calls.append(Call(dict(kwargs["transformer_options"])))

    handle = model.model.diffusion_model.register_forward_pre_hook(before, with_kwargs=True)
    try:
        yield calls
    finally:
        handle.remove()


@contextmanager
def attention_calls(model, path: str = MIDDLE) -> Iterator[tuple[object, list[Call]]]:
    """A clone of a model, and of every call of its network the q, k and grid of the self-attention at `path`.

    Queries and keys come from hooks on the layer's projections, its grid from the shape of the features that enter.
    """
    network = model.model.diffusion_model
    block = network.get_submodule(path)
    features = block if hasattr(block, "qkv") else network.get_submodule(path.rsplit(".", 2)[0])
    seen, calls = {}, []

    def projection(name):
        return lambda module, args, output: seen.update({name: output})

    def qkv(module, args, output):
        # [B, heads * (q, k, v) * D, N], heads slowest, as guided-diffusion's default.
        q, k, _ = output.unflatten(1, (block.heads, 3, -1)).unbind(2)
        seen.update(q=q.flatten(1, 2).mT, k=k.flatten(1, 2).mT)

    def apply_model(executor, x, t, c_concat, c_crossattn, control, transformer_options, **kwargs):
        seen.clear()
        out = executor(x, t, c_concat, c_crossattn, control, transformer_options, **kwargs)
        calls.append(Call(dict(transformer_options), **seen))
        return out

    watched = model.clone()
    watched.add_wrapper(WrappersMP.APPLY_MODEL, apply_model)
    hooks = [features.register_forward_pre_hook(lambda module, args: seen.update(grid=tuple(args[0].shape[2:])))]
    if hasattr(block, "qkv"):
        hooks.append(block.qkv.register_forward_hook(qkv))
    else:
        hooks += [getattr(block.attn1, f"to_{name}").register_forward_hook(projection(name)) for name in "qk"]
    try:
        yield watched, calls
    finally:
        for hook in hooks:
            hook.remove()


def hooks_on(model) -> int:
    """Forward hooks on all modules of a model."""
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.model.modules())


@contextmanager
def new_tensors() -> Iterator[list[Tensor]]:
    """The tensors made in the block that something still holds at its end."""
    kept = []
    gc.freeze()  # what exists now is neither collected nor listed
    try:
        yield kept
        gc.collect()
        kept += [o for o in gc.get_objects() if type(o) is Tensor]
    finally:
        gc.unfreeze()


class _Storages(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.sizes = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(tensor, Tensor):
                self.sizes[tensor.untyped_storage().nbytes()] += 1
        return result


def allocations(run: Callable[[], object]) -> Counter[int]:
    """How often a run's operations returned a storage of so many bytes."""
    # Inference mode would hide what composite operations allocate inside.
    with torch.inference_mode(False), torch.no_grad(), _Storages() as seen:
        run()
    return seen.sizes


def assert_unchanged(tiny: Tiny, model, **inputs) -> None:
    """Sampling with a patched model is bit for bit that of the plain one, in as many runs of the network."""
    with network_calls(tiny.model) as plain:
        expected = sample(tiny, **inputs)
    with network_calls(tiny.model) as calls:
        assert torch.equal(sample(tiny, model, **inputs), expected)
    assert len(calls) == len(plain)
