"""Context windows: long videos and batches that the model is shown in parts, which overlap."""

from __future__ import annotations

from dataclasses import replace

import comfy.patcher_extension
import comfy.sample
import comfy.samplers
import comfy.supported_models as supported
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from tests.host import models
from tests.host.features import FAMILIES, NONE, ORDERS, Row, combine, follow, node
from tests.host.graph import call, guide, maps, only, record, sample
from tests.host.models import Tiny
from tests.host.observe import network_calls
from tests.host.reference import degraded, on_pixels

FRAMES = 5
SCHEDULES = ["standard_static", "standard_uniform", "looped_uniform", "batched"]


def wan() -> Tiny:
    model = models.patcher(supported.WAN21_T2V, {
        "image_model": "wan2.1", "model_type": "t2v", "dim": 72, "in_dim": 16, "out_dim": 16, "ffn_dim": 96,
        "num_heads": 2, "num_layers": 2, "text_dim": models.WIDTH, "patch_size": (1, 2, 2), "freq_dim": 32,
        "window_size": (-1, -1), "qk_norm": True, "cross_attn_norm": True, "eps": 1e-6})
    return Tiny(model, torch.zeros(1, 16, FRAMES, 8, 12), models.text(1), models.text(2))


def windows(dim: int, schedule: str = "standard_static", fix: bool = False, **settings):
    return node("ContextWindowsManual", **{
        "context_length": 3, "context_overlap": 1, "context_stride": 1, "context_schedule": schedule,
        "closed_loop": schedule == "looped_uniform", "fuse_method": "pyramid", "dim": dim, "freenoise": False,
        "causal_window_fix": fix} | settings)


def shown(calls, extra: bool) -> list[list[int]]:
    """The frames the network was shown, call by call."""
    seen = []
    for c in calls:
        window = c.options["context_window"]
        anchor = getattr(window, "causal_anchor_index", None)
        if c.is_extra == extra:
            seen.append(([anchor] if anchor is not None and anchor >= 0 else []) + list(window.index_list))
    return seen


class Frames:
    """Noise for some frames of a video: those of the noise for all of them."""

    def __init__(self, frames: list[int], seed: int = 1):
        self.frames, self.seed = frames, seed

    def generate_noise(self, latent: dict) -> Tensor:
        whole = torch.zeros(1, 16, FRAMES, 8, 12)
        return comfy.sample.prepare_noise(whole, self.seed)[:, :, self.frames]


def map_of_frames(tiny: Tiny, frames: list[int]) -> Tensor:
    """What the model attends to in the first step, where these frames are all it is shown, [T, h, w]."""
    recorded, trace = record(tiny.model)
    (guider,) = call("CFGGuider", model=recorded, positive=tiny.positive, negative=tiny.negative, cfg=3.0)
    (sampler,) = call("KSamplerSelect", sampler_name="euler")
    (sigmas,) = call("BasicScheduler", model=recorded, scheduler="simple", steps=1, denoise=1.0)
    call("SamplerCustomAdvanced", noise=Frames(frames), guider=guider, sampler=sampler, sigmas=sigmas,
         latent_image={"samples": torch.zeros(1, 16, len(frames), 8, 12)})
    return only(trace).steps[0].attn_map[0]


