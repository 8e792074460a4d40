"""Classifier guidance in the real host: on models and samplers, against gradients taken outside of it."""

from __future__ import annotations

from pathlib import Path

import comfy.cli_args
import pytest
import torch
import torch.nn.functional as F
from comfy_execution.graph_utils import ExecutionBlocker
from safetensors.torch import save_file
from torch.testing import assert_close

import nodes
from sag_core.adm.classifier import ADMClassifier
from sag_core.adm.classifier_config import ClassifierConfig
from sag_core.adm.config import ADMConfig
from tests.host import adm, models
from tests.host.graph import call, guide, sample, sample_basic
from training import segmenter

CLASSES = 6
LATENT = torch.zeros(2, 3, 16, 16)


def configuration(pool="attention", **fields) -> ClassifierConfig:
    return ClassifierConfig(ADMConfig(**{
        "model_channels": 32, "channel_mult": (1, 2), "num_res_blocks": 1, "attention_downsamples": (2,),
        "head_channels": 32, "learn_sigma": False, "image_size": 16} | fields), CLASSES, pool)


def weights(config) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return {name: torch.randn(value.shape, generator=generator) * (value[0].numel() ** -0.5 if value.ndim > 1 else 0.1)
            + (value.ndim == 1 and name.endswith("weight"))
            for name, value in ADMClassifier(config, device="meta").state_dict().items()}


def load(folder: Path, inputs=None, **fields):
    """A random classifier, written into the host's folder and loaded by the node."""
    config = configuration(**fields)
    save_file(weights(config), folder / "noisy.safetensors", {"adm_classifier_config": config.to_json()})
    return call("SAGLoadClassifier", classifier_name="noisy.safetensors", **(inputs or {}))[0]


@pytest.fixture
def tiny(checkpoints):
    return adm.load(checkpoints).sized(16, 16, batch=2)


@pytest.fixture
def classifier(checkpoints):
    return load(checkpoints)


def settings(classifier, scale=2.0, labels="fixed", label=4, seed=0):
    return {"classifier": classifier, "scale": scale, "labels": labels, "label": label, "seed": seed}


def guided(model, classifier, **inputs):
    """Classifier Guidance on a model."""
    return call("SAGClassifierGuidance", model=model, **settings(classifier, **inputs))[0]


def guided_sampler(classifier, name="euler", **inputs):
    """Classifier Guidance on a sampler."""
    (sampler,) = call("KSamplerSelect", sampler_name=name)
    return call("SAGClassifierGuidance", sampler=sampler, **settings(classifier, **inputs))[1]


def sample_custom(tiny, sampler, model=None, cfg=1.0, steps=2, sigmas=None, positive=None):
    model = model or tiny.model
    if sigmas is None:
        (sigmas,) = call("BasicScheduler", model=model, scheduler="simple", steps=steps, denoise=1.0)
    return call("SamplerCustom", model=model, add_noise=True, noise_seed=1, cfg=cfg, sampler=sampler, sigmas=sigmas,
                positive=positive or tiny.positive, negative=tiny.negative,
                latent_image={"samples": tiny.latent})[0]["samples"]


def watched(model) -> tuple[object, list[dict]]:
    """A clone of a model, and what its post-CFG functions were given at this place in their order."""
    seen, model = [], model.clone()
    model.set_model_sampler_post_cfg_function(lambda args: seen.append(dict(args)) or args["denoised"])
    return model, seen


def expected_shift(args, label, scale=2.0, **fields):
    """sigma^2 * scale * grad_x log p(label | x) by the host's own x, in float64."""
    config = configuration(**fields)
    with torch.inference_mode(False):
        network = ADMClassifier(config, dtype=torch.float64)
        network.load_state_dict({name: value.double().clone() for name, value in weights(config).items()})
        x, sigma = args["input"].double().clone().requires_grad_(), args["sigma"].double().clone()[:, None, None, None]
        timesteps = args["model"].model_sampling.timestep(args["sigma"]).clone()
        log_p = F.log_softmax(network(x / (1 + sigma ** 2).sqrt(), timesteps), dim=1)[:, label].sum()
        (slope,) = torch.autograd.grad(log_p, x)
        return scale * sigma ** 2 * slope


@pytest.mark.parametrize(("pool", "cfg"), [
    ("attention", 1.0), ("attention", 3.0), ("adaptive", 1.0), ("spatial", 1.0), ("spatial_v2", 1.0)])
def test_the_prediction_moves_along_the_gradient_of_the_noisy_sample(checkpoints, tiny, pool, cfg):
    before, befores = watched(tiny.model)
    after, afters = watched(guided(before, load(checkpoints, pool=pool)))
    sample(tiny, after, steps=2, cfg=cfg)
    assert len(befores) == len(afters) == 2
    for was, now in zip(befores, afters, strict=True):
        expected = expected_shift(was, 4, pool=pool)
        assert expected.abs().max() > 1e-3
        shift = (now["denoised"] - was["denoised"]).double()
        assert_close(shift, expected, rtol=2e-4, atol=2e-5 * expected.abs().max())


