"""Putting guidance on a SAMPLER: the model stays as it is, and any guider may use it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import comfy.model_patcher
import comfy.samplers
import torch

from ...sag_core.settings import SAGSettings
from ...sag_core.trace import AttentionTrace
from ..live.film import Audience
from .files import runs_folder
from .patch import Patch
from .run import Run
from .sample import Layout


class GuidedSampler(comfy.samplers.KSAMPLER):
    """A sampler whose every run is guided; to the host and to nodes that wrap samplers, a sampler like any other."""

    def __init__(self, sampler: comfy.samplers.KSAMPLER, patch: Patch):
        super().__init__(_Guided(sampler.sampler_function, patch), sampler.extra_options, sampler.inpaint_options)
        # Whether a run starts from noise alone is for the wrapped sampler to say.
        self.max_denoise = sampler.max_denoise


@dataclass(frozen=True, eq=False)
class _Guided:
    """A function that samples, guided.

    Args:
        sampler_function: the function as it was.
        patch: what the node asks for.
    """

    sampler_function: object
    patch: Patch

    @property
    def __name__(self) -> str:
        """Name in the host's log."""
        return getattr(self.sampler_function, "__name__", "sampler")

    def __call__(self, model, noise: torch.Tensor, sigmas: torch.Tensor, extra_args: dict, callback=None, disable=None,
                 **options) -> torch.Tensor:
        guider = guider_of(model)
        if guider is None:
            self.patch.tell("another node hides the guider from the sampler, which samples without guidance")
            return self.sampler_function(model, noise, sigmas, extra_args=extra_args, callback=callback,
                                         disable=disable, **options)
        shapes = _latent_shapes(guider) or [noise.shape]
        own_options = guider.model_options
        with Run(self.patch, guider, Layout(shapes), sigmas) as run:
            # The guider asks its own options for what wraps an evaluation, and hands the sampler's to the model.
            guider_options, model_options = (comfy.model_patcher.create_model_options_clone(options_of)
                                             for options_of in (own_options, extra_args["model_options"]))
            run.install(guider_options, self.patch.post_cfg)
            run.install(model_options, self.patch.post_cfg)

            def watch(info: dict) -> None:
                run.last_denoised = info["denoised"]
                if callback is not None:
                    callback(info)

            try:
                guider.model_options = guider_options
                samples = self.sampler_function(model, noise, sigmas, callback=watch, disable=disable, **options,
                                                extra_args=extra_args | {"model_options": model_options})
            finally:
                guider.model_options = own_options
            result = guider.inner_model.model_sampling.inverse_noise_scaling(sigmas[-1], samples)
            run.finish(guider.inner_model.process_latent_out(result.to(torch.float32)).cpu())
        return samples


def guide_sampler(sampler, settings: SAGSettings, report: Callable[[str], None],
                  audience: Callable[[], Audience | None] | None = None):
    """A SAMPLER that is guided, and its trace.

    Raises:
        ValueError: the sampler does not consist of a function that could be wrapped.
    """
    if not isinstance(sampler, comfy.samplers.KSAMPLER):
        raise ValueError(f"the sampler is a {type(sampler).__name__}, which cannot be wrapped; put Self-Attention "
                         "Guidance on the model instead")
    patch = Patch(settings, settings.layer, settings.threshold, AttentionTrace(runs_folder()), report, audience)
    return GuidedSampler(sampler, patch), patch.trace


def guider_of(model):
    """The guider inside what a sampler is given as its model; None where other nodes have wrapped it out of reach."""
    while model is not None and not hasattr(model, "model_patcher"):
        model = getattr(model, "inner_model", None)
    return model


def _latent_shapes(guider) -> list | None:
    """The shapes of the things that are sampled at once, where the model knows of more than one."""
    for conds in guider.conds.values():
        for cond in conds:
            if "latent_shapes" in cond["model_conds"]:
                return cond["model_conds"]["latent_shapes"].cond
    return None
