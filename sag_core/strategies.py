"""Masking strategies: what is blurred, from the self-attention map or in its stead (SAG, sec. 5.4, table 5)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .degrade import gaussian_blur
from .masks import place

# Blur that separates the high frequencies of x0 from the rest, in its own pixels.
HIGH_PASS_SIGMA = 1.0

COMBINATIONS = ("replace", "intersect", "unite")


@dataclass(frozen=True, eq=False)
class MaskOptions:
    """How the mask is made.

    Args:
        strategy: one of `STRATEGIES`.
        quantile: share of the tokens that is left alone, each sample by itself, instead of the threshold; None for
            the threshold.
        softness: width of the mask's edge in units of the map's mean; 0 is hard.
        decay: share of the past steps' maps in a running average, 0 for this step's alone.
        seed: of the strategies that draw places.
        own_mask: the user's, [B, H, W] in 0..1 of any size; None without.
        combine: what `own_mask` does to the strategy's: "replace", "intersect" or "unite".
        vision: of the strategy "DINO": the attention map [B, h, w], mean 1, of a vision model that looks at x0.

    Raises:
        ValueError: a value is out of its range; the message names it.
    """

    strategy: str = "self-attention"
    quantile: float | None = None
    softness: float = 0.0
    decay: float = 0.0
    seed: int = 0
    own_mask: Tensor | None = None
    combine: str = "intersect"
    vision: Callable[[Tensor], Tensor] | None = None

    def __post_init__(self) -> None:
        if self.strategy not in STRATEGIES:
            raise ValueError(f"strategy is {self.strategy!r}; it must be one of {', '.join(STRATEGIES)}")
        if self.strategy == "DINO" and self.vision is None:
            raise ValueError("strategy is 'DINO', but no CLIP_VISION model is connected to look at the images")
        if self.combine not in COMBINATIONS:
            raise ValueError(f"combine is {self.combine!r}; it must be one of {', '.join(COMBINATIONS)}")
        for name, low, high in (("quantile", 0, 1), ("softness", 0, 100), ("decay", 0, 0.99)):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and low <= value <= high):
                raise ValueError(f"{name} is {value}; it must be a number from {low} to {high}")
        if self.own_mask is not None:
            if self.own_mask.ndim != 3 or not self.own_mask.numel():
                raise ValueError(f"mask has the shape {tuple(self.own_mask.shape)}; it must be [B, H, W]")
            if not self.own_mask.isfinite().all():
                raise ValueError("mask holds values that are not finite; it must be in 0..1")
        elif self.combine == "replace":
            raise ValueError("combine is 'replace', but no mask is connected to take the place of the strategy's")

    @property
    def is_plain(self) -> bool:
        """Whether the mask is where this step's attention is above the threshold, as in the paper, and no more."""
        return (self.strategy, self.quantile, self.softness, self.decay, self.own_mask) == (
            "self-attention", None, 0, 0, None)


def make_mask(options: MaskOptions, attn_map: Tensor, threshold: float, denoised: Tensor, step: int = 0) -> Tensor:
    """The mask of one step.

    Args:
        options: strategy, edge, the user's own mask.
        attn_map: self-attention map [B, h, w] or [B, t, h, w], mean 1.
        threshold: psi, in units of the map's mean.
        denoised: clean prediction [B, C, H, W] or [B, C, T, H, W].
        step: counts the steps of a run, so that places drawn at random are others at every step.

    Returns:
        [B, 1, H, W] or [B, 1, T, H, W] in 0..1, float32.
    """
    size = denoised.shape[2:]
    if options.own_mask is not None and options.combine == "replace":
        return fit_mask(options.own_mask, denoised)
    if options.strategy == "DINO":
        attn_map = options.vision(denoised)
    attended = _above(attn_map.to(denoised.device, torch.float32), threshold, options)
    mask = place(STRATEGIES[options.strategy](attended, denoised, options.seed + step), size)
    if options.own_mask is None:
        return mask
    own = fit_mask(options.own_mask, denoised)
    return torch.minimum(mask, own) if options.combine == "intersect" else torch.maximum(mask, own)