@pytest.mark.parametrize("fields", [{"noise_schedule": "cosine"}, {"timesteps": 4000}], ids=str)
def test_the_process_it_was_trained_on_can_be_said(checkpoints, tiny, fields):
    """As if the file had said so; it decides what timestep the classifier is shown."""
    said, written, neither = load(checkpoints, inputs=fields), load(checkpoints, **fields), load(checkpoints)
    by_input, by_file, by_default = (sample(tiny, guided(tiny.model, used)) for used in (said, written, neither))
    assert torch.equal(by_input, by_file) and not torch.equal(by_input, by_default)
    recognised = call("SAGLoadClassifier", classifier_name="noisy.safetensors", **fields)[1]
    schedule, timesteps = fields.get("noise_schedule", "linear"), fields.get("timesteps", 1000)
    assert recognised.endswith(f"{schedule} {timesteps} steps")


def test_on_a_sampler_it_is_the_same_as_on_a_model(tiny, classifier):
    (plain,) = call("KSamplerSelect", sampler_name="euler")
    on_model = sample_custom(tiny, plain, guided(tiny.model, classifier), cfg=3.0)
    on_sampler = sample_custom(tiny, guided_sampler(classifier), cfg=3.0)
    assert torch.equal(on_model, on_sampler)
    assert not torch.equal(on_model, sample_custom(tiny, plain, cfg=3.0))


def test_scale_0_changes_nothing(tiny, classifier):
    assert torch.equal(sample(tiny, guided(tiny.model, classifier, scale=0.0)), sample(tiny))


def test_runs_leave_nothing_behind(tiny, classifier):
    model = guided(tiny.model, classifier)
    chain, unguided = list(model.model_options["sampler_post_cfg_function"]), sample(tiny)
    first, second = sample(tiny, model), sample(tiny, model)
    assert torch.equal(first, second) and not torch.equal(first, unguided)
    assert model.model_options["sampler_post_cfg_function"] == chain
    assert torch.equal(sample(tiny), unguided)
    assert all(not p.requires_grad and p.grad is None for p in classifier.patcher.model.parameters())


def test_the_classifier_is_asked_once_a_step_whatever_else_guides(tiny, classifier):
    calls = []
    handle = classifier.patcher.model.register_forward_hook(lambda module, args, out: calls.append(args[0].shape[0]))
    sample(tiny, guided(guide(tiny.model)[0], classifier), steps=3, cfg=3.0)
    handle.remove()
    assert calls == [2, 2, 2]


def test_with_self_attention_guidance_the_two_add_up_in_either_order(tiny, classifier):
    plain, sag, cg, sag_first, cg_first = (sample(tiny, model, steps=1) for model in (
        tiny.model, guide(tiny.model)[0], guided(tiny.model, classifier), guided(guide(tiny.model)[0], classifier),
        guide(guided(tiny.model, classifier))[0]))
    assert not torch.equal(sag, plain) and not torch.equal(cg, plain)
    both = (sag - plain) + (cg - plain)
    assert_close(sag_first - plain, both, rtol=1e-3, atol=1e-4)
    assert_close(cg_first - plain, both, rtol=1e-3, atol=1e-4)


def test_with_self_attention_guidance_on_samplers_it_is_the_same_as_on_models(tiny, classifier):
    (plain,) = call("KSamplerSelect", sampler_name="euler")
    sag, cg = {"scale": 0.5, "blur_sigma": 1.5, "threshold": 1.0}, settings(classifier)
    (sag_first,) = call("SAGClassifierGuidance", sampler=call("SAGSampler", sampler=plain, **sag)[0], **cg)[1:]
    cg_first = call("SAGSampler", sampler=call("SAGClassifierGuidance", sampler=plain, **cg)[1], **sag)[0]
    expected = sample_custom(tiny, plain, guided(guide(tiny.model)[0], classifier))
    for sampler in (sag_first, cg_first):
        assert_close(sample_custom(tiny, sampler), expected, rtol=1e-3, atol=1e-4)


def test_two_of_them_add_up(tiny, classifier):
    plain, one, two = (sample(tiny, model, steps=1) for model in (
        tiny.model, guided(tiny.model, classifier, scale=4.0), guided(guided(tiny.model, classifier), classifier)))
    assert_close(two - plain, one - plain, rtol=1e-3, atol=1e-4)


