"""Analyses of real runs of the embedded model: numbers that can be computed again, pictures that can be read."""

from __future__ import annotations

import re

import folder_paths
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

import nodes
from tests.host import models
from tests.host.embedded import recorded
from tests.host.graph import call, only, record, sample


@pytest.fixture(scope="module")
def one():
    """Two images, three steps, attention on a grid of 16 x 16."""
    with torch.inference_mode():
        return recorded()


def attended(one, threshold, step=-1):
    """Tokens above the threshold, restated: [B, 16, 16]."""
    steps = only(one.trace).steps
    maps = [s.attn_map for s in steps] if step == -1 else [steps[step].attn_map]
    return sum(maps) / len(maps) > threshold


# -- frequency -------------------------------------------------------------------------------------------------------


def frequency(one, thresholds="1.0, 1.3", **inputs):
    return call("SAGFrequencyAnalysis", **{**one.run, "image": one.image, "thresholds": thresholds, **inputs})


@pytest.mark.parametrize("step", [-1, 1])
def test_frequency_gain_is_that_of_the_patches(one, step):
    """Restated patch by patch: 2 x 2 pixels, three channels."""
    _, text, gain = frequency(one, "1.1", step=step)
    chosen, total = [], []
    for image, inside in zip(one.image, attended(one, 1.1, step), strict=True):
        for row in range(16):
            for column in range(16):
                patch = image[2 * row:2 * row + 2, 2 * column:2 * column + 2].double()
                size = (torch.fft.fft2(patch, dim=(0, 1)).abs() / 2 + 1 / 255).log().mean(dim=2).flatten()[1:].mean()
                total.append(size)
                if inside[row, column]:
                    chosen.append(size)
    expected = (sum(chosen) / len(chosen) - sum(total) / len(total)).item()
    assert gain == pytest.approx(expected, abs=1e-4)
    assert f"{len(chosen)} patches" in text and f"{gain:+.3f}" in text


def test_gain_is_that_of_the_first_threshold_and_text_tells_all(one):
    first, second = (frequency(one, threshold)[2] for threshold in ("1", "1.3"))
    _, text, gain = frequency(one, "1.0, 1.3")
    assert gain == first
    assert f"{first:+.3f}" in text and f"{second:+.3f}" in text and "mean of 3 steps" in text and "16 x 16" in text


def test_plot_has_a_curve_for_every_threshold(one):
    colours = (0, 0, 0), (0, 114, 178), (213, 94, 0), (0, 158, 115)
    for thresholds, drawn in (("1", 2), ("1, 1.3", 3), ("0.9, 1, 1.3", 4)):
        plot, _, _ = frequency(one, thresholds)
        assert plot.shape[0] == 1 and plot.shape[2] > 800 and plot.dtype == torch.float32
        pixels = plot[0].mul(255).round().to(torch.uint8)
        seen = [(pixels == torch.tensor(colour, dtype=torch.uint8)).all(-1).any().item() for colour in colours]
        assert seen == [True] * drawn + [False] * (4 - drawn)


def test_the_coarse_layer_has_larger_patches():
    one = recorded(images=1, steps=1, layer="middle.0")
    assert "patches of 8 x 8" in frequency(one, "1")[1]


@pytest.mark.parametrize(("inputs", "message"), [
    ({"thresholds": ""}, "thresholds holds 0 numbers"), ({"thresholds": "1, psi"}, "thresholds holds 'psi'"),
    ({"thresholds": "-1"}, "thresholds holds -1"), ({"thresholds": "nan"}, "must be finite"),
    ({"thresholds": "1,1,1,1,1,1,1"}, "holds 7 numbers"),
    ({"thresholds": "1, 250"}, r"threshold is 250; no attention is above it, the highest is \d"),
    ({"step": 3}, "step is 3; this run has steps 0 to 2"),
    ({"image": torch.rand(3, 32, 32, 3)}, "there are 3 images; this run has 2"),
    ({"image": torch.rand(2, 16, 16, 3)}, "16 x 16 pixels cannot be cut into 16 x 16 patches"),
])
def test_what_cannot_be_analysed_is_refused_by_name(one, inputs, message):
    with pytest.raises(ValueError, match=message):
        frequency(one, **{"thresholds": "1", **inputs})