def fit_mask(own_mask: Tensor, denoised: Tensor) -> Tensor:
    """A user's mask [B, H, W] on the samples, as the host does with masks: resized, and repeated over the batch.

    Returns:
        [B, 1, H, W] or [B, 1, T, H, W] in 0..1, float32.
    """
    own = own_mask[:, None].to(denoised.device, torch.float32).clamp(0, 1)
    own = torch.nn.functional.interpolate(own, size=denoised.shape[-2:], mode="bilinear", antialias=True)
    batch = denoised.shape[0]
    frames = denoised.shape[2] if denoised.ndim == 5 else 1
    if denoised.ndim == 5 and len(own) == frames:  # a mask for every frame
        return own.transpose(0, 1)[None].expand(batch, -1, -1, -1, -1)
    own = own.repeat(math.ceil(batch / len(own)), 1, 1, 1)[:batch]
    return own[:, :, None].expand(-1, -1, frames, -1, -1) if denoised.ndim == 5 else own


def smooth_step(x: Tensor) -> Tensor:
    """0 below 0, 1 above 1, and 3 x^2 - 2 x^3 between."""
    x = x.clamp(0, 1)
    return x * x * (3 - 2 * x)


def _above(attn_map: Tensor, threshold: float, options: MaskOptions) -> Tensor:
    """1 where attention is above the threshold, or above the sample's quantile, with the edge asked for."""
    level = attn_map.new_tensor(threshold)
    if options.quantile is not None:
        level = torch.stack([sample.flatten().kthvalue(max(1, round(options.quantile * sample.numel()))).values
                             for sample in attn_map])
        level = level.view(-1, *[1] * (attn_map.ndim - 1))
        if options.quantile == 0:
            return torch.ones_like(attn_map)
    if options.softness == 0:
        return (attn_map > level).to(attn_map.dtype)
    return smooth_step((attn_map - level) / options.softness + 0.5)


# -- strategies: (mask of what is attended to, x0, seed) -> mask on the tokens -------------------------------------


def _self_attention(attended: Tensor, denoised: Tensor, seed: int) -> Tensor:
    return attended


def _inverse(attended: Tensor, denoised: Tensor, seed: int) -> Tensor:
    return 1 - attended


def _everywhere(attended: Tensor, denoised: Tensor, seed: int) -> Tensor:
    """Blur guidance."""
    return torch.ones_like(attended)


def _high_frequency(attended: Tensor, denoised: Tensor, seed: int) -> Tensor:
    """Where x0 differs most from its blur, as many tokens as are attended to."""
    detail = (denoised - gaussian_blur(denoised, HIGH_PASS_SIGMA)).float().abs().mean(dim=1, keepdim=True)
    pool = torch.nn.functional.adaptive_avg_pool3d if denoised.ndim == 5 else torch.nn.functional.adaptive_avg_pool2d
    return _highest(pool(detail, attended.shape[1:])[:, 0], attended)


def _random(attended: Tensor, denoised: Tensor, seed: int) -> Tensor:
    """Tokens drawn anywhere, as many as are attended to."""
    generator = torch.Generator().manual_seed(seed)
    return _highest(torch.rand(attended.shape, generator=generator).to(attended.device), attended)


def _square(attended: Tensor, denoised: Tensor, seed: int) -> Tensor:
    """A rectangle of the grid's proportions anywhere in it, about as many tokens as are attended to; one a frame."""
    generator = torch.Generator().manual_seed(seed)
    *frames, height, width = attended.shape
    share = (attended > 0.5).float().mean(dim=(-2, -1)).flatten().tolist()
    mask = torch.zeros_like(attended).view(-1, height, width)
    for image, part in zip(mask, share, strict=True):
        sides = [round(side * math.sqrt(part)) for side in (height, width)]
        starts = [int(torch.randint(whole - side + 1, (), generator=generator))
                  for whole, side in zip((height, width), sides, strict=True)]
        image[starts[0]:starts[0] + sides[0], starts[1]:starts[1] + sides[1]] = 1
    return mask.view(*frames, height, width)


def _highest(score: Tensor, attended: Tensor) -> Tensor:
    """1 at the tokens of the highest scores, as many in each sample as are attended to."""
    order = score.flatten(1).argsort(dim=1, descending=True).argsort(dim=1)
    count = (attended > 0.5).flatten(1).sum(dim=1, keepdim=True)
    return (order < count).to(attended.dtype).view_as(attended)


STRATEGIES: dict[str, Callable[[Tensor, Tensor, int], Tensor]] = {
    "self-attention": _self_attention,
    "global": _everywhere,
    "high-frequency": _high_frequency,
    "random": _random,
    "square": _square,
    "inverse": _inverse,
    "DINO": _self_attention,
}
