"""Samples of a pixel model, drawn by the host with the pack's nodes; every image has a seed of its own."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from benchmarks.host import call
from benchmarks.paper.draw import SIDE, to_bytes

DETERMINISTIC = ("ddim", "euler", "dpmpp_2m")
"""Samplers whose samples follow from seed and label alone, in whatever batch they are drawn."""


@dataclass(frozen=True)
class SeedNoise:
    """The NOISE of a batch in which every image has the noise that KSampler draws for its seed."""

    seeds: Sequence[int]

    @property
    def seed(self) -> int:
        return self.seeds[0]

    def generate_noise(self, latent: dict) -> Tensor:
        import comfy.sample

        return torch.cat([comfy.sample.prepare_noise(latent["samples"][:1], seed) for seed in self.seeds])


def classes_of(path: Path) -> list[str]:
    """Names of the classes of a model that was trained here.

    Raises:
        ValueError: the file does not say them.
    """
    with safe_open(path, "pt") as file:
        metadata = file.metadata() or {}
    if "classes" not in metadata:
        raise ValueError(f"{path} does not name its classes; models that training/ makes do")
    return json.loads(metadata["classes"])


def digest(path: Path) -> str:
    """What identifies a file by its content."""
    return hashlib.blake2b(path.read_bytes(), digest_size=8).hexdigest()


def load_model(path: Path):
    """The MODEL of a checkpoint anywhere on this machine."""
    import folder_paths

    folder_paths.add_model_folder_path("checkpoints", str(path.parent.resolve()))
    model, _ = call("SAGLoadADM", ckpt_name=path.name)
    # A third faster on a CPU; the host does as much with --force-channels-last.
    model.model.diffusion_model.to(memory_format=torch.channels_last)
    return model


def sample(model, seeds: Sequence[int], label: int, sampler: str, steps: int) -> Tensor:
    """Images of these seeds, uint8 [B, 3, 32, 32].

    Args:
        model: MODEL, patched or not.
        seeds: of each image.
        label: class of all of them; -1 is none.
        sampler: one of `DETERMINISTIC`.
        steps: of the host's scheduler "simple".

    Raises:
        ValueError: another sampler, whose noise would depend on the batch.
    """
    if sampler not in DETERMINISTIC:
        raise ValueError(f"sampler is {sampler!r}; expected one of {', '.join(DETERMINISTIC)}, which draw the same "
                         "image from the same seed in any batch")
    (conditioning,) = call("SAGClassLabel", label=label)
    (guider,) = call("BasicGuider", model=model, conditioning=conditioning)
    (chosen,) = call("KSamplerSelect", sampler_name=sampler)
    (sigmas,) = call("BasicScheduler", model=model, scheduler="simple", steps=steps, denoise=1.0)
    with torch.inference_mode():
        latent = {"samples": torch.zeros(len(seeds), 3, SIDE, SIDE)}
        samples = call("SamplerCustomAdvanced", noise=SeedNoise(seeds), guider=guider, sampler=chosen, sigmas=sigmas,
                       latent_image=latent)[0]["samples"]
    return to_bytes(samples)
