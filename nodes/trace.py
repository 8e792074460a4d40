"""Nodes that look at, save and load what was recorded."""

from __future__ import annotations

from comfy_api.latest import io

from ..sag_core.recording import RunMissing
from ..sag_core.trace import AttentionTrace
from .host.files import new_trace_path, trace_names, trace_path
from .host.sample import picture_of
from .host.server import node_id_of, watching
from .live.replay import replay
from .lookup import run_of, without_run
from .pictures import STYLES, blank, picture
from .types import CATEGORY, Trace

TRACE_TOOLTIP = "Trace of the node that patched the sampler's model."
LATENT_TOOLTIP = "The sampler's own LATENT; it says which run is meant where several samplers share the model."


class SAGMaskPreview(io.ComfyNode):
    """Show what a model attended to."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SAGMaskPreview",
            display_name="Self-Attention Mask",
            category=CATEGORY,
            description="Shows what the model attended to while it sampled: as a heat map, as the mask that was "
                        "blurred, over the image, or step by step.",
            search_aliases=["attention map", "SAG mask", "visualize attention"],
            inputs=[
                Trace.Input("trace", tooltip=TRACE_TOOLTIP),
                io.Latent.Input("latent", tooltip=LATENT_TOOLTIP),
                io.Int.Input("step", default=-1, min=-1, max=10_000,
                             tooltip="A step, counted from 0, or -1 for the mean over all of them."),
                io.Combo.Input("style", options=list(STYLES),
                               tooltip="heatmap: attention in colour. mask: what is blurred. overlay: the heat map "
                                       "over the image, where the mask is. sheet: every step side by side."),
                io.Image.Input("image", optional=True,
                               tooltip="The decoded images, for overlay; the mask takes their size."),
            ],
            outputs=[io.Image.Output(), io.Mask.Output()],
            hidden=[io.Hidden.unique_id],
            not_idempotent=True,  # it shows its result on its own node
        )

    @classmethod
    def execute(cls, trace, latent, step=-1, style=STYLES[0], image=None) -> io.NodeOutput:
        try:
            recording = run_of(trace, latent)
        except RunMissing as why:
            return without_run(cls, why, *blank(picture_of(latent["samples"]), image))
        shown = picture(recording, step, style, image)
        replay(watching(node_id_of(cls))(), recording, image)
        return io.NodeOutput(*shown)


class SAGSaveTrace(io.ComfyNode):
    """Save a run's attention maps."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SAGSaveTrace",
            display_name="Save Attention Trace",
            category=CATEGORY,
            description="Saves every step's attention map of a run, and its latent, as safetensors in the output "
                        "folder.",
            inputs=[
                Trace.Input("trace", tooltip=TRACE_TOOLTIP),
                io.Latent.Input("latent", tooltip=LATENT_TOOLTIP),
                io.String.Input("filename_prefix", default="sag_trace",
                                tooltip="Start of the file's name, with a folder if you like. Nothing is overwritten."),
            ],
            outputs=[],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, trace, latent, filename_prefix="sag_trace") -> io.NodeOutput:
        path = new_trace_path(filename_prefix)
        try:
            trace.save(path, picture_of(latent["samples"]))
        except RunMissing as why:
            return without_run(cls, why)
        return io.NodeOutput(ui={"text": [path.name]})


class SAGLoadTrace(io.ComfyNode):
    """Load a saved run."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SAGLoadTrace",
            display_name="Load Attention Trace",
            category=CATEGORY,
            description="Loads what Save Attention Trace saved, from the output or input folder.",
            inputs=[io.Combo.Input("trace_name", options=trace_names(),
                                   tooltip="A trace in the output or input folder.")],
            outputs=[Trace.Output(display_name="trace"), io.Latent.Output(display_name="latent")],
        )

    @classmethod
    def validate_inputs(cls, trace_name):
        """Naming the input here lets the host accept traces that were saved after it listed the folder."""
        try:
            trace_path(trace_name)
        except ValueError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, trace_name):
        """A file that changed is read again."""
        return trace_path(trace_name).stat().st_mtime_ns

    @classmethod
    def execute(cls, trace_name) -> io.NodeOutput:
        trace, samples = AttentionTrace.load(trace_path(trace_name))
        return io.NodeOutput(trace, {"samples": samples})
