"""From map to mask: thresholding, placing tokens on pixels, fusing layers, filling grids."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from sag_core.masks import attention_mask, fuse, place, to_grid


def test_mask_by_hand():
    attn_map = torch.tensor([[[0.5, 1.0], [1.5, 1.0]]])
    expected = torch.tensor([[0, 0, 0, 0], [0, 0, 0, 0], [1, 1, 0, 0], [1, 1, 0, 0]]).float()
    assert torch.equal(attention_mask(attn_map, 1.0, (4, 4)), expected[None, None])


def test_attention_equal_to_the_threshold_is_not_masked(dtype):
    attn_map = torch.tensor([[[1.25, 1.5]]], dtype=dtype)
    mask = attention_mask(attn_map, 1.25, (1, 2))
    assert mask.dtype == dtype
    assert mask.tolist() == [[[[0, 1]]]]


# tokens, pixels, the token that each pixel belongs to
PATCHES = {
    "one to one": (3, 3, [0, 1, 2]),
    "patch 2": (2, 4, [0, 0, 1, 1]),
    "patch 2 over the edge": (3, 5, [0, 0, 1, 1, 2]),
    "patch 4 over the edge": (3, 9, [0, 0, 0, 0, 1, 1, 1, 1, 2]),
    "patch 8": (2, 16, [0] * 8 + [1] * 8),
    "patch 8 over the edge by 7": (9, 65, [i // 8 for i in range(65)]),
    "patch 8 over the edge by 1": (9, 71, [i // 8 for i in range(71)]),
    "patch 64": (1, 33, [0] * 33),
}
# No power of two makes these grids: stretched, pixel i takes token floor(i * tokens / pixels).
STRETCHES = {
    "thirds": (4, 12, [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]),
    "seven on ten": (7, 10, [0, 0, 1, 2, 2, 3, 4, 4, 5, 6]),
    "more tokens than pixels": (4, 2, [0, 2]),
}


@pytest.mark.parametrize(("tokens", "pixels", "owner"), [*PATCHES.values(), *STRETCHES.values()],
                         ids=[*PATCHES, *STRETCHES])
def test_every_pixel_takes_the_value_of_its_token(normal, tokens, pixels, owner, dtype):
    attn_map = normal(2, tokens, tokens, dtype=dtype)
    placed = place(attn_map, (pixels, pixels))
    assert placed.dtype == dtype
    assert torch.equal(placed, attn_map[:, owner][:, :, owner][:, None])


@pytest.mark.parametrize(("grid", "size"), [
    ((2, 3), (16, 24)), ((8, 5), (8, 5)), ((3, 5), (6, 40)), ((4, 6), (12, 18)), ((2, 3, 4), (2, 12, 16)),
], ids=str)
def test_equals_nearest_neighbour_where_the_sizes_divide(normal, grid, size):
    attn_map = normal(2, *grid)
    assert torch.equal(place(attn_map, size), F.interpolate(attn_map[:, None], size=size, mode="nearest"))


@pytest.mark.parametrize(("grid", "size", "owners"), [
    ((2, 3, 2), (4, 5, 2), ([0, 0, 1, 1], [0, 0, 1, 1, 2], [0, 1])),
    ((1, 2, 3), (3, 2, 9), ([0, 0, 0], [0, 1], [0, 0, 0, 0, 1, 1, 1, 1, 2])),
], ids=str)
def test_video_maps_are_placed_in_time_as_well(normal, grid, size, owners):
    attn_map = normal(2, *grid)
    t, h, w = owners
    expected = attn_map[:, t][:, :, h][:, :, :, w][:, None]
    assert torch.equal(place(attn_map, size), expected)


@pytest.mark.parametrize("size", [(5, 7), (10, 14), (9, 13), (33, 55), (8, 11), (4, 3)], ids=str)
def test_thresholding_commutes_with_placing(normal, size, dtype):
    attn_map = (1 + normal(2, 5, 7)).to(dtype)
    threshold = float(attn_map[0, 2, 3])
    expected = (place(attn_map, size) > threshold).to(dtype)
    assert torch.equal(attention_mask(attn_map, threshold, size), expected)


def test_stretching_does_not_round_float64_maps():
    attn_map = torch.tensor([[[1.0, 1 + 1e-12, 1.0, 1.0]]], dtype=torch.float64)
    assert (place(attn_map, (1, 6)) > 1).sum() == (attention_mask(attn_map, 1.0, (1, 6)) > 0).sum() == 1


def test_batch_rows_are_independent(normal):
    attn_map = normal(3, 4, 6)
    rows = torch.cat([attention_mask(attn_map[i:i + 1], 0.5, (9, 12)) for i in range(3)])
    assert torch.equal(attention_mask(attn_map, 0.5, (9, 12)), rows)


@pytest.mark.parametrize(("shape", "size"), [((1, 4, 4), (2, 8, 8)), ((1, 2, 4, 4), (8, 8)), ((16,), (4, 4))], ids=str)
def test_map_of_other_dimensions_than_the_sample_is_refused_by_name(shape, size):
    with pytest.raises(ValueError) as error:
        place(torch.ones(shape), size)
    assert str(shape) in str(error.value) and str(size) in str(error.value)


def test_fuse_averages_on_the_finest_grid_by_hand():
    coarse = torch.tensor([[[1.0, 3.0]]])
    fine = torch.tensor([[[0.0, 1.0, 2.0, 3.0], [4.0, 5.0, 6.0, 7.0]]])
    expected = torch.tensor([[[0.5, 1.0, 2.5, 3.0], [2.5, 3.0, 4.5, 5.0]]])
    assert torch.equal(fuse([coarse, fine]), expected)
    assert torch.equal(fuse([fine, coarse]), expected)


def test_fuse_of_one_map_is_that_map(normal):
    attn_map = normal(2, 3, 5)
    assert torch.equal(fuse([attn_map]), attn_map)


def test_fuse_of_three_layers_weighs_them_equally(normal):
    maps = [normal(2, 3, 5) for _ in range(3)]
    assert_close(fuse(maps), (maps[0] + maps[1] + maps[2]) / 3)


def test_grid_is_filled_row_by_row_and_scaled_to_mean_one():
    mass = torch.tensor([[1.0, 2, 3, 4, 5, 9], [6.0, 6, 6, 6, 6, 6]])
    assert torch.equal(to_grid(mass, (2, 3)), torch.tensor([[[0.25, 0.5, 0.75], [1, 1.25, 2.25]], [[1.0] * 3] * 2]))


def test_video_grid_is_filled_frame_by_frame():
    mass = torch.arange(24.0)[None]
    assert_close(to_grid(mass, (2, 3, 4)) * 11.5, mass.view(1, 2, 3, 4))


@pytest.mark.parametrize("grid", [(2, 3), (7, 1), (2, 2, 2), ()], ids=str)
def test_tokens_that_do_not_fill_the_grid_are_refused_by_name(grid):
    with pytest.raises(ValueError) as error:
        to_grid(torch.ones(1, 5), grid)
    assert "5 tokens" in str(error.value) and str(grid) in str(error.value)


def test_a_mass_of_nothing_is_a_map_of_nothing_and_what_is_not_finite_stays_so():
    """A mask may hide every token of an image."""
    assert torch.equal(to_grid(torch.zeros(2, 6), (2, 3)), torch.zeros(2, 2, 3))
    mass = torch.ones(2, 6)
    mass[1, 2] = torch.nan
    found = to_grid(mass, (2, 3))
    assert torch.equal(found[0], torch.ones(2, 3)) and not found[1].isfinite().any()
