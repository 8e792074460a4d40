"""The authors' sampler in the real host, against their equations in float64; and what it does with other models."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from functools import cache
from pathlib import Path

import comfy.samplers
import pytest
import torch
from comfy.patcher_extension import WrappersMP
from safetensors.torch import save_file
from torch.testing import assert_close

import nodes
from sag_core.adm.checkpoint import load_checkpoint
from sag_core.adm.config import ADMConfig
from sag_core.adm.respacing import space_timesteps
from sag_core.adm.schedule import betas
from sag_core.adm.unet import ADMUNet
from tests.core.adm_sampler_reference import SAG, Process
from tests.core.adm_sampler_reference import sample as reference
from tests.host import models
from tests.host.graph import call, only
from tests.host.observe import network_calls

EMBEDDED = Path(__file__).resolve().parents[2] / "models" / "shapes32.safetensors"
SEED = 5
LATENT = torch.zeros(1, 3, 16, 16)


def label(number):
    return call("SAGClassLabel", label=number)[0]


@cache
def embedded():
    return call("SAGLoadADM", ckpt_name="shapes32 (embedded)")[0]


def sample(model, sampler, sigmas, cfg=1.0, latent=LATENT, positive=None, negative=None, seed=SEED, **latent_extra):
    out, _ = call("SamplerCustom", model=model, add_noise=True, noise_seed=seed, cfg=cfg,
                  positive=positive or label(1), negative=negative or label(-1), sampler=sampler, sigmas=sigmas,
                  latent_image={"samples": latent, **latent_extra})
    return out["samples"]


def authors(model, respacing="25", method="auto", eta=0.0, **inputs):
    """The node: (SAMPLER, SIGMAS)."""
    return call("SAGADMSampler", model=model, respacing=respacing, method=method, eta=eta, **inputs)


def noises(shape, seed=SEED):
    """What the host draws on the CPU: the first noise from the seed, a step's from the next one."""
    first = torch.randn(shape, generator=torch.manual_seed(seed))
    generator = torch.Generator().manual_seed(seed + 1)
    return first.double(), (torch.randn(shape, generator=generator).double() for _ in iter(int, 1))


class Network(ADMUNet):
    """The network in float64 with plain attention, which remembers the map of its middle block."""

    def __init__(self, path: Path):
        def attention(q, k, v, heads, options):
            probabilities = torch.softmax(q @ k.mT / math.sqrt(q.shape[-1]), dim=-1)
            if options["block"][0] == "middle":
                self.column_sums = probabilities.mean(1).sum(1)
            return (probabilities @ v).transpose(1, 2).flatten(2)

        tensors, config = load_checkpoint(path)
        super().__init__(config, attention=attention)
        self.double().load_state_dict({name: tensor.double() for name, tensor in tensors.items()})

    def shown(self, number: int):
        """The network of a class, as the reference calls it: (x, timestep) -> (prediction, map)."""
        def network(x, timestep):
            times = torch.full((len(x),), timestep)
            out = self(x, times, torch.full((len(x),), number))
            side = x.shape[-1] // self.config.downsampling
            return out, self.column_sums.unflatten(-1, (-1, side))

        return network


@cache
def restated() -> Network:
    return Network(EMBEDDED)


def process(respacing="25", config: ADMConfig | None = None) -> Process:
    beta = betas(config or restated().config)
    return Process(beta, space_timesteps(len(beta), respacing))


def gradient(x, timestep=0):
    """Of something that is differentiable, and not small."""
    return 0.5 * torch.cos(2 * x) - 0.2 * x


def classified(model):
    """The model with a classifier's gradient for the authors' sampler, by the host's own means."""
    def post_cfg(args):
        step = args["model_options"]["transformer_options"]["sag_adm_step"]
        step.add_gradient(gradient(args["input"] / (1 + args["sigma"].reshape(-1, 1, 1, 1) ** 2).sqrt()))
        return args["denoised"]

    model = model.clone()
    model.set_model_sampler_post_cfg_function(post_cfg)
    return model


def guided(model, scale=0.5):
    """The paper's settings for 128 pixels: sigma 3, kernel 31."""
    return call("SAGGuidance", model=model, scale=scale, blur_sigma=3.0, threshold=1.0, blur_kernel=31)[0]


