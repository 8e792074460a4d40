"""Pixel models: from the checkpoint in the published layout to a sampled image."""

from __future__ import annotations

import json
import math

import pytest
import torch
from torch.testing import assert_close

import nodes
from tests.host import adm
from tests.host.graph import call, guide, maps, only, sample
from tests.host.models import Tiny
from tests.host.observe import network_calls


def label(number):
    return call("SAGClassLabel", label=number)[0]


def configuration(**changes) -> dict:
    """Metadata of a checkpoint that says what its tensors cannot."""
    return {"adm_config": json.dumps({
        "model_channels": adm.CHANNELS, "channel_mult": [1, 1], "num_res_blocks": 1, "attention_downsamples": [2],
        "num_classes": adm.CLASSES, **changes})}


def test_labels_choose_what_is_drawn(checkpoints):
    tiny = adm.load(checkpoints)
    three, again, seven = (sample(tiny, cfg=1.0, positive=label(n)) for n in (3, 3, 7))
    assert torch.equal(three, again) and not torch.equal(three, seven)


@pytest.mark.parametrize("number", [adm.CLASSES, 100_000, -1])
def test_a_label_the_model_does_not_have_is_refused_by_its_number(checkpoints, number):
    tiny = adm.load(checkpoints)
    with pytest.raises(ValueError, match=f"class label is {number}; this model has labels 0 to 9"):
        sample(tiny, positive=label(number))


def test_minus_1_is_the_null_label_where_there_is_one(checkpoints):
    tiny = adm.load(checkpoints, metadata=configuration(null_label=9))
    assert torch.equal(sample(tiny, negative=label(-1)), sample(tiny, negative=label(9)))
    with pytest.raises(ValueError, match="class label is 10"):
        sample(tiny, negative=label(10))


def test_text_conditioning_is_the_null_label(checkpoints):
    """The stock text encoder's output may be connected; it holds no label."""
    tiny = adm.load(checkpoints, metadata=configuration(null_label=9))
    assert torch.equal(sample(tiny, negative=[[torch.zeros(1, 77, 768), {}]]), sample(tiny, negative=label(9)))


def test_unconditional_model_ignores_labels_and_is_guided(checkpoints):
    tiny = adm.load(checkpoints, classes=0)
    assert torch.equal(sample(tiny, cfg=1.0, positive=label(3)), sample(tiny, cfg=1.0, positive=label(-1)))
    guided, trace = guide(tiny.model)
    assert not torch.equal(sample(tiny, guided, cfg=1.0), sample(tiny, cfg=1.0))
    assert [(step.branch, step.guided) for step in only(trace).steps] == [("cond", True)] * 2


@pytest.mark.parametrize("size", [(16, 24), (17, 23), (1, 2), (5, 32)], ids=str)
def test_every_size_is_sampled(checkpoints, size):
    tiny = adm.load(checkpoints).sized(*size)
    guided, trace = guide(tiny.model)
    out = sample(tiny, guided)
    assert out.shape == (1, 3, *size) and out.isfinite().all()
    assert maps(trace).shape[2:] == tuple(-(-side // 2) for side in size)


def test_clean_predictions_are_images(checkpoints):
    tiny = adm.load(checkpoints)
    model, seen = tiny.model.clone(), []
    model.set_model_sampler_post_cfg_function(lambda args: seen.append(args["cond_denoised"]) or args["denoised"])
    sample(tiny, model, steps=3)
    assert len(seen) == 3 and all(x0.abs().max() <= 1 for x0 in seen)


def test_stock_nodes_make_its_latent_and_decode_it(checkpoints):
    tiny = adm.load(checkpoints)
    (latent,) = call("EmptyLatentImage", width=24, height=16, batch_size=2)
    out = sample(tiny, latent=latent)
    assert out.shape[:2] == (2, 3)
    (vae,) = call("VAELoader", vae_name="pixel_space")
    (image,) = call("VAEDecode", vae=vae, samples={"samples": out})
    assert image.shape == (2, *out.shape[2:], 3)
    assert_close(image, (out / 2 + 0.5).clamp(0, 1).movedim(1, -1))


def test_noise_levels_are_those_of_the_training_process(checkpoints):
    """guided-diffusion: 1,000 betas from 1e-4 to 0.02 in a line."""
    sampling = adm.load(checkpoints).model.get_model_object("model_sampling")
    kept = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), dim=0)
    assert_close(sampling.sigmas.double(), ((1 - kept) / kept).sqrt(), rtol=1e-5, atol=0)
    assert sampling.percent_to_sigma(0.0) > sampling.sigma_max and sampling.percent_to_sigma(1.0) == 0


