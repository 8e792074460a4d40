"""What was recorded while sampling: one recording per sampling run, one step per evaluation of the model."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save, save_file
from torch import Tensor

from .masks import attention_mask, fuse

FORMAT = "sag-trace-1"


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
        """What was blurred at a step, counted from 0, or in the mean over all steps where -1.

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

    def _chosen(self, step: int) -> list[Step]:
        if not self.steps:
            raise ValueError("the trace has no steps: " + ("; ".join(self.notes) or "nothing was recorded in that run"))
        if step >= len(self.steps) or step < -1:
            raise ValueError(f"step is {step}; this run has steps 0 to {len(self.steps) - 1}, and -1 for all of them")
        return self.steps if step == -1 else [self.steps[step]]


class AttentionTrace:
    """Recordings of a patched model: its latest runs, newest last, each with its own steps.

    A few are kept, because several samplers may share the model, and because a graph may come back to a result that
    its host has cached.
    """

    KEPT = 8

    def __init__(self) -> None:
        self.recordings: list[Recording] = []

    def add(self, recording: Recording) -> None:
        """Keep a finished run; it takes the place of one with the same result."""
        others = [other for other in self.recordings if not other.results & recording.results]
        self.recordings = [*others, recording][-self.KEPT:]

    def find(self, samples: Tensor) -> Recording:
        """The recording of the run whose result these samples are.

        Raises:
            ValueError: there is no such run; the message says which samples are needed.
        """
        if not self.recordings:
            raise ValueError("the trace is empty: no sampler has run with the model this trace came with. Connect that "
                             "MODEL to a sampler and the sampler's LATENT to this node")
        wanted = fingerprint(samples)
        for recording in self.recordings:
            if wanted in recording.results:
                return recording
        raise ValueError(f"this LATENT of shape {tuple(samples.shape)} is not the result of a run in this trace. "
                         "Connect the LATENT output of the sampler that uses the trace's MODEL, before anything "
                         f"changes it; if it is, {self.KEPT} later runs have replaced it: sample again")

    def save(self, path: Path, samples: Tensor) -> None:
        """Write the run of these samples, and them, as safetensors. An existing file is never overwritten.

        Raises:
            ValueError: no run has this result, or it has no steps.
            FileExistsError: the file exists.
        """
        recording = self.find(samples)
        recording.attn_map()
        if path.exists():
            raise FileExistsError(f"{path} exists; choose another name")
        # Copies, because safetensors refuses tensors that share memory, and steps may share a map.
        tensors = {f"steps.{i}": step.attn_map.clone(memory_format=torch.contiguous_format)
                   for i, step in enumerate(recording.steps)}
        tensors |= {f"masks.{i}": step.mask.clone(memory_format=torch.contiguous_format)
                    for i, step in enumerate(recording.steps) if step.mask is not None}
        tensors["samples"] = samples.cpu().contiguous()
        description = {
            "size": recording.size, "threshold": recording.threshold, "plain": recording.plain,
            "notes": recording.notes,
            "steps": [{"sigma": s.sigma, "layer": s.layer, "branch": s.branch, "guided": s.guided}
                      for s in recording.steps]}
        save_file(tensors, path, {"format": FORMAT, "recording": json.dumps(description)})

    @classmethod
    def load(cls, path: Path) -> tuple[AttentionTrace, Tensor]:
        """Read what `save` wrote: the trace and the samples of its run.

        Raises:
            ValueError: the file is not a trace, or it is damaged; the message names it.
        """
        try:
            recording, samples = _read(path)
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} cannot be read as an attention trace: {error}") from error
        trace = cls()
        trace.add(recording)
        return trace, samples


def _read(path: Path) -> tuple[Recording, Tensor]:
    with safe_open(path, "pt") as file:
        metadata = file.metadata() or {}
        if metadata.get("format") != FORMAT:
            raise ValueError(f"it is safetensors, but not marked {FORMAT}")
        description = json.loads(metadata["recording"])
        samples = file.get_tensor("samples")
        masks = {name: file.get_tensor(name) for name in file.keys() if name.startswith("masks.")}
        steps = [Step(attn_map=file.get_tensor(f"steps.{i}"), mask=masks.get(f"masks.{i}"), **step)
                 for i, step in enumerate(description["steps"])]
    recording = Recording(tuple(description["size"]), description["threshold"], steps, description["notes"],
                          {fingerprint(samples)}, bool(description.get("plain", True)))
    # The file may come from anywhere: what is drawn later must not meet surprises.
    size = recording.size
    # Some models put out fewer channels of a larger size than they sample, or the other way round.
    if (len(size) not in (2, 3) or len(size) != samples.ndim - 2 or not samples.numel()
            or not all(isinstance(side, int) and 0 < side <= 8 * own
                       for side, own in zip(size, samples.shape[2:], strict=True))):
        raise ValueError(f"its size is {size}, its samples are {tuple(samples.shape)}")
    if not math.isfinite(recording.threshold):
        raise ValueError(f"its threshold is {recording.threshold}")
    for i, step in enumerate(steps):
        if not _is_map(step.attn_map, len(samples), size):
            raise ValueError(f"step {i} holds no attention map")
        if step.mask is not None and (step.mask.dtype, step.mask.shape) != (torch.uint8, (len(samples), *size)):
            raise ValueError(f"step {i} holds no mask")
    return recording, samples


def _is_map(attn_map: Tensor, batch: int, size: tuple[int, ...]) -> bool:
    return (attn_map.is_floating_point() and attn_map.ndim == len(size) + 1 and len(attn_map) == batch
            and all(0 < tokens <= pixels for tokens, pixels in zip(attn_map.shape[1:], size, strict=True))
            and bool(attn_map.isfinite().all()))


def fingerprint(samples: Tensor) -> str:
    """A digest of the samples' shape and values, the same on every device and for float32 and wider."""
    samples = samples.detach().to("cpu", torch.float32).contiguous()
    return hashlib.blake2b(save({"samples": samples}), digest_size=16).hexdigest()
