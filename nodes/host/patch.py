"""Putting guidance or recording on a MODEL.

The model carries two entries of the host's own lists, and no state: a wrapper around sampling, which builds a `Run`
for that run alone, and a place in the chain of post-CFG functions, where the run puts its guidance so that it acts in
the order the user connected the nodes. Both live in `model_options`, where the host never compares them, so a patched
and an unpatched model share their loaded weights.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import comfy.patcher_extension
import torch
from comfy.patcher_extension import WrappersMP

from ...sag_core.settings import SAGSettings
from ...sag_core.trace import AttentionTrace
from ..live.film import Audience
from .failures import attempt
from .files import runs_folder
from .layers import choose_layers, find_layers
from .request import Request
from .run import Run
from .sample import Layout


@dataclass(frozen=True, eq=False)
class Patch(Request):
    """A request that a model carries."""

    def outer_sample(self, executor, noise: torch.Tensor, latent_image: torch.Tensor, sampler, sigmas: torch.Tensor,
                     denoise_mask=None, callback=None, *args, **kwargs) -> torch.Tensor:
        """Wrap a whole sampling run (host: WrappersMP.OUTER_SAMPLE)."""
        layout = Layout(kwargs.get("latent_shapes") or [noise.shape])
        if self.settings is not None and self.settings.mask.vision is not None:
            # Before the model, which would have to make room for it. Where it fails, every step tells.
            attempt(self.settings.mask.vision.load)
        with Run(self, executor.class_obj, layout, sigmas) as run:
            run.install(executor.class_obj.model_options, self.post_cfg)
            samples = executor(noise, latent_image, sampler, sigmas, denoise_mask, run.watch(callback), *args, **kwargs)
            run.finish(samples)
        return samples

    def post_cfg(self, args: dict) -> torch.Tensor:
        """Holds the place of the run's guidance; without a run it changes nothing."""
        return args["denoised"]


def guide_model(model, settings: SAGSettings, report: Callable[[str], None],
                audience: Callable[[], Audience | None] | None = None):
    """A clone of a MODEL that is guided, and its trace.

    Raises:
        ValueError: the model has no such layer; the message lists those it has.
    """
    return _patched(model, Patch(settings, settings.layer, settings.threshold, AttentionTrace(runs_folder()), report,
                                 audience))


def record_model(model, layer: str, report: Callable[[str], None],
                 audience: Callable[[], Audience | None] | None = None):
    """A clone of a MODEL whose self-attention is recorded and whose output is unchanged, and its trace.

    Raises:
        ValueError: the model has no such layer; the message lists those it has.
    """
    return _patched(model, Patch(None, layer, 1.0, AttentionTrace(runs_folder()), report, audience))


def _patched(model, patch: Patch):
    layers = find_layers(model.get_model_object("diffusion_model"))
    if layers:
        choose_layers(patch.layer, layers)
    model = model.clone()
    comfy.patcher_extension.add_wrapper_with_key(
        WrappersMP.OUTER_SAMPLE, "sag", patch.outer_sample, model.model_options, is_model_options=True)
    if patch.settings is not None:
        model.set_model_sampler_post_cfg_function(patch.post_cfg)
    return model, patch.trace
