"""Recording of one sampling run: one step per evaluation of the model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from .masks import attention_mask, fuse


class RunMissing(ValueError):
    """A run that is looked for is not there, or nothing was recorded in it; the message says which and why."""


@dataclass(frozen=True)
class Step:
    """One evaluation of the model.

    Args:
        sigma: noise level.
        attn_map: self-attention map [B, h, w] or [B, t, h, w], mean 1.
        layer: the layer or layers it was recorded from.
        branch: "uncond" or "cond".
        guided: whether guidance was applied at this step.
        mask: what was blurred, [B, H, W] or [B, T, H, W] on the sample, in `levels`; None where nothing was, or simply
            what is above the threshold.
    """

    sigma: float
    attn_map: Tensor
    layer: str
    branch: str
    guided: bool
    mask: Tensor | None = None

    def cpu(self) -> Step:
        """The step on the CPU."""
        return replace(self, attn_map=self.attn_map.cpu(), mask=None if self.mask is None else self.mask.cpu())


def levels(mask: Tensor) -> Tensor:
    """A mask in 0..1 as a `Step` holds it: uint8, from 0 to 255."""
    return mask.mul(255).round().to(torch.uint8)


@dataclass
class Recording:
    """The steps of one sampling run.

    Args:
        size: spatial size of the sample, (H, W) or (T, H, W).
        threshold: psi of the run, above which a token counts as attended to.
        steps: in the order the sampler took them.
        notes: what the user should know: fallbacks, each once.
        plain: nothing but the threshold decides what is blurred; else the steps hold their masks.
        results: fingerprints of the run's outputs, by which `AttentionTrace.find` knows it.
    """

    size: tuple[int, ...]
    threshold: float = 1.0
    steps: list[Step] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    results: set[str] = field(default_factory=set)
    plain: bool = True

    def attn_map(self, step: int = -1) -> Tensor:
        """The map of a step, counted from 0, or the mean over all steps where -1.

        Raises:
            ValueError: nothing was recorded, or there is no such step.
        """
        return fuse([step.attn_map for step in self._chosen(step)])

    def mask(self, step: int = -1) -> Tensor:
        """Returns the mask of a step, counted from 0, or the mean over all steps where -1.

        Where nothing but the threshold decides, the mask over all steps is that of their mean map, as in the paper.

        Returns:
            [B, 1, H, W] or [B, 1, T, H, W] in 0..1, float32.

        Raises:
            ValueError: nothing was recorded, or there is no such step.
        """
        if self.plain:
            return attention_mask(self.attn_map(step).float(), self.threshold, self.size)
        chosen = self._chosen(step)
        total = torch.zeros(chosen[0].attn_map.shape[0], 1, *self.size)
        for one in chosen:
            if one.mask is not None:
                total += one.mask[:, None].float() / 255
        return total / len(chosen)

    def require_steps(self) -> None:
        """Check that there are maps to look at.

        Raises:
            RunMissing: nothing was recorded; the message says why.
        """
        if not self.steps and self.notes:
            raise RunMissing(f"the trace has no steps: {'; '.join(self.notes)}")
        if not self.steps:
            raise RunMissing("the trace has no steps: nothing was recorded in that run")

    def nbytes(self) -> int:
        """The memory that the steps take; tensors that share theirs count once."""
        tensors = [t for step in self.steps for t in (step.attn_map, step.mask) if t is not None]
        return sum({s.data_ptr(): s.nbytes() for s in (t.untyped_storage() for t in tensors)}.values())

    def tensors(self) -> dict[str, Tensor]:
        """Maps and masks by their names in a file; copies, because safetensors refuses tensors that share memory."""
        found = {f"steps.{i}": step.attn_map for i, step in enumerate(self.steps)}
        found |= {f"masks.{i}": step.mask for i, step in enumerate(self.steps) if step.mask is not None}
        return {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in found.items()}

    def description(self) -> str:
        """All but the tensors, as JSON."""
        steps = [{"sigma": s.sigma, "layer": s.layer, "branch": s.branch, "guided": s.guided} for s in self.steps]
        return json.dumps({"size": self.size, "threshold": self.threshold, "plain": self.plain, "notes": self.notes,
                           "steps": steps})

    @classmethod
    def from_parts(cls, description: str, tensors: Mapping[str, Tensor], results: set[str]) -> Recording:
        """The recording that `description` and `tensors` gave; what they hold is not checked.

        Raises:
            KeyError, TypeError, ValueError: they do not belong together.
        """
        told = json.loads(description)
        steps = [Step(attn_map=tensors[f"steps.{i}"], mask=tensors.get(f"masks.{i}"), **step)
                 for i, step in enumerate(told["steps"])]
        return cls(tuple(told["size"]), told["threshold"], steps, told["notes"], results,
                   bool(told.get("plain", True)))

    def _chosen(self, step: int) -> list[Step]:
        self.require_steps()
        if step >= len(self.steps) or step < -1:
            raise ValueError(f"step is {step}; this run has steps 0 to {len(self.steps) - 1}, and -1 for all of them")
        return self.steps if step == -1 else [self.steps[step]]
