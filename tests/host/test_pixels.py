"""Pixel models under the host's own samplers: guided as by the authors, who clamp predictions after guidance."""

from __future__ import annotations

import json

import comfy.samplers
import pytest
import torch
from comfy.patcher_extension import WrappersMP
from torch.testing import assert_close

from sag_core.adm.respacing import space_timesteps
from sag_core.adm.schedule import betas
from tests.core.adm_sampler_reference import SAG, Process
from tests.core.adm_sampler_reference import sample as reference
from tests.host import adm
from tests.host.graph import call, guide, only, sample
from tests.host.models import Tiny
from tests.host.test_adm_sampler import LATENT, Network, embedded, label, noises, restated

AS_PUBLISHED = {"blur_sigma": 3.0, "blur_kernel": 31}
# Two levels with random weights, whose predictions leave the range of images at every step.
RANDOM = {"model_channels": adm.CHANNELS, "channel_mult": [1, 1], "num_res_blocks": 1, "attention_downsamples": [2],
          "num_classes": adm.CLASSES}


def random_model(checkpoints) -> tuple[object, Network]:
    tiny = adm.load(checkpoints, name="pixels.safetensors", metadata={"adm_config": json.dumps(RANDOM)})
    return tiny.model, Network(checkpoints / "pixels.safetensors")


def tiny_of(model) -> Tiny:
    return Tiny(model, LATENT, label(1), label(0))


def given_to_the_sampler(model) -> tuple[object, list[torch.Tensor]]:
    """A clone of a model, and what each of its evaluations gives to the sampler."""
    seen, model = [], model.clone()

    def predict_noise(executor, *args, **kwargs):
        out = executor(*args, **kwargs)
        seen.append(out.clone())
        return out

    model.add_wrapper(WrappersMP.PREDICT_NOISE, predict_noise)
    return model, seen


def given_to_cfg(model) -> tuple[object, list[torch.Tensor]]:
    """A clone of a model, and the predictions that classifier-free guidance is made of."""
    seen, model = [], model.clone()

    def pre_cfg(args):
        seen.extend(prediction.clone() for prediction in args["conds_out"])
        return args["conds_out"]

    model.set_model_sampler_pre_cfg_function(pre_cfg)
    return model, seen


def custom(model, sampler, sigmas, cfg=1.0):
    return call("SamplerCustom", model=model, add_noise=True, noise_seed=5, cfg=cfg, positive=label(1),
                negative=label(0), sampler=sampler, sigmas=sigmas, latent_image={"samples": LATENT})[0]["samples"]


def ddim_of(network: Network, sigmas: torch.Tensor, sag: SAG | None) -> torch.Tensor:
    """The last steps of the authors' DDIM in 25, from the host's first sample."""
    first, none = noises(LATENT.shape)
    process = Process(betas(network.config), space_timesteps(1000, "ddim25"))
    x = process.noised(torch.zeros_like(first), len(sigmas) - 2, first)
    return reference(network.shown(1), process, x, none, ddim=True, sag=sag, steps=len(sigmas) - 1)


@pytest.mark.parametrize(("weights", "sampler_name", "on", "steps"), [
    ("embedded", "euler", "model", 25), ("random", "ddim", "model", 3), ("random", "euler", "sampler", 3)])
def test_a_run_is_that_of_the_authors_ddim(checkpoints, weights, sampler_name, on, steps):
    """Of random weights the last steps alone, for they double a rounding at every step."""
    model, network = (embedded(), restated()) if weights == "embedded" else random_model(checkpoints)
    (sampler,) = call("KSamplerSelect", sampler_name=sampler_name)
    sigmas = call("SAGADMSampler", model=model, respacing="ddim25", method="auto", eta=0.0)[1][-steps - 1:]
    settings = {"scale": 0.5, "threshold": 1.0, **AS_PUBLISHED}
    if on == "sampler":
        guided = custom(model, call("SAGSampler", sampler=sampler, **settings)[0], sigmas)
    else:
        guided = custom(guide(model, **settings)[0], sampler, sigmas)
    plain, expected = (ddim_of(network, sigmas, sag) for sag in (None, SAG()))
    assert (expected - plain).square().mean().sqrt() > 0.01
    assert_close(custom(model, sampler, sigmas).double(), plain, rtol=0, atol=1e-4)
    assert_close(guided.double(), expected, rtol=0, atol=1e-4)


