"""The self-attention of a vision model that looks at the clean prediction (DINO; SAG, table 5)."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial

import comfy.clip_model
import comfy.latent_formats
import comfy.model_management
import torch
from torch import Tensor, nn

from ...sag_core.attention import column_mass, split_heads
from ...sag_core.masks import to_grid
from .unmute import rebound_forward

_ATTENTION = ("BertAttention", "CLIPAttention", "DINOv3ViTAttention")


class Vision:
    """A vision model of the host's that gives the attention map of images.

    Raises:
        ValueError: the model has no self-attention that can be read.
    """

    def __init__(self, clip_vision):
        layers = [m for m in clip_vision.model.modules() if type(m).__name__ in _ATTENTION]
        if not layers or clip_vision.image_size <= 0:
            raise ValueError(f"a vision model of type {clip_vision.model_type!r} has no self-attention that can be "
                             "read; load a DINOv2 or DINOv3 model with Load CLIP Vision")
        self.clip_vision, self.layer = clip_vision, layers[-1]
        self._lock = threading.Lock()  # runs that share it take turns

    def load(self) -> None:
        """Bring its weights to the device; before sampling, so that the sampled model is not put out for it."""
        comfy.model_management.load_models_gpu([self.clip_vision.patcher])

    def attention(self, images: Tensor) -> Tensor:
        """The map [B, h, w], mean 1, of images [B, H, W, 3] in 0..1, of the last layer."""
        vision = self.clip_vision
        pixels = comfy.clip_model.clip_preprocess(images.to(vision.load_device).float(), size=vision.image_size,
                                                  mean=vision.image_mean, std=vision.image_std, crop=False)
        with self._lock, _Reading(self.layer) as reading:
            vision.model(pixel_values=pixels, intermediate_output=-2)
        side = vision.image_size // vision.config["patch_size"]
        q, k = reading.q, reading.k
        # A class token, and in some models registers, come before the image's.
        first = q.shape[2] - side * side
        return to_grid(column_mass(q[:, :, first:], k)[:, first:], (side, side))


class _Reading:
    """Queries and keys of one run of an attention layer; a context manager."""

    def __init__(self, layer: nn.Module):
        self.layer, self.q, self.k, self._hook = layer, None, None, None

    def __enter__(self) -> _Reading:
        if "optimized_attention_for_device" in type(self.layer).forward.__code__.co_names:
            choose = type(self.layer).forward.__globals__["optimized_attention_for_device"]
            self.layer.forward = rebound_forward(
                self.layer, optimized_attention_for_device=lambda *a, **k: partial(self._attend, choose(*a, **k)))
        else:
            self._hook = self.layer.register_forward_pre_hook(self._replace)
        return self

    def __exit__(self, *_) -> None:
        if self._hook is not None:
            self._hook.remove()
        else:
            del self.layer.forward

    def _replace(self, module: nn.Module, args: tuple) -> tuple:
        """Attention is handed to these layers as their last argument."""
        *others, attend = args
        return *others, partial(self._attend, attend)

    def _attend(self, attend: Callable, q: Tensor, k: Tensor, v: Tensor, heads: int, *args, **kwargs) -> Tensor:
        split = kwargs.get("skip_reshape")
        self.q, self.k = (t if split else split_heads(t, heads) for t in (q, k))
        return attend(q, k, v, heads, *args, **kwargs)


def looking_at(vision: Vision, latent_format: comfy.latent_formats.LatentFormat) -> Callable[[Tensor], Tensor]:
    """The attention map of a vision model, of a clean prediction in a latent format.

    Raises:
        ValueError: the format says nothing of colours.
    """
    if latent_format.latent_rgb_factors is None:
        raise ValueError(f"{type(latent_format).__name__} latents have no known colours for a vision model to look at")

    def look(denoised: Tensor) -> Tensor:
        seen = vision.attention(to_rgb(denoised if denoised.ndim == 4 else denoised[:, :, 0], latent_format))
        return seen if denoised.ndim == 4 else seen[:, None]

    return look


def to_rgb(denoised: Tensor, latent_format: comfy.latent_formats.LatentFormat) -> Tensor:
    """A clean prediction [B, C, H, W] as images [B, H, W, 3] in 0..1, by the latent format's own colour factors."""
    if latent_format.latent_rgb_factors_reshape is not None:
        denoised = latent_format.latent_rgb_factors_reshape(denoised)
    weight, bias = latent_format.latent_rgb_factors, latent_format.latent_rgb_factors_bias
    # Without blocking: a device that is waited for at every step samples slower.
    rgb = denoised.movedim(1, -1) @ torch.tensor(weight).to(denoised, non_blocking=True)
    if bias is not None:
        rgb = rgb + torch.tensor(bias).to(denoised, non_blocking=True)
    return ((rgb + 1) / 2).clamp(0, 1)
