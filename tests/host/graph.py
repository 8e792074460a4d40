"""What a user does in a graph, as functions: nodes are called as the host's executor calls them."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.host import call
from tests.host.models import Tiny


def guide(model, scale: float = 0.5, blur_sigma: float = 1.5, threshold: float = 1.0, **inputs):
    """Self-Attention Guidance on a model: (MODEL, trace)."""
    return call("SAGGuidance", model=model, scale=scale, blur_sigma=blur_sigma, threshold=threshold, **inputs)


def record(model, **inputs):
    """Record Self-Attention on a model: (MODEL, trace)."""
    return call("SAGRecordAttention", model=model, **inputs)


def sample(tiny: Tiny, model=None, steps: int = 2, cfg: float = 3.0, sampler_name: str = "euler", seed: int = 1,
           latent: dict | None = None, **inputs) -> Tensor:
    """KSampler: the samples. Without a model that of `tiny` itself is used, unpatched."""
    inputs = {"positive": tiny.positive, "negative": tiny.negative, "scheduler": "simple", **inputs}
    (result,) = call("KSampler", model=model or tiny.model, seed=seed, steps=steps, cfg=cfg, sampler_name=sampler_name,
                     latent_image=latent or {"samples": tiny.latent}, **inputs)
    return result["samples"]


def sample_basic(tiny: Tiny, model, steps: int = 2, seed: int = 1) -> tuple[Tensor, Tensor]:
    """Basic Guider and SamplerCustomAdvanced, which know no negative: (output, denoised_output)."""
    return sample_guider(tiny, model, call("BasicGuider", model=model, conditioning=tiny.positive)[0], steps, seed)


def sample_guider(tiny: Tiny, model, guider, steps: int = 2, seed: int = 1) -> tuple[Tensor, Tensor]:
    """SamplerCustomAdvanced with a guider: (output, denoised_output)."""
    (noise,) = call("RandomNoise", noise_seed=seed)
    (sampler,) = call("KSamplerSelect", sampler_name="euler")
    (sigmas,) = call("BasicScheduler", model=model, scheduler="simple", steps=steps, denoise=1.0)
    out, denoised = call("SamplerCustomAdvanced", noise=noise, guider=guider, sampler=sampler, sigmas=sigmas,
                         latent_image={"samples": tiny.latent})
    return out["samples"], denoised["samples"]


def by_model_and_by_sampler(tiny: Tiny, scale: float = 0.5, blur_sigma: float = 1.5, threshold: float = 1.0, **inputs):
    """SamplerCustom, guided on the model and guided on the sampler: both samples, and the trace of the latter."""
    settings = {"scale": scale, "blur_sigma": blur_sigma, "threshold": threshold, **inputs}
    guided, _ = guide(tiny.model, **settings)
    (plain,) = call("KSamplerSelect", sampler_name="euler")
    sampler, trace = call("SAGSampler", sampler=plain, **settings)
    (sigmas,) = call("BasicScheduler", model=tiny.model, scheduler="simple", steps=2, denoise=1.0)
    samples = [call("SamplerCustom", model=model, add_noise=True, noise_seed=1, cfg=3.0, positive=tiny.positive,
                    negative=tiny.negative, sampler=used, sigmas=sigmas,
                    latent_image={"samples": tiny.latent})[0]["samples"]
               for model, used in ((guided, plain), (tiny.model, sampler))]
    return *samples, trace


def only(trace):
    """The latest recording of a trace."""
    return trace.recordings[-1]


def maps(trace) -> Tensor:
    """The maps of the one recording, [steps, B, h, w]."""
    return torch.stack([step.attn_map for step in only(trace).steps])
