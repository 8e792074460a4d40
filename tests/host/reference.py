"""Self-Attention Guidance restated as plainly as it can be written: every probability in float64, blur by convolution.

`Reference` is a post-CFG function of its own, so that it can be compared under any conditioning and sampler.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import comfy.model_sampling
import comfy.samplers
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.host.observe import MIDDLE, Call, attention_calls


def attention_map(q: Tensor, k: Tensor, heads: int, grid: tuple[int, int]) -> Tensor:
    """A_t of q and k [B, N, heads * D]: softmax, averaged over heads, summed over queries; float64 [B, h, w]."""
    q, k = (t.double().unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q, k))
    probabilities = torch.softmax(q @ k.mT / math.sqrt(q.shape[-1]), dim=-1)
    return probabilities.mean(dim=1).sum(dim=1).unflatten(-1, grid)


def on_pixels(attn_map: Tensor, size: tuple[int, int], patch: int) -> Tensor:
    """Every pixel takes the value of the patch it lies in, [B, h, w] -> [B, 1, H, W]; other grids are stretched."""
    grid = attn_map.shape[1:]
    whole = all(-(-side // patch) == tokens for side, tokens in zip(size, grid, strict=True))
    rows, columns = (torch.arange(side) // patch if whole else torch.arange(side) * tokens // side
                     for side, tokens in zip(size, grid, strict=True))
    return attn_map[:, rows][:, :, columns][:, None]


def blur(x: Tensor, sigma: float) -> Tensor:
    """Gaussian blur with a radius of ceil(4 sigma) and reflect padding, in float64."""
    radius = math.ceil(4 * sigma)
    offset = torch.arange(-radius, radius + 1, dtype=torch.float64)
    line = torch.exp(-offset ** 2 / (2 * sigma ** 2))
    kernel = torch.outer(line, line) / line.sum() ** 2
    padded = F.pad(x.double(), (radius,) * 4, mode="reflect")
    return F.conv2d(padded, kernel.expand(x.shape[1], 1, -1, -1), groups=x.shape[1])


def degraded(denoised: Tensor, pixel_map: Tensor, threshold: float, sigma: float) -> Tensor:
    """x0 with what is attended to blurred (eq. 10)."""
    return torch.where(pixel_map > threshold, blur(denoised, sigma), denoised.double())


@dataclass
class Reference:
    """Guidance as in the paper, in terms of noise: eps + s (eps(x) - eps(x_deg)), on top of the graph's CFG."""

    heads: int
    patch: int
    calls: list[Call]
    scale: float = 0.5
    blur_sigma: float = 1.5
    threshold: float = 1.0
    branches: list[int] = field(default_factory=list)

    def __call__(self, args: dict) -> Tensor:
        main = list(self.calls)
        x, sigma = args["input"], args["sigma"]
        level = sigma.reshape(-1, 1, 1, 1)
        flow = isinstance(args["model"].model_sampling, comfy.model_sampling.CONST)
        signal = 1 - level if flow else 1  # x = signal * x0 + level * eps
        index, conds, denoised = 1, args["uncond"], args["uncond_denoised"]
        if not any(comfy.samplers.get_area_and_mult(cond, x, sigma) for cond in conds or ()):
            index, conds, denoised = 0, args["cond"], args["cond_denoised"]
        self.branches.append(index)
        eps = (x - signal * denoised) / level
        low = degraded(denoised, self.pixel_map(main, index, conds, x, sigma), self.threshold, self.blur_sigma)
        low_x = (signal * low + level * eps).float()
        alone = [None] * index + [conds]
        again = comfy.samplers.calc_cond_batch(args["model"], alone, low_x, sigma, args["model_options"])[index]
        self.calls.clear()
        low_eps = (low_x - signal * again) / level
        base_eps = (x - signal * args["denoised"]) / level
        return ((x - level * (base_eps + self.scale * (eps - low_eps))) / signal).float()

    def pixel_map(self, calls: list[Call], index: int, conds: list, x: Tensor, sigma: Tensor) -> Tensor:
        """The branch's map on the sample: its conds', each on its area, weighted as the host weights predictions."""
        total, weights = torch.zeros_like(x[:, :1]).double(), torch.zeros_like(x[:, :1]).double()
        rest = None
        for cond in sorted(conds, key=lambda cond: "default" in cond):
            part = comfy.samplers.get_area_and_mult(cond, x, sigma)
            if part is None:
                continue
            if "default" in cond:  # each takes all that those before the first of them leave
                rest = (1 - weights).clamp(min=0) if rest is None else rest
                part = part._replace(mult=rest)
                if part.mult.max() == 0:
                    continue
            call = next(c for c in calls if (index, cond["uuid"]) in
                        zip(c.options["cond_or_uncond"], c.options["uuids"], strict=True))
            attn_map = attention_map(*call.rows(index, cond["uuid"]), self.heads, call.grid)
            height, width, top, left = part.area or (*x.shape[2:], 0, 0)
            place = (..., slice(top, top + height), slice(left, left + width))
            total[place] += on_pixels(attn_map, (height, width), self.patch) * part.mult[:, :1]
            weights[place] += part.mult[:, :1]
        return total / weights


@contextmanager
def reference(model, path: str = MIDDLE, patch: int = 2, **settings) -> Iterator[tuple[object, Reference]]:
    """A model guided by the reference; `patch` is the side in latent pixels of a token of the layer at `path`."""
    block = model.model.diffusion_model.get_submodule(path)
    heads = block.heads if hasattr(block, "qkv") else block.n_heads
    with attention_calls(model, path) as (watched, calls):
        guidance = Reference(heads, patch, calls, **settings)
        watched.set_model_sampler_post_cfg_function(guidance)
        yield watched, guidance
