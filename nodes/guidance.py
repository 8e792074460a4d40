"""Nodes that patch a model: guidance and recording."""

from __future__ import annotations

from comfy_api.latest import io

from ..sag_core.guidance import SAGSettings
from .host.patch import guide_model, record_model
from .live import reporter
from .types import CATEGORY, MODEL_TOOLTIP, Trace, layer_input


class SAGGuidance(io.ComfyNode):
    """Self-Attention Guidance on a model."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SAGGuidance",
            display_name="Self-Attention Guidance (SAG)",
            category=CATEGORY,
            description="Better images without training or prompts: steers away from what the model predicts when the "
                        "parts it attends to are blurred. Put it between the loader and the sampler.",
            search_aliases=["SAG", "self attention guidance", "perturbed guidance", "blur guidance"],
            inputs=[
                io.Model.Input("model", tooltip=MODEL_TOOLTIP),
                io.Float.Input("scale", default=0.5, min=-10, max=10, step=0.01,
                               tooltip="Strength. 0 is off, without a second pass; 0.1 to 1 is usual."),
                io.Float.Input("blur_sigma", default=2.0, min=0, max=100, step=0.1,
                               tooltip="How far the blur reaches, in pixels of the model's own space (a latent pixel "
                                       "is 8 image pixels for Stable Diffusion)."),
                io.Float.Input("threshold", default=1.0, min=0, max=100, step=0.05,
                               tooltip="Attention above which a place is blurred; 1 is the average. Lower blurs more, "
                                       "0 everything."),
                layer_input(),
                io.Float.Input("start_percent", default=0.0, min=0, max=1, step=0.01, optional=True, advanced=True,
                               tooltip="Where in the sampling guidance starts."),
                io.Float.Input("end_percent", default=1.0, min=0, max=1, step=0.01, optional=True, advanced=True,
                               tooltip="Where in the sampling guidance ends."),
                io.Int.Input("blur_kernel", default=0, min=0, max=999, optional=True, advanced=True,
                             tooltip="Taps of the blur: 0 follows blur_sigma, else an odd number (the paper: 31)."),
            ],
            outputs=[io.Model.Output(), Trace.Output(display_name="trace")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, scale=None, blur_sigma=None, threshold=None, start_percent=None, end_percent=None,
                        blur_kernel=None):
        """Refuse bad numbers when the graph is queued; linked inputs arrive as None and are checked when it runs."""
        chosen = {"scale": scale, "blur_sigma": blur_sigma, "threshold": threshold, "start_percent": start_percent,
                  "end_percent": end_percent, "blur_kernel": blur_kernel}
        try:
            SAGSettings(**{name: value for name, value in chosen.items() if value is not None})
        except ValueError as error:
            return str(error)
        return True

    @classmethod
    def execute(cls, model, scale, blur_sigma, threshold, layer="auto", start_percent=0.0, end_percent=1.0,
                blur_kernel=0) -> io.NodeOutput:
        settings = SAGSettings(scale, blur_sigma, threshold, layer, start_percent, end_percent, blur_kernel)
        return io.NodeOutput(*guide_model(model, settings, reporter(cls.hidden.unique_id)))


class SAGRecordAttention(io.ComfyNode):
    """Record a model's self-attention and change nothing."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SAGRecordAttention",
            display_name="Record Self-Attention",
            category=CATEGORY,
            description="Records what the model attends to while it samples. The images stay the same, bit for bit.",
            search_aliases=["attention map", "visualize attention", "SAG record"],
            inputs=[io.Model.Input("model", tooltip=MODEL_TOOLTIP), layer_input()],
            outputs=[io.Model.Output(), Trace.Output(display_name="trace")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, model, layer="auto") -> io.NodeOutput:
        return io.NodeOutput(*record_model(model, layer, reporter(cls.hidden.unique_id)))
