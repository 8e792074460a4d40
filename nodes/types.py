"""The pack's own types of links, and what its nodes' schemas share."""

from __future__ import annotations

from comfy_api.latest import io

CATEGORY = "advanced/guidance/SAG"
AUTO = "auto"
Trace = io.Custom("SAG_TRACE")
Mask = io.Custom("SAG_MASK")
Schedule = io.Custom("SAG_SCHEDULE")
Classifier = io.Custom("SAG_CLASSIFIER")
Floats = io.Custom("FLOATS")

MODEL_TOOLTIP = "The model to patch. It is not changed; connect this node's MODEL to the sampler."
LAYER_TOOLTIP = ("Whose self-attention is used: auto, a layer of the model (middle.0, output.2; of transformers "
                 "block.10), a range (output.2-4), or several separated by commas, which are averaged. A wrong name is "
                 "answered with those there are.")


def layer_input() -> io.String.Input:
    """The choice of layer, the same on every node."""
    return io.String.Input("layer", default="auto", optional=True, advanced=True, tooltip=LAYER_TOOLTIP)
