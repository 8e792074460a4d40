"""Nodes that guide and record: on a model, or on a sampler.

They tell their own node what happens in a run, so the host must not take one's output for another's that has the same
inputs: that is what it means here that they are not idempotent.
"""

from __future__ import annotations

from comfy_api.latest import io

from .host.patch import guide_model, record_model
from .host.sampler import guide_sampler
from .host.server import node_id_of, reporter, watching
from .settings import check_settings, settings_inputs, settings_of
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
            inputs=[io.Model.Input("model", tooltip=MODEL_TOOLTIP), *settings_inputs()],
            outputs=[io.Model.Output(), Trace.Output(display_name="trace")],
            hidden=[io.Hidden.unique_id],
            not_idempotent=True,
        )

    validate_inputs = classmethod(check_settings)

    @classmethod
    def execute(cls, model, **inputs) -> io.NodeOutput:
        node = node_id_of(cls)
        return io.NodeOutput(*guide_model(model, settings_of(**inputs), reporter(node), watching(node)))


class SAGSampler(io.ComfyNode):
    """Self-Attention Guidance on a sampler."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SAGSampler",
            display_name="SAG Sampler (wrap)",
            category=CATEGORY,
            description="Self-Attention Guidance that belongs to the sampler: the model stays as it is, and any guider "
                        "may use it. For SamplerCustom and SamplerCustomAdvanced.",
            search_aliases=["SAG sampler", "guided sampler"],
            inputs=[
                io.Sampler.Input("sampler", tooltip="The sampler to guide; connect this node's SAMPLER in its place."),
                *settings_inputs(),
            ],
            outputs=[io.Sampler.Output(), Trace.Output(display_name="trace")],
            hidden=[io.Hidden.unique_id],
            not_idempotent=True,
        )

    validate_inputs = classmethod(check_settings)

    @classmethod
    def execute(cls, sampler, **inputs) -> io.NodeOutput:
        node = node_id_of(cls)
        return io.NodeOutput(*guide_sampler(sampler, settings_of(**inputs), reporter(node), watching(node)))


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
            not_idempotent=True,
        )

    @classmethod
    def execute(cls, model, layer="auto") -> io.NodeOutput:
        node = node_id_of(cls)
        return io.NodeOutput(*record_model(model, layer, reporter(node), watching(node)))
