"""SAG Mask Options: what is blurred in a run, and that traces and previews show just that."""

from __future__ import annotations

import comfy.utils
import pytest
import torch
from comfy.patcher_extension import WrappersMP
from torch.testing import assert_close

from sag_core.trace import AttentionTrace
from tests.host import families, models
from tests.host.graph import by_model_and_by_sampler, call, guide, maps, only, sample
from tests.host.observe import assert_unchanged, network_calls

FAMILIES = {"U-Net": lambda: models.sd15().sized(8, 12), "DiT": lambda: models.flux().sized(8, 12)}
EACH_FAMILY = pytest.mark.parametrize("build", FAMILIES.values(), ids=FAMILIES)
STRATEGIES = ("self-attention", "global", "high-frequency", "random", "square", "inverse")
PUT_AWAY = 0.5 / 255 + 1e-6  # masks are kept in 256 levels
nan = float("nan")


@pytest.fixture(params=FAMILIES)
def tiny(request):
    return FAMILIES[request.param]()


def options(strategy="self-attention", **inputs):
    return call("SAGMaskOptions", strategy=strategy, **inputs)[0]


def masked(tiny, strategy="self-attention", settings=None, **inputs):
    """A model guided with mask options: (MODEL, trace)."""
    return guide(tiny.model, mask_options=options(strategy, **inputs), **(settings or {}))


def mask_of(trace, step):
    """What the trace says was blurred at a step, without its dimension of channels."""
    return only(trace).mask(step)[:, 0]


def enlarged(attn_map, patch=2):
    return attn_map.repeat_interleave(patch, -2).repeat_interleave(patch, -1)


def blurred_places(tiny, guided, **inputs):
    """Samples, and where the extra passes of their run were shown something else than the main pass, [steps, B, H, W].

    Sampling starts a little late: a transformer's first sample is noise alone, in which no blur can show.
    """
    seen = []

    def apply_model(executor, x, t, c_concat, c_crossattn, control, transformer_options, **kwargs):
        seen.append((bool(transformer_options.get("sag_pass")), x))
        return executor(x, t, c_concat, c_crossattn, control, transformer_options, **kwargs)

    watched = guided.clone()
    watched.add_wrapper(WrappersMP.APPLY_MODEL, apply_model)
    samples = sample(tiny, watched, denoise=0.5, **inputs)
    pairs = [(main, low) for (_, main), (extra, low) in zip(seen[:-1], seen[1:], strict=True) if extra]
    return samples, torch.stack([(low != main[:len(low)]).any(dim=1) for main, low in pairs])


# -- what is chosen ---------------------------------------------------------------------------------------------------


def test_options_as_they_come_change_nothing(tiny):
    with_options, trace = masked(tiny)
    plain, _ = guide(tiny.model)
    assert torch.equal(sample(tiny, with_options), sample(tiny, plain))
    assert all(step.mask is None for step in only(trace).steps)  # the maps say it all


def test_global_is_blur_guidance(tiny):
    everywhere, trace = masked(tiny, "global")
    threshold_0, _ = guide(tiny.model, threshold=0.0)  # attention is never 0
    assert torch.equal(sample(tiny, everywhere), sample(tiny, threshold_0))
    assert all((mask_of(trace, step) == 1).all() for step in range(2))


def test_inverse_is_what_is_not_attended_to(tiny):
    guided, trace = masked(tiny, "inverse")
    sample(tiny, guided)
    for step, attn_map in enumerate(maps(trace)):
        assert torch.equal(mask_of(trace, step), enlarged(attn_map <= 1).float())


@pytest.mark.parametrize("strategy", ["high-frequency", "random", "square"])
def test_others_blur_as_much_as_is_attended_to(tiny, strategy):
    guided, trace = masked(tiny.sized(batch=2), strategy)
    sample(tiny.sized(batch=2), guided)
    for step, attn_map in enumerate(maps(trace)):
        attended = (attn_map > 1).float().mean(dim=(1, 2))
        mask = mask_of(trace, step)
        # A side of the rectangle is rounded to whole tokens, of 4 x 6.
        tolerance = 0.2 if strategy == "square" else 1e-6
        assert ((mask.mean(dim=(1, 2)) - attended).abs() < tolerance).all()
        assert not torch.equal(mask[0], mask[1]) and not torch.equal(mask, enlarged(attn_map > 1).float())