def test_the_label_comes_from_the_positive(tiny, classifier):
    """The positive's label is 3."""
    from_positive, fixed, other = (sample(tiny, guided(tiny.model, classifier, **inputs)) for inputs in (
        {"labels": "from conditioning", "label": 0}, {"label": 3}, {"label": 2}))
    assert torch.equal(from_positive, fixed) and not torch.equal(from_positive, other)
    on_sampler = (sample_custom(tiny, guided_sampler(classifier, labels=labels, label=3))
                  for labels in ("from conditioning", "fixed"))
    assert torch.equal(*on_sampler)
    assert sample_basic(tiny, guided(tiny.model, classifier, labels="from conditioning"))[0].isfinite().all()


def test_random_labels_are_drawn_for_each_image_by_the_seed(tiny, classifier):
    drawn = torch.randint(CLASSES, (2,), generator=torch.Generator().manual_seed(5)).tolist()
    assert drawn[0] != drawn[1]
    random = sample(tiny, guided(tiny.model, classifier, labels="random", seed=5))
    for row, label in enumerate(drawn):
        assert_close(random[row], sample(tiny, guided(tiny.model, classifier, label=label))[row], rtol=1e-3, atol=1e-4)


def test_the_authors_sampler_is_handed_the_gradient_instead(tiny, classifier):
    before, befores = watched(tiny.model)
    after, afters = watched(guided(before, classifier))
    seen = []
    after.set_model_sampler_post_cfg_function(lambda args: seen.append(
        args["model_options"]["transformer_options"]["sag_adm_step"].gradient.clone()) or args["denoised"])
    sampler, sigmas = call("SAGADMSampler", model=after, respacing="3", method="auto", eta=0.0)
    out = sample_custom(tiny, sampler, after, sigmas=sigmas)
    assert len(seen) == 3 and all(torch.equal(was["denoised"], now["denoised"])
                                  for was, now in zip(befores, afters, strict=True))
    for was, slope in zip(befores, seen, strict=True):
        sigma = was["sigma"].double()[:, None, None, None]
        expected = expected_shift(was, 4) * (1 + sigma ** 2).sqrt() / sigma ** 2
        assert_close(slope.double(), expected, rtol=2e-4, atol=2e-5 * expected.abs().max())
    wrapped = call("SAGClassifierGuidance", sampler=sampler, **settings(classifier))[1]
    assert torch.equal(sample_custom(tiny, wrapped, sigmas=sigmas), out)
    assert not torch.equal(sample_custom(tiny, sampler, sigmas=sigmas), out)


def test_weights_that_the_host_moved_in_inference_mode_still_have_gradients(tiny, classifier):
    expected = sample(tiny, guided(tiny.model, classifier))
    network = classifier.patcher.model
    for module in network.modules():
        for name, weight in list(module._parameters.items()):
            if weight is not None:
                module._parameters[name] = torch.nn.Parameter(weight.clone(), requires_grad=False)
    assert all(weight.is_inference() for weight in network.parameters())
    assert torch.equal(sample(tiny, guided(tiny.model, classifier)), expected)


@pytest.mark.parametrize(("flag", "dtype"), [("fp16_unet", torch.float16), ("bf16_unet", torch.bfloat16)])
def test_half_precision_gives_nearly_the_same(checkpoints, tiny, classifier, flag, dtype, monkeypatch):
    monkeypatch.setattr(comfy.cli_args.args, flag, True)
    half = load(checkpoints)
    assert {weight.dtype for weight in half.patcher.model.parameters()} == {dtype}
    plain, exact, near = (sample(tiny, model, steps=1) for model in (
        tiny.model, guided(tiny.model, classifier), guided(tiny.model, half)))
    assert torch.cosine_similarity((near - plain).flatten(), (exact - plain).flatten(), dim=0) > 0.99


# -- bad input, refused before the first step ------------------------------------------------------------------------

def refused(run, message):
    with pytest.raises(ValueError, match=message):
        run()


def test_images_of_another_size_are_refused(tiny, classifier):
    wide = tiny.sized(16, 24)
    message = "the images are 24x16; this classifier knows only 16x16"
    refused(lambda: sample(wide, guided(wide.model, classifier)), message)
    refused(lambda: sample_custom(wide, guided_sampler(classifier)), message)


def test_latent_models_are_refused(classifier):
    latent = models.sd15()
    refused(lambda: sample(latent, guided(latent.model, classifier)),
            r"latents of shape \[4, 16, 24\]; this classifier knows images of 3 channels")


@pytest.mark.parametrize("label", [-1, CLASSES])
def test_labels_it_does_not_have_are_refused_when_the_node_runs(tiny, classifier, label):
    refused(lambda: guided(tiny.model, classifier, label=label),
            f"label is {label}; this classifier has labels 0 to {CLASSES - 1}")


