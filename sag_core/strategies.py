"""Masking strategies: what is blurred, from the self-attention map or in its stead (SAG, sec. 5.4, table 5)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .degrade import gaussian_blur
from .masks import mean_over_tokens, place

# Blur that separates the high frequencies of x0 from the rest, in its own pixels.
HIGH_PASS_SIGMA = 1.0

# Narrower edges are hard: float32 holds no reciprocal of much smaller ones.
SOFTEST_HARD = 1e-6

COMBINATIONS = ("replace", "intersect", "unite")


@dataclass(frozen=True, eq=False)
class MaskOptions:
    """Options of the mask.

    Args:
        strategy: one of `STRATEGIES`.
        quantile: share of the tokens that is left alone, each sample by itself, instead of the threshold; None for
            the threshold.
        softness: width of the mask's edge in units of the map's mean; 0 is hard.
        decay: share of the past steps' maps in a running average of the model's own, 0 for this step's alone.
        seed: of the strategies that draw places.
        own_mask: the user's, [B, H, W] in 0..1 of any size; None without.
        combine: what `own_mask` does to the strategy's: "replace", "intersect" or "unite".
        vision: of the strategy "DINO": the attention map [B, h, w] (or [B, 1, h, w] of a single frame), mean 1, of a
            vision model that looks at x0; where it gives None, the model's own map is used.

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
        """Returns whether the mask is that of the paper: where this step's attention is above the threshold."""
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
        seen = options.vision(denoised)
        attn_map = attn_map if seen is None else seen
    attended = _above(attn_map.to(denoised.device, torch.float32), threshold, options)
    # Neighbouring seeds share no step.
    mask = place(STRATEGIES[options.strategy](attended, denoised, options.seed * 1_000_003 + step), size)
    if options.own_mask is None:
        return mask
    own = fit_mask(options.own_mask, denoised)
    return torch.minimum(mask, own) if options.combine == "intersect" else torch.maximum(mask, own)


def fit_mask(own_mask: Tensor, denoised: Tensor) -> Tensor:
    """A user's mask [B, H, W] on the samples, as the host fits masks: resized, and repeated over the batch.

    On a video the masks follow one another in time, as many as there are.

    Returns:
        [B, 1, H, W] or [B, 1, T, H, W] in 0..1, float32.
    """
    own, batch = own_mask.to(denoised.device, torch.float32).clamp(0, 1), denoised.shape[0]
    if denoised.ndim == 5:
        own = F.interpolate(own[None, None], size=denoised.shape[2:], mode="trilinear")
        return own.expand(batch, -1, -1, -1, -1)
    own = F.interpolate(own[:, None], size=denoised.shape[2:], mode="bilinear")
    return own.repeat(math.ceil(batch / len(own)), 1, 1, 1)[:batch]


def smooth_step(x: Tensor) -> Tensor:
    """0 below 0, 1 above 1, and 3 x^2 - 2 x^3 between."""
    x = x.clamp(0, 1)
    return x * x * (3 - 2 * x)


def _above(attn_map: Tensor, threshold: float, options: MaskOptions) -> Tensor:
    """1 where attention is above the threshold, or above the sample's quantile, with the edge asked for."""
    level = threshold
    if options.quantile is not None:
        left = round(options.quantile * attn_map[0].numel())
        if left == 0:
            return torch.ones_like(attn_map)
        level = attn_map.flatten(1).kthvalue(left).values.view(-1, *[1] * (attn_map.ndim - 1))
    if options.softness < SOFTEST_HARD:
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
    """Returns the tokens where x0 differs most from its blur, as many as are attended to."""
    detail = (denoised - gaussian_blur(denoised, HIGH_PASS_SIGMA)).float().abs().mean(dim=1)
    return _highest(mean_over_tokens(detail, attended.shape[1:]), attended)


def _random(attended: Tensor, denoised: Tensor, seed: int) -> Tensor:
    """Tokens drawn anywhere, as many as are attended to."""
    generator = torch.Generator().manual_seed(seed)
    return _highest(torch.rand(attended.shape, generator=generator).to(attended.device), attended)


def _square(attended: Tensor, denoised: Tensor, seed: int) -> Tensor:
    """A rectangle of the grid's proportions anywhere in it, about as many tokens as are attended to; one a frame."""
    generator = torch.Generator().manual_seed(seed)
    *frames, height, width = attended.shape
    count = (attended > 0.5).sum(dim=(-2, -1)).flatten().tolist()
    mask = torch.zeros_like(attended).view(-1, height, width)
    for image, tokens in zip(mask, count, strict=True):
        if tokens:
            shrink = math.sqrt(tokens / (height * width))
            high, wide = (max(1, round(side * shrink)) for side in (height, width))
            if min(height, width) * shrink < 0.5:  # a grid so thin that a side would vanish
                high, wide = (1, tokens) if height < width else (tokens, 1)
            top, left = (int(torch.randint(whole - side + 1, (), generator=generator))
                         for whole, side in ((height, high), (width, wide)))
            image[top:top + high, left:left + wide] = 1
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
