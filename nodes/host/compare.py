"""Running the host's sampler from inside a node: several runs under one progress bar, which the user can stop."""

from __future__ import annotations

from dataclasses import dataclass

import comfy.model_management
import comfy.sample
import comfy.samplers
import comfy.utils
import latent_preview
from torch import Tensor

from .sample import picture_of

SAMPLERS = list(comfy.samplers.KSampler.SAMPLERS)
SCHEDULERS = list(comfy.samplers.KSampler.SCHEDULERS)
# What an empty latent says of its scale; older hosts know less of it, in their latents and of what they take.
RATIOS = ("downscale_ratio_spacial", "downscale_ratio_temporal")


@dataclass(frozen=True, eq=False)
class Sampling:
    """Inputs of the host's KSampler, but for the model."""

    seed: int
    steps: int
    cfg: float
    sampler_name: str
    scheduler: str
    positive: list
    negative: list
    latent_image: dict
    denoise: float


class Series:
    """Samples models one after another, each from the same noise.

    Progress is that of the whole series. It stops where the user does so, in a run or between two, by the host's
    exception.
    """

    def __init__(self, sampling: Sampling, runs: int):
        self._sampling, self._done = sampling, 0
        self._bar = comfy.utils.ProgressBar(runs * sampling.steps)

    def __call__(self, model) -> dict:
        """The LATENT of the next run, the same as the host's KSampler makes."""
        comfy.model_management.throw_exception_if_processing_interrupted()
        told, latent = self._sampling, dict(self._sampling.latent_image)
        ratios = {name: latent.pop(name) for name in RATIOS if name in latent}
        samples = comfy.sample.fix_empty_latent_channels(model, latent["samples"], **ratios)
        noise = comfy.sample.prepare_noise(samples, told.seed, latent.get("batch_index"))
        samples = comfy.sample.sample(
            model, noise, told.steps, told.cfg, told.sampler_name, told.scheduler, told.positive, told.negative,
            samples, denoise=told.denoise, noise_mask=latent.get("noise_mask"), callback=self._callback(model),
            disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED, seed=told.seed)
        self._done += 1
        self._bar.update_absolute(self._done * told.steps)
        return latent | {"samples": samples}

    def _callback(self, model):
        previewer = latent_preview.get_previewer(model.load_device, model.model.latent_format)

        def callback(step: int, denoised, x, total_steps: int) -> None:
            comfy.model_management.throw_exception_if_processing_interrupted()
            preview = None
            if previewer is not None:
                preview = previewer.decode_latent_to_preview_image("JPEG", picture_of(denoised))
            share = (step + 1) / max(total_steps, 1)
            self._bar.update_absolute(round((self._done + share) * self._sampling.steps), preview=preview)

        return callback


def decode(vae, latent: dict) -> Tensor:
    """The IMAGE [B, H, W, 3] of a LATENT; a video's frames follow one another."""
    return vae.decode(picture_of(latent["samples"])).flatten(0, -4)
