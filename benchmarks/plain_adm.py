"""The ADM / IDDPM U-Net in plain PyTorch: a function of the state dict, without a host and without modules."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from sag_core.adm.config import ADMConfig


class PlainUNet:
    """`net(x, timesteps)` -> output, by the names that an unconditional checkpoint has.

    Every step is one call of PyTorch, as someone would write it who has this architecture alone in mind.
    """

    def __init__(self, state: dict[str, Tensor], config: ADMConfig):
        self.state, self.config = state, config
        self.period = config.num_res_blocks + 1
        self.blocks = self.period * len(config.channel_mult)

    def __call__(self, x: Tensor, timesteps: Tensor) -> Tensor:
        half = self.config.model_channels // 2
        frequencies = torch.exp(torch.arange(half, device=x.device) * (-math.log(10000) / half))
        angles = timesteps[:, None] * self.config.timestep_scale * frequencies
        emb = self._linear("time_embed.0", torch.cat([angles.cos(), angles.sin()], dim=1).to(x.dtype))
        emb = F.silu(self._linear("time_embed.2", F.silu(emb)))
        h = self._conv("input_blocks.0.0", x, padding=1)
        skips = [h]
        for i in range(1, self.blocks):
            h = self._block(f"input_blocks.{i}", h, emb, 0.5 if i % self.period == 0 else None)
            skips.append(h)
        h = self._residual("middle_block.0", h, emb, None)
        h = self._residual("middle_block.2", self._attend("middle_block.1", h), emb, None)
        for i in range(self.blocks):
            last = i % self.period == self.period - 1 and i < self.blocks - 1
            h = self._block(f"output_blocks.{i}", torch.cat([h, skips.pop()], dim=1), emb, 2 if last else None)
        return self._conv("out.2", F.silu(self._norm("out.0", h)), padding=1)

    def _block(self, name: str, h: Tensor, emb: Tensor, scale: float | None) -> Tensor:
        """A residual block, attention where there is any, and what changes the resolution."""
        if scale == 0.5:
            if f"{name}.0.op.weight" in self.state:
                return self._conv(f"{name}.0.op", h, stride=2, padding=1)
            return self._residual(f"{name}.0", h, emb, scale)
        h = self._residual(f"{name}.0", h, emb, None)
        if f"{name}.1.qkv.weight" in self.state:
            h = self._attend(f"{name}.1", h)
        if scale is None:
            return h
        last = f"{name}.{2 if f'{name}.1.qkv.weight' in self.state else 1}"
        if f"{last}.conv.weight" in self.state:
            return self._conv(f"{last}.conv", F.interpolate(h, scale_factor=2, mode="nearest"), padding=1)
        return self._residual(last, h, emb, scale)

    def _residual(self, name: str, x: Tensor, emb: Tensor, scale: float | None) -> Tensor:
        h = F.silu(self._norm(f"{name}.in_layers.0", x))
        if scale == 0.5:
            h, x = F.avg_pool2d(h, 2), F.avg_pool2d(x, 2)
        elif scale == 2:
            h, x = (F.interpolate(part, scale_factor=2, mode="nearest") for part in (h, x))
        h = self._conv(f"{name}.in_layers.2", h, padding=1)
        shift = self._linear(f"{name}.emb_layers.1", emb)[:, :, None, None]
        if self.config.scale_shift_norm:
            gain, shift = shift.chunk(2, dim=1)
            h = self._norm(f"{name}.out_layers.0", h) * (1 + gain) + shift
        else:
            h = self._norm(f"{name}.out_layers.0", h + shift)
        h = self._conv(f"{name}.out_layers.3", F.silu(h), padding=1)
        return h + (self._conv(f"{name}.skip_connection", x) if x.shape[1] != h.shape[1] else x)

    def _attend(self, name: str, x: Tensor) -> Tensor:
        b, c, height, width = x.shape
        heads = self.config.heads(c)
        qkv = F.conv1d(self._norm(f"{name}.norm", x).flatten(2), *self._weights(f"{name}.qkv"))
        q, k, v = qkv.view(b, heads, 3, c // heads, height * width).transpose(3, 4).unbind(2)
        out = F.scaled_dot_product_attention(q.contiguous(), k.contiguous(), v.contiguous())
        out = F.conv1d(out.transpose(2, 3).reshape(b, c, height * width), *self._weights(f"{name}.proj_out"))
        return x + out.view(x.shape)

    def _weights(self, name: str) -> tuple[Tensor, Tensor]:
        return self.state[f"{name}.weight"], self.state[f"{name}.bias"]

    def _conv(self, name: str, x: Tensor, **options) -> Tensor:
        return F.conv2d(x, *self._weights(name), **options)

    def _linear(self, name: str, x: Tensor) -> Tensor:
        return F.linear(x, *self._weights(name))

    def _norm(self, name: str, x: Tensor) -> Tensor:
        return F.group_norm(x, self.config.norm_groups, *self._weights(name), eps=self.config.norm_eps)
