"""Guidance is the paper's: whole trajectories against a restatement that shares nothing with this pack."""

from __future__ import annotations

import comfy.sample
import comfy.samplers
import pytest
import torch
from torch.testing import assert_close

from tests.host import adm, models
from tests.host.graph import call, guide, maps, sample, sample_basic
from tests.host.observe import MIDDLE, attention_calls
from tests.host.reference import attention_map, degraded, on_pixels, reference


def trajectory(tiny, cfg, steps, path=MIDDLE, heads=4, scale=0.5, blur_sigma=1.5, threshold=1.0):
    """Euler sampling with SAG as the paper writes it (algorithm 1, eq. 12), calling nothing but the network."""
    with attention_calls(tiny.model, path) as (watched, calls):
        model = watched.model

        def predict(x, sigma, conditioning):
            inputs = {"c_crossattn": conditioning[0][0]}
            options = {"wrappers": watched.wrappers, "cond_or_uncond": [0], "uuids": [0]}
            return model.apply_model(x.float(), sigma, transformer_options=options, **inputs).double()

        sigmas = comfy.samplers.calculate_sigmas(model.model_sampling, "simple", steps).double()
        x = comfy.sample.prepare_noise(tiny.latent, 1).double() * (1 + sigmas[0] ** 2) ** 0.5
        for sigma, following in zip(sigmas[:-1], sigmas[1:], strict=True):
            level = sigma.float()[None]
            calls.clear()
            denoised = base = predict(x, level, tiny.positive if cfg == 1 else tiny.negative)
            attn_map = attention_map(calls[0].q, calls[0].k, heads, calls[0].grid)
            if cfg != 1:
                base = denoised + cfg * (predict(x, level, tiny.positive) - denoised)
            eps, base_eps = (x - denoised) / sigma, (x - base) / sigma
            pixels = on_pixels(attn_map, tiny.latent.shape[2:], 2)
            low_x = degraded(denoised, pixels, threshold, blur_sigma) + sigma * eps
            low_eps = (low_x - predict(low_x, level, tiny.positive if cfg == 1 else tiny.negative)) / sigma
            x = x + (following - sigma) * (base_eps + scale * (eps - low_eps))
    return model.process_latent_out(x.float())


def check(out, expected, without, tolerance=5e-4):
    """Equal but for rounding, and guidance makes a difference that is larger by far."""
    size = expected.abs().max().item()
    assert_close(out, expected, rtol=0, atol=tolerance * size)
    assert (out - without).abs().max() > 30 * tolerance * size


@pytest.mark.parametrize("cfg", [1.0, 3.0])
@pytest.mark.parametrize("build", [models.sd15, models.sd20, models.v_prediction])
def test_a_whole_trajectory_is_the_papers(build, cfg):
    tiny = build()
    guided, _ = guide(tiny.model)
    check(sample(tiny, guided, cfg=cfg, steps=4), trajectory(tiny, cfg, 4), sample(tiny, cfg=cfg, steps=4))


def pixel_trajectory(tiny, cfg, sigmas, scale=0.5, blur_sigma=1.5, threshold=1.0):
    """Euler sampling of a pixel model with SAG: predictions are clamped as the authors' DDIM does, after guidance.

    With classifier-free guidance, which is of clamped predictions, the guided branch is.
    """
    with attention_calls(tiny.model, "middle_block.1") as (watched, calls):
        model, noise = watched.model, []
        handle = model.diffusion_model.register_forward_hook(lambda module, args, out: noise.append(out))

        def predict(x, sigma, conditioning):
            """The noise in x, as the network says."""
            inputs = {"y": torch.tensor([conditioning[0][1]["class_label"]])}
            options = {"wrappers": watched.wrappers, "cond_or_uncond": [0], "uuids": [0]}
            model.apply_model(x.float(), sigma.float()[None], transformer_options=options, **inputs)
            return noise[-1].double()

        x = comfy.sample.prepare_noise(tiny.latent, 1).double() * sigmas[0]
        own = tiny.positive if cfg == 1 else tiny.negative
        for sigma, following in zip(sigmas[:-1], sigmas[1:], strict=True):
            calls.clear()
            eps = predict(x, sigma, own)
            pixels = on_pixels(attention_map(calls[0].q, calls[0].k, 1, calls[0].grid), tiny.latent.shape[2:], 2)
            clean = (x - sigma * eps).clamp(-1, 1)
            low_eps = predict(degraded(clean, pixels, threshold, blur_sigma) + sigma * eps, sigma, own)
            image = (x - sigma * (eps + scale * (eps - low_eps))).clamp(-1, 1)
            if cfg != 1:
                base = clean + cfg * ((x - sigma * predict(x, sigma, tiny.positive)).clamp(-1, 1) - clean)
                low, high = base.clamp(max=-1), base.clamp(min=1)  # guidance takes nothing further out
                image = torch.minimum(torch.maximum(base + image - clean, low), high)
            x = x + (following - sigma) * (x - image) / sigma
        handle.remove()
    return x.float()


