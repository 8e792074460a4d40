"""The recordings of a model's sampling runs, found by what each run put out; safetensors in and out."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save, save_file
from torch import Tensor

from .recording import Recording, RunMissing, Step, levels
from .store import DISK, MEMORY, Store

__all__ = ["AttentionTrace", "Recording", "RunMissing", "Step", "fingerprint", "levels"]
FORMAT = "sag-trace-1"


class AttentionTrace:
    """Recordings of a patched model: its runs, newest last, each with its own steps.

    All are kept, because several samplers may share the model, because a list of latents is sampled before the first
    is looked at, and because a graph may come back to a result that its host has cached. What they take is limited in
    bytes.

    Args:
        folder: where earlier runs go once they take too much memory; None for the system's folder of temporary files.
        memory, disk: bytes that earlier runs may take in memory and in files.
    """

    def __init__(self, folder: Path | None = None, memory: int = MEMORY, disk: int = DISK) -> None:
        self._store = Store(folder, memory, disk)

    @property
    def recordings(self) -> list[Recording]:
        """The runs that are there, newest last; those in files are read."""
        return self._store.all()

    def add(self, recording: Recording, note: Callable[[str], None] = lambda text: None) -> None:
        """Keep a finished run. A result that it shares with an earlier one is its own from now on.

        Args:
            note: called once with a text for the user, where runs cannot be put into files.
        """
        self._store.add(recording, note)

    def find(self, samples: Tensor) -> Recording:
        """The recording of the run whose result these samples are.

        Raises:
            RunMissing: there is no such run, or it is gone; the message says which samples are needed.
        """
        if not self._store:
            raise RunMissing("the trace is empty: no sampler has run with the model this trace came with. Connect that "
                             "MODEL to a sampler and the sampler's LATENT to this node")
        recording = self._store.find(fingerprint(samples))
        if recording is None:
            raise RunMissing(f"this LATENT of shape {tuple(samples.shape)} is not the result of a run in this trace. "
                             "Connect the LATENT output of the sampler that uses the trace's MODEL, before anything "
                             "changes it")
        return recording

    def save(self, path: Path, samples: Tensor) -> None:
        """Write the run of these samples, and them, as safetensors. An existing file is never overwritten.

        Raises:
            RunMissing: no run has this result, or it has no steps.
            FileExistsError: the file exists.
        """
        recording = self.find(samples)
        recording.require_steps()
        if path.exists():
            raise FileExistsError(f"{path} exists; choose another name")
        tensors = recording.tensors() | {"samples": samples.cpu().contiguous()}
        save_file(tensors, path, {"format": FORMAT, "recording": recording.description()})

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
        samples = file.get_tensor("samples")
        tensors = {name: file.get_tensor(name) for name in file.keys() if name.startswith(("steps.", "masks."))}
    recording = Recording.from_parts(metadata["recording"], tensors, {fingerprint(samples)})
    # The file may come from anywhere: what is drawn later must not meet surprises.
    size = recording.size
    # Some models put out fewer channels of a larger size than they sample, or the other way round.
    if (len(size) not in (2, 3) or len(size) != samples.ndim - 2 or not samples.numel()
            or not all(isinstance(side, int) and 0 < side <= 8 * own
                       for side, own in zip(size, samples.shape[2:], strict=True))):
        raise ValueError(f"its size is {size}, its samples are {tuple(samples.shape)}")
    if not math.isfinite(recording.threshold):
        raise ValueError(f"its threshold is {recording.threshold}")
    for i, step in enumerate(recording.steps):
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
