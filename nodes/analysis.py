"""Nodes that measure what a model attends to: fine detail, and objects."""

from __future__ import annotations

import math

from comfy_api.latest import io

from ..sag_core.analysis import Overlap, detail_gain, frequency_profile, log_spectra, on_grid, overlap
from ..sag_core.recording import RunMissing
from .figures import MOST, above, matching
from .host.sample import picture_of
from .lookup import run_of, without_run
from .numbers import numbers
from .pictures import blank, token_maps
from .plots import COLOURS, Curve, curves, table
from .sheets import to_image
from .show import shown
from .trace import LATENT_TOOLTIP, TRACE_TOOLTIP
from .types import CATEGORY, Trace

THRESHOLDS = "1.0, 1.3"
THRESHOLDS_TOOLTIP = "psi: attention above which a place is attended to, 1 is the average. One or several: 1.0, 1.3"
STEP_TOOLTIP = "A step, counted from 0, or -1 for the mean over all of them, as in the paper."
IMAGE_TOOLTIP = "The decoded images of the run."


def run_inputs() -> list[io.Input]:
    """A run: its trace and the LATENT it made."""
    return [Trace.Input("trace", tooltip=TRACE_TOOLTIP), io.Latent.Input("latent", tooltip=LATENT_TOOLTIP)]


def step_input() -> io.Input:
    """The step whose attention is meant."""
    return io.Int.Input("step", default=-1, min=-1, max=10_000, optional=True, advanced=True, tooltip=STEP_TOOLTIP)


class SAGFrequencyAnalysis(io.ComfyNode):
    """Compare the detail of what is attended to with that of the whole image."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SAGFrequencyAnalysis",
            display_name="Attention Frequency Analysis",
            category=CATEGORY,
            description="Measures whether the model attends to fine detail: the spectrum of the image's patches that "
                        "are attended to, against that of all of them. A higher curve is more detail.",
            search_aliases=["FFT", "spectrum of attention", "frequency of patches"],
            is_output_node=True,
            inputs=[
                *run_inputs(),
                io.Image.Input("image", tooltip=IMAGE_TOOLTIP),
                io.String.Input("thresholds", default=THRESHOLDS, tooltip=THRESHOLDS_TOOLTIP),
                step_input(),
            ],
            outputs=[io.Image.Output(display_name="plot"), io.String.Output(display_name="text"),
                     io.Float.Output(display_name="gain")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, trace, latent, image, thresholds=THRESHOLDS, step=-1) -> io.NodeOutput:
        levels = levels_of(thresholds)
        try:
            recording = run_of(trace, latent)
        except RunMissing as why:
            return without_run(cls, why, blank(picture_of(latent["samples"]), image)[0], str(why), math.nan)
        maps = token_maps(recording, step, len(image))
        grid = tuple(maps.shape[1:])
        spectra = log_spectra(image[..., :3].movedim(-1, 1).cpu(), grid)
        everywhere = frequency_profile(spectra, maps.new_ones(maps.shape))
        lines = [_curve("all patches", everywhere, 0)]
        text = [f"patches of {grid[0]} x {grid[1]}, {_counted(len(maps), 'image')}, {_steps(recording, step)}; mean "
                "log-magnitude without frequency 0",
                f"all {everywhere.patches} patches: {everywhere.mean:.3f}"]
        gains = []
        for colour, level in enumerate(levels, start=1):
            chosen = above(maps, level)
            profile, each = frequency_profile(spectra, chosen), detail_gain(spectra, chosen)
            gains.append(profile.mean - everywhere.mean)
            lines.append(_curve(f"attention > {level:g} ({gains[-1]:+.2f})", profile, colour))
            text.append(f"attention > {level:g}, {profile.patches} patches: {profile.mean:.3f}, {gains[-1]:+.3f}; more "
                        f"detail in {int((each > 0).sum())} of {_counted(len(maps), 'image')}")
        plot = to_image([curves(lines, f"Detail of what is attended to, {grid[0]} x {grid[1]} patches",
                                "spatial frequency (cycles per pixel)", "mean log-magnitude")])
        return io.NodeOutput(plot, "\n".join(text), gains[0], ui=shown(cls, plot, "\n".join(text)))


class SAGMaskOverlap(io.ComfyNode):
    """Compare what is attended to with a mask."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SAGMaskOverlap",
            display_name="Attention Mask Overlap",
            category=CATEGORY,
            description="Measures whether the model attends to objects: the overlap (IoU) of what is attended to with "
                        "a mask, against that of random masks of the same area.",
            search_aliases=["IoU", "intersection over union", "attention and segmentation"],
            is_output_node=True,
            inputs=[
                *run_inputs(),
                io.Mask.Input("mask", tooltip="Objects: of a segmenter, or drawn by hand. One, or one for each image, "
                                              "of any size; it is compared on the layer's grid."),
                io.String.Input("thresholds", default=THRESHOLDS, tooltip=THRESHOLDS_TOOLTIP),
                io.Int.Input("draws", default=100, min=1, max=10_000, optional=True, advanced=True,
                             tooltip="Random masks for every image, whose mean is the baseline."),
                io.Int.Input("seed", default=0, min=0, max=2**31 - 1, optional=True, advanced=True,
                             control_after_generate=io.ControlAfterGenerate.fixed, tooltip="Of the random masks."),
                step_input(),
            ],
            outputs=[io.Image.Output(display_name="table"), io.String.Output(display_name="text"),
                     io.Float.Output(display_name="iou"), io.Float.Output(display_name="baseline")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, trace, latent, mask, thresholds=THRESHOLDS, draws=100, seed=0, step=-1) -> io.NodeOutput:
        levels = levels_of(thresholds)
        try:
            recording = run_of(trace, latent)
        except RunMissing as why:
            return without_run(cls, why, blank(picture_of(latent["samples"]), None)[0], str(why), math.nan, math.nan)
        maps = token_maps(recording, step)
        if mask.ndim == 3 and len(mask) > 1:
            maps = token_maps(recording, step, len(mask))
        grid = tuple(maps.shape[1:])
        objects = on_grid(matching(mask, len(maps)), grid)
        if not objects.any():
            raise ValueError(f"mask is empty on the layer's grid of {grid[0]} x {grid[1]}: it covers half of no token. "
                             "Connect a mask with a larger object, or invert it")
        found = [overlap(above(maps, level), objects, draws, seed) for level in levels]
        headings = ["attention", "area", "IoU", f"random, {draws} draws", "gain"]
        rows = [row for level, one in zip(levels, found, strict=True) for row in _rows(level, one)]
        shortened = rows if len(maps) <= MOST else [row for row in rows if not row[0].startswith(" ")]
        title = f"Overlap of attention with objects, {grid[0]} x {grid[1]}, {_steps(recording, step)}"
        picture = to_image([table(headings, shortened, title)])
        text = "\n".join([title, *(", ".join(f"{heading} {value.strip()}" for heading, value in
                                             zip(headings, row, strict=True)) for row in rows)])
        first = found[0]
        return io.NodeOutput(picture, text, first.iou.mean().item(), first.baseline, ui=shown(cls, picture, text))