@pytest.mark.parametrize("cfg", [1.0, 3.0])
def test_a_whole_trajectory_of_a_pixel_model_is_the_authors(checkpoints, cfg):
    tiny = adm.load(checkpoints)
    guided, _ = guide(tiny.model)
    # This network's last steps: at its first, at noise level 157, float32 leaves a clean prediction three digits.
    (sigmas,) = call("BasicScheduler", model=tiny.model, scheduler="simple", steps=6, denoise=1.0)
    (euler,) = call("KSamplerSelect", sampler_name="euler")
    plain, out = (call("SamplerCustom", model=model, add_noise=True, noise_seed=1, cfg=cfg, positive=tiny.positive,
                       negative=tiny.negative, sampler=euler, sigmas=sigmas[-4:],
                       latent_image={"samples": tiny.latent})[0]["samples"] for model in (tiny.model, guided))
    check(out, pixel_trajectory(tiny, cfg, sigmas[-4:].double()), plain, tolerance=1e-3)


@pytest.mark.parametrize("settings", [
    {"scale": -1.0}, {"scale": 3.0}, {"blur_sigma": 0.6}, {"blur_sigma": 3.5}, {"threshold": 0.0}, {"threshold": 1.7},
], ids=str)
def test_every_setting_does_what_the_paper_says(settings):
    tiny = models.sd15()
    guided, _ = guide(tiny.model, **settings)
    check(sample(tiny, guided), trajectory(tiny, 3.0, 2, **settings), sample(tiny))


def test_without_a_negative_cond_is_guided():
    tiny = models.sd15()
    guided, _ = guide(tiny.model)
    out, denoised = sample_basic(tiny, guided)
    check(out, trajectory(tiny, 1.0, 2), sample_basic(tiny, tiny.model)[0])
    assert denoised.isfinite().all()


@pytest.mark.parametrize("build", [models.sdxl, models.playground, models.refiner, models.inpaint, models.ip2p,
                                   models.svd])
def test_other_families_agree_with_the_reference(build):
    tiny = build()
    guided, _ = guide(tiny.model)
    with reference(tiny.model) as (expected, _):
        check(sample(tiny, guided), sample(tiny, expected), sample(tiny))


@pytest.mark.parametrize("layer", ["input.1", "input.3", "output.0", "output.2"])
def test_other_layers_agree_with_the_reference(layer):
    tiny = models.sd15()
    guided, _ = guide(tiny.model, layer=layer)
    side, index = layer.split(".")
    patch = 1 if layer in ("input.1", "output.2") else 2
    with reference(tiny.model, f"{side}_blocks.{index}.1.transformer_blocks.0", patch) as (expected, _):
        check(sample(tiny, guided), sample(tiny, expected), sample(tiny))


def test_fused_layers_are_averaged_on_the_finest_grid():
    tiny = models.sd15()
    coarse, fine, both = (guide(tiny.model, layer=layer) for layer in ("middle.0", "input.1", "middle.0, input.1"))
    for model, _ in (coarse, fine, both):
        sample(tiny, model, steps=1)
    assert maps(both[1]).shape == (1, 1, 16, 24)
    stretched = maps(coarse[1]).repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    assert_close(maps(both[1]), (stretched + maps(fine[1])) / 2)


def test_every_image_of_a_batch_is_what_it_is_alone():
    tiny = models.sd15()
    guided, trace = guide(tiny.model)
    together = sample(tiny, guided, latent={"samples": torch.zeros(3, 4, 16, 24)})
    batch_maps = maps(trace)
    for i in range(3):
        alone = sample(tiny, guided, latent={"samples": torch.zeros(1, 4, 16, 24), "batch_index": [i]})
        assert_close(together[i:i + 1], alone, rtol=0, atol=1e-4 * alone.abs().max().item())
        assert_close(batch_maps[:, i], maps(trace)[:, 0], rtol=1e-3, atol=1e-3)


NOTHING_BLURRED = {"sigma 0": {"blur_sigma": 0.0}, "threshold 100": {"threshold": 100.0}}


@pytest.mark.parametrize("settings", NOTHING_BLURRED.values(), ids=NOTHING_BLURRED)
@pytest.mark.parametrize("cfg", [1.0, 3.0])
def test_where_nothing_is_blurred_guidance_adds_nothing(settings, cfg):
    tiny = models.sd15()
    guided, _ = guide(tiny.model, scale=5.0, **settings)
    plain = sample(tiny, cfg=cfg)
    assert_close(sample(tiny, guided, cfg=cfg), plain, rtol=0, atol=1e-4 * plain.abs().max().item())


def test_threshold_0_is_blur_guidance():
    """Every token attends to something, so that the mask is the whole image and the map does not matter."""
    tiny = models.sd15()
    coarse, fine = (guide(tiny.model, threshold=0.0, layer=layer)[0] for layer in ("middle.0", "input.1"))
    assert torch.equal(sample(tiny, coarse), sample(tiny, fine))


def test_a_negative_scale_steers_the_other_way():
    tiny = models.sd15()
    plain, forth, back = (sample(tiny, guide(tiny.model, scale=s)[0], steps=1) for s in (0.0, 0.7, -0.7))
    assert_close(forth - plain, plain - back, rtol=0, atol=1e-4 * plain.abs().max().item())


def test_a_kernel_of_the_users_cuts_the_blur_off():
    tiny = models.sd15()
    follows, same, short = (
        sample(tiny, guide(tiny.model, blur_sigma=2.0, blur_kernel=k)[0]) for k in (0, 17, 3))
    assert torch.equal(follows, same)
    assert not torch.allclose(follows, short, rtol=0.01)
