"""What users of other implementations complain about, each of which must not happen here.

1  "shape is invalid for input of size": ComfyUI #2201, #2502, Impact-Pack #372, Forge #331, #2163, #2289
2  "NoneType has no attribute 'shape'": reForge #140, #223, #487, Forge #2431
3  broadcast of an uncond with mask, area or strength: reForge #487
4  large batches split over several calls of the model: a TODO in ComfyUI's own node
5  an extra pass that other nodes cannot recognise: ComfyUI #2201
6  RescaleCFG and v-prediction do not combine: ComfyUI #2201
7  black images and memory in half precision: ComfyUI #7196
"""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from tests.host import models
from tests.host.graph import call, guide, maps, only, record, sample, sample_basic
from tests.host.observe import MIDDLE, allocations, attention_calls, network_calls, new_tensors
from tests.host.reference import attention_map, reference


@pytest.mark.parametrize("size", [(65, 65), (73, 128), (128, 73)], ids=["520x520", "1024x584", "584x1024"])
def test_complaint_1_shape_is_invalid_at_520x520_1024x584(size):
    tiny = models.sd15_four_levels().sized(*size)
    guided, trace = guide(tiny.model)
    assert sample(tiny, guided, steps=1).isfinite().all()
    assert maps(trace).shape[2:] == tuple(-(-side // 8) for side in size)
    assert only(trace).steps[0].guided and not only(trace).notes


@pytest.mark.parametrize("first", ["sag", "other"])
@pytest.mark.parametrize(("factor", "after_skip", "grid"), [
    (1.5, True, (6, 8)), (1.5, False, (6, 8)), (2.0, True, (4, 6)), (2.7, True, (3, 5)),
])
def test_complaint_1_shape_is_invalid_with_deep_shrink(first, factor, after_skip, grid):
    # Two of four steps are shrunk: round(16 / factor) x round(24 / factor), halved once more on the way down.
    tiny = models.sd15().sized(17, 24)

    def shrink(model):
        return call("PatchModelAddDownscale", model=model, block_number=1, downscale_factor=factor, start_percent=0.0,
                    end_percent=0.35, downscale_after_skip=after_skip, downscale_method="bicubic",
                    upscale_method="bicubic")[0]

    if first == "other":
        guided, trace = guide(shrink(tiny.model))
    else:
        guided, trace = guide(tiny.model)
        guided = shrink(guided)
    with reference(shrink(tiny.model)) as (expected, _):
        assert_close(sample(tiny, guided, steps=4), sample(tiny, expected, steps=4), rtol=1e-3, atol=0.05)
    assert [tuple(s.attn_map.shape[1:]) for s in only(trace).steps] == [grid, grid, (9, 12), (9, 12)]
    assert all(step.guided for step in only(trace).steps)


def test_complaint_2_no_cfg_nonetype():
    tiny = models.sd15()
    guided, trace = guide(tiny.model)
    assert not torch.equal(sample(tiny, guided, cfg=1.0), sample(tiny, cfg=1.0))
    assert {step.branch for step in only(trace).steps} == {"cond"}
    assert not torch.equal(sample_basic(tiny, guided)[0], sample_basic(tiny, tiny.model)[0])
    assert {step.branch for step in only(trace).steps} == {"cond"}


def test_complaint_2_no_extra_uncond_pass_is_run():
    """Other implementations switch the host's CFG 1 optimisation off to have an uncond."""
    tiny = models.sd15()
    guided, _ = guide(tiny.model)
    with network_calls(tiny.model) as calls:
        sample(tiny, guided, cfg=1.0)
    assert [c.options["cond_or_uncond"] for c in calls] == [[0]] * 4


@pytest.mark.parametrize("cfg", [1.0, 3.0])
def test_complaint_2_hires_second_pass(cfg):
    tiny = models.sd15()
    guided, trace = guide(tiny.model)
    first = sample(tiny, guided, cfg=cfg)
    (larger,) = call("LatentUpscaleBy", samples={"samples": first}, upscale_method="nearest-exact", scale_by=1.5)
    second = sample(tiny, guided, cfg=cfg, latent=larger, denoise=0.5)
    assert second.shape == (1, 4, 24, 36) and second.isfinite().all()
    assert maps(trace).shape == (2, 1, 12, 18)


def masked(conditioning, strength=1.0):
    mask = torch.zeros(1, 128, 192)
    mask[:, :, 96:] = 1
    return call("ConditioningSetMask", conditioning=conditioning, mask=mask, strength=strength,
                set_cond_area="default")[0]


def in_area(conditioning, strength=1.0):
    return call("ConditioningSetArea", conditioning=conditioning, width=96, height=64, x=96, y=64, strength=strength)[0]


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("restrict", [masked, in_area])
def test_complaint_3_uncond_with_mask_area_strength(restrict, batch):
    tiny = models.sd15().sized(batch=batch)
    (negative,) = call("ConditioningCombine", conditioning_1=tiny.negative,
                       conditioning_2=restrict(models.text(5), strength=0.7))
    guided, trace = guide(tiny.model)
    alone = sample(tiny, guided, negative=restrict(tiny.negative))
    assert alone.isfinite().all() and not torch.equal(alone, sample(tiny, negative=restrict(tiny.negative)))
    out = sample(tiny, guided, negative=negative)
    assert out.isfinite().all() and maps(trace).shape[:2] == (2, batch)
    with reference(tiny.model) as (expected, _):
        assert_close(out, sample(tiny, expected, negative=negative), rtol=1e-3, atol=0.05)


@pytest.mark.parametrize("batch", [1, 3])
def test_complaint_4_large_batch_split(monkeypatch, batch):
    tiny = models.sd15().sized(batch=batch)
    guided, trace = guide(tiny.model)
    whole, whole_maps = sample(tiny, guided), maps(trace)
    with network_calls(tiny.model) as calls:
        monkeypatch.setattr(tiny.model.model, "memory_required", lambda *args, **kwargs: 2 ** 60)
        split = sample(tiny, guided)
    assert [len(c.options["cond_or_uncond"]) for c in calls] == [1] * 6
    assert_close(maps(trace), whole_maps, rtol=1e-3, atol=1e-3)
    assert_close(split, whole, rtol=1e-3, atol=0.05)


def test_complaint_5_extra_pass_recognisable():
    tiny = models.sd15()
    guided, _ = guide(tiny.model)
    with network_calls(tiny.model) as calls:
        sample(tiny, guided, steps=3)
    assert [c.options.get("sag_pass", False) for c in calls] == [False, True] * 3
    main, extra = ({tuple(c.options["uuids"]) for c in calls if c.is_extra == kind} for kind in (False, True))
    assert len(main) == len(extra) == 1  # the same in every step, so that caches can tell them apart and hit
    assert not set(*main) & set(*extra)
    assert all(c.options["cond_or_uncond"] == [1] for c in calls if c.is_extra)


@pytest.mark.parametrize("build", [models.sd15, models.v_prediction, models.playground])
@pytest.mark.parametrize("first", ["sag", "other"])
def test_complaint_6_rescalecfg_and_v_prediction(build, first):
    tiny = build()

    def rescale(model):
        return call("RescaleCFG", model=model, multiplier=0.7)[0]

    guided = guide(rescale(tiny.model))[0] if first == "other" else rescale(guide(tiny.model)[0])
    with reference(rescale(tiny.model)) as (expected, _):
        out, wanted = sample(tiny, guided, cfg=7.0), sample(tiny, expected, cfg=7.0)
    assert_close(out, wanted, rtol=1e-3, atol=1e-4 * wanted.abs().max().item())
    assert (out - sample(tiny, rescale(tiny.model), cfg=7.0)).abs().max() > 0.01 * wanted.abs().max()
    assert not torch.equal(out, sample(tiny, guide(tiny.model)[0], cfg=7.0))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_complaint_7_half_precision(dtype):
    tiny = models.sd15(dtype, transformer_depth=[1, 0], transformer_depth_output=[0] * 4, transformer_depth_middle=-1)
    tiny = tiny.sized(40, 40)
    guided, trace = guide(tiny.model)
    assert sample(tiny, guided, steps=1).isfinite().all()
    assert maps(trace).isfinite().all() and maps(trace).dtype == torch.float32
    recorded, trace = record(tiny.model)
    plain = allocations(lambda: sample(tiny, steps=1))
    assert max(allocations(lambda: sample(tiny, recorded, steps=1)) - plain) < 4 * (40 * 40) ** 2 * 2
    with new_tensors() as kept:
        assert torch.equal(sample(tiny, recorded, steps=1), sample(tiny, steps=1))
    assert {id(t) for t in kept} == {id(step.attn_map) for step in only(trace).steps}


def test_complaint_7_black_image_in_half_precision():
    """q k^T of such activations is beyond the 65,504 of float16 before it is scaled."""
    tiny = models.sd15(torch.float16)
    attention = tiny.model.model.diffusion_model.get_submodule(MIDDLE).attn1
    for projection in (attention.to_q, attention.to_k):
        projection.weight.mul_(30)
    with attention_calls(tiny.model) as (watched, calls):
        guided, trace = guide(watched)
        assert sample(tiny, guided, steps=1).isfinite().all()
    q, k = (t.unflatten(-1, (4, -1)).transpose(1, 2) for t in calls[0].rows(1))
    assert (q @ k.mT).isinf().any()
    assert_close(maps(trace)[0].double(), attention_map(*calls[0].rows(1), 4, (8, 12)), rtol=1e-3, atol=1e-3)
