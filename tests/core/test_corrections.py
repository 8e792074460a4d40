"""Rescale and projection against sums written out, and off at 0."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from sag_core.corrections import clamp_guided, project, rescale

CORRECTIONS = pytest.mark.parametrize("correct", [project, rescale])
SHAPES = pytest.mark.parametrize("shape", [(2, 3, 5, 4), (2, 3, 2, 5, 4)], ids=["image", "video"])


@CORRECTIONS
def test_amount_zero_is_the_identity_bit_for_bit(correct, normal, dtype):
    x = normal(2, 3, 5, 4, dtype=dtype)
    x[0, 0, 0, 0] = torch.inf  # 0 times anything would show
    assert torch.equal(correct(x, normal(2, 3, 5, 4, dtype=dtype), 0.0), x)


@CORRECTIONS
def test_samples_are_corrected_each_by_itself(correct, normal):
    x, y = normal(3, 4, 6, 5), normal(3, 4, 6, 5) * torch.tensor([1.0, 5.0, 0.1]).view(3, 1, 1, 1)
    rows = [correct(x[i:i + 1], y[i:i + 1], 0.8) for i in range(3)]
    assert_close(correct(x, y, 0.8), torch.cat(rows), rtol=1e-12, atol=1e-12)


@CORRECTIONS
def test_dtype_is_kept_and_sums_do_not_overflow(correct, normal, dtype, tolerance):
    x, y = 50 * normal(2, 3, 32, 32, dtype=dtype), 50 * normal(2, 3, 32, 32, dtype=dtype)
    out = correct(x, y, 0.7)
    assert out.dtype == dtype
    assert_close(out.double() / 50, correct(x.double(), y.double(), 0.7) / 50, **tolerance)


# -- projection ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("amount", "expected"), [(0.0, [3, 4]), (0.5, [1.5, 4]), (1.0, [0, 4])])
def test_projection_by_hand(amount, expected):
    # The base points along the first axis, whatever its length.
    for length in (0.1, 1.0, -7.0):
        base = torch.tensor([[length, 0.0]])
        assert_close(project(torch.tensor([[3.0, 4.0]]), base, amount), torch.tensor([expected]).float())


@SHAPES
@pytest.mark.parametrize("amount", [0.3, 1.0])
def test_projection_takes_a_share_of_the_parallel_part_and_none_of_the_rest(normal, shape, amount):
    direction, base = normal(*shape), normal(*shape)
    out = project(direction, base, amount)
    for before, after, along in zip(direction, out, base, strict=True):
        taken = before - after
        assert_close((after * along).sum(), (1 - amount) * (before * along).sum(), rtol=1e-10, atol=1e-10)
        # What is taken away is a multiple of the base.
        assert_close(taken, along * (taken * along).sum() / (along * along).sum(), rtol=1e-10, atol=1e-12)


def test_projection_of_what_only_raises_contrast_leaves_nothing(normal):
    base = normal(2, 3, 5, 4)
    assert_close(project(0.3 * base, base, 1.0), torch.zeros_like(base), rtol=0, atol=1e-12)


def test_a_prediction_of_zero_has_no_direction(normal):
    direction = normal(2, 3, 5, 4)
    assert torch.equal(project(direction, torch.zeros_like(direction), 1.0), direction)


# -- rescale ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("amount", "expected"), [(0.0, [2.0, 6.0]), (0.25, [1.75, 5.25]), (1.0, [1.0, 3.0])])
def test_rescale_by_hand(amount, expected):
    # Twice the spread of the reference: halved, the mean as well (arXiv 2305.08891, eq. 15).
    guided, reference = torch.tensor([[2.0, 6.0]]), torch.tensor([[10.0, 12.0]])
    assert_close(rescale(guided, reference, amount), torch.tensor([expected]))


@SHAPES
def test_rescaled_samples_have_the_spread_of_the_reference(normal, shape):
    spread = torch.tensor([0.2, 6.0]).view(-1, *[1] * (len(shape) - 1))
    guided, reference = 3 * normal(*shape) + 1, spread * normal(*shape)
    dims = tuple(range(1, len(shape)))
    assert_close(rescale(guided, reference, 1.0).std(dims), reference.std(dims), rtol=1e-10, atol=0)


@pytest.mark.parametrize("amount", [0.3, 1.0])
def test_rescale_to_its_own_spread_changes_nothing(normal, amount):
    x = normal(2, 3, 5, 4)
    assert_close(rescale(x, x.flip(-1), amount), x, rtol=1e-12, atol=1e-12)


def test_flat_predictions_are_not_divided_by_zero():
    flat = torch.full((1, 3, 4, 4), 0.5)
    assert rescale(flat, flat, 1.0).isfinite().all()
    assert rescale(flat, torch.rand(1, 3, 4, 4), 1.0).isfinite().all()


# -- divisions -------------------------------------------------------------------------------------------------------

# Predictions that are flat, nearly flat, tiny, huge, and of one value.
EXTREMES = {
    "zero": torch.zeros(2, 3, 4, 4), "flat": torch.full((2, 3, 4, 4), 5.0),
    "huge and flat": torch.full((2, 3, 4, 4), 1e30), "usual": torch.linspace(-1, 1, 96).view(2, 3, 4, 4),
    "tiny": torch.linspace(-1, 1, 96).view(2, 3, 4, 4) * 1e-30,
    "huge": torch.linspace(-1, 1, 96).view(2, 3, 4, 4) * 1e18,
    "flat but for rounding": torch.linspace(5, 5.000002, 96).view(2, 3, 4, 4),
}


@CORRECTIONS
@pytest.mark.parametrize("x", EXTREMES.values(), ids=EXTREMES)
@pytest.mark.parametrize("y", EXTREMES.values(), ids=EXTREMES)
def test_corrections_are_finite_whatever_they_are_given(correct, x, y):
    out = correct(x, y, 1.0)
    assert out.isfinite().all()
    if correct is rescale:  # what has no spread is not blown up to get some
        assert out.abs().max() <= 1.001e4 * max(x.abs().max(), y.abs().max())


@CORRECTIONS
def test_a_single_value_is_corrected_without_a_deviation(correct):
    assert correct(torch.full((2, 1, 1, 1), 3.0), torch.full((2, 1, 1, 1), 2.0), 1.0).isfinite().all()


def test_projection_of_tiny_and_huge_predictions_is_that_of_their_direction():
    direction = torch.tensor([[3.0, 4.0]])
    for length in (1e-30, 1e-22, 1e25, 1e30):
        assert_close(project(direction, torch.tensor([[length, 0.0]]), 1.0), torch.tensor([[0.0, 4.0]]))


# -- the range of images ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("own", "cfg", "direction", "expected"), [
    (0.2, 0.2, 0.3, 0.5),  # inside, nothing is clamped
    (0.2, 0.2, 2.0, 1.0), (0.2, 0.2, -2.0, -1.0),
    (3.0, 1.0, -0.5, 1.0), (3.0, 1.0, -2.5, 0.5), (-3.0, -1.0, 2.5, -0.5),  # clamped after guidance, not before
    (3.0, 1.0, 0.0, 1.0),
    (0.2, 0.5, 0.3, 0.8), (0.2, 0.5, 0.7, 1.0),  # with classifier-free guidance
    (3.0, 5.0, -0.5, 5.0), (3.0, 5.0, -2.5, 4.5), (0.2, 5.0, 0.3, 5.0), (0.2, -5.0, 0.3, -4.7),
])
@pytest.mark.parametrize("other", [0.0, 4.0, -0.25])
def test_guidance_is_clamped_by_hand(own, cfg, direction, expected, other):
    """Whatever other guidance has added before is in the result as it was."""
    own, cfg, direction = (torch.tensor([value], dtype=torch.float64) for value in (own, cfg, direction))
    base = cfg + other
    assert_close(clamp_guided(base, base + direction, own, cfg, (-1, 1)),
                 torch.tensor([expected + other], dtype=torch.float64))


def test_nothing_added_is_nothing_changed_and_images_stay_images(normal, dtype):
    own, direction = 3 * normal(2, 3, 8, 8, dtype=dtype), 3 * normal(2, 3, 8, 8, dtype=dtype)
    clean, cfg = own.clamp(-1, 1), 2 * normal(2, 3, 8, 8, dtype=dtype)
    for start in (clean, cfg):
        assert torch.equal(clamp_guided(start, start, own, start, (-1, 1)), start)
    out = clamp_guided(clean, clean + direction, own, clean, (-1, 1))
    assert out.dtype == dtype and out.abs().max() <= 1 and not torch.equal(out, clean)
