"""The node for OpenAI's samplers."""

from __future__ import annotations

from comfy_api.latest import io

from ..sag_core.adm.diffusion import METHODS, VARIANCES, SamplerSettings
from .host.adm_sampler import adm_sampler
from .host.server import node_id_of, reporter
from .types import CATEGORY


class SAGADMSampler(io.ComfyNode):
    """Ancestral and DDIM sampling as the paper's authors do."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SAGADMSampler",
            display_name="ADM Sampler (DDPM / DDIM)",
            category=CATEGORY,
            description="The sampler of the paper and of OpenAI's guided-diffusion: ancestral DDPM with the model's "
                        "learned variance, or DDIM, and the steps of the training process they take. For SamplerCustom "
                        "and SamplerCustomAdvanced.",
            search_aliases=["guided diffusion sampler", "DDPM", "DDIM", "learned variance", "timestep respacing",
                            "ancestral", "IDDPM sampler"],
            inputs=[
                io.Model.Input("model", tooltip="The model that will be sampled: its training process has the steps to "
                                                "choose from. It is not changed."),
                io.String.Input("respacing", default="250",
                                tooltip="Steps taken, as in the authors' code: a number (250); ddim25, whole strides "
                                        "apart; 10,15,20 from equal sections, the cleanest first; nothing for all."),
                io.Combo.Input("method", options=list(METHODS), default="auto",
                               tooltip="ancestral (DDPM) adds noise at every step, ddim as much as eta says. auto is "
                                       "ddim where the respacing begins with it."),
                io.Float.Input("eta", default=0.0, min=0, max=1, step=0.05,
                               tooltip="Noise of DDIM: 0 is none, 1 as much as DDPM. Ancestral steps have no use for "
                                       "it."),
                io.Int.Input("start_step", default=0, min=0, max=99_999, optional=True, advanced=True,
                             tooltip="Steps left out at the noisy end, to start from an image in the latent."),
                io.Combo.Input("variance", options=list(VARIANCES), default="auto", optional=True, advanced=True,
                               tooltip="Variance of ancestral steps: what the model learned, large (beta) or small "
                                       "(the posterior's). auto: learned where there is one, else large for pixel "
                                       "models and small for latent ones, as published."),
                io.Boolean.Input("clip_denoised", default=True, optional=True, advanced=True,
                                 tooltip="Clamp clean predictions of pixel models to the range of images, as the "
                                         "authors do."),
            ],
            outputs=[io.Sampler.Output(), io.Sigmas.Output()],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, eta=None, start_step=None) -> bool | str:
        """Refuse bad numbers when the graph is queued."""
        numbers = {"eta": eta, "start_step": start_step}
        try:
            SamplerSettings(**{name: value for name, value in numbers.items() if value is not None})
        except ValueError as error:
            return str(error)
        return True

    @classmethod
    def execute(cls, model, respacing="250", method="auto", eta=0.0, start_step=0, variance="auto",
                clip_denoised=True) -> io.NodeOutput:
        settings = SamplerSettings(respacing, method, eta, variance, start_step, clip_denoised)
        return io.NodeOutput(*adm_sampler(model, settings, reporter(node_id_of(cls))))
