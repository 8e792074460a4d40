"""Pictures: an honest colour ramp, and layouts by hand."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from sag_core.render import colour, contact_sheet, heatmap, normalise, overlay, resize


def lightness(rgb):
    """CIE L* of sRGB colours [..., 3] in 0..1."""
    linear = torch.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    y = linear @ torch.tensor([0.2126, 0.7152, 0.0722], dtype=rgb.dtype)
    return torch.where(y > (6 / 29) ** 3, 116 * y ** (1 / 3) - 16, (29 / 3) ** 3 * y)


def test_ramp_rises_in_lightness_all_the_way():
    ramp = lightness(colour(torch.linspace(0, 1, 256, dtype=torch.float64).view(1, 1, 1, 256)))[0, 0]
    assert (ramp.diff() > 0).all()
    assert ramp[0] < 5 and ramp[-1] > 95
    # Evenly, or equal steps of attention would not look equal.
    assert ramp.diff().max() < 2.5 * ramp.diff().mean()


def test_colours_between_two_anchors_are_mixed_linearly():
    ends = colour(torch.tensor([0.0, 1 / 8, 1 / 16, 1.0]).view(1, 1, 1, 4))[0, 0]
    assert_close(ends[2], (ends[0] + ends[1]) / 2)
    assert ends[3].tolist() == pytest.approx([0.99, 1.0, 0.75])


def test_values_out_of_range_take_the_colours_at_the_ends():
    inside = colour(torch.tensor([0.0, 1.0]).view(1, 1, 1, 2))
    assert torch.equal(colour(torch.tensor([-3.0, 7.0]).view(1, 1, 1, 2)), inside)


def test_normalise_by_hand_and_each_sample_by_itself():
    attn_map = torch.tensor([[[[2.0, 4.0], [6.0, 3.0]]], [[[-1.0, 0.0], [0.0, 0.0]]]])
    expected = torch.tensor([[[[0.0, 0.5], [1.0, 0.25]]], [[[0.0, 1.0], [1.0, 1.0]]]])
    assert torch.equal(normalise(attn_map), expected)


@pytest.mark.parametrize("value", [0.0, 1.0, -5.0, 1e4])
def test_flat_map_is_dark_and_not_nan(value, dtype):
    flat = torch.full((2, 1, 3, 4), value, dtype=dtype)
    assert torch.equal(heatmap(flat), colour(torch.zeros_like(flat)))


def test_heatmap_shape_dtype_and_range(normal, dtype):
    picture = heatmap(normal(2, 1, 3, 4, dtype=dtype))
    assert picture.shape == (2, 3, 4, 3) and picture.dtype == dtype
    assert picture.min() >= 0 and picture.max() <= 1


@pytest.fixture
def image(normal):
    return normal(2, 3, 4, 3, dtype=torch.float32).sigmoid()


def test_overlay_leaves_grey_where_the_mask_is_zero(normal, image):
    grey = image.mean(-1, keepdim=True).expand_as(image)
    mask = torch.zeros(2, 1, 3, 4)
    assert_close(overlay(grey, normal(2, 1, 3, 4), mask), grey)
    # A fifth of the colour stays, and brightness all of it; the map does not show.
    faded = overlay(image, normal(2, 1, 3, 4), mask)
    assert_close(faded - grey, (image - grey) / 5)
    assert torch.equal(faded, overlay(image, normal(2, 1, 3, 4), mask, opacity=1.0))


def test_overlay_shows_the_heat_map_where_the_mask_is_one(normal, image):
    attn_map, mask = normal(2, 1, 3, 4, dtype=torch.float32), torch.ones(2, 1, 3, 4)
    assert torch.equal(overlay(image, attn_map, mask, opacity=1.0), heatmap(attn_map))
    below = overlay(image, attn_map, torch.zeros_like(mask))
    assert_close(overlay(image, attn_map, mask), 0.4 * below + 0.6 * heatmap(attn_map))


def test_overlay_follows_the_mask_pixel_by_pixel(normal, image):
    attn_map, mask = normal(2, 1, 3, 4), (normal(2, 1, 3, 4) > 0).float()
    both = [overlay(image, attn_map, torch.full_like(mask, value)) for value in (0, 1)]
    assert torch.equal(overlay(image, attn_map, mask), torch.where(mask.bool()[:, 0, ..., None], both[1], both[0]))


def test_one_map_serves_all_images(normal, image):
    attn_map, mask = normal(1, 1, 3, 4), (normal(1, 1, 3, 4) > 0).float()
    every = overlay(image, attn_map.expand(2, -1, -1, -1), mask.expand(2, -1, -1, -1))
    assert torch.equal(overlay(image, attn_map, mask), every)


def test_resize_shows_tokens_as_blocks():
    values = torch.tensor([[1.0, 2.0], [3.0, 4.0]])[None, None]
    assert resize(values, (2, 6))[0, 0].tolist() == [[1, 1, 1, 2, 2, 2], [3, 3, 3, 4, 4, 4]]
    # Five pixels for two tokens: the middle one is halfway and goes right.
    assert resize(values, (2, 5))[0, 0, 0].tolist() == [1, 1, 2, 2, 2]


@pytest.mark.parametrize(("count", "columns", "gap", "rows"), [
    (3, 2, 1, [[1, 1, 0, 2, 2], [0, 0, 0, 0, 0], [3, 3, 0, 0, 0]]),
    (3, 2, 0, [[1, 1, 2, 2], [3, 3, 0, 0]]),
    (4, 2, 2, [[1, 1, 0, 0, 2, 2], [0] * 6, [0] * 6, [3, 3, 0, 0, 4, 4]]),
    (2, 5, 1, [[1, 1, 0, 2, 2]]),
    (2, 1, 1, [[1, 1], [0, 0], [2, 2]]),
    (1, 1, 3, [[1, 1]]),
])
def test_contact_sheet_by_hand(count, columns, gap, rows):
    images = torch.arange(1.0, count + 1).view(-1, 1, 1, 1).expand(-1, 1, 2, 3)
    sheet = contact_sheet(images, columns, gap)
    assert torch.equal(sheet, torch.tensor(rows).float()[None, :, :, None].expand(-1, -1, -1, 3))


@pytest.mark.parametrize(("count", "columns"), [(0, 3), (2, 0), (2, -1)])
def test_sheet_of_nothing_is_refused_by_name(count, columns):
    with pytest.raises(ValueError, match=f"there are {count} and {columns}"):
        contact_sheet(torch.ones(count, 2, 2, 3), columns)