# -- whole runs -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("respacing", "inputs", "restatement", "sag", "classifier"), [
    ("25", {}, {}, 0, False),
    ("25", {}, {}, 0.5, True),
    ("10,10,5", {"variance": "large"}, {"variance": "large"}, 0.3, True),
    ("25", {"variance": "small"}, {"variance": "small"}, 0, True),
    ("ddim25", {}, {"ddim": True}, 0.5, False),
    ("ddim25", {}, {"ddim": True}, 0.5, True),
    ("ddim25", {"eta": 0.6}, {"ddim": True, "eta": 0.6}, 0.5, True),
    ("25", {"start_step": 15}, {"steps": 10}, 0.5, False),
], ids=str)
def test_a_run_is_that_of_the_authors_equations(respacing, inputs, restatement, sag, classifier):
    model = guided(embedded(), sag) if sag else embedded()
    model = classified(model) if classifier else model
    sampler, sigmas = authors(model, respacing, **inputs)
    own = process(respacing)
    first, steps = noises(LATENT.shape)
    latent, x = LATENT, first
    if inputs.get("start_step"):
        latent = 0.5 * torch.randn(LATENT.shape, generator=torch.Generator().manual_seed(9))
        x = own.noised(latent.double(), restatement["steps"] - 1, first)
    expected = reference(restated().shown(1), own, x, steps, sag=SAG(sag) if sag else None,
                         gradient=gradient if classifier else None, **restatement)
    assert_close(sample(model, sampler, sigmas, latent=latent).double(), expected, rtol=0, atol=1e-4)


def test_with_classifier_free_guidance_the_positive_branch_gives_the_variance_and_the_other_is_guided():
    model = guided(embedded())
    first, steps = noises(LATENT.shape)
    expected = reference(restated().shown(1), process(), first, steps, sag=SAG(), cfg=2.0,
                         negative=restated().shown(restated().config.null_label))
    assert_close(sample(model, *authors(model), cfg=2.0).double(), expected, rtol=0, atol=1e-4)


def test_sag_sampler_wraps_it_and_guides_as_on_the_model():
    model = guided(embedded())
    sampler, sigmas = authors(embedded(), "ddim25")
    wrapped, trace = call("SAGSampler", sampler=sampler, scale=0.5, blur_sigma=3.0, threshold=1.0, blur_kernel=31)
    assert isinstance(wrapped, comfy.samplers.KSAMPLER)
    on_sampler = sample(embedded(), wrapped, sigmas)
    assert torch.equal(on_sampler, sample(model, *authors(model, "ddim25")))
    assert [step.guided for step in only(trace).steps] == [True] * 25 and only(trace).notes == []


def test_a_model_of_4000_steps_and_fixed_variance(checkpoints):
    """Improved-diffusion shows its network timesteps in thousandths, and samples models of fixed variance by beta."""
    tensors, config = load_checkpoint(EMBEDDED)
    config = replace(config, noise_schedule="linear", timesteps=4000, timestep_scale=0.25, learn_sigma=False)
    tensors |= {name: tensors[name][:3].clone() for name in ("out.2.weight", "out.2.bias")}
    path = checkpoints / "long.safetensors"
    save_file(tensors, path, {"adm_config": config.to_json()})
    model, *_ = call("SAGLoadADM", ckpt_name=path.name)
    network = Network(path)

    def with_no_variance(x, timestep):
        out, attn_map = network.shown(1)(x, timestep)
        return torch.cat([out, torch.zeros_like(out)], dim=1), attn_map

    first, steps = noises(LATENT.shape)
    expected = reference(with_no_variance, process("10", network.config), first, steps, variance="large")
    assert_close(sample(model, *authors(model, "10")).double(), expected, rtol=0, atol=1e-4)
    with pytest.raises(ValueError, match="variance is learned, but this model predicts none"):
        authors(model, variance="learned")


# -- the steps it takes -----------------------------------------------------------------------------------------------


def timesteps_shown(model, *sampling):
    seen = []
    handle = model.model.diffusion_model.register_forward_pre_hook(
        lambda module, args: seen.append(args[1][0].item()))
    sample(model, *sampling)
    handle.remove()
    return seen


