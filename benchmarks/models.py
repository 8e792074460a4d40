"""Models of the host's real classes with the published networks' depth and layout, and random weights.

On a GPU they have their real width and precision. On a CPU they are narrow: every block, token and attention call is
there, with fewer channels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Shape:
    """A network to measure.

    Args:
        title: for people.
        host_class: its configuration in the host's `supported_models`.
        network: the host's description of the published network.
        narrow: what is different where it is narrow.
        latent: shape of one image's [B, C, H, W].
        narrow_side: side of the latent where the network is narrow.
        tokens: length of the text.
        pooled: width of the pooled text, 0 for none.
        transformer: no U-Net, so that what works on U-Nets alone cannot be measured.
        dtype: name of its weights' dtype.
    """

    title: str
    host_class: str
    network: dict
    narrow: dict
    latent: tuple[int, int, int, int]
    narrow_side: int
    tokens: int
    pooled: int
    dtype: str
    transformer: bool = False

    def on(self, device: str) -> Shape:
        """The shape as it is measured on a device."""
        if device != "cpu":
            return self
        latent = (*self.latent[:2], self.narrow_side, self.narrow_side)
        return replace(self, network=self.network | self.narrow, latent=latent, dtype="float32")

    def small(self) -> Shape:
        """A quarter of the latent's sides and of the text, to see that everything works."""
        batch, channels, height, width = self.latent
        return replace(self, latent=(batch, channels, height // 4, width // 4), tokens=self.tokens // 4)

    def __str__(self) -> str:
        width = self.network["hidden_size" if self.transformer else "model_channels"]
        return f"{self.title}: latent {self.latent[2]} x {self.latent[3]}, {width} channels, {self.dtype}"


_UNET = {
    "image_size": 32, "in_channels": 4, "out_channels": 4, "use_checkpoint": False, "use_spatial_transformer": True,
    "use_temporal_attention": False, "use_temporal_resblock": False, "legacy": False, "model_channels": 320}

SHAPES = {
    "sd15": Shape(
        "SD 1.5", "SD15",
        _UNET | {"num_res_blocks": [2, 2, 2, 2], "channel_mult": [1, 2, 4, 4],
                 "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0], "transformer_depth_middle": 1,
                 "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0], "context_dim": 768,
                 "adm_in_channels": None, "use_linear_in_transformer": False, "num_heads": 8, "num_head_channels": -1},
        {"model_channels": 64, "num_heads": 2, "context_dim": 128},
        latent=(1, 4, 64, 64), narrow_side=64, tokens=77, pooled=0, dtype="float16"),
    "sdxl": Shape(
        "SDXL", "SDXL",
        _UNET | {"num_res_blocks": [2, 2, 2], "channel_mult": [1, 2, 4], "transformer_depth": [0, 0, 2, 2, 10, 10],
                 "transformer_depth_middle": 10, "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
                 "context_dim": 2048, "num_classes": "sequential", "adm_in_channels": 2816,
                 "use_linear_in_transformer": True, "num_heads": -1, "num_head_channels": 64},
        {"model_channels": 32, "context_dim": 128},
        latent=(1, 4, 128, 128), narrow_side=128, tokens=77, pooled=1280, dtype="float16"),
    "flux": Shape(
        "Flux", "Flux",
        {"image_model": "flux", "in_channels": 16, "out_channels": 16, "vec_in_dim": 768, "context_in_dim": 4096,
         "hidden_size": 3072, "mlp_ratio": 4.0, "num_heads": 24, "depth": 19, "depth_single_blocks": 38,
         "axes_dim": [16, 56, 56], "theta": 10000, "patch_size": 2, "qkv_bias": True, "guidance_embed": True,
         "txt_ids_dims": []},
        {"hidden_size": 128, "num_heads": 2, "axes_dim": [8, 28, 28], "context_in_dim": 128},
        latent=(1, 16, 128, 128), narrow_side=64, tokens=256, pooled=768, dtype="bfloat16", transformer=True)}


@dataclass(frozen=True)
class Subject:
    """A model and what it takes to sample it."""

    model: object
    latent: Tensor
    positive: list
    negative: list


def build(shape: Shape) -> Subject:
    """A shape as a MODEL whose weights lie on the host's device and stay there."""
    import comfy.model_management
    import comfy.model_patcher

    place = comfy.model_management.get_torch_device()
    model = empty(shape, place).to(place)
    _fill(model.diffusion_model)
    patcher = comfy.model_patcher.ModelPatcher(model, load_device=place, offload_device=place)
    return Subject(patcher, torch.zeros(shape.latent), _text(shape, 1), _text(shape, 2))


def empty(shape: Shape, place: torch.device):
    """The host's model of a shape, whose weights are still to be filled."""
    import comfy.supported_models

    config = getattr(comfy.supported_models, shape.host_class)(dict(shape.network))
    config.unet_config.update(shape.network)  # the class's own sizes would overwrite the narrow ones
    config.set_inference_dtype(getattr(torch, shape.dtype), None)
    return config.get_model({}, "", device=place).eval()


def _fill(network: torch.nn.Module) -> None:
    """Random weights that keep activations near 1: no infinities, and no denormals, which are slow."""
    torch.manual_seed(0)
    for name, weight in network.named_parameters():
        if weight.ndim > 1:
            weight.data.normal_(0, weight[0].numel() ** -0.5)
        else:
            weight.data.fill_(1 if name.endswith("weight") else 0)


def _text(shape: Shape, seed: int) -> list:
    """A CONDITIONING that is as random as a prompt."""
    generator = torch.Generator().manual_seed(seed)
    width = shape.network["context_in_dim" if shape.transformer else "context_dim"]
    extra = {"pooled_output": torch.randn(1, shape.pooled, generator=generator)} if shape.pooled else {}
    return [[torch.randn(1, shape.tokens, width, generator=generator), extra]]