@pytest.mark.parametrize("strategy", ["random", "square"])
def test_places_drawn_at_random_are_those_of_the_seed(tiny, strategy):
    settings = {"threshold": 1.3}
    (one, one_trace), (same, _), (other, _) = (masked(tiny, strategy, settings, seed=seed) for seed in (3, 3, 11))
    first = sample(tiny, one, steps=3)
    first_masks = torch.stack([mask_of(one_trace, step) for step in range(3)])
    assert torch.equal(sample(tiny, same, steps=3), first) and torch.equal(sample(tiny, one, steps=3), first)
    assert not torch.equal(sample(tiny, other, steps=3), first)
    assert len(first_masks.flatten(1).unique(dim=0)) > 1


def test_quantile_is_each_images_own_share(tiny):
    tiny = tiny.sized(batch=2)
    guided, trace = masked(tiny, threshold_as="quantile", quantile=0.75)
    sample(tiny, guided)
    for step, attn_map in enumerate(maps(trace)):
        highest = attn_map.flatten(1).argsort(dim=1)[:, 18:]  # of 24 tokens
        expected = torch.zeros(2, 24).scatter(1, highest, 1.0).view(2, 4, 6)
        assert torch.equal(mask_of(trace, step), enlarged(expected))


def test_quantile_is_not_asked_where_the_threshold_is_absolute(tiny):
    (one, _), (other, _) = (masked(tiny, threshold_as="absolute", quantile=q) for q in (0.1, 0.9))
    assert torch.equal(sample(tiny, one), sample(tiny, other))


def test_soft_edge_is_a_smooth_step_around_the_threshold(tiny):
    guided, trace = masked(tiny, softness=0.8)
    sample(tiny, guided)
    for step, attn_map in enumerate(maps(trace)):
        t = ((attn_map - 1) / 0.8 + 0.5).clamp(0, 1)
        assert_close(mask_of(trace, step), enlarged(3 * t ** 2 - 2 * t ** 3), rtol=0, atol=PUT_AWAY)


def test_decay_is_a_running_average_of_the_maps(tiny):
    guided, trace = masked(tiny, decay=0.6)
    sample(tiny, guided, steps=4)
    average = maps(trace)[0]
    for step, attn_map in enumerate(maps(trace)):
        average = average if step == 0 else 0.6 * average + 0.4 * attn_map
        # The trace keeps the maps as they were, and the mask of their average.
        assert torch.equal(mask_of(trace, step), enlarged(average > 1).float())


@EACH_FAMILY
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_strategies_act_on_samplers_as_on_models(build, strategy):
    tiny = build()
    chosen = options(strategy, softness=0.3)
    *out, trace = by_model_and_by_sampler(tiny, mask_options=chosen)
    assert torch.equal(*out)
    assert [step.guided for step in only(trace).steps] == [True, True]


# -- the trace shows it ----------------------------------------------------------------------------------------------

OWN = torch.zeros(1, 8, 12)
OWN[:, 2:7, 3:9] = 1
SHOWN = {**{name: (name, {}) for name in STRATEGIES},
         "quantile": ("self-attention", {"threshold_as": "quantile", "quantile": 0.8}),
         "running average": ("self-attention", {"decay": 0.9}),
         "soft edge": ("self-attention", {"softness": 0.6}),
         "own mask": ("self-attention", {"mask": OWN, "combine": "replace"}),
         "inside of it": ("random", {"mask": OWN, "combine": "intersect"}),
         "all of it and more": ("self-attention", {"mask": OWN, "combine": "unite"})}