@pytest.mark.parametrize("respacing", ["25", "ddim20", "5,7"])
def test_the_network_is_shown_the_timesteps_of_the_respacing(respacing):
    """The cosine schedule's noisiest too, which the host's schedulers leave out."""
    shown = timesteps_shown(embedded(), *authors(embedded(), respacing))
    assert shown == space_timesteps(1000, respacing)[::-1]


def test_all_steps_by_default_in_words_of_their_code():
    _, sigmas = authors(embedded(), "")
    assert len(sigmas) == 1001 and sigmas[-1] == 0 and sigmas[0] > 20_000
    assert_close(sigmas[:-1].double(), (1 / process("").alpha_bar - 1).sqrt().flip(0), rtol=1e-5, atol=0)


def test_other_schedulers_steps_are_sampled():
    """Karras' levels lie between timesteps and end in 0."""
    sampler, _ = authors(embedded())
    (sigmas,) = call("KarrasScheduler", steps=12, sigma_max=80.0, sigma_min=0.02, rho=7.0)
    out = sample(embedded(), sampler, sigmas)
    assert out.isfinite().all() and out.abs().max() <= 1


@pytest.mark.parametrize(("respacing", "guide", "at"), [("ddim25", lambda model: model, 10), ("10", classified, 9)],
                         ids=["in the middle", "before the last, with a classifier"])
def test_a_run_in_two_parts_is_the_run_in_one(respacing, guide, at):
    model = guide(embedded())
    sampler, sigmas = authors(model, respacing)
    whole = sample(model, sampler, sigmas)
    high, low = call("SplitSigmas", sigmas=sigmas, step=at)
    first, _ = call("SamplerCustom", model=model, add_noise=True, noise_seed=SEED, cfg=1.0, positive=label(1),
                    negative=label(-1), sampler=sampler, sigmas=high, latent_image={"samples": LATENT})
    second, _ = call("SamplerCustom", model=model, add_noise=False, noise_seed=SEED, cfg=1.0, positive=label(1),
                     negative=label(-1), sampler=sampler, sigmas=low, latent_image=first)
    assert_close(second["samples"], whole, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("inputs", "message"), [
    ({"respacing": "10,x"}, "respacing is '10,x'; 'x' is not a number of steps"),
    ({"respacing": "1001"}, "section 1 of 1 asks for 1001 steps, and has 1000"),
    ({"start_step": 25}, "start_step is 25; respacing '25' takes 25 steps, so it must be below 25"),
])
def test_steps_that_cannot_be_taken_are_refused_before_sampling(inputs, message):
    with pytest.raises(ValueError, match=message):
        authors(embedded(), **inputs)


def test_bad_numbers_are_refused_when_the_graph_is_queued():
    check = nodes.NODE_CLASS_MAPPINGS["SAGADMSampler"].validate_inputs
    assert check(eta=0.5, start_step=0) is True and check() is True
    assert "eta is 1.5" in check(eta=1.5)


# -- clamping ---------------------------------------------------------------------------------------------------------


def denoised_of(model, *sampling, **inputs):
    seen = []
    model = model.clone()
    model.set_model_sampler_post_cfg_function(lambda args: seen.append(args["denoised"]) or args["denoised"])
    sample(model, *sampling, **inputs)
    return seen


def test_predictions_are_clamped_for_other_samplers_and_not_for_this_one():
    sampler, sigmas = authors(embedded())
    (euler,) = call("KSamplerSelect", sampler_name="euler")
    raw, clamped = denoised_of(embedded(), sampler, sigmas), denoised_of(embedded(), euler, sigmas)
    assert raw[0].abs().max() > 10 and all(x0.abs().max() <= 1 for x0 in clamped)
    assert torch.equal(raw[0].clamp(-1, 1), clamped[0])


def test_previews_and_results_are_images():
    previews = []

    def outer_sample(executor, noise, latent_image, sampler, sigmas, denoise_mask=None, callback=None, *args, **kwargs):
        def watch(step, x0, x, total):
            previews.append(x0)

        return executor(noise, latent_image, sampler, sigmas, denoise_mask, watch, *args, **kwargs)

    model = embedded().clone()
    model.add_wrapper(WrappersMP.OUTER_SAMPLE, outer_sample)
    out = sample(model, *authors(model))
    assert len(previews) == 25 and all(x0.abs().max() <= 1 for x0 in previews)
    assert_close(out, previews[-1])


