"""Procedural scenes: the mask is the shape's coverage, and a batch is a function of its seed."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from training.scenes import SHAPES, _distances, draw


def scenes(seed=0, count=64, **fields):
    return draw(count, torch.Generator().manual_seed(seed), **fields)


def polygon(*corners):
    """Even-odd rule: a point is inside if a ray to the right crosses the outline an odd number of times."""
    def inside(x, y):
        odd = torch.zeros_like(x, dtype=torch.bool)
        for (ax, ay), (bx, by) in zip(corners, corners[1:] + corners[:1], strict=True):
            if ay != by:
                crosses = ((ay > y) != (by > y)) & (x < ax + (y - ay) * (bx - ax) / (by - ay))
                odd ^= crosses
        return odd
    return inside


def tips(*radii):
    """Corners around the origin, the first at the top."""
    turn = 2 * math.pi / len(radii)
    return [(r * math.sin(i * turn), r * math.cos(i * turn)) for i, r in enumerate(radii)]


def disc(radius, cx=0.0, cy=0.0):
    return lambda x, y: (x - cx) ** 2 + (y - cy) ** 2 < radius ** 2


def rectangle(a, b):
    return polygon((-a, -b), (a, -b), (a, b), (-a, b))


# Each shape as a set of points, at radius 1.
INSIDE = {
    "disc": disc(0.85),
    "square": rectangle(0.75, 0.75),
    "triangle": polygon(*tips(1, 1, 1)),
    "star": polygon(*tips(*[1, 0.45] * 5)),
    "ring": lambda x, y: disc(0.92)(x, y) & ~disc(0.44)(x, y),
    "cross": lambda x, y: rectangle(0.32, 0.95)(x, y) | rectangle(0.95, 0.32)(x, y),
    "crescent": lambda x, y: disc(0.9)(x, y) & ~disc(0.62, 0.42)(x, y),
    "heart": lambda x, y: (
        disc(0.5, 0.42, 0.18)(x, y) | disc(0.5, -0.42, 0.18)(x, y)
        | polygon((0, -0.6 * 2 ** 0.5 - 0.1), (0.55 * 2 ** 0.5, -0.05 * 2 ** 0.5 - 0.1), (0, 0.5 * 2 ** 0.5 - 0.1),
                  (-0.55 * 2 ** 0.5, -0.05 * 2 ** 0.5 - 0.1))(x, y)),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_distance_is_negative_inside_the_shape_and_only_there(shape):
    # An odd grid, so that no point lies on an edge.
    line = torch.linspace(-1.2, 1.2, 401, dtype=torch.float64) + 1e-4
    y, x = torch.meshgrid(line, line, indexing="ij")
    distance = _distances(x[None], y[None])[0, SHAPES.index(shape)]
    assert torch.equal(distance < 0, INSIDE[shape](x, y))


@pytest.mark.parametrize("label", range(len(SHAPES)), ids=SHAPES)
def test_mask_is_the_coverage_of_each_pixel(label):
    # The same scenes, drawn with 64 points per pixel.
    labels = torch.full((24,), label)
    coarse, fine = (scenes(count=24, size=size, label=labels).mask for size in (32, 256))
    coverage = F.avg_pool2d((fine > 0.5).double(), 8)
    assert (coarse - coverage).abs().mean() < 0.004
    assert (coarse - coverage).abs().max() < 0.6
    assert 0.05 < coverage.mean() < 0.6


def test_batch_is_a_function_of_its_seed():
    one, same, other = scenes(3), scenes(3), scenes(4)
    for name in ("image", "mask", "label"):
        assert torch.equal(getattr(one, name), getattr(same, name))
        assert not torch.equal(getattr(one, name), getattr(other, name))


def test_drawing_goes_on_where_the_generator_stands():
    generator = torch.Generator().manual_seed(0)
    assert not torch.equal(draw(4, generator).image, draw(4, generator).image)


@pytest.mark.parametrize("size", [16, 32])
def test_shapes_ranges_and_dtypes(size):
    batch = scenes(size=size)
    assert batch.image.shape == (64, 3, size, size) and batch.mask.shape == (64, 1, size, size)
    assert batch.image.dtype == batch.mask.dtype == torch.float32
    assert batch.image.min() >= -1 and batch.image.max() <= 1
    assert batch.mask.min() == 0 and batch.mask.max() == 1


def test_every_shape_is_drawn_about_as_often():
    counts = torch.bincount(scenes(count=4000, size=1).label, minlength=len(SHAPES))
    assert len(counts) == len(SHAPES)
    # Four standard deviations of a binomial.
    assert ((counts - 500).abs() < 84).all()


def test_label_chooses_the_shape_and_nothing_else():
    labels = torch.arange(64) % len(SHAPES)
    given, drawn = scenes(label=labels), scenes()
    assert torch.equal(given.label, labels)
    assert_close(scenes(label=drawn.label).image, drawn.image, rtol=0, atol=0)
    changed = (given.label != drawn.label)[:, None, None, None]
    assert ((given.mask != drawn.mask).flatten(1).any(1) == changed.flatten()).all()
    outside = ((given.mask == 0) & (drawn.mask == 0)).expand_as(given.image)
    assert torch.equal(given.image[outside], drawn.image[outside])