@pytest.mark.parametrize(("strategy", "inputs"), SHOWN.values(), ids=SHOWN)
def test_preview_and_saved_trace_show_what_the_network_was_shown_blurred(tiny, output_folder, strategy, inputs):
    guided, trace = masked(tiny, strategy, **inputs)
    samples, places = blurred_places(tiny, guided, steps=3)
    assert places.any() and len(places) == 3
    latent = {"samples": samples}
    call("SAGSaveTrace", trace=trace, latent=latent, filename_prefix="masks")
    (path,) = output_folder.iterdir()
    for shown in (trace, AttentionTrace.load(path)[0]):
        for step in range(3):
            image, mask = call("SAGMaskPreview", trace=shown, latent=latent, step=step, style="mask")
            if "softness" not in inputs:
                assert set(mask.unique().tolist()) <= {0.0, 1.0}
            assert not (mask[~places[step]] > PUT_AWAY).any() and (mask[places[step]] > 0).float().mean() > 0.9
            side = image.shape[1] // 8
            assert torch.equal(image[:, ::side, ::side, 0], mask)
        recorded = torch.stack([only(trace).mask(step) for step in range(3)]).mean(dim=0)
        _, mean = call("SAGMaskPreview", trace=shown, latent=latent, step=-1, style="heatmap")
        if strategy != "self-attention" or inputs:
            assert_close(mean, recorded[:, 0])


def test_preview_of_a_step_that_was_not_guided_shows_that_nothing_was_blurred(tiny):
    guided, trace = masked(tiny, "global", {"end_percent": 0.4})
    samples = sample(tiny, guided, steps=4)
    guided_steps = [step.guided for step in only(trace).steps]
    assert any(guided_steps) and not all(guided_steps)
    for step, is_guided in enumerate(guided_steps):
        _, mask = call("SAGMaskPreview", trace=trace, latent={"samples": samples}, step=step, style="mask")
        assert torch.equal(mask, torch.full_like(mask, float(is_guided)))


# -- the user's own mask ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(8, 12), (64, 96), (50, 70), (3, 5), (1, 1)], ids=str)
@pytest.mark.parametrize(("masks", "batch"), [(1, 1), (1, 3), (3, 3), (2, 3), (3, 2)])
def test_own_mask_of_any_size_and_batch_is_fitted_as_the_host_does(size, masks, batch):
    tiny = FAMILIES["U-Net"]().sized(batch=batch)
    own = (torch.rand(masks, *size, generator=torch.Generator().manual_seed(0)) > 0.4).float()
    guided, trace = masked(tiny, mask=own, combine="replace")
    sample(tiny, guided, steps=1)
    assert_close(mask_of(trace, 0), comfy.utils.reshape_mask(own, (batch, 1, 8, 12))[:, 0], rtol=0, atol=PUT_AWAY)


def test_own_mask_of_a_video_has_a_mask_for_every_frame():
    family = families.FAMILIES["Wan 2.2 TI2V 5B"]
    tiny = family.at(family.build(), (3, 8, 12))
    own = torch.zeros(3, 8, 12)
    for frame in range(3):
        own[frame, :, 4 * frame:4 * frame + 4] = 1
    guided, trace = masked(tiny, mask=own, combine="replace")
    _, places = blurred_places(tiny, guided, steps=1)
    assert torch.equal(mask_of(trace, 0), own[None])
    assert torch.equal(places[0], own[None].bool())


@pytest.mark.parametrize("masks", [1, 2, 9])
def test_own_masks_of_a_video_are_fitted_as_the_host_does(masks):
    family = families.FAMILIES["Wan 2.2 TI2V 5B"]
    tiny = family.at(family.build(), (3, 8, 12))
    own = (torch.arange(float(masks)) % 2)[:, None, None].expand(-1, 64, 96)
    guided, trace = masked(tiny, "global", mask=1 - own / 2, combine="intersect")
    sample(tiny, guided, steps=1)
    expected = comfy.utils.reshape_mask(1 - own / 2, (1, 1, 3, 8, 12))
    assert_close(mask_of(trace, 0), expected[:, 0], rtol=0, atol=PUT_AWAY)


def test_frames_that_are_a_batch_have_a_mask_each():
    tiny = models.svd()
    own = torch.zeros(3, 16, 24)
    own[1] = 1
    guided, trace = masked(tiny, "global", mask=own)
    sample(tiny, guided, steps=1)
    assert torch.equal(mask_of(trace, 0), own)


