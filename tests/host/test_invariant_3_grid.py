"""The map is on the layer's true grid at every size, equal to the full softmax of the layer's own q and k."""

from __future__ import annotations

import comfy.utils
import pytest
import torch
from torch.testing import assert_close

from tests.host import adm, models
from tests.host.graph import call, guide, maps, only, record, sample
from tests.host.observe import MIDDLE, attention_calls
from tests.host.reference import attention_map

TOLERANCE = {"rtol": 1e-4, "atol": 0}


def check_maps(tiny, layer="auto", path=MIDDLE, heads=4, index=1, **inputs):
    """Record a run, and compare every step with the full softmax; the maps."""
    with attention_calls(tiny.model, path) as (watched, calls):
        recorded, trace = record(watched, layer=layer)
        sample(tiny, recorded, **inputs)
    expected = torch.stack([attention_map(*c.rows(index), heads, c.grid) for c in calls])
    assert_close(maps(trace).double(), expected, **TOLERANCE)
    assert maps(trace).std() > 0.1  # an even map would agree with anything
    return maps(trace)


SIZES = [(16, 24), (24, 16), (8, 64), (17, 9), (9, 17), (1, 5), (3, 3), (2, 50), (31, 33), (21, 40)]


@pytest.mark.parametrize("size", SIZES, ids=lambda size: "{}x{}".format(*size))
def test_invariant_3_map_is_on_the_true_grid(size):
    recorded = check_maps(models.sd15().sized(*size), steps=1)
    assert recorded.shape[2:] == tuple(-(-side // 2) for side in size)


# Latents (height, width) and the grid at an eighth of them, rounded up at every halving; the images are 8 times larger.
PUBLISHED_SIZES = {
    "640x336, which the built-in node takes for 12x5": ((42, 80), (6, 10)),
    "520x264": ((33, 65), (5, 9)),
    "1024x584": ((73, 128), (10, 16)),
    "584x1024": ((128, 73), (16, 10)),
    "512x512": ((64, 64), (8, 8)),
    "512x72": ((9, 64), (2, 8)),
}


@pytest.mark.parametrize(("size", "grid"), PUBLISHED_SIZES.values(), ids=PUBLISHED_SIZES)
def test_invariant_3_map_is_on_the_true_grid_at_the_depth_of_published_models(size, grid):
    recorded = check_maps(models.sd15_four_levels().sized(*size), steps=1)
    assert recorded.shape[2:] == grid


@pytest.mark.parametrize(("layer", "path"), [
    ("input.1", "input_blocks.1.1.transformer_blocks.0"), ("input.3", "input_blocks.3.1.transformer_blocks.0"),
    ("output.0", "output_blocks.0.1.transformer_blocks.0"), ("output.3", "output_blocks.3.1.transformer_blocks.0"),
])
@pytest.mark.parametrize("size", [(16, 24), (9, 17)], ids=["even", "odd"])
def test_invariant_3_every_layer_has_its_own_grid(layer, path, size):
    recorded = check_maps(models.sd15().sized(*size), layer, path, steps=1)
    fine = layer in ("input.1", "output.3")
    assert recorded.shape[2:] == (size if fine else tuple(-(-side // 2) for side in size))


def test_invariant_3_a_batch_has_a_map_for_every_image():
    recorded = check_maps(models.sd15().sized(batch=3))
    assert recorded.shape[1] == 3 and not torch.equal(recorded[:, 0], recorded[:, 1])


def test_invariant_3_cond_is_recorded_where_there_is_no_uncond():
    check_maps(models.sd15(), index=0, cfg=1.0)


def test_invariant_3_second_transformer_of_a_block():
    check_maps(models.sdxl(), "middle.0.1", "middle_block.1.transformer_blocks.1")


def test_invariant_3_frames_of_a_video_are_its_rows():
    recorded = check_maps(models.svd())
    assert recorded.shape[1:] == (3, 8, 12)


@pytest.mark.parametrize("size", [(16, 24), (17, 9), (3, 2)], ids=str)
def test_invariant_3_pixel_model(checkpoints, size):
    recorded = check_maps(adm.load(checkpoints).sized(*size), path="middle_block.1", heads=1, steps=1)
    assert recorded.shape[2:] == tuple(-(-side // 2) for side in size)


@pytest.mark.parametrize("corner", ["top left", "bottom right"])
@pytest.mark.parametrize("size", [(16, 40), (33, 17)], ids=str)
def test_invariant_3_attention_lies_where_the_image_has_it(corner, size):
    """All there is to see is in a quarter of the latent: the map is uneven there and even elsewhere."""
    tiny = models.sd15()
    half = tuple(side // 4 * 2 for side in size)
    latent = torch.zeros(1, 4, *size)
    rows, columns = (slice(half[i]) if corner == "top left" else slice(-half[i], None) for i in range(2))
    latent[:, :, rows, columns] = 40 * torch.randn(1, 4, *half, generator=torch.Generator().manual_seed(0))
    recorded, trace = record(tiny.model)
    call("KSamplerAdvanced", model=recorded, add_noise="disable", noise_seed=0, steps=8, cfg=3.0, sampler_name="euler",
         scheduler="simple", positive=tiny.positive, negative=tiny.negative, latent_image={"samples": latent},
         start_at_step=7, end_at_step=8, return_with_leftover_noise="disable")
    spread = maps(trace)[0, 0] - maps(trace)[0, 0].median()
    inside = comfy.utils.common_upscale((latent[:, :1] != 0).float(), *spread.shape[::-1], "area", "disabled")[0, 0]
    assert spread[inside == 1].abs().median() > 3 * spread[inside == 0].abs().median()


def test_invariant_3_guidance_blurs_exactly_the_attended_patches():
    """Where the mask is 0 the sample the extra pass sees is the one the main pass saw."""
    tiny = models.sd15().sized(17, 40)
    guided, trace = guide(tiny.model, threshold=1.5)
    seen = []
    handle = tiny.model.model.diffusion_model.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    try:
        sample(tiny, guided, steps=1)
    finally:
        handle.remove()
    main, extra = seen
    attended = maps(trace)[0, 0] > 1.5
    pixels = attended.repeat_interleave(2, 0).repeat_interleave(2, 1)[:17, :40]
    changed = (main[-1] - extra[0]).abs().amax(dim=0) > 1e-6 * main.abs().max()
    assert 0 < pixels.sum() < pixels.numel()
    assert torch.equal(changed, pixels)
    assert only(trace).size == (17, 40)
