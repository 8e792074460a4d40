"""One evaluation of the guided model: its main pass, or what context windows make of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ...sag_core.guidance import Decision, Reason
from .reasons import Missed
from .sample import Layout


@dataclass(frozen=True)
class Window:
    """Frames of the sample that the model is run on by themselves.

    Args:
        frames: their indices in the sample.
        before: frames in front of them that are shown to the model as well.
        dim: dimension of the sample that counts frames.
    """

    frames: tuple[int, ...]
    before: int
    dim: int


def window_of(options: Mapping[str, object], x: Tensor, evaluation: Evaluation) -> Window | None:
    """Returns the frames that a pass over `x` is for; None where it is over the whole sample or over other parts.

    They are those of the host's context window, or images of the batch that another node runs the model on by itself
    or in another order, as sliding windows over frames do.
    """
    if x is evaluation.x:
        return None
    window = options.get("context_window")
    if window is not None and x.shape != evaluation.x.shape:
        anchor = getattr(window, "causal_anchor_index", None)
        return Window(tuple(window.index_list), int(anchor is not None and anchor >= 0), window.dim)
    rows = _rows_in(x, evaluation.x)
    return None if rows is None or rows == tuple(range(len(evaluation.x))) else Window(rows, before=0, dim=0)


def _rows_in(part: Tensor, whole: Tensor) -> tuple[int, ...] | None:
    """Returns which image of a batch each image of another is; None where one is none of them, or more than one."""
    if part.shape[1:] != whole.shape[1:]:
        return None
    same = (part.flatten(1)[:, None] == whole.flatten(1)).all(dim=2)
    if not (same.sum(dim=1) == 1).all():
        return None
    return tuple(same.int().argmax(dim=1).tolist())


@dataclass(frozen=True)
class MainPass:
    """Result of the main pass for the guidance: copies, since other nodes may edit the host's tensors in place.

    Args:
        index: position of the guided branch among the conds.
        name: "uncond" or "cond".
        sigma: noise level.
        attn_map: the branch's self-attention map.
        kept: what a guided step needs of the pass; None where the step is not to be guided.
        window: the frames that it is for, None for all.
        observers: keys of the attention owners that compute their layer's own attention, each with a boolean tensor.
    """

    index: int
    name: str
    sigma: float
    attn_map: Tensor | None
    kept: Kept | None = None
    window: Window | None = None
    observers: Mapping[object, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Kept:
    """Copies of what the guided branch was asked and answered.

    Args:
        x: noisy sample.
        sigma: its noise level [B].
        conds: the branch's conds.
        denoised: the branch's own prediction, before classifier-free guidance and other nodes. Of windows None, until
            the host has put them together.
        limits: range of images, where `denoised` is not clamped to it and others' predictions are.
    """

    x: Tensor
    sigma: Tensor
    conds: list
    denoised: Tensor | None = None
    limits: tuple[float, float] | None = None


class Evaluation:
    """An evaluation, from its first model pass until its map is asked for.

    Args:
        x: noisy sample, as the sampler sees it.
    """

    def __init__(self, x: Tensor):
        self.x = x
        self.closed = False
        self.main: MainPass | None = None
        self.decision: Decision | None = None
        """Decision about it; None until the model is run for it, and where nothing guides."""
        self.outcome: Reason | Missed | None = Missed.NOT_ASKED
        """Reason why it was not guided although that was decided; None where it was."""
        self.cfg: Tensor | None = None
        """Result of classifier-free guidance, where guidance is clamped within it."""
        self._passes: list[MainPass] = []
        self._own_x: Tensor | None = None

    @property
    def guides(self) -> bool:
        """Returns whether it is to be guided."""
        return self.decision is not None and self.decision.guides

    def own_x(self) -> Tensor:
        """A copy of the noisy sample, the same one for every window."""
        if self._own_x is None:
            self._own_x = self.x.clone()
        return self._own_x

    def keep(self, kept: Kept | None) -> None:
        """Add to the main pass, once it is closed, what a guided step needs of it."""
        self.main = replace(self.main, kept=kept)

    def expects(self, window: Window | None) -> bool:
        """Returns whether a pass belongs to the main one: the first of them all, or the first over this window."""
        if self.closed or not self._passes:
            return not self.closed
        return window is not None and all(window != seen.window for seen in self._passes)

    def add(self, part: MainPass) -> None:
        """The main pass, or its part in one window."""
        self._passes.append(part)

    def close(self, layout: Layout) -> MainPass | None:
        """The main pass over the whole sample; None where there was none that could be guided."""
        self.closed = True
        if self._passes:
            first, parts = self._passes[0], self._passes
            self.main = first if first.window is None else replace(first, attn_map=_join(parts, layout))
        self._passes = []
        return self.main


def _join(parts: Sequence[MainPass], layout: Layout) -> Tensor | None:
    """The map of the whole sample: every frame's is the mean over the windows that hold it."""
    if any(part.attn_map is None for part in parts):
        return None
    # Frames are images of the batch, or the first dimension of a video's grid.
    dim = 0 if parts[0].window.dim == 0 else 1
    shape = list(parts[0].attn_map.shape)
    shape[dim] = layout.shapes[0][parts[0].window.dim]
    total = torch.zeros(shape, device=parts[0].attn_map.device)
    count = torch.zeros(shape[dim], device=total.device)
    for part in parts:
        frames = torch.tensor(part.window.frames, device=total.device)
        if part.attn_map.shape[dim] < part.window.before + len(frames):
            return None  # several frames share a token, which no window can tell apart
        own = part.attn_map.narrow(dim, part.window.before, len(frames))
        total.index_add_(dim, frames, own.float())
        count.index_add_(0, frames, torch.ones_like(frames, dtype=count.dtype))
    return total / count.clamp(min=1).view([-1 if i == dim else 1 for i in range(total.ndim)])