@pytest.mark.parametrize("fix", [False, True], ids=["", "causal fix"])
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("first", ORDERS)
def test_map_of_every_frame_is_the_mean_over_the_windows_that_hold_it(first, schedule, fix):
    tiny = wan()
    guided, trace = combine(first, tiny.model, windows(2, schedule, fix))
    with network_calls(tiny.model) as calls:
        sample(tiny, guided, steps=1)
    total, count = torch.zeros(FRAMES, 4, 6), torch.zeros(FRAMES)
    for c in calls:
        if c.is_extra:
            continue
        (frames,) = shown([c], False)
        own = c.options["context_window"].index_list
        attn_map = map_of_frames(tiny, frames)[len(frames) - len(own):]
        for frame, of_frame in zip(own, attn_map, strict=True):
            total[frame] += of_frame
            count[frame] += 1
    assert count.min() >= 1 and (count.max() > 1 or schedule == "batched")
    assert maps(trace).shape == (1, 1, FRAMES, 4, 6)
    assert_close(maps(trace)[0, 0], total / count.view(-1, 1, 1), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("cfg", [1.0, 3.0])
def test_guidance_of_a_video_in_windows(cfg):
    """One step, restated: the extra pass sees the degraded sample through the same windows."""
    tiny = wan()
    view = windows(2, fix=True)
    guided, trace = guide(view(tiny.model))
    out = sample(tiny, guided, steps=1, cfg=cfg)
    attn_map, index = maps(trace)[0, 0], int(cfg != 1.0)

    def restated(args):
        denoised, conds = ((args["cond_denoised"], args["cond"]), (args["uncond_denoised"], args["uncond"]))[index]
        signal = 1 - args["sigma"].item()  # x = (1 - sigma) x0 + sigma n
        frames, pixels = denoised[0].transpose(0, 1), on_pixels(attn_map, (8, 12), 2)
        low = degraded(frames, pixels, 1.0, 1.5).transpose(0, 1)[None].float()
        low_x = args["input"] + signal * (low - denoised)
        again = comfy.samplers.calc_cond_batch(
            args["model"], [None] * index + [conds], low_x, args["sigma"], args["model_options"])[index]
        return args["denoised"] + 0.5 * (low - again)

    model = view(tiny.model)
    model.set_model_sampler_post_cfg_function(restated)
    expected, plain = sample(tiny, model, steps=1, cfg=cfg), sample(tiny, view(tiny.model), steps=1, cfg=cfg)
    assert_close(out, expected, rtol=0, atol=1e-4 * expected.abs().max().item())
    assert (out - plain).abs().max() > 1e-2 * plain.abs().max()


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_images_of_a_batch_do_not_see_each_other(schedule):
    """Where frames are images of their own, windows change neither the maps nor the result."""
    tiny = models.sd15().sized(8, 8, batch=FRAMES)
    (guided, trace), (expected, expected_trace) = guide(windows(0, schedule)(tiny.model)), guide(tiny.model)
    out, wanted = sample(tiny, guided), sample(tiny, expected)
    assert_close(out, wanted, rtol=0, atol=1e-3 * wanted.abs().max().item())
    assert_close(maps(trace), maps(expected_trace), rtol=1e-3, atol=1e-3)


def batch() -> Tiny:
    return models.sd15().sized(8, 8, batch=FRAMES)


VIEWS = {
    "context windows": ("ContextWindowsManual", {
        "U-Net": (batch, windows(0, fix=True)), "DiT": (wan, windows(2, fix=True))}),
    "context windows that move": ("ContextWindowsManual", {
        "U-Net": (batch, windows(0, "standard_uniform")), "DiT": (wan, windows(2, "standard_uniform"))}),
    "context windows that loop": ("ContextWindowsManual", {
        "U-Net": (batch, windows(0, "looped_uniform", context_stride=2)),
        "DiT": (wan, windows(2, "looped_uniform", context_stride=2))}),
    "context windows with FreeNoise": ("ContextWindowsManual", {
        "U-Net": (batch, windows(0, freenoise=True)), "DiT": (wan, windows(2, freenoise=True))}),
    "context windows longer than the sample": ("ContextWindowsManual", {
        "U-Net": (batch, windows(0, context_length=9)), "DiT": (wan, windows(2, context_length=9))}),
    "Wan Context Windows": ("WanContextWindowsManual", {"DiT": (wan, node(
        "WanContextWindowsManual", context_length=9, context_overlap=4, context_schedule="standard_uniform",
        context_stride=1, closed_loop=False, fuse_method="overlap-linear", freenoise=True,
        retain_first_frame=True))}),
}


@pytest.mark.parametrize("name", VIEWS)
def test_windows(name):
    node_name, families = VIEWS[name]
    row = Row(name, node_name)
    for family, (build, view) in families.items():
        tiny, outs = build(), []
        plain = sample(tiny, view(tiny.model), steps=2)
        for first in ORDERS:
            run = follow(tiny, *combine(first, tiny.model, view), steps=2)
            assert run.is_guided and len(run.steps) == 2 and run.branches == {"uncond"}
            for step in run.steps:
                frames = step.attn_map.flatten(0, 1 if family == "DiT" else 0)
                assert len(frames) == FRAMES and (frames.mean(dim=(1, 2)) > 0).all()
            # The extra pass looks through the windows of its step.
            main = [c for c in run.calls if not c.is_extra]
            if "longer" not in name:
                assert shown(main, False) == [frames for calls in run.extras for frames in shown(calls, True)]
            assert len(main) == sum(len(calls) for calls in run.extras)
            assert not torch.equal(run.out, plain)
            row.add(family, run)
            outs.append(run.out)
        assert torch.equal(*outs)
    cut = "nothing is cut" if "longer" in name else "every frame's map is the mean over its windows"
    row.check(f"{cut}; the same in either order")


def test_prompts_that_follow_each_other_in_windows():
    """Each window is given one of the prompts, on either side."""
    row, other = Row("context windows with prompts of their own", "ContextWindowsManual"), models.text(5)
    for family, (build, dim) in {"U-Net": (batch, 0), "DiT": (wan, 2)}.items():
        tiny = build()
        view = windows(dim, split_conds_to_windows=True)
        for side, cfg in (("positive", 3.0), ("positive", 1.0), ("negative", 3.0)):
            (both,) = call("ConditioningCombine", conditioning_1=getattr(tiny, side), conditioning_2=other)
            inputs = {side: both, "cfg": cfg}
            plain = sample(tiny, view(tiny.model), **inputs)
            assert not torch.equal(plain, sample(tiny, windows(dim)(tiny.model), **inputs))
            run = follow(tiny, *guide(view(tiny.model)), **inputs)
            assert run.is_guided and run.branches == {"cond" if cfg == 1.0 else "uncond"}
            assert not torch.equal(run.out, plain)
            row.add(family, run)
    row.check("on either side")


class SlidingWindows:
    """Frames of a batch in overlapping windows, as AnimateDiff's nodes run them: a wrapper around all of a pass.

    Each window is a batch of its own, of frames that follow one another in a loop; where windows overlap, their
    predictions are averaged.
    """

    def __init__(self, length: int = 3, overlap: int = 1):
        self.length, self.stride = length, length - overlap
        self.shown: list[tuple[bool, list[int]]] = []

    def __call__(self, model):
        model = model.clone()
        model.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.CALC_COND_BATCH, "sliding", self.evaluate)
        return model

    def evaluate(self, executor, model, conds, x, timestep, model_options):
        total, count = [torch.zeros_like(x) for _ in conds], torch.zeros(len(x), 1, 1, 1)
        for start in range(0, len(x), self.stride):
            frames = [(start + i) % len(x) for i in range(self.length)]
            self.shown.append((bool(model_options["transformer_options"].get("sag_pass")), frames))
            out = executor(model, conds, x[frames], timestep[frames], model_options)
            for of_all, of_window in zip(total, out, strict=True):
                of_all[frames] += of_window
            count[frames] += 1
        return [of_all / count for of_all in total]


