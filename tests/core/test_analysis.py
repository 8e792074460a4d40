"""What attention falls on, by hand: spectra of known waves, overlaps of masks that can be counted."""

from __future__ import annotations

import math

import pytest
import torch
from torch.testing import assert_close

from sag_core.analysis import LEVEL, detail_gain, frequency_profile, iou, log_spectra, on_grid, overlap

EVERYWHERE = torch.ones(1, 1, 1)


def wave(cycles, size=8, amplitude=0.25):
    """A horizontal cosine around grey [1, 1, size, size], with so many cycles over the image."""
    row = 0.5 + amplitude * torch.cos(2 * math.pi * cycles * torch.arange(size, dtype=torch.float64) / size)
    return row.expand(1, 1, size, size)


def test_spectrum_of_a_wave_by_hand():
    spectra = log_spectra(wave(2), (1, 1))
    assert spectra.shape == (1, 1, 1, 8, 8) and spectra.dtype == torch.float64
    expected = torch.full((8, 8), LEVEL, dtype=torch.float64)
    expected[0, 0] += 0.5 * 8  # the mean, by the orthonormal transform's sqrt(8 * 8)
    expected[0, 2] += 0.25 / 2 * 8
    expected[0, 6] += 0.25 / 2 * 8
    assert_close(spectra[0, 0, 0], expected.log())


@pytest.mark.parametrize("cycles", [1, 2, 3, 4])
def test_profile_peaks_at_the_waves_frequency(cycles):
    profile = frequency_profile(log_spectra(wave(cycles), (1, 1)), EVERYWHERE)
    assert profile.frequency[0] == 0 and (profile.frequency.diff() > 0).all()
    assert profile.frequency[profile.magnitude[1:].argmax() + 1].item() == pytest.approx(cycles / 8, abs=0.05)


def test_profile_of_a_two_by_two_patch_by_hand():
    """Frequencies 0; 1/2 twice and sqrt(1/2) once, which share a bin."""
    spectra = torch.tensor([[1.0, 2.0], [4.0, 9.0]]).view(1, 1, 1, 2, 2)
    profile = frequency_profile(spectra, EVERYWHERE)
    assert_close(profile.magnitude, torch.tensor([1.0, 5.0], dtype=torch.float64))
    assert_close(profile.frequency, torch.tensor([0.0, (1 + math.sqrt(0.5)) / 3], dtype=torch.float64))
    assert (profile.mean, profile.patches) == (5.0, 1)


def test_profile_is_of_the_chosen_patches_alone():
    spectra = torch.arange(2 * 1 * 2 * 4.0).view(2, 1, 2, 2, 2)
    chosen = torch.tensor([[[1, 0]], [[0, 1]]])
    profile = frequency_profile(spectra, chosen)
    assert profile.patches == 2
    # Patches 0..3 and 12..15, without their first values: 1, 2, 3 and 13, 14, 15.
    assert profile.mean == 8.0


def test_brightness_and_flat_patches_are_no_detail():
    image = torch.cat([torch.zeros(1, 1, 4, 4), torch.ones(1, 1, 4, 4)], dim=3)
    left, right = log_spectra(image, (1, 2))[0, 0]
    assert right[0, 0] > left[0, 0]
    assert_close(left.flatten()[1:], right.flatten()[1:])
    assert_close(left.flatten()[1:], torch.full((15,), math.log(LEVEL)))


def test_white_noise_is_as_strong_in_patches_of_every_size(normal):
    noise = normal(1, 1, 256, 256)
    means = [frequency_profile(log_spectra(noise, (n, n)), torch.ones(1, n, n)).mean for n in (8, 16, 64)]
    # Without the factor of an orthonormal transform they would be log(8) apart.
    assert means == pytest.approx([means[0]] * 3, abs=0.1)


def test_channels_are_averaged():
    both = torch.cat([wave(1), wave(3)], dim=1)
    assert_close(log_spectra(both, (1, 1)), (log_spectra(wave(1), (1, 1)) + log_spectra(wave(3), (1, 1))) / 2)


def test_patches_lie_where_their_tokens_do():
    image = torch.zeros(1, 3, 6, 8)
    image[..., 2:4, 4:6] = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    detail = log_spectra(image, (3, 4)).mean(dim=(-1, -2))[0]
    assert detail.argmax() == 1 * 4 + 2 and (detail == detail.min()).sum() == 11


def test_last_patch_may_hang_over_the_edge():
    assert log_spectra(torch.rand(2, 3, 15, 8), (8, 4)).shape == (2, 8, 4, 2, 2)


@pytest.mark.parametrize(("size", "grid"), [((8, 8), (8, 8)), ((8, 8), (5, 4)), ((8, 4), (4, 4)), ((6, 6), (12, 12))])
def test_grid_that_does_not_fit_the_image_is_refused_by_name(size, grid):
    with pytest.raises(ValueError, match=f"{size[0]} x {size[1]} pixels cannot be cut into {grid[0]} x {grid[1]}"):
        log_spectra(torch.rand(1, 3, *size), grid)


def test_half_precision_is_measured_in_float32():
    image = torch.rand(1, 3, 8, 8)
    spectra = log_spectra(image.half(), (2, 2))
    assert spectra.dtype == torch.float32
    assert_close(spectra, log_spectra(image.half().float(), (2, 2)))


def test_no_patch_is_refused():
    with pytest.raises(ValueError, match="no patch is chosen"):
        frequency_profile(torch.zeros(1, 1, 1, 2, 2), torch.zeros(1, 1, 1))


