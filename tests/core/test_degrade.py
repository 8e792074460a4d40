"""Blur, blend and re-noise, against sums written out over every tap."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from sag_core.degrade import Process, degrade, gaussian_blur, renoise

QUARTER = math.sqrt(0.5 / math.log(2))  # taps 1/4, 1/2, 1/4 at kernel 3


def reflected(i, side):
    """The pixel that position `i` shows, bouncing between the centres of the outermost pixels."""
    while side > 1 and not 0 <= i < side:
        i = -i if i < 0 else 2 * (side - 1) - i
    return i if side > 1 else 0


def blurred(x, blur_sigma, kernel):
    """Double sum over the taps of a 2-D Gaussian, float64."""
    x = x.double().numpy()
    height, width = x.shape[-2:]
    offsets = range(-(kernel // 2), kernel // 2 + 1)
    weight = {(i, j): math.exp(-(i * i + j * j) / (2 * blur_sigma ** 2)) for i in offsets for j in offsets}
    out = np.zeros_like(x)
    for (i, j), w in weight.items():
        rows = [reflected(y + i, height) for y in range(height)]
        columns = [reflected(z + j, width) for z in range(width)]
        out += w * x[..., rows, :][..., columns]
    return torch.from_numpy(out / sum(weight.values()))


def test_line_by_hand():
    # The last pixel sees its left neighbour twice: reflection does not repeat the edge.
    line = torch.tensor([[0.0, 0.0, 4.0, 0.0]])
    assert_close(gaussian_blur(line, QUARTER, 3), torch.tensor([[0.0, 1.0, 2.0, 2.0]]))
    assert_close(gaussian_blur(line.T, QUARTER, 3), torch.tensor([[0.0, 1.0, 2.0, 2.0]]).T)


@pytest.mark.parametrize(("size", "blur_sigma", "kernel"), [
    ((7, 5), 0.8, 3), ((7, 5), 2.0, 5), ((16, 12), 3.0, 31), ((6, 9), 9.0, 31), ((2, 3), 1.0, 11), ((1, 4), 1.5, 9),
    ((1, 1), 2.0, 17), ((3, 2), 5.0, 41), ((5, 5), 1.0, 1), ((4, 4), 0.01, 5),
], ids=str)
def test_equals_the_double_sum_even_where_the_kernel_is_wider_than_the_image(normal, size, blur_sigma, kernel):
    x = normal(2, 3, *size)
    assert_close(gaussian_blur(x, blur_sigma, kernel), blurred(x, blur_sigma, kernel), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("blur_sigma", "kernel"), [(0.1, 3), (0.5, 5), (0.51, 7), (2.0, 17), (2.5, 21), (9.0, 73)])
def test_automatic_kernel_reaches_four_sigma(normal, blur_sigma, kernel):
    x = normal(1, 1, 9, 8)
    assert_close(gaussian_blur(x, blur_sigma), blurred(x, blur_sigma, kernel), rtol=1e-12, atol=1e-12)


def test_blur_keeps_the_dtype(normal, dtype, tolerance):
    x = normal(2, 3, 9, 6, dtype=dtype)
    out = gaussian_blur(x, 1.5)
    assert out.dtype == dtype
    assert_close(out.double(), blurred(x, 1.5, 13), **tolerance)


@pytest.mark.parametrize("kernel", [0, 31])
def test_blur_of_sigma_zero_is_the_identity_bit_for_bit(normal, dtype, kernel):
    x = normal(2, 3, 5, 4, dtype=dtype)
    assert torch.equal(gaussian_blur(x, 0, kernel), x)


def test_blur_leaves_a_constant_as_it_is():
    x = torch.full((1, 2, 6, 9), 0.7, dtype=torch.float64)
    assert_close(gaussian_blur(x, 3.0, 31), x)


def test_blur_does_not_mix_samples_channels_or_frames(normal):
    x = normal(2, 3, 4, 6, 5)
    out = gaussian_blur(x, 1.2)
    for index in np.ndindex(2, 3, 4):
        assert_close(out[index], blurred(x[index], 1.2, 11), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("blur_sigma", "kernel", "named"), [
    (-1.0, 0, "blur_sigma is -1.0"), (math.nan, 0, "blur_sigma is nan"), (math.inf, 0, "blur_sigma is inf"),
    (1.0, 2, "blur_kernel is 2"), (1.0, -3, "blur_kernel is -3"), (0.0, 30, "blur_kernel is 30"),
])
def test_blur_refuses_by_name(blur_sigma, kernel, named):
    with pytest.raises(ValueError, match=named):
        gaussian_blur(torch.ones(1, 1, 4, 4), blur_sigma, kernel)


SHAPES = [(2, 3, 6, 5), (2, 3, 4, 6, 5)]


@pytest.mark.parametrize("shape", SHAPES, ids=["image", "video"])
def test_nothing_is_degraded_where_the_mask_is_zero_and_all_is_blurred_where_it_is_one(normal, shape, dtype):
    x = normal(*shape, dtype=dtype)
    mask = (normal(shape[0], 1, *shape[2:]) > 0).to(torch.float32)
    out = degrade(x, mask, 1.0)
    assert out.dtype == dtype
    assert torch.equal(out, torch.where(mask.bool(), gaussian_blur(x, 1.0), x))
    assert torch.equal(degrade(x, torch.zeros_like(mask), 1.0), x)
    assert torch.equal(degrade(x, torch.ones_like(mask), 1.0), gaussian_blur(x, 1.0))


def test_soft_mask_blends_linearly(normal):
    x, mask = normal(1, 2, 5, 4), torch.full((1, 1, 5, 4), 0.25)
    assert_close(degrade(x, mask, 1.0, 5), 0.25 * blurred(x, 1.0, 5) + 0.75 * x, rtol=1e-12, atol=1e-12)


# sigma -> (factor of x0, factor of n), by hand
SIGNAL_AND_NOISE = [
    (Process.VARIANCE_EXPLODING, 3.0, 1.0, 3.0),
    (Process.VARIANCE_EXPLODING, 0.0, 1.0, 0.0),
    (Process.FLOW_MATCHING, 0.25, 0.75, 0.25),
    (Process.FLOW_MATCHING, 1.0, 0.0, 1.0),
    (Process.VARIANCE_PRESERVING, 0.75, 0.8, 0.6),
    (Process.VARIANCE_PRESERVING, 0.0, 1.0, 0.0),
]


@pytest.mark.parametrize(("process", "sigma", "signal", "noise"), SIGNAL_AND_NOISE)
@pytest.mark.parametrize("shape", SHAPES, ids=["image", "video"])
def test_renoising_exchanges_the_signal_and_keeps_the_noise(normal, shape, process, sigma, signal, noise):
    x0, x0_deg, n = normal(*shape), normal(*shape), normal(*shape)
    out = renoise(signal * x0 + noise * n, x0, x0_deg, torch.tensor(sigma), process)
    assert_close(out, signal * x0_deg + noise * n, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("shape", SHAPES, ids=["image", "video"])
@pytest.mark.parametrize("process", Process)
def test_every_sample_has_its_own_noise_level(normal, process, shape):
    x, x0, x0_deg = normal(*shape), normal(*shape), normal(*shape)
    sigma = torch.tensor([0.9, 0.2], dtype=torch.float64)
    rows = [renoise(x[i:i + 1], x0[i:i + 1], x0_deg[i:i + 1], sigma[i], process) for i in range(2)]
    assert_close(renoise(x, x0, x0_deg, sigma, process), torch.cat(rows))


@pytest.mark.parametrize("process", Process)
def test_undegraded_sample_is_renoised_to_itself_bit_for_bit(normal, process, dtype):
    x, x0 = normal(2, 3, 4, 5, dtype=dtype), normal(2, 3, 4, 5, dtype=dtype)
    out = renoise(x, x0, x0, torch.tensor(0.7), process)
    assert out.dtype == dtype and torch.equal(out, x)


@pytest.mark.parametrize(("process", "sigma", "signal"), [
    (Process.FLOW_MATCHING, 0.9995, 0.0005),
    (Process.VARIANCE_PRESERVING, 300.0, 1 / 300),
])
@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16], ids=str)
def test_noise_level_is_not_rounded_to_a_half_precision_sample(process, sigma, signal, half):
    zero, one = torch.zeros(1, 1, 1, 1, dtype=half), torch.ones(1, 1, 1, 1, dtype=half)
    out = renoise(zero, zero, one, torch.tensor([sigma]), process)
    assert out.item() == pytest.approx(signal, rel=1e-2)
