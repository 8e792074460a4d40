"""Procedural scenes: a textured shape on a smooth gradient, with its exact object mask.

The training data of the embedded model, drawn on the fly. Everything random comes from one generator, so a
batch is a function of its seed. Images are in [-1, 1]; masks are the shape's coverage of each pixel, in 0..1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

SHAPES = ("disc", "square", "triangle", "star", "ring", "cross", "crescent", "heart")
TEXTURES = ("plain", "stripes", "checks")


@dataclass(frozen=True)
class Scenes:
    """A batch of scenes: image [B, 3, H, W] in [-1, 1], mask [B, 1, H, W] in 0..1, label [B] into SHAPES."""

    image: Tensor
    mask: Tensor
    label: Tensor


def _polygon(x: Tensor, y: Tensor, sides: int, inner: float = 1.0) -> Tensor:
    """Signed distance (exact near edges) to a regular polygon, or a star where `inner` < 1, of circumradius 1."""
    half = math.pi / sides
    angle = torch.atan2(x, y)
    angle = torch.remainder(angle + half, 2 * half) - half
    radius = torch.hypot(x, y)
    px, py = radius * angle.sin().abs(), radius * angle.cos()
    # The edge runs from the tip (0, 1) to the valley at angle `half`.
    valley = inner if inner < 1 else math.cos(half)
    vx, vy = valley * math.sin(half), valley * math.cos(half)
    length = math.hypot(vx, vy - 1)
    nx, ny = (1 - vy) / length, vx / length
    return px * nx + (py - 1) * ny


def _box(x: Tensor, y: Tensor, a: float, b: float) -> Tensor:
    return torch.maximum(x.abs() - a, y.abs() - b)


def _heart(x: Tensor, y: Tensor) -> Tensor:
    x, y = x.abs(), y + 0.1
    lobes = torch.hypot(x - 0.42, y - 0.28) - 0.5
    # A square standing on its corner, tangent to the lobes.
    wedge = torch.maximum((x - y) / math.sqrt(2) - 0.6, (x + y) / math.sqrt(2) - 0.5)
    return torch.minimum(lobes, torch.where(x - y > -0.9, wedge, lobes))


def _distances(x: Tensor, y: Tensor) -> Tensor:
    """Signed distance to every shape, in units of its radius: [B, H, W] -> [B, len(SHAPES), H, W]."""
    r = torch.hypot(x, y)
    return torch.stack([
        r - 0.85,
        _box(x, y, 0.75, 0.75),
        _polygon(x, y, 3),
        _polygon(x, y, 5, inner=0.45),
        (r - 0.68).abs() - 0.24,
        torch.minimum(_box(x, y, 0.32, 0.95), _box(x, y, 0.95, 0.32)),
        torch.maximum(r - 0.9, 0.62 - torch.hypot(x - 0.42, y)),
        _heart(x, y),
    ], dim=1)


def _texture(x: Tensor, y: Tensor, kind: Tensor, period: Tensor, phase: Tensor) -> Tensor:
    """Weight of the second colour, 0..1, in pixels of the image: [B, H, W]."""
    def wave(t):
        # A square wave with edges about a pixel wide.
        return torch.sigmoid(torch.sin(2 * math.pi * (t / period + phase)) * period * 0.8)

    stripes, across = wave(x), wave(y)
    checks = stripes + across - 2 * stripes * across
    return torch.where(kind == 0, torch.zeros_like(x), torch.where(kind == 1, stripes, checks))


def _hsv_to_rgb(hue: Tensor, saturation: Tensor, value: Tensor) -> Tensor:
    """[B] each, 0..1 -> [B, 3] in 0..1."""
    k = (torch.tensor([5.0, 3.0, 1.0]) + hue[:, None] * 6) % 6
    return value[:, None] * (1 - saturation[:, None] * torch.minimum(k, 4 - k).clamp(0, 1))


def draw(count: int, generator: torch.Generator, size: int = 32, label: Tensor | None = None) -> Scenes:
    """Draw `count` scenes of `size` x `size` pixels.

    Args:
        count: scenes to draw.
        generator: where every random number comes from, on the CPU.
        size: side of the images, in pixels.
        label: shape of each scene [count], random where None.
    """
    def uniform(low, high):
        return torch.rand(count, generator=generator) * (high - low) + low

    def choice(options):
        return torch.randint(options, (count,), generator=generator)

    drawn = choice(len(SHAPES))
    label = drawn if label is None else label
    grid = torch.arange(size) + 0.5
    py, px = torch.meshgrid(grid, grid, indexing="ij")

    radius = uniform(0.25, 0.40) * size
    centre_x, centre_y = (uniform(-1, 1) * (size / 2 - radius * 0.8) + size / 2 for _ in range(2))
    turn = uniform(0, 2 * math.pi)
    dx, dy = px - centre_x[:, None, None], py - centre_y[:, None, None]
    cos, sin = turn.cos()[:, None, None], turn.sin()[:, None, None]
    x, y = cos * dx + sin * dy, cos * dy - sin * dx
    r = radius[:, None, None]
    distance = _distances(x / r, y / r)[torch.arange(count), label] * r
    mask = (0.5 - distance).clamp(0, 1)[:, None]

    texture = _texture(x, y, choice(len(TEXTURES))[:, None, None], (uniform(0.18, 0.30) * size)[:, None, None],
                       uniform(0, 1)[:, None, None])[:, None]
    hue = uniform(0, 1)
    first = _hsv_to_rgb(hue, uniform(0.6, 1), uniform(0.75, 1))
    second = _hsv_to_rgb((hue + uniform(0.3, 0.7)) % 1, uniform(0.4, 1), uniform(0.15, 0.6))
    shape = torch.lerp(first[:, :, None, None], second[:, :, None, None], texture)

    slope = uniform(0, 2 * math.pi)
    along = (slope.cos()[:, None, None] * (px - size / 2) + slope.sin()[:, None, None] * (py - size / 2)) / size + 0.5
    sky_hue = (hue + uniform(0.25, 0.75)) % 1
    near = _hsv_to_rgb(sky_hue, uniform(0.1, 0.5), uniform(0.35, 0.95))
    far = _hsv_to_rgb((sky_hue + uniform(-0.1, 0.1)) % 1, uniform(0.1, 0.5), uniform(0.35, 0.95))
    ground = torch.lerp(near[:, :, None, None], far[:, :, None, None], along[:, None].clamp(0, 1))

    image = torch.lerp(ground, shape, mask)
    return Scenes(image * 2 - 1, mask, label)