# -- overlap ---------------------------------------------------------------------------------------------------------


def overlap(one, mask, thresholds="1.0", **inputs):
    return call("SAGMaskOverlap", **one.run, mask=mask, thresholds=thresholds, **inputs)


def enlarged(tokens, factor=4):
    return tokens.float().repeat_interleave(factor, -1).repeat_interleave(factor, -2)


def test_iou_with_itself_is_1_and_with_its_inverse_0(one):
    inside = attended(one, 1.0)
    assert overlap(one, enlarged(inside))[2] == 1
    assert overlap(one, enlarged(~inside))[2] == 0


@pytest.mark.parametrize("step", [-1, 0])
def test_iou_with_a_half_can_be_counted(one, step):
    mask = torch.zeros(1, 40, 60)
    mask[:, :20] = 1
    _, text, iou, baseline = overlap(one, mask, step=step)
    inside = attended(one, 1.0, step)
    upper = torch.zeros_like(inside)
    upper[:, :8] = True
    expected = ((inside & upper).sum((1, 2)) / (inside | upper).sum((1, 2))).mean().item()
    assert iou == pytest.approx(expected) and f"IoU {expected:.3f}" in text
    # Random masks cover half the object with half their area; an IoU of means is close to the mean IoU.
    area = inside.float().mean((1, 2))
    assert baseline == pytest.approx((area / 2 / (area / 2 + 0.5)).mean().item(), abs=0.02)


def test_baseline_is_the_seeds_and_the_first_thresholds(one):
    mask = torch.zeros(2, 32, 32)
    mask[:, 8:24, 8:24] = 1
    first = overlap(one, mask, "1.0", draws=5, seed=1)
    both = overlap(one, mask, "1.0, 1.3", draws=5, seed=1)
    assert both[2:] == first[2:] and overlap(one, mask, "1.0", draws=5, seed=2)[3] != first[3]
    assert both[1].startswith(first[1]) and len(both[1].splitlines()) == 1 + 2 * 3
    assert both[0].shape[1] > first[0].shape[1]


@pytest.mark.parametrize(("inputs", "message"), [
    ({"mask": torch.zeros(1, 32, 32)}, "mask is empty on the layer's grid of 16 x 16"),
    ({"mask": torch.ones(3, 32, 32)}, "there are 3 images; this run has 2"),
    ({"thresholds": "99"}, "threshold is 99; no attention is above it"),
])
def test_what_cannot_be_compared_is_refused_by_name(one, inputs, message):
    with pytest.raises(ValueError, match=message):
        overlap(one, **{"mask": torch.ones(1, 32, 32), **inputs})


def test_a_video_is_compared_frame_by_frame():
    tiny = models.svd().sized(16, 16, batch=3)
    recorded_model, trace = record(tiny.model)
    out = sample(tiny, recorded_model, steps=1)
    run = {"trace": trace, "latent": {"samples": out}}
    *_, iou, _ = call("SAGMaskOverlap", **run, mask=torch.ones(3, 32, 32), thresholds="1.0")
    assert iou == pytest.approx((only(trace).attn_map() > 1).float().mean().item(), abs=1e-6)


# -- pictures --------------------------------------------------------------------------------------------------------


def visualize(one, style, **inputs):
    return call("SAGVisualize", **{**one.run, "image": one.image, "style": style, "threshold": 1.0, **inputs})[0]