@pytest.mark.filterwarnings("ignore")  # those of the host's own samplers
@pytest.mark.parametrize("sampler_name", comfy.samplers.SAMPLER_NAMES)
def test_every_sampler_is_given_images(checkpoints, sampler_name):
    model, _ = random_model(checkpoints)
    guided, trace = guide(model, scale=2.0)
    guided, seen = given_to_the_sampler(guided)
    sample(tiny_of(model).sized(8, 8), guided, steps=3, cfg=1.0, sampler_name=sampler_name)
    assert len(seen) >= 3 and any(step.guided for step in only(trace).steps)
    assert all(denoised.abs().max() <= 1 for denoised in seen)


@pytest.mark.parametrize("cfg", [1.0, 3.0])
def test_guidance_of_nearly_nothing_changes_nearly_nothing(checkpoints, cfg):
    """What the guidance adds to is what the sampler is given without it."""
    model, _ = random_model(checkpoints)
    plain, seen = given_to_the_sampler(model)
    sample(tiny_of(model), plain, steps=1, cfg=cfg)
    guided, seen_guided = given_to_the_sampler(guide(model, scale=1e-6)[0])
    sample(tiny_of(model), guided, steps=1, cfg=cfg)
    assert_close(seen_guided[0], seen[0], rtol=0, atol=1e-3)


@pytest.mark.parametrize("cfg", [1.0, 3.0])
def test_classifier_free_guidance_is_given_images_as_without_this_guidance(checkpoints, cfg):
    model, _ = random_model(checkpoints)
    plain, seen = given_to_cfg(model)
    sample(tiny_of(model), plain, steps=1, cfg=cfg)
    guided, trace = guide(model)
    guided, seen_guided = given_to_cfg(guided)
    sample(tiny_of(model), guided, steps=1, cfg=cfg)
    assert [step.guided for step in only(trace).steps] == [True] and seen
    assert len(seen) == len(seen_guided) and all(map(torch.equal, seen, seen_guided))


def test_with_classifier_free_guidance_the_guided_branch_is_clamped_with_its_guidance(checkpoints):
    """CFG's result, and what clamping after guidance instead of before it changes in the negative's prediction."""
    model, network = random_model(checkpoints)
    watched, conds_out = given_to_cfg(model)
    guided, seen = given_to_the_sampler(guide(watched, scale=0.5, **AS_PUBLISHED)[0])
    sigmas = call("SAGADMSampler", model=model, respacing="ddim25", method="auto", eta=0.0)[1][[12, -1]]
    (euler,) = call("KSamplerSelect", sampler_name="euler")
    custom(guided, euler, sigmas, cfg=3.0)
    (first, _), sigma = noises(LATENT.shape), sigmas[0].double()
    timestep, x = space_timesteps(1000, "ddim25")[::-1][12], first * sigma

    def predict(x):
        out, attn_map = network.shown(0)(x / (1 + sigma ** 2).sqrt(), timestep)
        return x - sigma * out[:, :3], attn_map

    raw, attn_map = predict(x)
    degraded = SAG().degrade(raw.clamp(-1, 1), attn_map)
    direction = degraded - predict(degraded + (x - raw))[0]
    change = (raw + 0.5 * direction).clamp(-1, 1) - raw.clamp(-1, 1)
    positive, negative = (prediction.double() for prediction in conds_out[:2])
    base = negative + 3 * (positive - negative)
    # It takes nothing further out than classifier-free guidance has.
    expected = torch.where(change > 0, torch.minimum(base + change, base.clamp(min=1)),
                           torch.maximum(base + change, base.clamp(max=-1)))
    assert change.abs().max() > 0.05
    assert_close(seen[0].double(), expected, rtol=0, atol=1e-3)
