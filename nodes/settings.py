"""The guidance's settings as inputs, the same on every node that guides."""

from __future__ import annotations

from comfy_api.latest import io

from ..sag_core.schedule import Schedule as GuidanceSchedule
from ..sag_core.settings import REFERENCES, SAGSettings
from ..sag_core.strategies import MaskOptions
from .types import Mask, Schedule, layer_input


def settings_inputs() -> list[io.Input]:
    """Inputs named as the fields of `SAGSettings`."""
    return [
        io.Float.Input("scale", default=0.5, min=-10, max=10, step=0.01,
                       tooltip="Strength. 0 is off, without a second pass; 0.1 to 1 is usual."),
        io.Float.Input("blur_sigma", default=2.0, min=0, max=100, step=0.1,
                       tooltip="How far the blur reaches, in pixels of the model's own space (a latent pixel is 8 "
                               "image pixels for Stable Diffusion)."),
        io.Float.Input("threshold", default=1.0, min=0, max=100, step=0.05,
                       tooltip="Attention above which a place is blurred; 1 is the average. Lower blurs more, 0 "
                               "everything."),
        layer_input(),
        io.Float.Input("start_percent", default=0.0, min=0, max=1, step=0.001, optional=True, advanced=True,
                       tooltip="Where in the sampling guidance starts."),
        io.Float.Input("end_percent", default=1.0, min=0, max=1, step=0.001, optional=True, advanced=True,
                       tooltip="Where in the sampling guidance ends."),
        io.Int.Input("blur_kernel", default=0, min=0, max=999, optional=True, advanced=True,
                     tooltip="Taps of the blur: 0 follows blur_sigma, else an odd number (the paper: 31)."),
        Mask.Input("mask_options", optional=True,
                   tooltip="What is blurred instead, from SAG Mask Options: other strategies, soft edges, your mask."),
        Schedule.Input("schedule", optional=True,
                       tooltip="How guidance goes over the steps, from SAG Schedule: curves, and steps left out."),
        io.Float.Input("rescale", default=0.0, min=0, max=1, step=0.05, optional=True, advanced=True,
                       tooltip="Brings the contrast of the guided prediction back. 0 is the paper, 1 all of it."),
        io.Combo.Input("rescale_to", options=list(REFERENCES), default="cfg", optional=True, advanced=True,
                       tooltip="Whose contrast: that of the result without this guidance (cfg), or of the guided "
                               "branch's own prediction (branch)."),
        io.Float.Input("projection", default=0.0, min=0, max=1, step=0.05, optional=True, advanced=True,
                       tooltip="Takes away the part of the guidance that only raises contrast and saturation. 0 is the "
                               "paper, 1 all of that part."),
    ]


def settings_of(mask_options: MaskOptions | None = None, schedule: GuidanceSchedule | None = None,
                **inputs) -> SAGSettings:
    """The settings that inputs mean.

    Raises:
        ValueError: a value is out of its range; the message names it.
    """
    return SAGSettings(**inputs, mask=mask_options or MaskOptions(), schedule=schedule or GuidanceSchedule())


def check_settings(cls, scale=None, blur_sigma=None, threshold=None, start_percent=None, end_percent=None,
                   blur_kernel=None, rescale=None, projection=None) -> bool | str:
    """A node's `validate_inputs`: refuse bad numbers when the graph is queued.

    Linked inputs arrive as None and are checked when the graph runs.
    """
    numbers = {"scale": scale, "blur_sigma": blur_sigma, "threshold": threshold, "start_percent": start_percent,
               "end_percent": end_percent, "blur_kernel": blur_kernel, "rescale": rescale, "projection": projection}
    try:
        SAGSettings(**{name: value for name, value in numbers.items() if value is not None})
    except ValueError as error:
        return str(error)
    return True
