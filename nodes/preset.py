"""A node that recommends settings for a model."""

from __future__ import annotations

from comfy_api.latest import io

from ..sag_core.presets import PRESETS
from .host.presets import preset_of
from .types import AUTO, CATEGORY


class SAGPreset(io.ComfyNode):
    """Recommended settings."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SAGPreset",
            display_name="SAG Preset",
            category=CATEGORY,
            description="Settings to start with for a model, and where they come from. Connect the outputs to the "
                        "guidance node's inputs of the same names.",
            search_aliases=["recommended settings", "SAG settings"],
            inputs=[
                io.Model.Input("model", tooltip="The model to recommend settings for."),
                io.Combo.Input("preset", options=[AUTO, *PRESETS], default=AUTO,
                               tooltip="auto picks by the loaded model."),
            ],
            outputs=[
                io.Float.Output(display_name="scale"),
                io.Float.Output(display_name="blur_sigma"),
                io.Float.Output(display_name="threshold"),
                io.String.Output(display_name="layer"),
                io.Int.Output(display_name="blur_kernel"),
                io.String.Output(display_name="source"),
            ],
        )

    @classmethod
    def execute(cls, model, preset=AUTO) -> io.NodeOutput:
        name = preset_of(model) if preset == AUTO else preset
        chosen = PRESETS[name]
        source = f"{name}: {chosen.source}"
        return io.NodeOutput(chosen.scale, chosen.blur_sigma, chosen.threshold, chosen.layer, chosen.blur_kernel,
                             source, ui={"text": [source]})
