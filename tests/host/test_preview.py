"""Self-Attention Mask: what every style shows, and the MASK that comes with it."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from sag_core.trace import AttentionTrace, Recording, Step, fingerprint
from tests.host import models
from tests.host.graph import call, guide, maps, record, sample

STYLES = pytest.mark.parametrize("style", ["heatmap", "mask", "overlay", "sheet"])
STEPS, BATCH = 3, 2


@pytest.fixture(scope="module")
def run():
    """A sampled run of two images: (trace, samples)."""
    with torch.inference_mode():
        tiny = models.sd15().sized(batch=BATCH)
        guided, trace = guide(tiny.model, threshold=1.2)
        return trace, sample(tiny, guided, steps=STEPS)


def preview(run, step=-1, style="heatmap", **inputs):
    trace, samples = run
    return call("SAGMaskPreview", trace=trace, latent={"samples": samples}, step=step, style=style, **inputs)


def images(batch=BATCH, height=128, width=192, channels=3):
    return torch.rand(batch, height, width, channels, generator=torch.Generator().manual_seed(0))


def expected_mask(run, step, factor):
    recorded = maps(run[0])
    attn_map = recorded.mean(dim=0) if step == -1 else recorded[step]
    return (attn_map > 1.2).float().repeat_interleave(factor, 1).repeat_interleave(factor, 2)


@STYLES
@pytest.mark.parametrize("step", [-1, 0, STEPS - 1])
def test_mask_is_where_attention_is_above_the_threshold(run, style, step):
    _, mask = preview(run, step, style)
    assert torch.equal(mask, expected_mask(run, step, 2))  # the latent is 16x24, the map 8x12
    _, mask = preview(run, step, style, image=images())
    assert torch.equal(mask, expected_mask(run, step, 16))


@STYLES
@pytest.mark.parametrize("with_image", [False, True])
def test_pictures_are_images(run, style, with_image):
    image, mask = preview(run, 1, style, **({"image": images()} if with_image else {}))
    assert image.ndim == 4 and image.shape[-1] == 3 and image.dtype == mask.dtype == torch.float32
    assert image.min() >= 0 and image.max() <= 1 and image.isfinite().all()
    assert image.shape[0] == (1 if style == "sheet" else BATCH) and mask.shape[0] == BATCH
    if style != "sheet" and with_image:
        assert image.shape[1:3] == mask.shape[1:3] == (128, 192)
    if not with_image:
        assert max(image.shape[1:3]) >= 256  # large enough to be seen


def test_mask_style_is_the_mask_in_white(run):
    image, mask = preview(run, 0, "mask", image=images())
    assert torch.equal(image, mask[..., None].expand(-1, -1, -1, 3))


def test_heatmap_is_brightest_where_attention_is(run):
    image, _ = preview(run, 0, "heatmap")
    recorded = maps(run[0])[0]
    side = image.shape[1] // recorded.shape[1]
    brightness = image.mean(dim=-1)[:, side // 2::side, side // 2::side]
    for shown, attn_map in zip(brightness.flatten(1), recorded.flatten(1), strict=True):
        assert shown.argmax() == attn_map.argmax() and shown.argmin() == attn_map.argmin()
    assert all(b.max() > 0.9 and b.min() < 0.1 for b in brightness)


def test_overlay_shows_the_image_in_grey_where_the_mask_is_0(run):
    picture = images()
    image, mask = preview(run, 0, "overlay", image=picture)
    grey = 0.8 * picture.mean(dim=-1, keepdim=True) + 0.2 * picture
    assert_close(image[mask == 0], grey.expand_as(image)[mask == 0])
    assert (image[mask == 1] - grey.expand_as(image)[mask == 1]).abs().amax() > 0.2


def test_overlay_takes_the_alpha_channel_of_an_image_for_what_it_is(run):
    opaque = torch.cat([images(), torch.ones(BATCH, 128, 192, 1)], dim=-1)
    assert torch.equal(preview(run, 0, "overlay", image=opaque)[0], preview(run, 0, "overlay", image=images())[0])


def test_sheet_has_a_row_for_every_image_and_a_column_for_every_step(run):
    sheet, _ = preview(run, -1, "sheet")
    _, height, width, _ = sheet.shape
    assert height // BATCH < width // STEPS  # tiles are wider than high, as the latent
    tile = sheet[0, :height // BATCH - 1, :width // STEPS - 1]
    other = sheet[0, :height // BATCH - 1, width // STEPS + 1:][:, :tile.shape[1]]
    assert tile.std() > 0.05 and not torch.equal(tile, other)


def test_one_image_serves_all_of_a_batch(run):
    assert preview(run, 0, "overlay", image=images(1))[0].shape[0] == BATCH


def test_mask_follows_the_size_of_any_image(run):
    image, mask = preview(run, 0, "overlay", image=images(height=100, width=37))
    assert image.shape == (BATCH, 100, 37, 3) and mask.shape == (BATCH, 100, 37)


@pytest.mark.parametrize("batch", [3, 4])
def test_images_of_another_run_are_refused_by_their_number(run, batch):
    with pytest.raises(ValueError, match=f"image holds {batch} images; this run has 2"):
        preview(run, 0, "overlay", image=images(batch))


@STYLES
@pytest.mark.parametrize("step", [STEPS, 99])
def test_a_step_that_is_not_there_is_refused_by_its_number(run, style, step):
    with pytest.raises(ValueError, match=f"step is {step}; this run has steps 0 to 2, and -1 for all of them"):
        preview(run, step, style)


def test_frames_of_a_video_are_its_pictures():
    tiny = models.svd()
    recorded, trace = record(tiny.model)
    samples = sample(tiny, recorded, steps=1)
    image, mask = preview((trace, samples), 0, "overlay", image=images(3))
    assert image.shape == (3, 128, 192, 3) and mask.shape == (3, 128, 192)


def test_odd_sizes_are_cut_to_the_latent():
    tiny = models.sd15().sized(17, 9)
    recorded, trace = record(tiny.model)
    samples = sample(tiny, recorded, steps=1)
    _, mask = preview((trace, samples), 0, "mask")
    expected = (maps(trace)[0] > 1).float().repeat_interleave(2, 1).repeat_interleave(2, 2)[:, :17, :9]
    assert torch.equal(mask, expected)


def test_maps_of_changing_size_are_averaged_where_they_agree():
    """Deep shrink gives its steps a smaller grid; the mean is that of the full grid."""
    tiny = models.sd15()
    (shrunk,) = call("PatchModelAddDownscale", model=tiny.model, block_number=1, downscale_factor=2.0,
                     start_percent=0.0, end_percent=0.35, downscale_after_skip=True, downscale_method="bicubic",
                     upscale_method="bicubic")
    recorded, trace = record(shrunk)
    samples = sample(tiny, recorded, steps=4)
    for style in ("heatmap", "mask", "sheet"):
        image, mask = preview((trace, samples), -1, style)
        assert image.isfinite().all() and mask.shape == (1, 16, 24)


def video(frames=3, batch=1):
    """A recorded run of a video whose every frame attends to a token of its own."""
    attn_map = torch.zeros(batch, frames, 2, 2)
    for frame in range(frames):
        attn_map[:, frame].view(batch, 4)[:, frame] = 4.0
    samples = torch.randn(batch, 4, frames, 4, 4)
    step = Step(1.0, attn_map, "block.1", "cond", guided=True)
    trace = AttentionTrace()
    trace.add(Recording((frames, 4, 4), steps=[step], results={fingerprint(samples)}))
    return trace, samples


@pytest.mark.parametrize(("length", "frame_of_image"), [
    (3, [0, 1, 2]), (9, [0, 1, 1, 1, 1, 2, 2, 2, 2]), (6, [0, 0, 1, 1, 2, 2]), (1, [0, 1, 2]),
], ids=["an image a frame", "causal decoder", "two images a frame", "one image for all"])
def test_decoded_video_shows_the_map_of_each_frame_as_long_as_it_lasts(length, frame_of_image):
    _, mask = preview(video(), 0, "overlay", image=images(length, 8, 8))
    attended = mask.view(len(mask), 2, 4, 2, 4).amax(dim=(2, 4)).flatten(1).argmax(dim=1)
    assert attended.tolist() == frame_of_image


def test_images_of_another_number_than_the_videos_are_refused():
    with pytest.raises(ValueError, match="image holds 5 images; this run has"):
        preview(video(batch=2), 0, "overlay", image=images(5, 8, 8))
