"""The pack's own model in a graph: runs of a few steps, decoded."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sag_core.trace import AttentionTrace
from tests.host.graph import call, record

MODEL = "shapes32 (embedded)"


@dataclass(frozen=True)
class Recorded:
    """A recorded run: what the analysis nodes are connected to."""

    trace: AttentionTrace
    latent: dict
    image: Tensor

    @property
    def run(self) -> dict:
        """The inputs `trace` and `latent`."""
        return {"trace": self.trace, "latent": self.latent}


def load():
    """The MODEL, the conditioning without a class, and the VAE of pixels."""
    model, *_ = call("SAGLoadADM", ckpt_name=MODEL)
    return model, call("SAGClassLabel", label=-1)[0], call("VAELoader", vae_name="pixel_space")[0]


def sampling(no_class, images: int, steps: int, seed: int = 5) -> dict:
    """KSampler's inputs but for the model."""
    return {"seed": seed, "steps": steps, "cfg": 1.0, "sampler_name": "euler_ancestral", "scheduler": "simple",
            "positive": no_class, "negative": no_class, "latent_image": {"samples": torch.zeros(images, 3, 32, 32)},
            "denoise": 1.0}


def recorded(images: int = 2, steps: int = 3, layer: str = "input.3", record_with=record) -> Recorded:
    """A run of the model as it is, with its attention."""
    model, no_class, vae = load()
    patched, trace = record_with(model, layer=layer)
    (latent,) = call("KSampler", model=patched, **sampling(no_class, images, steps))
    return Recorded(trace, latent, call("VAEDecode", samples=latent, vae=vae)[0])
