"""Nodes for OpenAI's pixel-space models."""

from __future__ import annotations

from comfy_api.latest import io

from ..sag_core.adm.checkpoint import load_checkpoint
from ..sag_core.adm.config import NOISE_SCHEDULES
from ..sag_core.adm.published import Overrides, describe
from .host.adm import class_conditioning, load_model, low_res_conditioning
from .host.files import checkpoint_names, checkpoint_path
from .types import AUTO, CATEGORY

ORDERS = {"heads first": False, "q, k, v first": True}
ANSWERS = {"yes": True, "no": False}


class SAGLoadADM(io.ComfyNode):
    """Load an ADM or IDDPM checkpoint."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SAGLoadADM",
            display_name="Load ADM / IDDPM Checkpoint",
            category=CATEGORY,
            description="Loads a pixel-space diffusion model of OpenAI's guided-diffusion or improved-diffusion, or of "
                        "DDPM, and says what it recognised. There is no VAE: decode with Load VAE, pixel_space.",
            search_aliases=["guided diffusion", "openai", "pixel space", "IDDPM", "DDPM", "super resolution"],
            inputs=[
                io.Combo.Input("ckpt_name", options=checkpoint_names(),
                               tooltip="A file in the checkpoints folders, or the small model of this pack."),
                io.Combo.Input("noise_schedule", options=[AUTO, *NOISE_SCHEDULES], default=AUTO, optional=True,
                               advanced=True, tooltip="Schedule the model was trained with. auto goes by the published "
                                                      "model that is most alike."),
                io.Int.Input("timesteps", default=0, min=0, max=100_000, optional=True, advanced=True,
                             tooltip="Length of the training process (diffusion_steps). 0 goes by the published model "
                                     "that is most alike."),
                io.Combo.Input("rescale_timesteps", options=[AUTO, *ANSWERS], default=AUTO, optional=True,
                               advanced=True, tooltip="Whether the network is shown timesteps scaled to 0 to 1,000."),
                io.Int.Input("num_heads", default=0, min=0, max=1024, optional=True, advanced=True,
                             tooltip="Attention heads of every block. 0 goes by the published model that is most "
                                     "alike."),
                io.Int.Input("num_head_channels", default=0, min=0, max=4096, optional=True, advanced=True,
                             tooltip="Channels of each attention head, where those count instead of num_heads. 0 goes "
                                     "by the published model that is most alike."),
                io.Combo.Input("attention_order", options=[AUTO, *ORDERS], default=AUTO, optional=True, advanced=True,
                               tooltip="How the channels of q, k and v lie: heads first is the older order, q, k, v "
                                       "first the newer (use_new_attention_order)."),
                io.Boolean.Input("authors_map", default=False, optional=True, advanced=True,
                                 tooltip="Takes attention maps as the code of the paper's authors does, with 4 heads "
                                         "whatever the model has, to repeat their results at 256 pixels. What the "
                                         "model itself draws stays the same."),
            ],
            outputs=[io.Model.Output(), io.String.Output(display_name="recognised")],
        )

    @classmethod
    def execute(cls, ckpt_name, noise_schedule=AUTO, timesteps=0, rescale_timesteps=AUTO, num_heads=0,
                num_head_channels=0, attention_order=AUTO, authors_map=False) -> io.NodeOutput:
        overrides = Overrides(
            noise_schedule=None if noise_schedule == AUTO else noise_schedule, timesteps=timesteps or None,
            rescale_timesteps=ANSWERS.get(rescale_timesteps), num_heads=num_heads or None,
            head_channels=num_head_channels or None, new_attention_order=ORDERS.get(attention_order))
        tensors, config = load_checkpoint(checkpoint_path(ckpt_name), overrides)
        recognised = describe(config, sum(tensor.numel() for tensor in tensors.values()))
        try:
            return io.NodeOutput(load_model(tensors, config, authors_map), recognised, ui={"text": [recognised]})
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
    def execute(cls, label=0) -> io.NodeOutput:
        return io.NodeOutput(class_conditioning(label))


class SAGLowResImage(io.ComfyNode):
    """The image an upsampler enlarges, as conditioning."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SAGLowResImage",
            display_name="Low-Resolution Image",
            category=CATEGORY,
            description="The image that a pixel-space upsampler is to draw in a higher resolution. Both positive and "
                        "negative need it.",
            search_aliases=["super resolution", "upsampler", "ADM upsampler", "upscale"],
            inputs=[
                io.Conditioning.Input("conditioning", tooltip="The conditioning to add it to, such as a class label."),
                io.Image.Input("image", tooltip="The small image. The size of the result is that of the latent; of a "
                                                "batch, each image goes to the sample of its number."),
            ],
            outputs=[io.Conditioning.Output()],
        )

    @classmethod
    def execute(cls, conditioning, image) -> io.NodeOutput:
        return io.NodeOutput(low_res_conditioning(conditioning, image))
