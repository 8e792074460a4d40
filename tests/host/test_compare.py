"""The compare grid: every cell is what a graph of its own makes, and a user can stop it."""

from __future__ import annotations

import comfy.model_management
import comfy.utils
import pytest
import torch
from comfy.cli_args import LatentPreviewMethod, args
from torch.testing import assert_close

import nodes
from tests.host.embedded import load, sampling
from tests.host.graph import call, guide

SETTINGS = {"scale": 2.0, "blur_sigma": 1.0, "threshold": 1.0, "layer": "input.3"}


@pytest.fixture(scope="module")
def embedded():
    with torch.inference_mode():
        return load()


def compare(embedded, x=("scale", "0, 2"), y=("none", ""), images=1, steps=2, **inputs):
    model, no_class, vae = embedded
    return call("SAGCompareGrid", **{
        "model": model, "vae": vae, **sampling(no_class, images, steps), "x_setting": x[0], "x_values": x[1],
        "y_setting": y[0], "y_values": y[1], **SETTINGS, **inputs})


def alone(embedded, images=1, steps=2, **changes):
    """What a graph with one guidance node makes; without changes to the settings, one without guidance."""
    model, no_class, vae = embedded
    if changes:
        options = {"mask_options": call("SAGMaskOptions", strategy=changes.pop("strategy"))[0]} if (
            "strategy" in changes) else {}
        model, _ = guide(model, **{**SETTINGS, **changes, **options})
    (latent,) = call("KSampler", model=model, **sampling(no_class, images, steps))
    return call("VAEDecode", samples=latent, vae=vae)[0]


def test_cells_are_what_graphs_of_their_own_make(embedded):
    _, images, _, text = compare(embedded, ("scale", "0, 1, 2"), ("layer", "input.3;middle.0"), images=2)
    expected = [alone(embedded, images=2, scale=scale, layer=layer)
                for layer in ("input.3", "middle.0") for scale in (0.0, 1.0, 2.0)]
    assert torch.equal(images, torch.cat(expected))
    plain = alone(embedded, images=2)
    for line, image in zip(text.splitlines()[1:], expected, strict=True):
        assert line.endswith(f"RMS {(image - plain).square().mean().sqrt().item():.4f}")
    assert text.splitlines()[2].startswith("scale 1, layer input.3: ")


@pytest.mark.parametrize(("setting", "values"), [
    ("blur_sigma", "1, 3"), ("threshold", "0.8, 1.2"), ("strategy", "self-attention, global, random"),
    ("blur_kernel", "0, 31"), ("end_percent", "0, 1"), ("rescale", "0, 1"), ("layer", "input.3, middle.0; middle.0"),
])
def test_every_setting_can_be_varied(embedded, setting, values):
    _, images, _, _ = compare(embedded, (setting, values), difference_to="first cell")
    words = [word.strip() for word in values.split(";" if ";" in values else ",")]
    kind = str if setting in ("strategy", "layer") else int if setting == "blur_kernel" else float
    assert torch.equal(images, torch.cat([alone(embedded, **{setting: kind(word)}) for word in words]))
    assert not torch.equal(images[0], images[1])


def test_grid_and_differences_show_the_images(embedded):
    grid, images, differences, _ = compare(embedded, ("scale", "0, 4"))
    for column, image in enumerate(images):
        left = 8 + 264 * column  # 256 pixels and a gap
        assert_close(grid[0, -264:-8, left:left + 256][::8, ::8], image, rtol=0, atol=1 / 255)
    # Nothing differs at scale 0; at the other the largest difference has the ramp's last colour.
    last = torch.tensor([0.99, 1.0, 0.75])
    shown = [((differences[0, :, left:left + 256] - last).abs().amax(-1) < 0.01).any().item() for left in (8, 272)]
    assert shown == [False, True]


def test_first_cell_may_be_the_reference(embedded):
    text = compare(embedded, ("scale", "2, 4"), difference_to="first cell")[3]
    first, second = text.splitlines()[1:]
    assert text.startswith("difference to first cell") and first == "scale 2: RMS 0.0000"
    rms = (alone(embedded, scale=4.0) - alone(embedded, scale=2.0)).square().mean().sqrt().item()
    assert second == f"scale 4: RMS {rms:.4f}"


def test_mask_options_are_those_of_every_cell(embedded):
    (options,) = call("SAGMaskOptions", strategy="inverse", softness=1.0)
    _, images, _, _ = compare(embedded, ("scale", "1, 2"), mask_options=options)
    expected = [alone(embedded, scale=scale, mask_options=options) for scale in (1.0, 2.0)]
    assert torch.equal(images, torch.cat(expected))


