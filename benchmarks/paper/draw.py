"""Drawing samples with the pack's own nodes, in a real ComfyUI; a batch is a function of its way and its index."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.host import call, first_option
from benchmarks.paper.ways import Way
from benchmarks.store import SampleStore, fill
from training.scenes import SHAPES

ROOT = Path(__file__).resolve().parents[2]
MODEL, CLASSIFIER = (ROOT / "models" / f"{name}.safetensors" for name in ("shapes32", "shapes32_classifier"))
SIDE = 32


class Artist:
    """Draws batches of any way.

    Args:
        batch: samples of a batch.
        folder: where the stores are, a folder for every way.
    """

    def __init__(self, batch: int, folder: Path):
        self.batch, self.folder = batch, folder
        self.model = call("SAGLoadADM", ckpt_name=first_option("SAGLoadADM"))[0]
        # A third faster on a CPU; the host does as much with --force-channels-last.
        self.model.model.diffusion_model.to(memory_format=torch.channels_last)
        self._classifier = None

    def store(self, way: Way) -> SampleStore:
        """Where the samples of a way are kept; samples of other weights are never taken for them."""
        models = {path.stem: _digest(path) for path in ((MODEL, CLASSIFIER) if way.classifier else (MODEL,))}
        return SampleStore(self.folder / f"{way.name}-{self.batch}",
                           {"way": way.description, "batch": self.batch, "models": models})

    def fill(self, way: Way, batches: Iterable[int], say) -> None:
        """Draw what is missing of a way."""
        fill(self.store(way), batches, lambda index: self.draw(way, index), say)

    def draw(self, way: Way, index: int) -> dict[str, Tensor]:
        """A batch: `images` uint8 [B, 3, H, W], `labels` [B] that were asked for, `calls` of the network."""
        label = index % len(SHAPES)
        (conditioning,) = call("SAGClassLabel", label=label if way.labels == "all" else -1)
        model = self._guided(way, index, label)
        sampler, sigmas = call("SAGADMSampler", model=model, respacing=way.respacing, method="auto", eta=0.0)
        calls = 0

        def count(*_):
            nonlocal calls
            calls += 1

        hook = self.model.model.diffusion_model.register_forward_hook(count)
        try:
            with torch.inference_mode():
                latent = {"samples": torch.zeros(self.batch, 3, SIDE, SIDE)}
                samples = call("SamplerCustom", model=model, add_noise=True, noise_seed=index, cfg=1.0,
                               positive=conditioning, negative=conditioning, sampler=sampler, sigmas=sigmas,
                               latent_image=latent)[0]["samples"]
        finally:
            hook.remove()
        return {"images": to_bytes(samples), "labels": torch.full((self.batch,), label), "calls": torch.tensor(calls)}

    def _guided(self, way: Way, index: int, label: int):
        model = self.model
        if way.guidance:
            more = {}
            if way.mask:
                (more["mask_options"],) = call("SAGMaskOptions", seed=index, **way.mask)
            if way.schedule:
                (more["schedule"],) = call("SAGSchedule", **way.schedule)
            model = call("SAGGuidance", model=model, **way.guidance, **more)[0]
        if way.classifier:
            if self._classifier is None:
                self._classifier = call("SAGLoadClassifier", classifier_name=first_option("SAGLoadClassifier"))[0]
            model = call("SAGClassifierGuidance", model=model, classifier=self._classifier, scale=way.classifier,
                         labels="fixed", label=label, seed=0)[0]
        return model


def to_bytes(images: Tensor) -> Tensor:
    """[-1, 1] -> uint8, as a PNG would hold it."""
    return ((images.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def _digest(path: Path) -> str:
    return hashlib.blake2b(path.read_bytes(), digest_size=8).hexdigest()