@pytest.mark.parametrize("steps", [1000, 4000])
@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_guidance_starts_where_the_authors_start_it(checkpoints, schedule, steps):
    """They guide the timesteps below g (guide_start), which is 1 - g / steps of the process.

    The last few levels of the cosine schedule are thousands of times the image; the host's schedulers leave them out,
    and the process still has them. Others' levels are off by a few roundings.
    """
    metadata = configuration(noise_schedule=schedule, timesteps=steps)
    sampling = adm.load(checkpoints, metadata=metadata).model.get_model_object("model_sampling")
    if schedule == "linear":
        beta = torch.linspace(0.1 / steps, 20 / steps, steps, dtype=torch.float64)
    else:
        time = (torch.arange(steps + 1, dtype=torch.float64) / steps + 0.008) / 1.008 * math.pi / 2
        beta = (1 - time[1:].cos() ** 2 / time[:-1].cos() ** 2).clamp(max=0.999)
    kept = torch.cumprod(1 - beta, dim=0)
    levels = ((1 - kept) / kept).sqrt()
    for rounding in (1 - 1e-5, 1, 1 + 1e-5):
        guided = [int((levels * rounding <= sampling.percent_to_sigma(1 - g / steps)).sum()) for g in range(1, steps)]
        assert guided == list(range(1, steps))
    assert sampling.percent_to_sigma(0.0) > levels[-1] and sampling.percent_to_sigma(1.0) == 0
    starts = [sampling.percent_to_sigma(i / 977) for i in range(978)]
    assert starts == sorted(starts, reverse=True)
    kept_levels = sampling.sigmas
    assert 0.99 * steps < len(kept_levels) <= steps and 100 < kept_levels.max() <= 160


@pytest.mark.parametrize(("respacing", "g"), [("10", 3), ("ddim20", 7), ("25", 25), ("8", 1)])
def test_a_respaced_run_is_guided_where_the_authors_guide_it(respacing, g):
    """They count guide_start in the steps of the respaced process, which has the last of its steps at 0."""
    model, _ = call("SAGLoadADM", ckpt_name="shapes32 (embedded)")
    sampler, sigmas = call("SAGADMSampler", model=model, respacing=respacing, method="ddim", eta=0.0)
    steps = len(sigmas) - 1
    guided, trace = guide(model, start_percent=1 - g / steps)
    call("SamplerCustom", model=guided, add_noise=True, noise_seed=1, cfg=1.0, positive=label(-1), negative=label(-1),
         sampler=sampler, sigmas=sigmas, latent_image={"samples": torch.zeros(1, 3, 16, 16)})
    assert [step.guided for step in only(trace).steps] == [g > t for t in reversed(range(steps))]


def test_the_network_gets_noise_levels_of_a_variance_preserving_process(checkpoints):
    tiny = adm.load(checkpoints)
    inputs = []
    handle = tiny.model.model.diffusion_model.register_forward_pre_hook(lambda module, args: inputs.append(args[0]))
    with network_calls(tiny.model) as calls:
        sample(tiny, steps=3)
    handle.remove()
    sigmas = [c.options["sigmas"].item() for c in calls]
    assert sigmas[0] > 100 and len(sigmas) == 3
    assert 0.5 < inputs[0].std() < 2  # not a hundred times larger


def test_checkpoints_are_listed_after_the_models_of_the_pack(checkpoints):
    adm.load(checkpoints, name="listed.safetensors")
    names = nodes.NODE_CLASS_MAPPINGS["SAGLoadADM"].define_schema().inputs[0].options
    embedded = [name for name in names if name.endswith(" (embedded)")]
    assert embedded and names[:len(embedded)] == embedded
    assert "listed.safetensors" in names


def test_the_models_of_the_pack_load_and_are_guided():
    names = nodes.NODE_CLASS_MAPPINGS["SAGLoadADM"].define_schema().inputs[0].options
    for name in names:
        if name.endswith(" (embedded)"):
            model, _ = call("SAGLoadADM", ckpt_name=name)
            tiny = Tiny(model, torch.zeros(1, 3, 32, 32), label(0), label(-1))
            guided, trace = guide(model)
            assert sample(tiny, guided, steps=1).isfinite().all()
            assert only(trace).steps[0].guided
