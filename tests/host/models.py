"""Tiny models of the host's real classes: random weights, two or four levels, a hundredth of a second a pass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import comfy.model_patcher
import comfy.supported_models as supported
import torch
from torch import Tensor

CPU = torch.device("cpu")
WIDTH = 16  # of a text token


@dataclass(frozen=True)
class Tiny:
    """A model and what it takes to sample it."""

    model: comfy.model_patcher.ModelPatcher
    latent: Tensor
    positive: list
    negative: list

    def sized(self, *size: int, batch: int | None = None) -> Tiny:
        """The same with an empty latent of another size."""
        shape = (batch or self.latent.shape[0], self.latent.shape[1], *(size or self.latent.shape[2:]))
        return replace(self, latent=torch.zeros(shape))


def text(seed: int, tokens: int = 7, width: int = WIDTH, **extra) -> list:
    """A CONDITIONING that is as random as a prompt."""
    generator = torch.Generator().manual_seed(seed)
    return [[torch.randn(1, tokens, width, generator=generator), extra]]


def patcher(config_class, unet_config: dict, state_dict: dict | None = None, dtype: torch.dtype = torch.float32):
    """A MODEL of one of the host's classes; `state_dict` is what the class looks at to tell variants apart."""
    config = config_class(dict(unet_config))
    config.unet_config.update(unet_config)  # the class's own sizes would overwrite the tiny ones
    config.set_inference_dtype(dtype, None)
    model = config.get_model(state_dict or {}, "").eval()
    _fill(model.diffusion_model)
    return comfy.model_patcher.ModelPatcher(model, load_device=CPU, offload_device=CPU)


def _fill(network: torch.nn.Module) -> None:
    """Random weights that keep activations near 1, and attention that is far from even."""
    generator = torch.Generator().manual_seed(0)
    for name, weight in network.named_parameters():
        value = torch.randn(weight.shape, generator=generator)
        if weight.ndim > 1:
            sharp = 2 if name.endswith(("to_q.weight", "to_k.weight")) else 1
            value *= sharp * weight[0].numel() ** -0.5
        else:
            value = 0.1 * value + (1 if name.endswith("weight") else 0)
        weight.data.copy_(value)
    for name, buffer in network.named_buffers():
        if name.endswith("pos_embed"):  # what a checkpoint brings; until then it is whatever was in memory
            buffer.copy_(torch.randn(buffer.shape, generator=generator) * 0.5)


TWO_LEVELS = {
    "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 32, "num_res_blocks": [1, 1],
    "channel_mult": [1, 2], "transformer_depth": [1, 1], "transformer_depth_output": [1, 1, 1, 1],
    "transformer_depth_middle": 1, "context_dim": WIDTH, "num_heads": -1, "num_head_channels": 16, "legacy": False,
    "use_checkpoint": False, "use_spatial_transformer": True, "use_temporal_attention": False,
    "use_linear_in_transformer": True, "adm_in_channels": None}
# The depth of the published models: the middle block is at an eighth of the latent. The upper levels attend in none,
# because attention over thousands of tokens takes seconds on a CPU.
FOUR_LEVELS = {
    "num_res_blocks": [1] * 4, "channel_mult": [1, 1, 1, 1], "transformer_depth": [0, 0, 1, 0],
    "transformer_depth_output": [0, 0, 0, 0, 1, 1, 0, 0]}
SD15 = TWO_LEVELS | {"num_heads": 4, "num_head_channels": -1, "use_linear_in_transformer": False}
XL = TWO_LEVELS | {
    "num_classes": "sequential", "adm_in_channels": 2816, "transformer_depth": [0, 2],
    "transformer_depth_output": [0, 0, 2, 2], "transformer_depth_middle": 2}


def _prompted(model, latent: tuple[int, ...] = (1, 4, 16, 24), **extra) -> Tiny:
    return Tiny(model, torch.zeros(latent), text(1, **extra), text(2, **extra))


def _pooled(model) -> Tiny:
    return _prompted(model, pooled_output=torch.linspace(-1, 1, 1280)[None])


def sd15(dtype: torch.dtype = torch.float32, **changes) -> Tiny:
    return _prompted(patcher(supported.SD15, SD15 | changes, dtype=dtype))


def sd15_four_levels() -> Tiny:
    return sd15(**FOUR_LEVELS).sized(64, 64)


def inpaint() -> Tiny:
    return sd15(in_channels=9)


def ip2p() -> Tiny:
    return _prompted(patcher(supported.SD15_instructpix2pix, SD15 | {"in_channels": 8}),
                     concat_latent_image=torch.linspace(-1, 1, 16 * 24).view(1, 1, 16, 24).repeat(1, 4, 1, 1))


def sd20() -> Tiny:
    return _prompted(patcher(supported.SD20, TWO_LEVELS))


def v_prediction() -> Tiny:
    # The host tells the v-prediction model from its twin by the spread of one bias.
    clue = {"output_blocks.11.1.transformer_blocks.0.norm1.bias": torch.tensor([-1.0, 1.0])}
    return _prompted(patcher(supported.SD20, TWO_LEVELS, clue))


def sdxl() -> Tiny:
    return _pooled(patcher(supported.SDXL, XL))


def playground() -> Tiny:
    return _pooled(patcher(supported.SDXL, XL, {"edm_mean": torch.zeros(4), "edm_std": torch.ones(4)}))


def refiner() -> Tiny:
    return _pooled(patcher(supported.SDXLRefiner, XL | {"adm_in_channels": 2560}))


def ssd1b() -> Tiny:
    """No attention in the middle block."""
    return _pooled(patcher(supported.SSD1B, XL | {"transformer_depth_middle": -1}))


def koala() -> Tiny:
    """No middle block."""
    return _pooled(patcher(supported.KOALA_700M, XL | {"transformer_depth_middle": -2}))


def svd() -> Tiny:
    model = patcher(supported.SVD_img2vid, XL | {
        "in_channels": 8, "adm_in_channels": 768, "use_temporal_attention": True, "use_temporal_resblock": True,
        "extra_ff_mix_layer": True, "use_spatial_context": True, "merge_strategy": "learned_with_images",
        "merge_factor": 0.0, "video_kernel_size": [3, 1, 1]})
    return _prompted(model, (3, 4, 16, 24), tokens=1, concat_latent_image=torch.ones(1, 4, 16, 24))


def upscaler() -> Tiny:
    """Blocks of the first level attend to the text where others attend to the image."""
    return sd15(disable_self_attentions=[True, False])


def no_attention() -> Tiny:
    return sd15(transformer_depth=[0, 0], transformer_depth_output=[0] * 4, transformer_depth_middle=-1)


def flux() -> Tiny:
    model = patcher(supported.Flux, {
        "image_model": "flux", "in_channels": 16, "out_channels": 16, "vec_in_dim": 16, "context_in_dim": WIDTH,
        "hidden_size": 64, "mlp_ratio": 2.0, "num_heads": 2, "depth": 1, "depth_single_blocks": 1,
        "axes_dim": [8, 12, 12], "theta": 10000, "patch_size": 2, "qkv_bias": True, "guidance_embed": True,
        "txt_ids_dims": []})
    return _prompted(model, (1, 16, 16, 24), pooled_output=torch.linspace(-1, 1, 16)[None])


UNETS: dict[str, Callable[[], Tiny]] = {
    f.__name__: f for f in (sd15, inpaint, ip2p, sd20, v_prediction, sdxl, playground, refiner, ssd1b, koala, svd)}