def test_clamping_can_be_left_away():
    sampler, sigmas = authors(embedded(), "ddim25", clip_denoised=False)
    own = process("ddim25")
    first, steps = noises(LATENT.shape)
    expected = reference(restated().shown(1), own, first, steps, ddim=True, clip=False)
    assert_close(sample(embedded(), sampler, sigmas).double(), expected, rtol=0, atol=1e-4)


# -- the host's other ways --------------------------------------------------------------------------------------------


def test_what_a_mask_keeps_of_an_image_is_kept():
    model = classified(guided(embedded()))
    image = torch.rand(LATENT.shape, generator=torch.Generator().manual_seed(1)) * 2 - 1
    mask = torch.zeros(1, 16, 16)
    mask[..., 8:] = 1
    out = sample(model, *authors(model), latent=image, noise_mask=mask)
    assert_close(out[..., :8], image[..., :8], rtol=0, atol=1e-6)
    assert not torch.allclose(out[..., 8:], image[..., 8:], atol=0.1)


def test_a_variance_that_is_never_seen_whole_is_the_processs_own(caplog):
    """Two areas, each half of the image."""
    halves = [call("ConditioningSetArea", conditioning=label(n), width=64, height=128, x=64 * n, y=0, strength=1.0)[0]
              for n in (0, 1)]
    sampler, sigmas = authors(embedded())
    out = sample(embedded(), sampler, sigmas, positive=halves[0] + halves[1])
    large, _ = authors(embedded(), variance="large")
    assert torch.equal(out, sample(embedded(), large, sigmas, positive=halves[0] + halves[1]))
    assert sum("variance was not seen" in record.message for record in caplog.records) == 1


def test_nothing_is_left_on_the_model():
    model = guided(embedded())
    before = json.dumps(model.model_options, default=repr, skipkeys=True)
    with network_calls(model) as calls:
        sample(model, *authors(model, "2"))
    assert len(calls) == 4 and all("sag_adm_step" in seen.options for seen in calls)
    assert json.dumps(model.model_options, default=repr, skipkeys=True) == before
    (euler,) = call("KSamplerSelect", sampler_name="euler")
    with network_calls(model) as calls:
        sample(model, euler, authors(model, "2")[1])
    assert not any("sag_adm_step" in seen.options for seen in calls)


@pytest.mark.parametrize("make", [models.sd15, models.v_prediction], ids=["eps", "v"])
def test_latent_models_are_sampled_with_the_posteriors_variance_and_without_clamping(make):
    tiny = make()
    model, _ = call("SAGGuidance", model=tiny.model, scale=0.5, blur_sigma=1.5, threshold=1.0)
    inputs = {"latent": tiny.latent, "positive": tiny.positive, "negative": tiny.negative, "cfg": 3.0}
    sampler, sigmas = authors(model, "5")
    assert len(sigmas) == 6
    seen = denoised_of(model, sampler, sigmas, **inputs)
    x, steps = noises(tiny.latent.shape)
    alpha_bar = 1 / (1 + sigmas.double() ** 2)
    for i, x0 in enumerate(seen):
        # DDPM, equations 6 and 7, between the levels of this run.
        now, then = alpha_bar[i], alpha_bar[i + 1]
        beta = 1 - now / then
        mean = then.sqrt() * beta / (1 - now) * x0.double() + (now / then).sqrt() * (1 - then) / (1 - now) * x
        x = mean + (beta * (1 - then) / (1 - now)).sqrt() * (next(steps) if i < 4 else 0)
    expected = model.model.process_latent_out(x)
    assert_close(sample(model, sampler, sigmas, **inputs).double(), expected, rtol=1e-5, atol=1e-4)


def test_flow_models_are_refused_by_the_node_and_by_the_sampler():
    tiny = models.flux()
    with pytest.raises(ValueError, match="is for models of a diffusion process .*Use another sampler"):
        authors(tiny.model)
    sampler, sigmas = authors(embedded(), "2")
    with pytest.raises(ValueError, match="is for models of a diffusion process"):
        sample(tiny.model, sampler, sigmas, latent=tiny.latent, positive=tiny.positive, negative=tiny.negative)
