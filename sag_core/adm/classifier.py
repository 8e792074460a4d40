"""The classifier of noisy images that guides ADM (arXiv 2105.05233, sec. 4): the U-Net's encoder, pooled.

Parameter names are those of the published checkpoints. Attention is plain softmax attention, which has a gradient; a
host's faster kernels may have none.
"""

from __future__ import annotations

from types import SimpleNamespace

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from .classifier_config import ClassifierConfig
from .unet import AttentionBlock, Downsample, ResBlock, sdpa, timestep_embedding

_HIDDEN = 2048


class AttentionPool(nn.Module):
    """Attention of the mean over places to the mean and all places, with learned positions (after CLIP)."""

    def __init__(self, grid: int, channels: int, head_channels: int, out_channels: int, layers: SimpleNamespace):
        super().__init__()
        self.heads = channels // head_channels
        positions = torch.empty(channels, grid ** 2 + 1, **layers.factory)
        self.positional_embedding = nn.Parameter(nn.init.normal_(positions, std=channels ** -0.5))
        self.qkv_proj = layers.Conv1d(channels, channels * 3, 1)
        self.c_proj = layers.Conv1d(channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[B, channels, grid, grid] -> [B, out_channels]."""
        places = rearrange(x, "b c h w -> b c (h w)")
        tokens = torch.cat([places.mean(dim=-1, keepdim=True), places], dim=-1)
        tokens = tokens + self.positional_embedding.to(tokens)
        qkv = rearrange(self.qkv_proj(tokens), "b (three h d) n -> three b h n d", three=3, h=self.heads)
        q, k, v = qkv.contiguous()
        pooled = sdpa(q[:, :, :1], k, v, self.heads, {})  # the rest of the answers are not looked at
        return self.c_proj(pooled.transpose(1, 2))[:, :, 0]


class ADMClassifier(nn.Module):
    """Names what a noisy image shows.

    Args:
        config: the architecture.
        operations: namespace that provides Conv1d, Conv2d, Linear and GroupNorm.
        dtype, device: of the parameters.
    """

    def __init__(self, config: ClassifierConfig, operations=nn, dtype=None, device=None):
        super().__init__()
        self.config, encoder = config, config.encoder
        factory = {"dtype": dtype, "device": device}
        layers = SimpleNamespace(factory=factory, **{
            name: _with(getattr(operations, name), factory) for name in ("Conv1d", "Conv2d", "Linear", "GroupNorm")})
        emb_channels = encoder.model_channels * 4

        def res(in_channels, out_channels, resample=None):
            return ResBlock(in_channels, emb_channels, out_channels, encoder, layers, resample)

        self.time_embed = nn.Sequential(
            layers.Linear(encoder.model_channels, emb_channels), nn.SiLU(), layers.Linear(emb_channels, emb_channels))
        channels = encoder.width(0)
        self.input_blocks = nn.ModuleList([nn.ModuleList([layers.Conv2d(encoder.in_channels, channels, 3, padding=1)])])
        features = [channels]
        for level in range(len(encoder.channel_mult)):
            if level:
                halve = res(channels, channels, _halve) if encoder.resblock_updown else Downsample(channels, layers)
                self.input_blocks.append(nn.ModuleList([halve]))
                features.append(channels)
            for _ in range(encoder.num_res_blocks):
                block = [res(channels, encoder.width(level))]
                channels = encoder.width(level)
                if 2 ** level in encoder.attention_downsamples:
                    block.append(AttentionBlock(channels, encoder, layers, sdpa))
                self.input_blocks.append(nn.ModuleList(block))
                features.append(channels)
        self.middle_block = nn.ModuleList([
            res(channels, channels), AttentionBlock(channels, encoder, layers, sdpa), res(channels, channels)])
        self.out = _head(config, channels, sum(features) + channels, layers)

    def forward(self, x: Tensor, timesteps: Tensor) -> Tensor:
        """Logits [B, num_classes] of x [B, C, H, W], in variance-preserving scale, at timesteps [B]."""
        encoder = self.config.encoder
        emb = timestep_embedding(timesteps * encoder.timestep_scale, encoder.model_channels)
        emb = self.time_embed(emb.to(x.dtype))
        h, means = x, []
        for block in (*self.input_blocks, self.middle_block):
            for module in block:
                h = _run(module, h, emb)
            means.append(h.mean(dim=(2, 3)))
        return self.out(torch.cat(means, dim=1) if self.config.pool.startswith("spatial") else h)


def _head(config: ClassifierConfig, channels: int, features: int, layers: SimpleNamespace) -> nn.Sequential:
    """Returns the layers that name the class, of the deepest feature map or of the means of every block's."""
    if config.pool == "spatial":
        return nn.Sequential(layers.Linear(features, _HIDDEN), nn.ReLU(), layers.Linear(_HIDDEN, config.num_classes))
    if config.pool == "spatial_v2":
        return nn.Sequential(layers.Linear(features, _HIDDEN), layers.GroupNorm(config.encoder.norm_groups, _HIDDEN),
                             nn.SiLU(), layers.Linear(_HIDDEN, config.num_classes))
    norm = layers.GroupNorm(config.encoder.norm_groups, channels)
    if config.pool == "adaptive":
        return nn.Sequential(norm, nn.SiLU(), nn.AdaptiveAvgPool2d(1), layers.Conv2d(channels, config.num_classes, 1),
                             nn.Flatten())
    heads = config.encoder.heads(channels)
    return nn.Sequential(norm, nn.SiLU(),
                         AttentionPool(config.grid, channels, channels // heads, config.num_classes, layers))


def _halve(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 2)


def _with(layer, factory: dict):
    return lambda *args, **kwargs: layer(*args, **kwargs, **factory)


def _run(module: nn.Module, h: Tensor, emb: Tensor) -> Tensor:
    if isinstance(module, ResBlock):
        return module(h, emb)
    return module(h, {}) if isinstance(module, AttentionBlock) else module(h)