def levels_of(thresholds: object) -> tuple[float, ...]:
    """Thresholds as a user writes them.

    Raises:
        ValueError: there are none or too many, or one is no number of 0 or more.
    """
    levels = numbers("thresholds", thresholds)
    if not 1 <= len(levels) < len(COLOURS):
        raise ValueError(f"thresholds holds {len(levels)} numbers; give 1 to {len(COLOURS) - 1}, such as 1.0, 1.3")
    for level in levels:
        if level < 0:
            raise ValueError(f"thresholds holds {level:g}; attention is never below 0")
    return levels


def _curve(name: str, profile, colour: int) -> Curve:
    return Curve(name, list(zip(profile.frequency.tolist(), profile.magnitude.tolist(), strict=True)), colour)


def _rows(level: float, found: Overlap) -> list[list[str]]:
    """Of a threshold: the mean over the images, then every image, indented."""
    name = f"> {level:g}"
    if len(found.iou) == 1:
        return [_row(name, found)]
    return [_row(f"{name}, mean of {len(found.iou)}", found),
            *(_row(f"   image {i}", Overlap(found.iou[i:i + 1], found.random[:, i:i + 1], found.area[i:i + 1]))
              for i in range(len(found.iou)))]


def _row(name: str, found: Overlap) -> list[str]:
    gain = "-" if math.isnan(found.gain) else f"{found.gain:+.0%}"
    return [name, f"{found.area.mean().item():.0%}", f"{found.iou.mean().item():.3f}",
            f"{found.baseline:.3f} +/- {found.spread:.3f}", gain]


def _steps(recording, step: int) -> str:
    return f"mean of {_counted(len(recording.steps), 'step')}" if step == -1 else f"step {step}"


def _counted(count: int, thing: str) -> str:
    return f"{count} {thing}" if count == 1 else f"{count} {thing}s"
