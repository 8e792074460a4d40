"""Analyses of attention: fine detail, and objects (those of self-attention masks in SAG, arXiv 2210.00939).

Both are made on the layer's grid: a token is a patch of the image, and is attended to or not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from .masks import mean_over_tokens
from .strategies import STRATEGIES

# One level of an 8-bit image: an amplitude below it is lost when the image is saved, and counts as no detail.
LEVEL = 1 / 255


# -- frequency -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Profile:
    """Mean spectrum of some patches.

    Args:
        frequency: [bins], in cycles per pixel, rising from 0.
        magnitude: [bins], mean log-magnitude at those frequencies.
        mean: mean log-magnitude over all frequencies but 0, which is brightness and no detail.
        patches: how many patches it is of.
    """

    frequency: Tensor
    magnitude: Tensor
    mean: float
    patches: int


def log_spectra(image: Tensor, grid: Sequence[int]) -> Tensor:
    """Log-magnitude of every patch's 2-D FFT, mean over the channels.

    The transform is orthonormal, so that white noise has the same magnitude in patches of every size; one grey level
    of 8 bits is added to the magnitude, so that flat patches do not count for arbitrarily much.

    Args:
        image: [B, C, H, W] in 0..1.
        grid: (h, w), the layer's; patches are H/h x W/w pixels, the last of which may hang over the edge.

    Returns:
        [B, h, w, p, q], natural logarithm, float32 or wider.

    Raises:
        ValueError: the grid does not cut the image into patches of at least 2 x 2 pixels.
    """
    wide = torch.promote_types(image.dtype, torch.float32)
    # One image at a time, because its complex spectrum is many times as large as what is kept of it.
    patches = (_patches(one.to(wide), tuple(grid)) for one in image.split(1))
    return torch.cat([(torch.fft.fft2(one, norm="ortho").abs() + LEVEL).log().mean(dim=3) for one in patches])


def frequency_profile(spectra: Tensor, chosen: Tensor) -> Profile:
    """Mean spectrum of the chosen patches, by distance from frequency 0.

    Args:
        spectra: of `log_spectra`.
        chosen: [B, h, w], 0 or 1.

    Raises:
        ValueError: no patch is chosen.
    """
    chosen = chosen.bool()
    if not chosen.any():
        raise ValueError("no patch is chosen, so there is no spectrum of them")
    mean = spectra[chosen].mean(dim=0)
    radius, shell = _shells(mean.shape)
    count = torch.bincount(shell.flatten()).clamp(min=1)
    frequency, magnitude = (torch.bincount(shell.flatten(), weights=values.double().flatten()) / count
                            for values in (radius, mean))
    return Profile(frequency, magnitude, _detail(mean[None]).item(), int(chosen.sum()))


def detail_gain(spectra: Tensor, chosen: Tensor) -> Tensor:
    """Returns the detail of the chosen patches of each image beyond that of all: [B], nan where none is chosen.

    Difference of mean log-magnitudes over all frequencies but 0; exp of it is a ratio of amplitudes.
    """
    detail = _detail(spectra.flatten(0, 2)).view(chosen.shape).flatten(1)
    chosen = chosen.flatten(1).to(detail)
    return (detail * chosen).sum(dim=1) / chosen.sum(dim=1) - detail.mean(dim=1)


def _patches(image: Tensor, grid: tuple[int, ...]) -> Tensor:
    """[B, C, H, W] -> [B, h, w, C, p, q]."""
    size = tuple(image.shape[2:])
    sides = [-(-pixels // tokens) for pixels, tokens in zip(size, grid, strict=True)]
    if min(sides) < 2 or any(-(-pixels // side) != tokens
                             for pixels, side, tokens in zip(size, sides, grid, strict=True)):
        raise ValueError(f"an image of {size[0]} x {size[1]} pixels cannot be cut into {grid[0]} x {grid[1]} patches "
                         "of 2 x 2 pixels or more; connect the decoded images of the run, or choose a layer with a "
                         "coarser grid")
    over = [side * tokens - pixels for pixels, side, tokens in zip(size, sides, grid, strict=True)]
    return rearrange(F.pad(image, (0, over[1], 0, over[0]), mode="replicate"), "b c (h p) (w q) -> b h w c p q",
                     h=grid[0], w=grid[1])


def _shells(sides: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Distance of every frequency from 0, [p, q] in cycles per pixel, and the bin it falls into, as wide as the
    spacing of the patch's frequencies."""
    rows, columns = (torch.fft.fftfreq(side, dtype=torch.float64) for side in sides)
    radius = torch.hypot(rows[:, None], columns[None, :])
    return radius, (radius * max(sides)).round().long()


def _detail(spectra: Tensor) -> Tensor:
    """Mean over all frequencies but 0: [N, p, q] -> [N]."""
    return spectra.flatten(1)[:, 1:].mean(dim=1)


# -- objects ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Overlap:
    """Overlap of a mask with objects, beside that of random masks of the same area.

    Args:
        iou: [B], of every image.
        random: [draws, B], of as many random masks for every image.
        area: [B], share of the grid that the mask covers.
    """

    iou: Tensor
    random: Tensor
    area: Tensor

    @property
    def baseline(self) -> float:
        """Mean of the random masks over images and draws."""
        return self.random.mean().item()

    @property
    def spread(self) -> float:
        """Standard deviation, from draw to draw, of the random masks' mean over the images."""
        return self.random.mean(dim=1).std(unbiased=False).item()

    @property
    def gain(self) -> float:
        """By what share the mask's mean exceeds the random masks'; nan where those meet nothing."""
        return self.iou.mean().item() / self.baseline - 1 if self.baseline else float("nan")


def on_grid(mask: Tensor, grid: Sequence[int]) -> Tensor:
    """A mask of pixels on the layer's grid: a token is inside where at least half of its pixels are.

    The paper compares on the grid, because a finer comparison would measure the size of the tokens.

    Args:
        mask: [B, H, W] in 0..1, of any size.
        grid: (h, w).

    Returns:
        [B, h, w] of 0 and 1, float32.
    """
    mask = mask.float()
    size = [max(pixels, tokens) for pixels, tokens in zip(mask.shape[1:], grid, strict=True)]
    if tuple(size) != tuple(mask.shape[1:]):
        mask = F.interpolate(mask[:, None], size=size, mode="nearest-exact")[:, 0]
    # A half is met from both sides by rounding; masks are drawn in steps of 1/255.
    return (mean_over_tokens(mask, grid) >= 0.5 - 1e-4).float()


def iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of masks of 0 and 1, [B, h, w] each: [B]; 0 where both are empty."""
    a, b = a.bool().flatten(1), b.bool().flatten(1)
    union = (a | b).sum(dim=1)
    return (a & b).sum(dim=1) / union.clamp(min=1)


def overlap(mask: Tensor, objects: Tensor, draws: int, seed: int) -> Overlap:
    """IoU of a mask with objects, and of random masks that cover as many tokens of each image.

    Args:
        mask, objects: [B, h, w] of 0 and 1.
        draws: random masks for every image.
        seed: of the random masks.

    Raises:
        ValueError: there are no draws.
    """
    if draws < 1:
        raise ValueError(f"draws is {draws}; a baseline needs at least 1")
    random = torch.stack([iou(STRATEGIES["random"](mask.float(), mask, seed * 1_000_003 + draw), objects)
                          for draw in range(draws)])
    return Overlap(iou(mask, objects), random, mask.float().flatten(1).mean(dim=1))