def test_detail_gain_of_each_image_by_hand():
    """Detail of the patches 1 and 3 in the first image, 2 and 2 in the second; brightness is 9 everywhere."""
    detail = torch.tensor([[1.0, 3.0], [2.0, 2.0], [5.0, 7.0]])
    spectra = detail.view(3, 1, 2, 1, 1).expand(3, 1, 2, 2, 2).clone()
    spectra[..., 0, 0] = 9
    gain = detail_gain(spectra, torch.tensor([[[0.0, 1.0]], [[1.0, 0.0]], [[0.0, 0.0]]]))
    assert gain[:2].tolist() == [1.0, 0.0] and gain[2].isnan()


# -- overlap ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("a", "b", "expected"), [
    ([1, 1, 0, 0], [1, 1, 0, 0], 1.0), ([1, 1, 0, 0], [0, 0, 1, 1], 0.0), ([1, 1, 0, 0], [0, 1, 1, 0], 1 / 3),
    ([1, 1, 1, 1], [1, 0, 0, 0], 1 / 4), ([0, 0, 0, 0], [1, 0, 0, 0], 0.0), ([0, 0, 0, 0], [0, 0, 0, 0], 0.0),
])
def test_iou_by_hand(a, b, expected):
    a, b = (torch.tensor(mask).view(1, 2, 2) for mask in (a, b))
    assert iou(a, b).item() == iou(b, a).item() == pytest.approx(expected)


def test_iou_of_each_image_by_itself():
    a = torch.tensor([[[1, 0]], [[1, 1]]])
    b = torch.tensor([[[1, 0]], [[1, 0]]])
    assert iou(a, b).tolist() == [1.0, 0.5]


@pytest.mark.parametrize(("pixels", "expected"), [
    ([[1, 1, 0, 0], [1, 1, 0, 0]], [1, 0]), ([[1, 0, 0, 0], [1, 0, 0, 1]], [1, 0]),
    ([[0, 1, 0, 1], [0, 0, 1, 1]], [0, 1]),
    ([[0.5] * 4] * 2, [1, 1]), ([[0.49] * 4] * 2, [0, 0]),
])
def test_a_token_is_inside_where_half_of_its_pixels_are(pixels, expected):
    assert on_grid(torch.tensor([pixels]).float(), (1, 2))[0, 0].tolist() == expected


def test_a_mask_smaller_than_the_grid_is_enlarged():
    small = torch.tensor([[[1.0, 0.0]]])
    assert on_grid(small, (2, 4))[0].tolist() == [[1, 1, 0, 0]] * 2


def test_a_mask_of_any_size_keeps_its_share_of_the_grid():
    for height, width in ((50, 70), (64, 64), (333, 80)):
        mask = torch.zeros(1, height, width)
        mask[:, :, :width // 2] = 1
        assert on_grid(mask, (8, 8)).mean() == pytest.approx(0.5, abs=1 / 8)


def expected_iou(attended, inside, tokens):
    """Mean over all masks of that area, by the hypergeometric distribution."""
    ways = {k: math.comb(inside, k) * math.comb(tokens - inside, attended - k)
            for k in range(max(0, attended + inside - tokens), min(attended, inside) + 1)}
    return sum(w * k / (attended + inside - k) for k, w in ways.items()) / math.comb(tokens, attended)


@pytest.mark.parametrize(("attended", "inside"), [(1, 1), (2, 2), (3, 5), (8, 4)])
def test_baseline_is_the_mean_over_all_masks_of_the_area(attended, inside):
    mask, objects = torch.zeros(1, 16), torch.zeros(1, 16)
    mask[:, :attended], objects[:, :inside] = 1, 1
    found = overlap(mask.view(1, 4, 4), objects.view(1, 4, 4), draws=2000, seed=0)
    error = found.spread / math.sqrt(2000)
    assert found.baseline == pytest.approx(expected_iou(attended, inside, 16), abs=4 * error)
    assert found.area.item() == attended / 16
    assert found.iou.item() == pytest.approx(min(attended, inside) / max(attended, inside))
    assert found.gain == pytest.approx(found.iou.item() / found.baseline - 1)


def test_a_mask_of_everything_is_no_better_than_its_baseline():
    objects = torch.zeros(2, 4, 4)
    objects[:, :2] = 1
    found = overlap(torch.ones(2, 4, 4), objects, draws=3, seed=0)
    assert found.iou.tolist() == [0.5, 0.5] and (found.baseline, found.spread, found.gain) == (0.5, 0, 0)


def test_baseline_is_that_of_the_seed():
    mask, objects = torch.zeros(2, 8, 8), torch.zeros(2, 8, 8)
    mask[:, :3], objects[:, 2:6] = 1, 1
    one, again, other = (overlap(mask, objects, draws=5, seed=seed).random for seed in (1, 1, 2))
    assert torch.equal(one, again) and not torch.equal(one, other)
    assert len({tuple(draw.tolist()) for draw in one}) > 1


def test_gain_over_nothing_is_nan():
    empty = torch.zeros(1, 2, 2)
    found = overlap(empty, torch.ones(1, 2, 2), draws=2, seed=0)
    assert (found.iou.item(), found.baseline) == (0, 0) and math.isnan(found.gain)


@pytest.mark.parametrize("draws", [0, -1])
def test_no_draws_are_refused_by_name(draws):
    with pytest.raises(ValueError, match=f"draws is {draws}"):
        overlap(torch.ones(1, 2, 2), torch.ones(1, 2, 2), draws, seed=0)
