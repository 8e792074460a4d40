"""Nodes that say more about the guidance: what is blurred, and when."""

from __future__ import annotations

from comfy_api.latest import io

from ..sag_core.schedule import CURVES, Curve, Economy, Interval
from ..sag_core.schedule import Schedule as GuidanceSchedule
from ..sag_core.strategies import COMBINATIONS, STRATEGIES, MaskOptions
from .host.vision import Vision
from .numbers import numbers
from .types import CATEGORY, Floats, Mask, Schedule

INTERVALS = ("as guidance", "percent", "sigma")
BETWEEN = ("nothing", "last direction")


class SAGMaskOptions(io.ComfyNode):
    """Node that chooses what is blurred."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SAGMaskOptions",
            display_name="SAG Mask Options",
            category=CATEGORY,
            description="What the guidance blurs: other strategies than self-attention, soft edges, and your own mask, "
                        "for guidance in the inpainted area alone.",
            search_aliases=["blur guidance", "inpaint SAG", "mask strategy"],
            inputs=[
                io.Combo.Input("strategy", options=list(STRATEGIES), default="self-attention",
                               tooltip="self-attention: what the model attends to. global: everything (blur guidance). "
                                       "high-frequency: where there is most detail. random, square: anywhere, as much "
                                       "as is attended to. inverse: what is not attended to. DINO: what a vision model "
                                       "attends to in the prediction."),
                io.Combo.Input("threshold_as", options=["absolute", "quantile"], default="absolute", optional=True,
                               advanced=True, tooltip="Whether the guidance's threshold or this quantile decides."),
                io.Float.Input("quantile", default=0.5, min=0, max=1, step=0.01, optional=True, advanced=True,
                               tooltip="Share of each image that is left alone."),
                io.Float.Input("softness", default=0.0, min=0, max=100, step=0.05, optional=True, advanced=True,
                               tooltip="Width of the mask's edge, in units of average attention; 0 is hard."),
                io.Float.Input("decay", default=0.0, min=0, max=0.99, step=0.01, optional=True, advanced=True,
                               tooltip="Share of earlier steps' maps in a running average; 0 is this step's alone."),
                io.Int.Input("seed", default=0, min=0, max=2**31 - 1, optional=True, advanced=True,
                             control_after_generate=io.ControlAfterGenerate.fixed,
                             tooltip="Of the strategies that draw places."),
                io.Mask.Input("mask", optional=True,
                              tooltip="Your own mask, of any size, one for all images or one each."),
                io.Combo.Input("combine", options=list(COMBINATIONS), default="intersect", optional=True,
                               tooltip="intersect: blur only inside your mask. unite: also all of it. replace: nothing "
                                       "but it."),
                io.ClipVision.Input("clip_vision", optional=True,
                                    tooltip="For DINO: a DINOv2 or DINOv3 model from Load CLIP Vision."),
            ],
            outputs=[Mask.Output(display_name="mask_options")],
        )

    @classmethod
    def execute(cls, strategy="self-attention", threshold_as="absolute", quantile=0.5, softness=0.0, decay=0.0, seed=0,
                mask=None, combine="intersect", clip_vision=None) -> io.NodeOutput:
        if mask is not None:
            mask = mask.clone()  # sampling comes later, and other nodes may edit theirs in place
        vision = Vision(clip_vision) if strategy == "DINO" and clip_vision is not None else None
        return io.NodeOutput(MaskOptions(strategy, quantile if threshold_as == "quantile" else None, softness, decay,
                                         seed, mask, combine, vision))


class SAGSchedule(io.ComfyNode):
    """Node that chooses when and how strongly to guide."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        curve = ("constant; linear or cosine, from all of it at the interval's start to the factor below at its end, "
                 "by the model's timestep; or a list with a factor for every step.")
        numbers = ("Factors for every step: 1, 0.8, 0.5, ... or a link of FLOATS or SIGMAS; of another number, they "
                   "are spread over the steps. Only for the curve 'list'.")
        return io.Schema(
            node_id="SAGSchedule",
            display_name="SAG Schedule",
            category=CATEGORY,
            description="How guidance goes over the steps: which are guided, how strength and blur change, and which "
                        "steps may go without to save time.",
            search_aliases=["SAG interval", "guidance schedule", "faster SAG", "cheaper SAG"],
            inputs=[
                io.Combo.Input("interval", options=list(INTERVALS), default="as guidance",
                               tooltip="What start and end mean: leave it to the guidance node, part of the sampling "
                                       "(0 to 1), or noise levels (high to low). Both ends are included."),
                io.Float.Input("start", default=0.0, min=0, max=100_000, step=0.001,
                               tooltip="First noise level or part that is guided."),
                io.Float.Input("end", default=1.0, min=0, max=100_000, step=0.001,
                               tooltip="Last noise level or part that is guided."),
                io.Combo.Input("scale_curve", options=list(CURVES), default="constant", tooltip=f"Strength: {curve}"),
                io.Float.Input("scale_end", default=0.0, min=-10, max=10, step=0.05, optional=True, advanced=True,
                               tooltip="Factor of the scale at the interval's end, for linear and cosine."),
                io.MultiType.Input(io.String.Input("scale_list", default="", optional=True, advanced=True,
                                                   tooltip=numbers), [Floats, io.Sigmas]),
                io.Combo.Input("blur_curve", options=list(CURVES), default="constant", optional=True, advanced=True,
                               tooltip=f"Blur: {curve}"),
                io.Float.Input("blur_end", default=0.0, min=0, max=10, step=0.05, optional=True, advanced=True,
                               tooltip="Factor of blur_sigma at the interval's end, for linear and cosine."),
                io.MultiType.Input(io.String.Input("blur_list", default="", optional=True, advanced=True,
                                                   tooltip=numbers), [Floats, io.Sigmas]),
                io.Int.Input("every", default=1, min=1, max=100, optional=True,
                             tooltip="Cost: guide one step of so many, with the scale multiplied by as much."),
                io.Float.Input("boost", default=0.0, min=0, max=100, step=0.1, optional=True, advanced=True,
                               tooltip="Factor of the scale at those steps; 0 takes the number of `every`."),
                io.Combo.Input("between", options=list(BETWEEN), default="nothing", optional=True, advanced=True,
                               tooltip="What happens at the steps between: nothing, or the last direction again, which "
                                       "keeps little of the gain; it is here to compare."),
                io.Float.Input("skip_below", default=0.0, min=0, max=1, step=0.001, optional=True, advanced=True,
                               tooltip="Cost: leave steps out where blurring changes the prediction by less than this "
                                       "share of it."),
                io.Float.Input("stop_below", default=0.0, min=0, max=1, step=0.001, optional=True, advanced=True,
                               tooltip="Cost: end guiding once it changes the prediction by less than this share."),
            ],
            outputs=[Schedule.Output(display_name="schedule")],
        )

    @classmethod
    def execute(cls, interval=INTERVALS[0], start=0.0, end=1.0, scale_curve="constant", scale_end=0.0,
                scale_list="", blur_curve="constant", blur_end=0.0, blur_list="", every=1, boost=0.0, between="nothing",
                skip_below=0.0, stop_below=0.0) -> io.NodeOutput:
        return io.NodeOutput(GuidanceSchedule(
            interval=Interval(start, end) if interval == "sigma" else None,
            percent=(start, end) if interval == "percent" else None,
            scale=Curve(scale_curve, scale_end, numbers("scale_list", scale_list)),
            blur_sigma=Curve(blur_curve, blur_end, numbers("blur_list", blur_list)),
            economy=Economy(every, boost or None, between == "last direction", skip_below, stop_below)))