def test_guidance_in_the_inpainted_area_alone(tiny):
    """The mask of the inpainting is the guidance's as well."""
    inpainted = {"samples": torch.ones_like(tiny.latent), "noise_mask": OWN}
    guided, trace = masked(tiny, mask=OWN)
    samples, places = blurred_places(tiny, guided, latent=inpainted)
    for step, attn_map in enumerate(maps(trace)):
        expected = enlarged(attn_map > 1) & OWN.bool()
        assert torch.equal(places[step], expected)
        assert torch.equal(mask_of(trace, step), expected.float())
    assert_close(samples[:, :, OWN[0] == 0], torch.ones_like(samples)[:, :, OWN[0] == 0])


# -- off is off ------------------------------------------------------------------------------------------------------


EMPTY = {"nothing of what is attended to": {"mask": torch.zeros(1, 8, 12)},
         "nothing": {"mask": torch.zeros(2, 64, 96), "combine": "replace"},
         "nothing above the quantile": {"threshold_as": "quantile", "quantile": 1.0}}


@pytest.mark.parametrize("inputs", EMPTY.values(), ids=EMPTY)
def test_empty_mask_is_bit_identical_without_an_extra_pass(tiny, inputs):
    guided, trace = masked(tiny, **inputs)
    for cfg in (3.0, 1.0):
        assert_unchanged(tiny, guided, cfg=cfg)
        assert [step.guided for step in only(trace).steps] == [False, False]


@pytest.mark.parametrize("inputs", EMPTY.values(), ids=EMPTY)
def test_preview_of_an_empty_mask_is_empty(tiny, inputs):
    guided, trace = masked(tiny, **inputs)
    latent = {"samples": sample(tiny, guided)}
    for step in (-1, 0, 1):
        _, mask = call("SAGMaskPreview", trace=trace, latent=latent, step=step, style="mask")
        assert not mask.any()


def test_image_without_a_mask_stays_as_it_is_beside_others(tiny):
    """Nothing is blurred in the first of two images."""
    tiny = tiny.sized(batch=2)
    own = torch.stack([torch.zeros(8, 12), torch.ones(8, 12)])
    guided, _ = masked(tiny, mask=own)
    plain, out = sample(tiny, cfg=1.0), sample(tiny, guided, cfg=1.0)
    assert_close(out[0], plain[0], rtol=0, atol=1e-5 * plain.abs().max().item())
    assert not torch.allclose(out[1], plain[1], rtol=0, atol=1e-3 * plain.abs().max().item())


def test_a_mask_that_is_replaced_still_records_what_is_attended_to(tiny):
    guided, trace = masked(tiny, mask=OWN, combine="replace")
    plain, plain_trace = guide(tiny.model)
    sample(tiny, guided, steps=1)
    sample(tiny, plain, steps=1)
    assert torch.equal(maps(trace), maps(plain_trace))


# -- refused ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("inputs", "message"), [
    ({"mask": torch.ones(8, 12)}, r"mask has the shape \(8, 12\)"),
    ({"mask": torch.ones(1, 8, 12, 1)}, r"mask has the shape \(1, 8, 12, 1\)"),
    ({"mask": torch.ones(0, 8, 12)}, r"mask has the shape \(0, 8, 12\)"),
    ({"mask": torch.full((1, 8, 12), nan)}, "mask holds values that are not finite"),
    ({"combine": "replace"}, "combine is 'replace', but no mask is connected"),
    ({"strategy": "DINO"}, "strategy is 'DINO', but no CLIP_VISION model is connected"),
    ({"threshold_as": "quantile", "quantile": nan}, "quantile is nan"),
    ({"softness": nan}, "softness is nan"), ({"softness": -1.0}, "softness is -1.0"),
    ({"decay": 1.0}, "decay is 1.0"), ({"decay": nan}, "decay is nan"),
], ids=str)
def test_bad_options_are_refused_by_name_when_the_node_runs(inputs, message):
    with pytest.raises(ValueError, match=message):
        options(**{"strategy": "self-attention", **inputs})


def test_one_extra_pass_whatever_the_strategy(tiny):
    for strategy in STRATEGIES:
        guided, _ = masked(tiny, strategy)
        with network_calls(tiny.model) as calls:
            sample(tiny, guided)
        assert [c.is_extra for c in calls] == [False, True] * 2
