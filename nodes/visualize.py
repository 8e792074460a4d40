"""A node that shows what a model attends to, beside other masks or step by step."""

from __future__ import annotations

from comfy_api.latest import io

from ..sag_core.recording import RunMissing
from .analysis import IMAGE_TOOLTIP, run_inputs, step_input
from .figures import STYLES, animation, film_strip, side_by_side
from .host.sample import picture_of
from .lookup import run_of, without_run
from .pictures import blank
from .show import animated, shown
from .types import CATEGORY


class SAGVisualize(io.ComfyNode):
    """Show masks beside each other, a film strip, or an animation."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SAGVisualize",
            display_name="Visualize Self-Attention",
            category=CATEGORY,
            description="Shows what the model attends to beside the image's detail and its objects, or how it goes "
                        "from step to step, as a strip or as an animation.",
            search_aliases=["attention film", "attention animation", "frequency mask", "SAG figure"],
            is_output_node=True,
            inputs=[
                *run_inputs(),
                io.Image.Input("image", tooltip=IMAGE_TOOLTIP),
                io.Combo.Input("style", options=list(STYLES),
                               tooltip="side by side: object, frequency and attention mask, as in the paper. film "
                                       "strip: the attention at steps of a run. animation: the same, a frame a step."),
                io.Float.Input("threshold", default=1.0, min=0, max=100, step=0.05,
                               tooltip="psi: attention above which a place counts as attended to; 1 is the average."),
                io.Mask.Input("mask", optional=True, tooltip="Objects, for side by side: one, or one for each image."),
                step_input(),
                io.Int.Input("frames", default=12, min=1, max=1000, optional=True, advanced=True,
                             tooltip="For film strip and animation: at most so many steps, spread over the run."),
                io.Float.Input("fps", default=4.0, min=0.1, max=60, step=0.1, optional=True, advanced=True,
                               tooltip="Frames a second of the animation on the node."),
            ],
            outputs=[io.Image.Output()],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, trace, latent, image, style=STYLES[0], threshold=1.0, mask=None, step=-1, frames=12,
                fps=4.0) -> io.NodeOutput:
        try:
            recording = run_of(trace, latent)
        except RunMissing as why:
            return without_run(cls, why, blank(picture_of(latent["samples"]), image)[0])
        image = image.cpu()
        if style == "animation":
            film = animation(recording, threshold, image, frames)
            return io.NodeOutput(film, ui=animated(film, fps))
        if style == "film strip":
            picture = film_strip(recording, image, frames)
        else:
            picture = side_by_side(recording, step, threshold, image, mask)
        return io.NodeOutput(picture, ui=shown(cls, picture))