@pytest.mark.parametrize(("labels", "message"), [
    ((7,), "label is 7; this classifier has labels 0 to 5"),
    ((-1,), "the positive conditioning, which has none"),
    ((2, 3), "the positive conditioning, which has several"),
])
def test_a_label_must_be_found_in_the_conditioning(tiny, classifier, labels, message):
    model = guided(tiny.model, classifier, labels="from conditioning")
    positive = [cond for number in labels for cond in call("SAGClassLabel", label=number)[0]]
    refused(lambda: sample(tiny, model, positive=positive), message)


def test_text_conditioning_has_no_label(tiny, classifier):
    model = guided(tiny.model, classifier, labels="from conditioning")
    refused(lambda: sample(tiny, model, positive=[[torch.zeros(1, 77, 768), {}]]), "which has none")


def test_it_is_put_on_a_model_or_on_a_sampler(tiny, classifier):
    (sampler,) = call("KSamplerSelect", sampler_name="euler")
    refused(lambda: call("SAGClassifierGuidance", **settings(classifier)), "neither is connected")
    refused(lambda: call("SAGClassifierGuidance", model=tiny.model, sampler=sampler, **settings(classifier)),
            "both are connected")
    model, no_sampler = call("SAGClassifierGuidance", model=tiny.model, **settings(classifier))
    assert isinstance(no_sampler, ExecutionBlocker) and "has no sampler to give" in no_sampler.message


def test_a_diffusion_model_is_no_classifier_and_the_other_way_round(checkpoints):
    adm.load(checkpoints, name="model.safetensors")
    load(checkpoints)
    refused(lambda: call("SAGLoadClassifier", classifier_name="model.safetensors"),
            "model.safetensors: .*load it with Load ADM / IDDPM Checkpoint")
    refused(lambda: call("SAGLoadADM", ckpt_name="noisy.safetensors"), "noisy.safetensors: .*classifier")


# -- the classifier of the pack --------------------------------------------------------------------------------------

def options(node, name):
    (found,) = (i.options for i in nodes.NODE_CLASS_MAPPINGS[node].define_schema().inputs if i.id == name)
    return found


def test_classifiers_and_models_of_the_pack_are_listed_apart(checkpoints):
    for name in ("a.safetensors", "256x256_classifier.safetensors"):
        save_file({}, checkpoints / name)
    models_listed, classifiers = options("SAGLoadADM", "ckpt_name"), options("SAGLoadClassifier", "classifier_name")
    assert "shapes32 (embedded)" in models_listed and "shapes32_classifier (embedded)" not in models_listed
    assert classifiers[:2] == ["shapes32_classifier (embedded)", "256x256_classifier.safetensors"]
    assert "shapes32 (embedded)" not in classifiers and "a.safetensors" in classifiers


def test_the_segmenter_of_the_benchmarks_is_listed_nowhere():
    listed = options("SAGLoadADM", "ckpt_name") + options("SAGLoadClassifier", "classifier_name")
    assert segmenter.WEIGHTS.is_file() and not [name for name in listed if "segmenter" in name]


def test_the_packs_classifier_steers_the_packs_model():
    """Of images that are drawn without a class it takes more for the wanted one with guidance than without."""
    model = call("SAGLoadADM", ckpt_name="shapes32 (embedded)")[0]
    classifier = call("SAGLoadClassifier", classifier_name="shapes32_classifier (embedded)")[0]
    null = call("SAGClassLabel", label=-1)[0]
    embedded = models.Tiny(model, torch.zeros(8, 3, 32, 32), null, null)
    drawn = torch.randint(8, (8,), generator=torch.Generator().manual_seed(0))

    def log_p(patched):
        images = sample(embedded, patched, steps=8, cfg=1.0, sampler_name="euler_ancestral")
        return F.log_softmax(classifier.patcher.model(images, torch.zeros(8)), dim=1)[torch.arange(8), drawn].mean()

    assert log_p(guided(model, classifier, scale=4.0, labels="random", seed=0)) > log_p(model) + 0.5


@pytest.mark.parametrize(("fault", "said"), [
    (torch.cuda.OutOfMemoryError("CUDA out of memory"), "the classifier ran out of memory"),
    (RuntimeError("no kernel for this device"), "the classifier failed, so it did not guide some steps: no kernel"),
    (float("nan"), "the classifier's gradient is not finite")], ids=["OOM", "error", "NaN"])
def test_a_classifier_that_goes_wrong_costs_no_generation(tiny, classifier, fault, said, monkeypatch, caplog):
    network = classifier.patcher.model

    def forward(x, *args, **kwargs):
        if isinstance(fault, Exception):
            raise fault
        return type(network).forward(network, x, *args, **kwargs) * fault

    monkeypatch.setattr(network, "forward", forward)
    assert torch.equal(sample(tiny, guided(tiny.model, classifier)), sample(tiny))
    notes = [r.getMessage() for r in caplog.records if r.getMessage().startswith("SAG: ")]
    assert len(notes) == 1 and said in notes[0]