def test_side_by_side_shows_masks_of_equal_area(one):
    """Pixels that are not dimmed are those of the mask; the figure's cells are 6 times as large as the image."""
    objects = torch.zeros(1, 32, 32)
    objects[:, 8:24, 8:24] = 1
    picture, without = visualize(one, "side by side", mask=objects), visualize(one, "side by side")
    assert picture.shape[2] - without.shape[2] == 200 and picture.shape[0] == 1
    inside = attended(one, 1.0)
    sheet = picture[0]
    top = sheet.shape[0] - 2 * 200  # two rows of 192 pixels with gaps of 8
    for row in range(2):
        cells = [sheet[top + 200 * row:, 8 + 200 * c:][:192:6, :192:6] for c in range(5)]
        assert_close(cells[0], one.image[row], rtol=0, atol=1 / 255)
        bright = [(cell - one.image[row]).abs().amax(-1) <= 1 / 255 for cell in cells[1:4]]
        assert torch.equal(bright[0], objects[0].bool())
        assert torch.equal(bright[2], enlarged(inside[row], 2).bool())
        assert bright[1].sum() == bright[2].sum() and not torch.equal(bright[1], bright[2])


def test_film_strip_has_a_column_for_every_step_and_one_for_all(one):
    every, two = visualize(one, "film strip"), visualize(one, "film strip", frames=2)
    assert every.shape[2] - two.shape[2] == 200  # 3 of 3 steps; first and last
    assert every.shape[2] == 8 + 5 * 200


def test_animation_has_a_frame_for_every_step(one):
    film = visualize(one, "animation")
    assert len(film) == 3 and not torch.equal(film[0], film[2])
    short = visualize(one, "animation", frames=2)
    assert torch.equal(short, film[[0, 2]])
    assert len(visualize(one, "animation", frames=1)) == 1


def test_at_most_eight_images_are_shown(one):
    many = recorded(images=9, steps=1)
    assert visualize(many, "film strip").shape[1] == visualize(one, "film strip").shape[1] + 6 * 200
    assert visualize(many, "side by side").shape[1] == visualize(one, "side by side").shape[1] + 6 * 200


@pytest.mark.parametrize(("inputs", "message"), [
    ({"mask": torch.ones(3, 32, 32)}, "mask holds 3 masks for 2 images"),
    ({"threshold": 50.0}, "threshold is 50; no attention"),
    ({"image": torch.rand(5, 32, 32, 3)}, "there are 5 images; this run has 2"),
    ({"step": 9}, "step is 9; this run has steps 0 to 2"),
])
def test_what_cannot_be_shown_is_refused_by_name(one, inputs, message):
    with pytest.raises(ValueError, match=message):
        visualize(one, "side by side", **inputs)


@pytest.mark.parametrize(("node", "inputs"), [
    ("SAGFrequencyAnalysis", {"thresholds": "1"}), ("SAGMaskOverlap", {"thresholds": "1"}),
    ("SAGVisualize", {"style": "side by side", "threshold": 1.0}),
    ("SAGVisualize", {"style": "animation", "threshold": 1.0, "fps": 10.0}),
])
def test_results_are_shown_on_the_node(one, node, inputs):
    """Without anything connected to the outputs, from the files that the frontend is told of."""
    inputs = {**one.run, **inputs}
    inputs |= {"mask": torch.ones(1, 32, 32)} if node == "SAGMaskOverlap" else {"image": one.image}
    result = nodes.NODE_CLASS_MAPPINGS[node].PREPARE_CLASS_CLONE({"hidden_inputs": {}}).execute(**inputs)
    told = result.ui
    (shown,) = told["images"]
    path = f"{folder_paths.get_temp_directory()}/{shown['filename']}"
    with Image.open(path) as picture:
        if inputs.get("style") == "animation":
            assert told["animated"] == (True,) and picture.n_frames == len(result.args[0]) == 3
            picture.load()
            assert picture.info["duration"] == 100
        else:
            assert picture.size == (result.args[0].shape[2], result.args[0].shape[1])
    if node != "SAGVisualize":
        assert told["text"] == (result.args[1],) and re.search(r"\d", told["text"][0])
