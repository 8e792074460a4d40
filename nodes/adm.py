"""Nodes for OpenAI's pixel-space models."""

from __future__ import annotations

from comfy_api.latest import io

from ..sag_core.adm.checkpoint import load_checkpoint
from .host.adm import class_conditioning, load_model
from .host.files import checkpoint_names, checkpoint_path
from .types import CATEGORY


class SAGLoadADM(io.ComfyNode):
    """Load an ADM or IDDPM checkpoint."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SAGLoadADM",
            display_name="Load ADM / IDDPM Checkpoint",
            category=CATEGORY,
            description="Loads a pixel-space diffusion model of OpenAI's guided-diffusion or improved-diffusion. There "
                        "is no VAE: decode with Load VAE, pixel_space.",
            search_aliases=["guided diffusion", "openai", "pixel space", "IDDPM"],
            inputs=[io.Combo.Input("ckpt_name", options=checkpoint_names(),
                                   tooltip="A file in the checkpoints folders, or the small model of this pack.")],
            outputs=[io.Model.Output()],
        )

    @classmethod
    def execute(cls, ckpt_name) -> io.NodeOutput:
        tensors, config = load_checkpoint(checkpoint_path(ckpt_name))
        try:
            return io.NodeOutput(load_model(tensors, config))
        except ValueError as error:
            raise ValueError(f"{ckpt_name}: {error}") from error


class SAGClassLabel(io.ComfyNode):
    """A class label as conditioning."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SAGClassLabel",
            display_name="Class Label",
            category=CATEGORY,
            description="What a class-conditional pixel model is to draw, as conditioning.",
            search_aliases=["class conditional", "imagenet class"],
            inputs=[io.Int.Input("label", default=0, min=-1, max=100_000,
                                 tooltip="Number of the class; -1 is no class, for models that have a null label.")],
            outputs=[io.Conditioning.Output()],
        )

    @classmethod
    def execute(cls, label) -> io.NodeOutput:
        return io.NodeOutput(class_conditioning(label))
