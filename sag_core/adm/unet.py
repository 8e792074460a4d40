"""The U-Net of guided-diffusion (ADM, arXiv 2105.05233) and improved-diffusion (IDDPM, arXiv 2102.09672).

Parameter names are those of the published checkpoints, so a checkpoint loads as it is. Layers come from
`operations` (any namespace with the layers of `torch.nn`) and attention from a function, so that a host can
bring its own casting, offloading and attention kernels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from .config import ADMConfig

Attention = Callable[..., Tensor]


def sdpa(q: Tensor, k: Tensor, v: Tensor, heads: int, transformer_options: dict) -> Tensor:
    """Softmax attention of [B, heads, N, D] tensors -> [B, N, heads * D]."""
    return rearrange(F.scaled_dot_product_attention(q, k, v), "b h n d -> b n (h d)")


def timestep_embedding(timesteps: Tensor, dim: int, max_period: float = 10000.0, shift: int = 0) -> Tensor:
    """Sinusoidal embedding of (fractional) timesteps [B] -> [B, dim], cosines first (DDPM, arXiv 2006.11239).

    With `shift` 1 the frequencies end at 1 / max_period, with 0 just short of it. A single one (`dim` 2) is 1.
    """
    half = dim // 2
    frequencies = torch.exp(-math.log(max_period) * torch.arange(half, device=timesteps.device) / max(half - shift, 1))
    angles = timesteps.float()[:, None] * frequencies
    return F.pad(torch.cat([angles.cos(), angles.sin()], dim=-1), (0, dim % 2))


def _halve(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 2)


def _double(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="nearest")


class Downsample(nn.Module):
    """Halve the resolution with a strided convolution, padded on all sides or at the bottom and the right alone."""

    def __init__(self, channels: int, layers: SimpleNamespace, asymmetric: bool = False):
        super().__init__()
        self.asymmetric = asymmetric
        self.op = layers.Conv2d(channels, channels, 3, stride=2, padding=0 if asymmetric else 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.op(F.pad(x, (0, 1, 0, 1)) if self.asymmetric else x)


class Upsample(nn.Module):
    """Double the resolution, then convolve."""

    def __init__(self, channels: int, layers: SimpleNamespace):
        super().__init__()
        self.conv = layers.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(_double(x))


class ResBlock(nn.Module):
    """Residual block conditioned on the timestep embedding, optionally resampling by a factor of two."""

    def __init__(self, channels: int, emb_channels: int, out_channels: int, config: ADMConfig,
                 layers: SimpleNamespace, resample: Callable[[Tensor], Tensor] | None = None):
        super().__init__()
        self.scale_shift_norm = config.scale_shift_norm
        self.resample = resample
        self.in_layers = nn.Sequential(
            _norm(channels, config, layers), nn.SiLU(), layers.Conv2d(channels, out_channels, 3, padding=1))
        self.emb_layers = nn.Sequential(
            nn.SiLU(), layers.Linear(emb_channels, out_channels * (2 if self.scale_shift_norm else 1)))
        self.out_layers = nn.Sequential(
            _norm(out_channels, config, layers), nn.SiLU(), nn.Identity(),
            layers.Conv2d(out_channels, out_channels, 3, padding=1))
        self.skip_connection = (
            nn.Identity() if channels == out_channels else layers.Conv2d(channels, out_channels, 1))

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        norm, _, conv = self.in_layers
        h = F.silu(norm(x))
        if self.resample is not None:
            h, x = self.resample(h), self.resample(x)
        h = conv(h)
        emb = self.emb_layers[1](F.silu(emb))[:, :, None, None]
        norm, _, _, conv = self.out_layers
        if self.scale_shift_norm:
            scale, shift = emb.chunk(2, dim=1)
            h = norm(h) * (1 + scale) + shift
        else:
            h = norm(h + emb)
        h = F.silu(h)
        h = conv(h)
        return self.skip_connection(x) + h


class AttentionBlock(nn.Module):
    """Self-attention over all pixels of a feature map."""

    def __init__(self, channels: int, config: ADMConfig, layers: SimpleNamespace, attention: Attention):
        super().__init__()
        self.heads = config.heads(channels)
        # Which of (q, k, v) and heads varies slowest along the channels differs between the two code bases' orders.
        order = "three h d" if config.new_attention_order else "h three d"
        self.split = f"b ({order}) n -> three b h n d"
        self.attention = attention
        self.norm = _norm(channels, config, layers)
        self.qkv = layers.Conv1d(channels, channels * 3, 1)
        self.proj_out = layers.Conv1d(channels, channels, 1)

    def forward(self, x: Tensor, transformer_options: dict) -> Tensor:
        transformer_options["activations_shape"] = list(x.shape)
        tokens = rearrange(x, "b c h w -> b c (h w)")
        # Contiguous, because fused attention kernels refuse a strided last dimension.
        q, k, v = rearrange(self.qkv(self.norm(tokens)), self.split, three=3, h=self.heads).contiguous()
        out = self.attention(q, k, v, self.heads, transformer_options)
        return x + self.proj_out(out.transpose(1, 2)).reshape(x.shape)


class ADMUNet(nn.Module):
    """Predicts the noise (and its log-variance where learned) in an image.

    Args:
        config: the architecture.
        operations: namespace that provides Conv1d, Conv2d, Linear, GroupNorm and Embedding.
        attention: `attention(q, k, v, heads, transformer_options)` on [B, heads, N, D] -> [B, N, heads * D].
        dtype, device: of the parameters.
    """

    def __init__(self, config: ADMConfig, operations=nn, attention: Attention = sdpa, dtype=None, device=None):
        super().__init__()
        self.config = config
        layers = SimpleNamespace(**{
            name: _with(getattr(operations, name), dtype=dtype, device=device)
            for name in ("Conv1d", "Conv2d", "Linear", "GroupNorm", "Embedding")})
        channels = config.width(0)
        emb_channels = config.model_channels * 4

        def res(in_channels, out_channels, resample=None):
            return ResBlock(in_channels, emb_channels, out_channels, config, layers, resample)

        def attend(at_channels):
            return AttentionBlock(at_channels, config, layers, attention)

        def resampler(at_channels, plain, resample):
            return res(at_channels, at_channels, resample) if config.resblock_updown else plain(at_channels)

        def downsample(at_channels):
            return Downsample(at_channels, layers, config.asymmetric_padding)

        def upsample(at_channels):
            return Upsample(at_channels, layers)

        self.time_embed = nn.Sequential(
            layers.Linear(config.model_channels, emb_channels), nn.SiLU(), layers.Linear(emb_channels, emb_channels))
        if config.num_classes:
            self.label_emb = layers.Embedding(config.num_classes, emb_channels)

        levels = range(len(config.channel_mult))
        self.input_blocks = nn.ModuleList([nn.ModuleList([layers.Conv2d(config.in_channels, channels, 3, padding=1)])])
        skips = [channels]
        for level in levels:
            for _ in range(config.num_res_blocks):
                block = [res(channels, config.width(level))]
                channels = config.width(level)
                if 2 ** level in config.attention_downsamples:
                    block.append(attend(channels))
                self.input_blocks.append(nn.ModuleList(block))
                skips.append(channels)
            if level != levels[-1]:
                self.input_blocks.append(nn.ModuleList([resampler(channels, downsample, _halve)]))
                skips.append(channels)

        self.middle_block = nn.ModuleList([res(channels, channels), attend(channels), res(channels, channels)])

        self.output_blocks = nn.ModuleList()
        for level in reversed(levels):
            for i in range(config.num_res_blocks + 1):
                block = [res(channels + skips.pop(), config.width(level))]
                channels = config.width(level)
                if 2 ** level in config.attention_downsamples:
                    block.append(attend(channels))
                if level and i == config.num_res_blocks:
                    block.append(resampler(channels, upsample, _double))
                self.output_blocks.append(nn.ModuleList(block))

        self.out = nn.Sequential(
            _norm(channels, config, layers), nn.SiLU(), layers.Conv2d(channels, config.out_channels, 3, padding=1))

    def forward(self, x: Tensor, timesteps: Tensor, y: Tensor | None = None,
                transformer_options: dict | None = None) -> Tensor:
        """Noise prediction for x [B, C, H, W] at timesteps [B] -> [B, out_channels, H, W].

        Args:
            x: noisy image in variance-preserving scale, of an upsampler with the low-resolution one after it in the
                channels; H and W are multiples of `config.downsampling`.
            timesteps: index into the training process, 0 is the cleanest; may be fractional.
            y: labels [B], for a class-conditional model.
            transformer_options: written to as the blocks run (`block`, `activations_shape`), for observers.
        """
        options = {} if transformer_options is None else transformer_options
        shown = timesteps * self.config.timestep_scale
        emb = timestep_embedding(shown, self.config.model_channels, shift=self.config.embedding_shift)
        emb = self.time_embed(emb.to(x.dtype))
        if self.config.num_classes:
            emb = emb + self.label_emb(y).to(emb.dtype)
        h, skips = x, []
        for i, block in enumerate(self.input_blocks):
            h = _run(block, h, emb, options, ("input", i))
            skips.append(h)
        h = _run(self.middle_block, h, emb, options, ("middle", 0))
        for i, block in enumerate(self.output_blocks):
            h = _run(block, torch.cat([h, skips.pop()], dim=1), emb, options, ("output", i))
        return self.out(h)


def _norm(channels: int, config: ADMConfig, layers: SimpleNamespace) -> nn.Module:
    return layers.GroupNorm(config.norm_groups, channels, eps=config.norm_eps)


def _with(layer, **fixed):
    return lambda *args, **kwargs: layer(*args, **kwargs, **fixed)


def _run(block: nn.ModuleList, h: Tensor, emb: Tensor, options: dict, name: tuple[str, int]) -> Tensor:
    options["block"], options["block_index"] = name, 0
    for module in block:
        if isinstance(module, ResBlock):
            h = module(h, emb)
        elif isinstance(module, AttentionBlock):
            h = module(h, options)
        else:
            h = module(h)
    return h
