"""The run that a node looks at, and what the node gives where that run is gone: the graph goes on without it."""

from __future__ import annotations

from comfy_api.latest import io

from ..sag_core.recording import Recording, RunMissing
from ..sag_core.trace import AttentionTrace
from .host.request import tell
from .host.sample import picture_of
from .host.server import instead, node_id_of


def run_of(trace: AttentionTrace, latent: dict) -> Recording:
    """The recording of the run that made a LATENT.

    Raises:
        RunMissing: it is not there, or nothing was recorded in it.
    """
    recording = trace.find(picture_of(latent["samples"]))
    recording.require_steps()
    return recording


def without_run(cls: type[io.ComfyNode], why: RunMissing, *outputs) -> io.NodeOutput:
    """A node's outputs where the run is gone; the log and the node say why."""
    tell(instead(node_id_of(cls)), str(why))
    return io.NodeOutput(*outputs, ui={"text": (str(why),)})