class Bar:
    """Hears the host's progress, and may act on it."""

    def __init__(self, monkeypatch, act=lambda value: None):
        self.seen, self.act = [], act
        monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", self.hear)
        # The host leaves out what follows too soon; a step of these takes no longer.
        monkeypatch.setattr(comfy.utils, "PROGRESS_THROTTLE_MIN_INTERVAL", 0.0, raising=False)

    def hear(self, value, total, preview, node_id=None):
        self.seen.append((value, total, preview is not None))
        self.act(value)


@pytest.mark.parametrize(("x", "reference", "runs"), [
    ("1, 2", "unguided", 3), ("0, 2", "unguided", 2), ("0, 0, 2", "first cell", 2), ("1, 2", "first cell", 2)])
def test_progress_is_that_of_the_whole_grid_and_nothing_runs_twice(embedded, monkeypatch, x, reference, runs):
    bar = Bar(monkeypatch)
    compare(embedded, ("scale", x), steps=3, difference_to=reference)
    values, totals, previews = zip(*bar.seen, strict=True)
    assert set(totals) == {3 * runs} and list(values) == sorted(values) and values[-1] == 3 * runs
    assert not any(previews)  # the host's default
    assert {step for step in range(1, 3 * runs + 1)} == set(values)


def test_progress_shows_previews_where_the_host_does(embedded, monkeypatch):
    monkeypatch.setattr(args, "preview_method", LatentPreviewMethod.Auto)
    bar = Bar(monkeypatch)
    compare(embedded, ("scale", "1"), steps=2)
    assert [preview for *_, preview in bar.seen].count(True) == 2 * 2


@pytest.mark.parametrize("stop_at", [1, 2, 4])
def test_the_user_can_stop_in_a_cell_and_between_two(embedded, monkeypatch, stop_at):
    bar = Bar(monkeypatch, lambda value: value >= stop_at and comfy.model_management.interrupt_current_processing())
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        compare(embedded, ("scale", "1, 2, 3"), steps=2)
    assert bar.seen[-1][0] == stop_at
    assert not comfy.model_management.processing_interrupted()


BAD = [
    (("scale", ""), "x_values is empty; give the values of scale"), (("scale", "1, two"), "x_values holds 'two'"),
    (("scale", "1, 11"), "x_values holds 11.0: scale is 11.0"), (("scale", "nan"), "scale is nan"),
    (("blur_kernel", "31, 4"), "blur_kernel is 4"), (("blur_kernel", "3.5"), "'3.5', which is no whole number"),
    (("strategy", "global, everywhere"), "x_values holds 'everywhere'; a strategy is one of self-attention, global"),
    (("sigma", "1"), "x_setting is 'sigma'; it must be one of scale"),
]


@pytest.mark.parametrize(("x", "message"), BAD)
def test_bad_values_are_refused_when_queued_and_before_the_first_run(embedded, monkeypatch, x, message):
    bar = Bar(monkeypatch)
    node = nodes.NODE_CLASS_MAPPINGS["SAGCompareGrid"]
    told = node.validate_inputs(x_setting=x[0], x_values=x[1], y_setting="none", y_values="")
    assert isinstance(told, str) and message in told
    with pytest.raises(ValueError) as refused:
        compare(embedded, x)
    assert message in str(refused.value) and not bar.seen
    with pytest.raises(ValueError, match="y_"):
        compare(embedded, ("threshold", "1"), x)


@pytest.mark.parametrize(("x", "y", "message"), [
    (("scale", "1"), ("scale", "2"), "x_setting and y_setting are both 'scale'"),
    (("layer", "input.3; middle.7"), ("none", ""), "layer is 'middle.7'; this model has auto"),
    (("start_percent", "0.2, 0.8"), ("end_percent", "0.5, 1"), "x_values holds 0.8: start_percent is 0.8, after"),
    (("scale", ",".join(["1"] * 30)), ("threshold", ",".join(["1"] * 30)), "make 900 cells"),
    (("strategy", "global, DINO"), ("none", ""), "x_values holds 'DINO': .*no CLIP_VISION"),
])
def test_cells_that_cannot_be_are_refused_before_the_first_run(embedded, monkeypatch, x, y, message):
    bar = Bar(monkeypatch)
    with pytest.raises(ValueError, match=message):
        compare(embedded, x, y)
    assert not bar.seen


def test_good_and_linked_values_are_accepted():
    node = nodes.NODE_CLASS_MAPPINGS["SAGCompareGrid"]
    assert node.validate_inputs(x_setting="layer", x_values="input.3, output.2", y_setting="none", y_values="") is True
    assert node.validate_inputs(x_setting="scale", x_values=None, y_setting="rescale", y_values="0, 1") is True
    assert "blur_kernel is 4" in node.validate_inputs(x_setting="scale", x_values="1", blur_kernel=4)
