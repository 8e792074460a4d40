"""A tiny model of every family of image and video models the host has, with random weights.

Every entry is made of the host's own classes and of the smallest sizes they accept. What is written down beside them
are facts of the host's source: which lists of blocks a network has and where a size or a batch is more than the host
itself can do. Where image tokens are, which shape they have and what noise does to a sample is for tests to find out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace

import comfy.ldm.lightricks.symmetric_patchifier as lightricks
import comfy.nested_tensor
import comfy.supported_models
import comfyui_version
import pytest
import torch
from comfy.ldm.chroma_radiance.model import ChromaRadianceParams
from torch import Tensor, nn

from tests.host import models
from tests.host.models import Tiny, patcher, text

Size = tuple[int, ...]


class _Kinds:
    """The host's classes of models, by name. One that an older host lacks skips the test that makes it."""

    def __getattr__(self, name: str) -> Callable:
        return getattr(comfy.supported_models, name, lambda *_: pytest.skip(f"this ComfyUI has no {name}"))


supported = _Kinds()


@dataclass(frozen=True)
class Family:
    """A kind of model, and what it takes to sample it.

    Args:
        build: a model of it with its text, and without a latent.
        channels: of its latent.
        square, odd: two sizes of the latent, (H, W) or (T, H, W). Where the host can do it, tokens of the second hang
            over the edge.
        blocks: where its layers are, as paths of modules in the order they run; `*` stands for any one name.
        layers: how many there are, or their names where they are not `block.N`.
        auto: the layer that is the default, where it is not the one in the middle.
        extra: conditioning that goes with the size of the latent.
        sound: shape of the sound that comes with a video.
        batches: numbers of images that a batch may have.
        mute: a module of the host's that does not tell attention the options of the run.
        convolved: tokens have seen their neighbours before they attend.
        apart: some of the image's tokens ask in a call of their own, which is not the layer's first.
    """

    build: Callable[[], Tiny]
    channels: int
    square: Size
    odd: Size
    blocks: Sequence[str]
    layers: int | Sequence[str]
    auto: str = ""
    extra: Callable[[Size], dict] | None = None
    sound: Size = ()
    batches: Sequence[int] = (1, 2)
    mute: str = ""
    convolved: bool = False
    apart: bool = False

    @property
    def names(self) -> list[str]:
        """Names of the layers."""
        return [f"block.{i}" for i in range(self.layers)] if isinstance(self.layers, int) else list(self.layers)

    @property
    def default(self) -> str:
        """The layer that `auto` should be."""
        return self.auto or self.names[len(self.names) // 2]

    def at(self, tiny: Tiny, size: Size, batch: int = 1) -> Tiny:
        """What `build` made, with a latent."""
        latent = torch.zeros(batch, self.channels, *size)
        if self.sound:
            latent = comfy.nested_tensor.NestedTensor([latent, torch.zeros(batch, *self.sound)])
        extra = self.extra(size) if self.extra else {}
        return replace(tiny, latent=latent, **{
            side: [[states, {**options, **extra}] for states, options in getattr(tiny, side)]
            for side in ("positive", "negative")})


def noise(*shape: int, seed: int = 3) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def mended(version: str, family: Family, broken: str = "0") -> Family:
    """The family, skipped on hosts from `broken` to before `version`: they fail it as it is here, guided or not."""
    def build() -> Tiny:
        if _numbers(broken) <= _numbers(comfyui_version.__version__) < _numbers(version):
            pytest.skip(f"ComfyUI {comfyui_version.__version__} does not sample this")
        return family.build()

    return replace(family, build=build)


def _numbers(version: str) -> list[int]:
    return [int(part) for part in version.split(".")]


def made(config, unet: dict, prompt: dict | None = None, negative: dict | None = None,
         finish: Callable[[nn.Module], object] | None = None, **changes) -> Callable[[], Tiny]:
    """A builder of a model.

    Args:
        config: the host's class.
        unet: what its network is made with.
        prompt: keywords of `models.text` for both texts.
        negative: those in which the negative differs.
        finish: sets what is no parameter.
        changes: of `unet`.
    """
    def build() -> Tiny:
        model = patcher(config, {**unet, **changes})
        if finish is not None:
            finish(model.model.diffusion_model)
        prompts = prompt or {}
        return Tiny(model, torch.zeros(0), text(1, **prompts), text(2, **{**prompts, **(negative or {})}))

    return build


# Sizes of latents. Of an image: 16 tokens of 2 x 2 latent pixels, and 12 of which 6 hang over the edge.
IMAGE = (8, 8), (5, 7)
VIDEO = (2, 8, 8), (3, 5, 7)
# An image that a model for videos makes.
FRAME = (1, 8, 8), (1, 5, 7)
# For models whose tokens are latent pixels.
FINE = (4, 4), (3, 5)
FINE_VIDEO = (2, 4, 4), (3, 3, 5)
# For models that the host runs only at sizes that their patches divide.
WHOLE = (8, 8), (6, 10)
WHOLE_VIDEO = (2, 8, 8), (3, 6, 10)
PIXELS = (64, 64), (40, 72)

POOLED = {"pooled_output": noise(1, 16)}

FLUX = {
    "image_model": "flux", "in_channels": 16, "out_channels": 16, "vec_in_dim": 16, "context_in_dim": 16,
    "hidden_size": 64, "mlp_ratio": 2.0, "num_heads": 2, "depth": 2, "depth_single_blocks": 2,
    "axes_dim": [8, 12, 12], "theta": 10000, "patch_size": 2, "qkv_bias": True, "guidance_embed": True,
    "txt_ids_dims": []}
FLUX2 = FLUX | {
    "image_model": "flux2", "in_channels": 128, "out_channels": 128, "patch_size": 1, "axes_dim": [8, 8, 8, 8],
    "theta": 2000, "global_modulation": True, "mlp_silu_act": True, "qkv_bias": False, "ops_bias": False,
    "txt_ids_dims": [3], "vec_in_dim": None, "default_ref_method": "index", "ref_index_scale": 10.0}
CHROMA = {
    "image_model": "chroma", "in_channels": 64, "out_channels": 64, "vec_in_dim": None, "context_in_dim": 16,
    "hidden_size": 64, "mlp_ratio": 2.0, "num_heads": 2, "depth": 2, "depth_single_blocks": 2,
    "axes_dim": [8, 12, 12], "theta": 10000, "patch_size": 2, "qkv_bias": True, "txt_ids_dims": [], "in_dim": 64,
    "out_dim": 64, "hidden_dim": 32, "n_layers": 1}
RADIANCE = CHROMA | {
    "image_model": "chroma_radiance", "in_channels": 3, "out_channels": 3, "patch_size": 16, "nerf_hidden_size": 16,
    "nerf_mlp_ratio": 2, "nerf_depth": 1, "nerf_max_freqs": 4, "nerf_tile_size": 512, "nerf_final_head_type": "conv",
    "nerf_embedder_dtype": torch.float32, "use_x0": False}
if "use_sequential_txt_ids" in ChromaRadianceParams.__dataclass_fields__:  # not in older hosts
    RADIANCE["use_sequential_txt_ids"] = False
SD3 = {
    "in_channels": 16, "patch_size": 2, "depth": 3, "input_size": None, "adm_in_channels": 32, "num_patches": 36864,
    "context_embedder_config": {"target": "torch.nn.Linear", "params": {"in_features": 16, "out_features": 192}},
    "pos_embed_max_size": 192, "pos_embed_scaling_factor": None, "qk_norm": "rms", "x_block_self_attn_layers": []}
AURAFLOW = {
    "max_seq": 256, "cond_seq_dim": 16, "dim": 64, "n_layers": 4, "n_double_layers": 1, "n_heads": 4,
    "global_conddim": 64}
PIXART = {
    "image_model": "pixart_sigma", "input_size": 32, "patch_size": 2, "in_channels": 4, "hidden_size": 72, "depth": 3,
    "num_heads": 4, "caption_channels": 16, "micro_condition": False, "model_max_length": 300}
HYDIT = {
    "image_model": "hydit", "hidden_size": 64, "num_heads": 4, "depth": 4, "mlp_ratio": 2.0, "text_states_dim": 16,
    "text_states_dim_t5": 32, "size_cond": False, "use_style_cond": False}
LUMINA = {
    "image_model": "lumina2", "patch_size": 2, "in_channels": 16, "dim": 64, "cap_feat_dim": 16, "n_layers": 3,
    "n_refiner_layers": 1, "qk_norm": True, "n_heads": 2, "n_kv_heads": 1, "axes_dims": [8, 12, 12],
    "axes_lens": [300, 512, 512], "rope_theta": 10000.0, "ffn_dim_multiplier": 2.0, "multiple_of": 32}
Z_IMAGE = LUMINA | {
    "dim": 256, "axes_dims": [32, 48, 48], "n_kv_heads": 2, "z_image_modulation": True, "time_scale": 1000.0,
    "pad_tokens_multiple": 10}
Z_PIXEL = Z_IMAGE | {
    "image_model": "zimage_pixel", "in_channels": 3, "patch_size": 8, "decoder_hidden_size": 32,
    "decoder_num_res_blocks": 1, "decoder_max_freqs": 4}
HIDREAM = {
    "image_model": "hidream", "attention_head_dim": 32, "axes_dims_rope": [8, 12, 12], "caption_channels": [16, 24],
    "in_channels": 16, "llama_layers": [0, 1, 2, 3], "max_resolution": [128, 128], "num_activated_experts": 1,
    "num_attention_heads": 2, "num_layers": 2, "num_routed_experts": 0, "num_single_layers": 2, "out_channels": 16,
    "patch_size": 2, "text_emb_dim": 32}
QWEN = {
    "image_model": "qwen_image", "in_channels": 64, "out_channels": 16, "num_layers": 3, "attention_head_dim": 32,
    "num_attention_heads": 2, "joint_attention_dim": 16, "axes_dims_rope": (8, 12, 12)}
MAGE = QWEN | {"image_model": "mage_flow", "in_channels": 128, "out_channels": 128}
WAN = {
    "image_model": "wan2.1", "model_type": "t2v", "dim": 72, "in_dim": 16, "out_dim": 16, "ffn_dim": 96,
    "num_heads": 2, "num_layers": 3, "text_dim": 16, "patch_size": (1, 2, 2), "freq_dim": 32, "window_size": (-1, -1),
    "qk_norm": True, "cross_attn_norm": True, "eps": 1e-6}
HUNYUAN = {
    "image_model": "hunyuan_video", "in_channels": 16, "out_channels": 16, "vec_in_dim": 16, "context_in_dim": 16,
    "hidden_size": 64, "mlp_ratio": 2.0, "num_heads": 2, "depth": 2, "depth_single_blocks": 2,
    "axes_dim": [8, 12, 12], "theta": 256, "patch_size": [1, 2, 2], "qkv_bias": True, "guidance_embed": True,
    "byt5": False, "meanflow": False, "use_cond_type_embedding": False, "vision_in_dim": None, "meanflow_sum": False}
HUNYUAN15 = HUNYUAN | {
    "in_channels": 65, "out_channels": 32, "patch_size": [1, 1, 1], "vec_in_dim": None, "guidance_embed": False,
    "use_cond_type_embedding": True}
LTX = {
    "image_model": "ltxv", "in_channels": 128, "cross_attention_dim": 64, "attention_head_dim": 32,
    "num_attention_heads": 2, "caption_channels": 16, "num_layers": 3}
LTXAV = LTX | {
    "image_model": "ltxav", "audio_in_channels": 128, "audio_cross_attention_dim": 64, "audio_attention_head_dim": 32,
    "audio_num_attention_heads": 2, "connector_num_layers": 1, "connector_attention_head_dim": 16,
    "connector_num_attention_heads": 1}
COSMOS = {
    "image_model": "cosmos", "max_img_h": 64, "max_img_w": 64, "max_frames": 16, "in_channels": 16, "out_channels": 16,
    "patch_spatial": 2, "patch_temporal": 1, "model_channels": 96, "block_config": "FA-CA-MLP",
    "concat_padding_mask": True, "pos_emb_cls": "rope3d", "pos_emb_learnable": False, "pos_emb_interpolation": "crop",
    "block_x_format": "THWBD", "affline_emb_norm": True, "use_adaln_lora": True, "adaln_lora_dim": 16, "num_blocks": 3,
    "num_heads": 2, "extra_per_block_abs_pos_emb": True, "extra_per_block_abs_pos_emb_type": "learnable",
    "crossattn_emb_channels": 16}
PREDICT2 = {
    "image_model": "cosmos_predict2", "max_img_h": 64, "max_img_w": 64, "max_frames": 16, "in_channels": 16,
    "out_channels": 16, "patch_spatial": 2, "patch_temporal": 1, "model_channels": 96, "concat_padding_mask": True,
    "crossattn_emb_channels": 16, "pos_emb_cls": "rope3d", "pos_emb_learnable": True, "pos_emb_interpolation": "crop",
    "num_blocks": 3, "num_heads": 2, "use_adaln_lora": True, "adaln_lora_dim": 16,
    "extra_per_block_abs_pos_emb": False, "rope_enable_fps_modulation": False}
MOCHI = {
    "image_model": "mochi_preview", "depth": 3, "patch_size": 2, "num_heads": 2, "hidden_size_x": 64,
    "hidden_size_y": 96, "mlp_ratio_x": 192.0, "mlp_ratio_y": 2.0, "learn_sigma": False, "in_channels": 12,
    "qk_norm": True, "qkv_bias": False, "out_bias": True, "attn_drop": 0.0, "patch_embed_bias": True,
    "posenc_preserve_area": True, "timestep_mlp_bias": True, "attend_to_padding": False, "timestep_scale": 1000.0,
    "use_t5": True, "t5_feat_dim": 16, "t5_token_length": 256, "rope_theta": 10000.0}
OMNIGEN2 = {
    "image_model": "omnigen2", "axes_dim_rope": [8, 12, 12], "axes_lens": [1024, 1664, 1664], "hidden_size": 64,
    "multiple_of": 32, "num_attention_heads": 2, "num_kv_heads": 1, "num_layers": 3, "num_refiner_layers": 1,
    "in_channels": 16, "patch_size": 2, "text_feat_dim": 16}
BOOGU = {
    "image_model": "boogu", "hidden_size": 72, "num_layers": 2, "num_double_stream_layers": 2, "num_refiner_layers": 1,
    "num_attention_heads": 2, "num_kv_heads": 1, "multiple_of": 32, "axes_dim_rope": (12, 12, 12),
    "instruction_feat_dim": 16}
KANDINSKY = {
    "image_model": "kandinsky5", "model_dim": 64, "ff_dim": 96, "time_dim": 32, "in_text_dim": 16, "in_text_dim2": 16,
    "visual_embed_dim": 132, "axes_dims": (8, 12, 12), "num_text_blocks": 1, "num_visual_blocks": 3}
COGVIDEO = {
    "image_model": "cogvideox", "num_attention_heads": 2, "attention_head_dim": 32, "in_channels": 16,
    "out_channels": 16, "time_embed_dim": 32, "text_embed_dim": 16, "num_layers": 3, "sample_width": 8,
    "sample_height": 8, "sample_frames": 9, "use_rotary_positional_embeddings": True}
ERNIE = {
    "image_model": "ernie", "hidden_size": 64, "num_attention_heads": 2, "num_layers": 3, "ffn_hidden_size": 96,
    "in_channels": 128, "out_channels": 128, "patch_size": 1, "text_in_dim": 16, "rope_axes_dim": (8, 12, 12)}
KREA2 = {
    "image_model": "krea2", "features": 128, "tdim": 32, "txtdim": 32, "heads": 2, "kvheads": 1, "multiplier": 2,
    "layers": 3, "patch": 2, "channels": 16, "txtlayers": 2, "txtheads": 2, "txtkvheads": 2}
LENS = {
    "image_model": "lens", "num_layers": 3, "attention_head_dim": 32, "num_attention_heads": 2, "enc_hidden_dim": 16,
    "axes_dims_rope": (8, 12, 12), "selected_layer_index": (0, 1)}
JOY = {
    "image_model": "joyimage", "patch_size": [1, 2, 2], "in_channels": 16, "out_channels": 16, "hidden_size": 64,
    "num_attention_heads": 2, "text_dim": 16, "num_layers": 3, "mlp_width_ratio": 2.0, "rope_dim_list": [8, 12, 12]}
IDEOGRAM4 = {
    "image_model": "ideogram4", "in_channels": 128, "num_layers": 3, "num_attention_heads": 2,
    "attention_head_dim": 32, "intermediate_size": 64, "adaln_dim": 16, "llm_features_dim": 16,
    "mrope_section": (6, 5, 5), "norm_eps": 1e-5, "rope_theta": 10000}
PIXELDIT = {
    "image_model": "pixeldit_t2i", "in_channels": 3, "num_groups": 2, "hidden_size": 64, "pixel_hidden_size": 8,
    "pixel_attn_hidden_size": 64, "pixel_num_groups": 2, "patch_depth": 3, "pixel_depth": 1, "patch_size": 16,
    "txt_embed_dim": 16}
PID = PIXELDIT | {"image_model": "pid", "lq_hidden_dim": 16, "lq_num_res_blocks": 1}
MINIMAX = {
    "image_model": "minimax_h3", "hidden_size": 64, "num_layers": 3, "token_refiner_num_layers": 1,
    "num_attention_heads": 2, "attention_head_dim": 32, "ffn_hidden_size": 96, "text_dim": 16,
    "timestep_input_dim": 32, "time_embed_hidden_size": 32, "time_embed_dim": 32, "rope_inv_freq_len": 4}
HIDREAM_O1 = {
    "image_model": "hidream_o1",
    "text_config_overrides": {
        "vocab_size": 151936, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3,
        "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32, "rope_dims": [6, 5, 5]},
    "vision_config_overrides": {
        "hidden_size": 32, "num_heads": 2, "intermediate_size": 32, "depth": 1, "num_position_embeddings": 16,
        "deepstack_visual_indexes": ()}}
CASCADE_C = {
    "c_hidden": [64, 64], "nhead": [4, 4], "blocks": [[1, 1], [1, 1]], "c_cond": 64, "c_clip_text": 16,
    "c_clip_text_pooled": 16, "stable_cascade_stage": "c"}
CASCADE_B = {
    "c_hidden": [32, 32, 64, 64], "nhead": [-1, -1, 4, 4], "blocks": [[1, 1, 1, 1], [1, 1, 1, 1]],
    "block_repeat": [[1, 1, 1, 1], [2, 2, 2, 2]], "c_cond": 64, "c_clip": 16, "stable_cascade_stage": "b"}

# Where the layers are, and how many.
ONE_LIST = ("blocks.*",), 3
LAYERS = ("layers.*",), 3
TRANSFORMER_BLOCKS = ("transformer_blocks.*",), 3
DOUBLE_SINGLE = ("double_blocks.*", "single_blocks.*"), 4
CASCADE_BLOCKS = ("down_blocks.*.*", "up_blocks.*.*"), 4
HIDREAM_BLOCKS = ("double_stream_blocks.*", "single_stream_blocks.*"), 4
PIXELDIT_BLOCKS = ("patch_blocks.*", "pixel_blocks.*"), 4
BOOGU_BLOCKS = ("double_stream_layers.*", "single_stream_layers.*"), 4


def _unet_blocks(*names: str) -> tuple[list[str], Sequence[str]]:
    """Where the layers of a U-Net are, each the first transformer of its block."""
    paths = []
    for name in names:
        side, block = name.split(".")
        place = "middle_block" if side == "middle" else f"{side}_blocks.{block}"
        paths.append(f"{place}.1.transformer_blocks.0")
    return paths, names


def _mask(kept: int, tokens: int = 7) -> Tensor:
    """Which of a text's tokens are no padding."""
    return (torch.arange(tokens) < kept).long()[None]


def _vision(tokens: int, width: int, side: int = 0) -> SimpleNamespace:
    """What a vision model makes of an image, as the host hands it over."""
    states = noise(1, tokens, width)
    return SimpleNamespace(last_hidden_state=states, penultimate_hidden_states=states,
                           image_sizes=[(3, side * 16, side * 16)])


def _prompt_ids(*words: int) -> dict:
    """A prompt as numbers, in the template of HiDream O1."""
    ids = [151644, 872, 198, *words, 151645, 198, 151644, 77091, 198, 151669, 151673]
    return {"text_input_ids": torch.tensor([ids])}


def _half_guide(size: Size) -> dict:
    """A guide that has no upper half."""
    guide = _guide(size)
    guide["concat_mask"][:, :, -1, :size[1] // 2] = -1
    return guide


def _curve(network: nn.Module) -> None:
    """Frequencies of positions, which the checkpoint holds."""
    network.rope.inv_freq.copy_(10 ** -torch.arange(4.0))


def _guide(size: Size) -> dict:
    """A guide of one frame, the latent's last, as the host's node makes it."""
    mask = torch.ones(1, 1, *size)
    mask[:, :, -1] = 0
    _, places = lightricks.SymmetricPatchifier(1, start_end=True).patchify(torch.zeros(1, 128, 1, *size[1:]))
    return {"keyframe_idxs": lightricks.latent_to_pixel_coords(places, (8, 32, 32), causal_fix=True),
            "concat_mask": mask}


REFERENCES = {"reference_latents": [noise(1, 16, 6, 4), noise(1, 16, 3, 5, seed=4)]}
FRAME_REFERENCES = {"reference_latents": [noise(1, 16, 1, 6, 4), noise(1, 16, 1, 3, 5, seed=4)]}
HYDIT_PROMPT = {"tokens": 77, "attention_mask": _mask(9, 77), "conditioning_mt5xl": noise(1, 256, 32),
                "attention_mask_mt5xl": _mask(20, 256)}
HIDREAM_PROMPT = {"pooled_output": noise(1, 32), "conditioning_llama3": noise(1, 4, 5, 24)}
PIXART_MODULE, HYDIT_MODULE = "comfy.ldm.pixart.blocks", "comfy.ldm.hydit.attn_layers"

IMAGE_MODELS = {
    "Stable Cascade, stage C": Family(
        made(supported.Stable_Cascade_C, CASCADE_C, {"pooled_output": noise(1, 1, 16)}), 16, *FINE, *CASCADE_BLOCKS,
        convolved=True),
    # The host halves the size three times and more.
    "Stable Cascade, stage B": Family(
        made(supported.Stable_Cascade_B, CASCADE_B, {"pooled_output": noise(1, 1, 16)}), 4, (64, 64), (48, 80),
        *CASCADE_BLOCKS, convolved=True),
    "SD3, SD3.5 large": Family(
        made(supported.SD3, SD3, {"pooled_output": noise(1, 32)}, {"tokens": 5}), 16, *IMAGE, ("joint_blocks.*",), 3),
    "SD3.5 medium": Family(
        made(supported.SD3, SD3, {"pooled_output": noise(1, 32)}, x_block_self_attn_layers=[0, 1]), 16, *IMAGE,
        ("joint_blocks.*",), 3),
    "AuraFlow": Family(
        made(supported.AuraFlow, AURAFLOW), 4, *IMAGE, ("double_layers.*", "single_layers.*"), 4),
    # The host's positions are rounded to multiples of 64 latent pixels, of which there has to be one.
    "PixArt alpha": Family(
        made(supported.PixArtAlpha, PIXART, image_model="pixart_alpha", micro_condition=True), 4, (36, 36), (30, 42),
        *ONE_LIST, extra=lambda size: {"height": 8 * size[0], "width": 8 * size[1]}, mute=PIXART_MODULE),
    "PixArt sigma": Family(
        made(supported.PixArtSigma, PIXART, negative={"tokens": 5}), 4, (36, 36), (30, 42), *ONE_LIST,
        mute=PIXART_MODULE),
    "HunyuanDiT 1.2": Family(
        made(supported.HunyuanDiT, HYDIT, HYDIT_PROMPT), 4, *IMAGE, ("blocks.*",), 4, mute=HYDIT_MODULE),
    "HunyuanDiT 1.1": Family(
        made(supported.HunyuanDiT1, HYDIT, HYDIT_PROMPT, image_model="hydit1", size_cond=True, use_style_cond=True), 4,
        *IMAGE, ("blocks.*",), 4, mute=HYDIT_MODULE),
    "Flux.1 dev": Family(made(supported.Flux, FLUX, POOLED), 16, *IMAGE, *DOUBLE_SINGLE),
    "Flux.1 schnell": Family(
        made(supported.FluxSchnell, FLUX, POOLED, {"tokens": 5}, guidance_embed=False), 16, *IMAGE, *DOUBLE_SINGLE),
    "Flux.1 Fill": Family(
        made(supported.FluxInpaint, FLUX, {**POOLED, "concat_latent_image": noise(1, 16, 8, 8)}, in_channels=96), 16,
        *IMAGE, *DOUBLE_SINGLE),
    "Flux.1 Canny, Depth": Family(
        made(supported.Flux, FLUX, {**POOLED, "concat_latent_image": noise(1, 16, 8, 8)}, in_channels=32), 16, *IMAGE,
        *DOUBLE_SINGLE),
    "Flux.1 Redux, with a weight": Family(
        made(supported.Flux, FLUX, {**POOLED, "attention_mask": -3 * torch.rand(1, 8, 8, generator=torch.Generator()),
                                    "attention_mask_img_shape": (1, 1)}), 16, *IMAGE, *DOUBLE_SINGLE),
    "Flux.1 Kontext": Family(made(supported.Flux, FLUX, {**POOLED, **REFERENCES}), 16, *IMAGE, *DOUBLE_SINGLE),
    **{f"Flux.1 Kontext, {method}": Family(
        made(supported.Flux, FLUX, {**POOLED, **REFERENCES, "reference_latents_method": method}), 16, *IMAGE,
        *DOUBLE_SINGLE) for method in ("index", "uxo")},
    "Flux.2": Family(made(supported.Flux2, FLUX2, POOLED), 128, *FINE, *DOUBLE_SINGLE),
    "Flux.2 with references": Family(
        made(supported.Flux2, FLUX2, {**POOLED, "reference_latents": [noise(1, 128, 3, 2), noise(1, 128, 2, 2)]},
             {"tokens": 5}), 128, *FINE, *DOUBLE_SINGLE),
    # The host adds neither a guidance nor a pooled text to the second timestep.
    "Flux.2 klein with references, index_timestep_zero": Family(
        made(supported.Flux2, FLUX2, {**POOLED, "reference_latents": [noise(1, 128, 3, 2), noise(1, 128, 2, 2)],
                                      "reference_latents_method": "index_timestep_zero"}, guidance_embed=False), 128,
        *FINE, *DOUBLE_SINGLE),
    "LongCat-Image": Family(
        made(supported.LongCatImage, FLUX, guidance_embed=False, vec_in_dim=None, txt_ids_dims=[1, 2]), 16, *IMAGE,
        *DOUBLE_SINGLE),
    "Chroma": Family(made(supported.Chroma, CHROMA, POOLED, {"tokens": 5}), 16, *IMAGE, *DOUBLE_SINGLE),
    "Chroma Radiance": Family(made(supported.ChromaRadiance, RADIANCE, POOLED), 3, *PIXELS, *DOUBLE_SINGLE),
    "Lumina 2": Family(made(supported.Lumina2, LUMINA, {"attention_mask": _mask(5)}), 16, *IMAGE, *LAYERS),
    "Z-Image": Family(made(supported.ZImage, Z_IMAGE, {"tokens": 40}, {"tokens": 5}), 16, *IMAGE, *LAYERS),
    "Z-Image Omni": Family(
        made(supported.ZImage, Z_IMAGE, {
            "reference_latents": [noise(1, 16, 4, 6)], "clip_vision_outputs": [_vision(4, 24, 2)],
            "reference_latents_text_embeds": [noise(1, 3, 16)]}, siglip_feat_dim=24), 16, *IMAGE, *LAYERS),
    # The host takes the text after the last reference for one row only.
    "Z-Image Omni, text after the reference": Family(
        made(supported.ZImage, Z_IMAGE, {
            "tokens": 40, "reference_latents": [noise(1, 16, 4, 6)], "clip_vision_outputs": [_vision(4, 24, 2)],
            "reference_latents_text_embeds": [noise(1, 3, 16), noise(1, 2, 16)]}, {"tokens": 5}, siglip_feat_dim=24),
        16, *IMAGE, *LAYERS, batches=(1,)),
    "Z-Image, pixel space": Family(made(supported.ZImagePixelSpace, Z_PIXEL), 3, (32, 32), (20, 28), *LAYERS),
    "PixelDiT": Family(made(supported.PixelDiTT2I, PIXELDIT), 3, *PIXELS, *PIXELDIT_BLOCKS),
    "PiD": Family(
        made(supported.PiD, PID, {"lq_latent": noise(1, 16, 2, 2), "degrade_sigma": torch.tensor([0.1])}), 3, *PIXELS,
        *PIXELDIT_BLOCKS),
    "HiDream": Family(made(supported.HiDream, HIDREAM, HIDREAM_PROMPT), 16, *IMAGE, *HIDREAM_BLOCKS),
    "HiDream E1": Family(
        made(supported.HiDream, HIDREAM, HIDREAM_PROMPT), 16, *IMAGE, *HIDREAM_BLOCKS,
        extra=lambda size: {"concat_latent_image": noise(1, 16, *size)}),
    # The host cuts off what its patches do not divide.
    "HiDream O1": mended("0.30", broken="0.27", family=Family(
        made(supported.HiDreamO1, HIDREAM_O1, _prompt_ids(9, 8, 7), _prompt_ids(1, 2)), 3, (128, 128), (96, 160),
        ("language_model.layers.*",), 3)),
    "HiDream O1 with references": Family(
        made(supported.HiDreamO1, HIDREAM_O1, {
            **_prompt_ids(9, 8), "reference_latents": [noise(1, 64, 64, 3).sigmoid()]}, _prompt_ids(1, 2)), 3,
        (128, 128), (96, 160), ("language_model.layers.*",), 3),
    # The host needs a mask here to count the text, and no padding in it.
    "OmniGen 2": Family(made(supported.Omnigen2, OMNIGEN2, {"attention_mask": _mask(7)}), 16, *IMAGE, *LAYERS),
    "OmniGen 2 with references": Family(
        made(supported.Omnigen2, OMNIGEN2, {**REFERENCES, "attention_mask": _mask(7)},
             {"tokens": 5, "attention_mask": _mask(5, 5)}), 16, *IMAGE, *LAYERS),
    "Boogu": Family(made(supported.Boogu, BOOGU, {"attention_mask": _mask(7)}), 16, *IMAGE, *BOOGU_BLOCKS),
    "Boogu with references": Family(
        made(supported.Boogu, BOOGU, {**REFERENCES, "attention_mask": _mask(7)},
             {"tokens": 5, "attention_mask": _mask(5, 5)}), 16, *IMAGE, *BOOGU_BLOCKS),
    "Qwen-Image": Family(
        made(supported.QwenImage, QWEN, {"attention_mask": _mask(5)}, {"tokens": 5, "attention_mask": _mask(4, 5)}), 16,
        *FRAME, *TRANSFORMER_BLOCKS),
    **{f"Qwen-Image Edit, {method}": Family(
        made(supported.QwenImage, QWEN, {**FRAME_REFERENCES, "reference_latents_method": method}), 16, *FRAME,
        *TRANSFORMER_BLOCKS) for method in ("index", "index_timestep_zero", "negative_index")},
    "Qwen-Image Layered": Family(
        made(supported.QwenImage, QWEN, FRAME_REFERENCES, use_additional_t_cond=True,
             default_ref_method="negative_index"), 16, *VIDEO, *TRANSFORMER_BLOCKS),
    "Mage": Family(made(supported.MageFlow, MAGE, {"attention_mask": _mask(5)}), 128, *FINE, *TRANSFORMER_BLOCKS),
    "Mage with references": Family(
        made(supported.MageFlow, MAGE, {"reference_latents": [noise(1, 128, 3, 2)]}), 128, *FINE, *TRANSFORMER_BLOCKS),
    "JoyImage": Family(made(supported.JoyImage, JOY), 16, *FRAME, ("double_blocks.*",), 3),
    "JoyImage with references": Family(
        made(supported.JoyImage, JOY, FRAME_REFERENCES, {"tokens": 5}), 16, *FRAME, ("double_blocks.*",), 3),
    "Ideogram 4": Family(made(supported.Ideogram4, IDEOGRAM4, {"attention_mask": _mask(5)}), 128, *FINE, *LAYERS),
    "Krea 2": Family(made(supported.Krea2, KREA2, {"width": 64}), 16, *FRAME, *ONE_LIST),
    **{f"Krea 2 with references, {method}": Family(
        made(supported.Krea2, KREA2, {"width": 64, **FRAME_REFERENCES, "reference_latents_method": method}), 16, *FRAME,
        *ONE_LIST) for method in ("index", "index_timestep_zero")},
    "Lens": Family(
        made(supported.Lens, LENS, {"width": 32, "attention_mask": _mask(5)}), 128, *FINE, *TRANSFORMER_BLOCKS),
    "ERNIE-Image": Family(made(supported.ErnieImage, ERNIE), 128, *FINE, *LAYERS, mute="comfy.ldm.ernie.model"),
    "Anima": Family(made(supported.Anima, PREDICT2, image_model="anima"), 16, *FRAME, *ONE_LIST),
    "Kandinsky 5 image": Family(
        made(supported.Kandinsky5Image, KANDINSKY, POOLED, visual_embed_dim=64), 16, *WHOLE,
        ("visual_transformer_blocks.*",), 3),
    "HunyuanImage 2.1": Family(
        made(supported.HunyuanImage21, HUNYUAN, in_channels=64, out_channels=64, patch_size=[1, 1], axes_dim=[16, 16],
             vec_in_dim=None, guidance_embed=False), 64, *FINE, *DOUBLE_SINGLE),
    "HunyuanImage 2.1 refiner": Family(
        made(supported.HunyuanImage21Refiner, HUNYUAN, in_channels=128, out_channels=64, patch_size=[1, 1, 1],
             vec_in_dim=None, guidance_embed=False), 64, *FINE_VIDEO, *DOUBLE_SINGLE,
        extra=lambda size: {"concat_latent_image": noise(1, 32, 2 * size[0] - 1, *size[1:])}),
}


def _wan(config, size=VIDEO, prompt: dict | None = None, channels: int = 16, extra=None, **changes) -> Family:
    return Family(made(config, WAN, prompt, **changes), channels, *size, *ONE_LIST, extra=extra)


VIDEO_MODELS = {
    "Wan 2.1 T2V, Wan 2.2 T2V 14B": _wan(supported.WAN21_T2V),
    "Wan 2.1 T2V with references (Bernini)": _wan(
        supported.WAN21_T2V, prompt={"context_latents": [noise(1, 16, 2, 4, 6), noise(1, 16, 1, 3, 5)]}),
    "Wan 2.1 Phantom": _wan(
        supported.WAN21_T2V, extra=lambda size: {"time_dim_concat": noise(1, 16, 1, *size[1:])}),
    "Wan 2.1 I2V": _wan(
        supported.WAN21_I2V, prompt={"clip_vision_output": _vision(5, 1280)}, model_type="i2v", in_dim=36,
        extra=lambda size: {"concat_latent_image": noise(1, 16, *size)}),
    "Wan 2.2 I2V 14B": _wan(
        supported.WAN21_I2V, in_dim=36, extra=lambda size: {"concat_latent_image": noise(1, 16, *size)}),
    "Wan 2.2 TI2V 5B": _wan(supported.WAN22_T2V, channels=48, in_dim=48, out_dim=48),
    "Wan 2.1 Fun Control": _wan(
        supported.WAN21_FunControl2V, model_type="i2v", in_dim=48,
        extra=lambda size: {"concat_latent_image": noise(1, 32, *size)}),
    # The host does not pad the reference.
    "Wan 2.1 Fun Control with a reference": _wan(
        supported.WAN21_FunControl2V, WHOLE_VIDEO, model_type="i2v", in_dim=48, in_dim_ref_conv=16,
        extra=lambda size: {"concat_latent_image": noise(1, 32, *size),
                            "reference_latents": [noise(1, 16, 1, *size[1:])]}),
    # Nor the camera's path.
    "Wan 2.1 Camera": _wan(
        supported.WAN21_Camera, WHOLE_VIDEO, model_type="camera", in_dim=32,
        extra=lambda size: {"camera_conditions": noise(1, 24, size[0], 8 * size[1], 8 * size[2])}),
    "Wan 2.2 Camera": _wan(supported.WAN22_Camera, model_type="camera_2.2", in_dim=36),
    # Nor the frames that control it.
    "Wan 2.1 VACE": _wan(supported.WAN21_Vace, WHOLE_VIDEO, model_type="vace", vace_layers=1, vace_in_dim=96),
    "Wan 2.1 HuMo": _wan(
        supported.WAN21_HuMo, WHOLE_VIDEO, model_type="humo",
        extra=lambda size: {"audio_embed": noise(1, size[0], 8, 5, 1280),
                            "reference_latents": [noise(1, 16, 1, *size[1:])]}),
    "Wan 2.2 S2V": _wan(
        supported.WAN22_S2V, WHOLE_VIDEO, model_type="s2v", audio_dim=16, audio_inject_layers=[0, 2],
        extra=lambda size: {"audio_embed": noise(1, 25, 16, 4 * size[0]), "reference_latents": [noise(1, 16, 1, 6, 8)],
                            "reference_motion": noise(1, 16, 19, 8, 8), "control_video": noise(1, 16, *size)}),
    "Wan 2.2 Animate": _wan(
        supported.WAN22_Animate, prompt={"clip_vision_output": _vision(5, 1280)}, model_type="animate", in_dim=36,
        extra=lambda size: {"pose_video_latent": noise(1, 16, size[0], *(2 * -(-side // 2) for side in size[1:]))}),
    "Wan 2.1 SCAIL": _wan(
        supported.WAN21_SCAIL, model_type="scail", in_dim=20,
        extra=lambda size: {"reference_latents": [noise(1, 16, 1, *size[1:])],
                            "pose_video_latent": noise(1, 16, size[0], 4, 4)}),
    # Older hosts take one reference.
    "Wan 2.1 SCAIL 2": mended("0.27", _wan(
        supported.WAN21_SCAIL2, model_type="scail2", in_dim=20,
        extra=lambda size: {"reference_latents": [noise(1, 16, 1, *size[1:], seed=seed) for seed in (3, 4)],
                            "pose_video_latent": noise(1, 16, size[0], 4, 4),
                            "driving_mask_28ch": noise(1, size[0], 28, 4, 4),
                            "ref_mask_28ch": noise(1, size[0] + 2, 28, *size[1:])})),
    # The music goes to equal parts of the frames' tokens. Older hosts take it for one row only.
    "Wan 2.2 WanDancer": mended("0.30", _wan(
        supported.WAN22_WanDancer, ((2, 8, 8), (3, 7, 15)), {"clip_vision_output": _vision(5, 1280)},
        model_type="wandancer", in_dim=36, audio_inject_layers=[0], music_dim=16, music_heads=2, music_latent_dim=16,
        extra=lambda size: {"audio_embed": noise(1, 6, 35), "fps": 24.0})),
    "Wan 2.1 causal (Self Forcing)": _wan(supported.WAN21_CausalAR_T2V),
    "Wan 2.1 FlowRVS": _wan(supported.WAN21_FlowRVS, model_type="flow_rvs"),
    "HunyuanVideo": Family(made(supported.HunyuanVideo, HUNYUAN, POOLED), 16, *WHOLE_VIDEO, *DOUBLE_SINGLE),
    # The host makes the mask for one row only,
    "HunyuanVideo, padded text": Family(
        made(supported.HunyuanVideo, HUNYUAN, {**POOLED, "attention_mask": _mask(5)},
             {"tokens": 5, "attention_mask": _mask(4, 5)}), 16, *WHOLE_VIDEO, *DOUBLE_SINGLE, batches=(1,)),
    # the places of the reference,
    "HunyuanVideo with a reference": Family(
        made(supported.HunyuanVideo, HUNYUAN, {**POOLED, "ref_latent": noise(1, 16, 1, 8, 8)}, {"tokens": 5}), 16,
        *WHOLE_VIDEO, *DOUBLE_SINGLE, batches=(1,)),
    "HunyuanVideo I2V": Family(
        made(supported.HunyuanVideoI2V, HUNYUAN, {**POOLED, "concat_latent_image": noise(1, 16, 2, 8, 8)},
             in_channels=33), 16, *WHOLE_VIDEO, *DOUBLE_SINGLE),
    # and the modulation of the first frame.
    "HunyuanVideo I2V, first frame given": Family(
        made(supported.HunyuanVideoI2V, HUNYUAN, {**POOLED, "guiding_frame_index": 0}, in_channels=33), 16,
        *WHOLE_VIDEO, *DOUBLE_SINGLE, batches=(1,)),
    "HunyuanVideo SkyReels I2V": Family(
        made(supported.HunyuanVideoSkyreelsI2V, HUNYUAN, {**POOLED, "concat_latent_image": noise(1, 16, 2, 8, 8)},
             in_channels=32), 16, *WHOLE_VIDEO, *DOUBLE_SINGLE),
    "HunyuanVideo 1.5": Family(made(supported.HunyuanVideo15, HUNYUAN15, POOLED), 32, *FINE_VIDEO, *DOUBLE_SINGLE),
    "HunyuanVideo 1.5 I2V": Family(
        made(supported.HunyuanVideo15, HUNYUAN15, {
            **POOLED, "clip_vision_output": _vision(4, 24), "conditioning_byt5small": noise(1, 3, 1472)},
            vision_in_dim=24, byt5=True), 32, *FINE_VIDEO, *DOUBLE_SINGLE,
        extra=lambda size: {"concat_latent_image": noise(1, 32, *size)}),
    "HunyuanVideo 1.5 SR": Family(
        made(supported.HunyuanVideo15_SR_Distilled, HUNYUAN15, POOLED, in_channels=98), 32, *FINE_VIDEO,
        *DOUBLE_SINGLE),
    "LTXV": Family(made(supported.LTXV, LTX, {"attention_mask": _mask(5)}), 128, *FINE_VIDEO, *TRANSFORMER_BLOCKS),
    "LTXV with a guide": Family(
        made(supported.LTXV, LTX, {"attention_mask": _mask(5)}), 128, *FINE_VIDEO, *TRANSFORMER_BLOCKS, extra=_guide),
    "LTXV with a weak guide": Family(
        made(supported.LTXV, LTX, {"attention_mask": _mask(5)}), 128, *FINE_VIDEO, *TRANSFORMER_BLOCKS,
        extra=lambda size: _guide(size) | {"guide_attention_entries": [
            {"pre_filter_count": math.prod(size[1:]), "strength": 0.5, "latent_shape": [1, *size[1:]]}]},
        apart=True),
    "LTX-2, video and sound": Family(
        made(supported.LTXAV, LTXAV, {"width": 32, "attention_mask": _mask(5)}), 128, *FINE_VIDEO, *TRANSFORMER_BLOCKS,
        sound=(8, 5, 16)),
    # The host takes one video at a time.
    "MiniMax H3, video and sound": Family(
        made(supported.MiniMaxH3, MINIMAX, finish=_curve), 24, *VIDEO, *ONE_LIST, sound=(32, 2, 6), batches=(1,)),
    "MiniMax H3 from a first frame": Family(
        made(supported.MiniMaxH3, MINIMAX, finish=_curve), 24, *VIDEO, *ONE_LIST, sound=(32, 2, 6), batches=(1,),
        extra=lambda size: {"minimax_frame_count": 5, "minimax_keyframes": [{
            "resolved_frame_index": 0, "latent": noise(1, 24, 1, *(side + side % 2 for side in size[1:]))}]}),
    "Cosmos 1": Family(made(supported.CosmosT2V, COSMOS), 16, *WHOLE_VIDEO, *ONE_LIST),
    "Cosmos 1 V2V": Family(made(supported.CosmosI2V, COSMOS, in_channels=17), 16, *WHOLE_VIDEO, *ONE_LIST),
    "Cosmos Predict 2 T2I": Family(made(supported.CosmosT2IPredict2, PREDICT2), 16, *FRAME, *ONE_LIST),
    "Cosmos Predict 2 V2V": Family(
        made(supported.CosmosI2VPredict2, PREDICT2, negative={"tokens": 5}, in_channels=17), 16, *VIDEO, *ONE_LIST),
    "Mochi": Family(made(supported.GenmoMochi, MOCHI, {"attention_mask": _mask(5)}), 12, *WHOLE_VIDEO, *ONE_LIST),
    "Kandinsky 5 video": Family(
        made(supported.Kandinsky5, KANDINSKY, POOLED), 16, *WHOLE_VIDEO, ("visual_transformer_blocks.*",), 3),
    "CogVideoX": Family(made(supported.CogVideoX_T2V, COGVIDEO), 16, *VIDEO, *ONE_LIST),
    "CogVideoX 1.5": Family(
        made(supported.CogVideoX_T2V, COGVIDEO, patch_size_t=2), 16, (4, 8, 8), (3, 5, 7), *ONE_LIST),
    "CogVideoX I2V": Family(
        made(supported.CogVideoX_I2V, COGVIDEO, {"concat_latent_image": noise(1, 16, 1, 8, 8)}, in_channels=32), 16,
        *VIDEO, *ONE_LIST),
    "CogVideoX Inpaint": Family(made(supported.CogVideoX_Inpaint, COGVIDEO, in_channels=48), 16, *VIDEO, *ONE_LIST),
}

# Of a U-Net, whose middle is at half of the size.
UNET = (12, 12), (7, 11)
SD_LAYERS = _unet_blocks("input.1", "input.3", "middle.0", "output.0", "output.1", "output.2", "output.3")
DEEP_LAYERS = _unet_blocks("input.3", "middle.0", "output.0", "output.1")
NO_MIDDLE = _unet_blocks("input.3", "output.0", "output.1")
MIDDLE, DEEPEST = {"auto": "middle.0", "convolved": True}, {"auto": "input.3", "convolved": True}
# The frames of a video are the images of a batch.
FRAMES = {**MIDDLE, "batches": (3,)}


def _text_of(build: Callable[[], object], **extra) -> Callable[[], Tiny]:
    return lambda: Tiny(build(), torch.zeros(0), text(1, **extra), text(2, **extra))


def _zero123() -> object:
    projection = {"cc_projection.weight": noise(models.WIDTH, models.WIDTH), "cc_projection.bias": noise(models.WIDTH)}
    return patcher(supported.Stable_Zero123, models.SD15 | {"in_channels": 8}, projection)


def _upscaler() -> object:
    return patcher(supported.SD_X4Upscaler, models.SD15 | {
        "in_channels": 7, "num_classes": 1000, "disable_self_attentions": [True, False]})


def _sv3d(config, adm_channels: int) -> object:
    return patcher(config, models.XL | {
        "in_channels": 8, "adm_in_channels": adm_channels, "use_temporal_attention": True,
        "use_temporal_resblock": True, "extra_ff_mix_layer": True, "use_spatial_context": True,
        "merge_strategy": "learned_with_images", "merge_factor": 0.0, "video_kernel_size": [3, 1, 1]})


def _unclip(config, adm_channels: int) -> object:
    return patcher(config, models.TWO_LEVELS | {"adm_in_channels": adm_channels, "num_classes": "sequential"})


def _xl(config, **changes) -> object:
    return patcher(config, models.XL | changes)


XL_TEXT = {"pooled_output": noise(1, 1280)}
EMBEDDING = {"tokens": 1, "concat_latent_image": noise(1, 4, 8, 8)}
UNETS = {
    "Stable Diffusion 1.x": Family(models.sd15, 4, *UNET, *SD_LAYERS, **MIDDLE),
    "Stable Diffusion 1.x, inpainting": Family(models.inpaint, 4, *UNET, *SD_LAYERS, **MIDDLE),
    "InstructPix2Pix": Family(models.ip2p, 4, *UNET, *SD_LAYERS, **MIDDLE),
    "Stable Zero123": Family(_text_of(_zero123, **EMBEDDING), 4, *UNET, *SD_LAYERS, **MIDDLE),
    "Stable Diffusion 2.x": Family(models.sd20, 4, *UNET, *SD_LAYERS, **MIDDLE),
    "Stable Diffusion 2.x, v-prediction": Family(models.v_prediction, 4, *UNET, *SD_LAYERS, **MIDDLE),
    "unCLIP L": Family(
        _text_of(lambda: _unclip(supported.SD21UnclipL, 1536)), 4, *UNET, *SD_LAYERS, **MIDDLE),
    "unCLIP H": Family(
        _text_of(lambda: _unclip(supported.SD21UnclipH, 2048)), 4, *UNET, *SD_LAYERS, **MIDDLE),
    "Stable Diffusion x4 upscaler": Family(_text_of(_upscaler), 4, *UNET, *DEEP_LAYERS, **MIDDLE),
    "Lotus": Family(
        _text_of(lambda: patcher(supported.LotusD, models.TWO_LEVELS | {
            "adm_in_channels": 4, "num_classes": "sequential"})), 4, *UNET, *SD_LAYERS, **MIDDLE),
    "SDXL": Family(models.sdxl, 4, *UNET, *DEEP_LAYERS, **MIDDLE),
    "SDXL InstructPix2Pix": Family(
        _text_of(lambda: _xl(supported.SDXL_instructpix2pix, in_channels=8), **XL_TEXT,
                 concat_latent_image=noise(1, 4, 8, 8)), 4, *UNET, *DEEP_LAYERS, **MIDDLE),
    "Playground 2.5": Family(models.playground, 4, *UNET, *DEEP_LAYERS, **MIDDLE),
    "SDXL refiner": Family(models.refiner, 4, *UNET, *DEEP_LAYERS, **MIDDLE),
    "SSD-1B": Family(models.ssd1b, 4, *UNET, *NO_MIDDLE, **DEEPEST),
    "Vega": Family(
        _text_of(lambda: _xl(supported.Segmind_Vega, transformer_depth_middle=-1), **XL_TEXT), 4, *UNET, *NO_MIDDLE,
        **DEEPEST),
    "KOALA 700M": Family(models.koala, 4, *UNET, *NO_MIDDLE, **DEEPEST),
    "KOALA 1B": Family(_text_of(lambda: _xl(supported.KOALA_1B), **XL_TEXT), 4, *UNET, *DEEP_LAYERS, **MIDDLE),
    "Stable Video Diffusion": Family(models.svd, 4, *UNET, *DEEP_LAYERS, **FRAMES),
    "SV3D u": Family(_text_of(lambda: _sv3d(supported.SV3D_u, 256), **EMBEDDING), 4, *UNET, *DEEP_LAYERS, **FRAMES),
    "SV3D p": Family(_text_of(lambda: _sv3d(supported.SV3D_p, 1280), **EMBEDDING), 4, *UNET, *DEEP_LAYERS, **FRAMES),
}

FAMILIES = {**UNETS, **IMAGE_MODELS, **VIDEO_MODELS}

SOUND, SHAPES = "makes sound, which has no image to blur", "makes shapes, which have no image to blur"
NO_DIFFUSION = "is no diffusion model"
EXCLUDED = {
    "StableAudio": SOUND, "StableAudio3": SOUND, "ACEStep": SOUND, "ACEStep15": SOUND,
    "Hunyuan3Dv2": SHAPES, "Hunyuan3Dv2_1": SHAPES, "Hunyuan3Dv2mini": SHAPES, "TripoSplat": SHAPES,
    "SeedVR2": "attends within windows, so that no map says how places in different windows compare",
    "RT_DETR_v4": NO_DIFFUSION, "DepthAnything3": NO_DIFFUSION, "SAM3": NO_DIFFUSION, "SAM31": NO_DIFFUSION,
}
"""Classes of the host that are not in the matrix, and why."""

ACE = {
    "audio_model": "ace", "attention_head_dim": 32, "in_channels": 8, "inner_dim": 64, "lyric_encoder_vocab_size": 100,
    "lyric_hidden_size": 1024, "max_height": 16, "max_position": 4096, "max_width": 4096, "mlp_ratio": 2.0,
    "num_attention_heads": 2, "num_layers": 2, "out_channels": 8, "patch_size": [16, 1], "rope_theta": 10000.0,
    "speaker_embedding_dim": 512, "text_embedding_dim": 16, "ssl_encoder_depths": [8, 8], "ssl_latent_dims": [16, 16],
    "ssl_names": ["a", "b"]}
SEEDVR2 = {
    "image_model": "seedvr2", "norm_eps": 1e-5, "num_layers": 2, "mlp_type": "normal", "vid_dim": 64, "heads": 2,
    "head_dim": 32, "mm_layers": 1, "expand_ratio": 2, "rope_dim": 30}
HUNYUAN3D = {
    "image_model": "hunyuan3d2", "in_channels": 64, "context_in_dim": 16, "hidden_size": 64, "mlp_ratio": 2.0,
    "num_heads": 2, "depth": 1, "depth_single_blocks": 1, "qkv_bias": True, "guidance_embed": False}
UNGUIDED = {
    "ACEStep": Family(made(supported.ACEStep, ACE, {"conditioning_lyrics": torch.zeros(1, 5, dtype=torch.long)}), 8,
                      (16, 20), (16, 21), (), 0),
    "Hunyuan3Dv2": Family(made(supported.Hunyuan3Dv2, HUNYUAN3D), 64, (24,), (25,), (), 0),
    "SeedVR2": Family(
        made(supported.SeedVR2, SEEDVR2, {"width": 5120}), 16, (1, 8, 8), (1, 6, 10), (), 0,
        extra=lambda size: {"condition": noise(1, 17, *size)}),
    # Tokens of the guide that are masked away are left out, so that those that are left fill no grid.
    "LTXV with half a guide": Family(
        made(supported.LTXV, LTX, {"attention_mask": _mask(5)}), 128, *FINE_VIDEO, *TRANSFORMER_BLOCKS,
        extra=_half_guide),
}
"""Models whose runs are not guided: some that are excluded, and some that are used in a way that leaves no map."""