@pytest.mark.parametrize("cfg", [3.0, 1.0])
@pytest.mark.parametrize("first", ORDERS)
def test_sliding_windows_over_a_batch_of_frames(first, cfg):
    row = Row("sliding windows over a batch (AnimateDiff)", NONE)
    for family, build in FAMILIES.items():
        tiny = replace(build(), latent=build().latent.expand(5, -1, -1, -1))
        plain, windows = SlidingWindows(), SlidingWindows()
        expected = sample(tiny, plain(tiny.model), cfg=cfg)
        run = follow(tiny, *combine(first, tiny.model, windows), cfg=cfg)
        assert run.is_guided and len(run.steps) == 2
        assert not torch.equal(run.out, expected)
        assert [frames for extra, frames in windows.shown if not extra] == [frames for _, frames in plain.shown]
        # Every frame's map is the mean over its windows, in each of which it attends to itself alone.
        recorded, trace = record(tiny.model)
        sample(tiny, recorded, cfg=cfg, steps=1)
        assert_close(run.steps[0].attn_map, only(trace).steps[0].attn_map)
        row.add(family, run)
    row.check("guided; in each window, as the model is run")


class Rearranged:
    """A node that runs the model on images of the batch in an order of its own, some of them more than once."""

    def __init__(self, calls: list[list[int]]):
        self.calls = calls

    def __call__(self, model):
        model = model.clone()
        model.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.CALC_COND_BATCH, "rearranged", self.evaluate)
        return model

    def evaluate(self, executor, model, conds, x, timestep, model_options):
        total = [torch.zeros_like(x) for _ in conds]
        for rows in self.calls:
            out = executor(model, conds, x[rows], timestep[rows], model_options)
            for of_all, of_part in zip(total, out, strict=True):
                of_all[rows] = of_part
        return total


@pytest.mark.parametrize("calls", [[[2, 1, 0]], [[0, 1, 1], [1, 2, 2]], [[1, 2], [0]]], ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_images_of_a_batch_in_another_order_are_guided_by_their_own_maps(family, calls):
    tiny = replace(FAMILIES[family](), latent=FAMILIES[family]().latent.expand(3, -1, -1, -1))
    plain, _ = guide(tiny.model)
    guided, trace = guide(Rearranged(calls)(tiny.model))
    assert_close(sample(tiny, guided), sample(tiny, plain), rtol=1e-4, atol=2e-3)
    assert all(step.guided for step in only(trace).steps) and only(trace).notes == []


def test_equal_images_that_are_run_in_parts_are_not_guided_and_said():
    """Nothing tells which of them a part is of."""
    tiny = replace(FAMILIES["U-Net"](), latent=FAMILIES["U-Net"]().latent.expand(4, -1, -1, -1))
    parts = Rearranged([[0, 1], [2, 3]])
    guided, trace = guide(parts(tiny.model))
    same = {"samples": torch.zeros(4, *tiny.latent.shape[1:]), "batch_index": [0, 0, 0, 0]}
    assert torch.equal(sample(tiny, guided, latent=same), sample(tiny, parts(tiny.model), latent=same))
    assert only(trace).steps == [] and "run on parts of the sample" in only(trace).notes[0]
