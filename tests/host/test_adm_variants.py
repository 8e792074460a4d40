"""Every layout of published pixel models: read from its tensors alone, told, sampled and guided."""

from __future__ import annotations

import comfy.model_management
import pytest
import torch
from comfy.cli_args import args
from comfy.ldm.modules.attention import attention_pytorch
from safetensors.torch import save_file
from torch.testing import assert_close

import nodes
from benchmarks.host import pack_module
from benchmarks.measure import peak_memory
from tests.core.adm_reference import as_diffusers, ddpm_shapes
from tests.host import adm
from tests.host.graph import call, guide, only, sample

IMPROVED = {"resblock_updown": False, "num_heads": 4}
DDPM = adm.random_tensors(ddpm_shapes(32, (1, 2), 1, (1,)))
# Tensors, what the user says besides, and what the node answers.
VARIANTS = {
    "guided-diffusion, classes": (
        adm.random_network(num_classes=10), {"num_head_channels": 16}, "10 classes (0.8 M parameters), linear 1000"),
    "guided-diffusion, newer order": (
        adm.random_network(), {"num_head_channels": 16, "attention_order": "q, k, v first"}, "unconditional"),
    "guided-diffusion, cosine": (
        adm.random_network(), {"num_heads": 2, "noise_schedule": "cosine"}, "cosine 1000 steps"),
    "fixed sigma": (adm.random_network(learn_sigma=False), {"num_heads": 2}, "guided-diffusion"),
    "added timestep": (adm.random_network(scale_shift_norm=False), {"num_heads": 2}, "guided-diffusion"),
    "improved-diffusion": (adm.random_network(**IMPROVED), {}, "improved-diffusion with 2 levels of 32 channels"),
    "improved-diffusion, 4,000 steps": (
        adm.random_network(**IMPROVED, num_classes=10), {"timesteps": 4000, "noise_schedule": "cosine"},
        "cosine 4000 steps"),
    "improved-diffusion, 4,000 linear": (
        adm.random_network(**IMPROVED), {"timesteps": 4000, "rescale_timesteps": "no"}, "linear 4000 steps"),
    "DDPM": (DDPM, {}, "DDPM with 2 levels of 32 channels"),
    "DDPM, diffusers": (as_diffusers(DDPM, 2), {}, "DDPM with 2 levels of 32 channels"),
}


def written(folder, tensors, suffix="safetensors"):
    name = f"variant.{suffix}"
    {"safetensors": save_file, "pt": torch.save}[suffix]({k: v.contiguous() for k, v in tensors.items()}, folder / name)
    return name


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
@pytest.mark.parametrize(("tensors", "inputs", "told"), VARIANTS.values(), ids=VARIANTS)
def test_variant_is_told_sampled_and_guided(checkpoints, tensors, inputs, told, suffix):
    name = written(checkpoints, tensors, suffix)
    assert told in call("SAGLoadADM", ckpt_name=name, **inputs)[1]
    tiny = adm.loaded(name, **inputs)
    guided, trace = guide(tiny.model)
    plain, out = sample(tiny), sample(tiny, guided)
    assert out.isfinite().all() and not torch.equal(out, plain) and plain.std() > 0.01
    assert [step.guided for step in only(trace).steps] == [True, True] and only(trace).notes == []


def test_both_namings_of_ddpm_are_one_model(checkpoints):
    port = sample(adm.loaded(written(checkpoints, DDPM)))
    assert torch.equal(port, sample(adm.loaded(written(checkpoints, as_diffusers(DDPM, 2)))))


@pytest.mark.parametrize("inputs", [
    {"noise_schedule": "cosine"}, {"timesteps": 4000}, {"rescale_timesteps": "no", "timesteps": 4000}, {"num_heads": 2},
    {"num_head_channels": 8}, {"attention_order": "q, k, v first"}], ids=str)
def test_every_input_changes_what_is_drawn(checkpoints, inputs):
    name = written(checkpoints, adm.random_network(**IMPROVED))
    assert not torch.equal(sample(adm.loaded(name, **inputs)), sample(adm.loaded(name)))


def test_both_ways_to_count_heads_are_refused(checkpoints):
    with pytest.raises(ValueError, match="num_heads is 4 and head_channels is 16; give one of them"):
        adm.loaded(written(checkpoints, adm.random_network()), num_heads=4, num_head_channels=16)


def test_a_model_of_other_channels_is_refused_by_their_number(checkpoints):
    name = written(checkpoints, adm.random_network(in_channels=4))
    with pytest.raises(ValueError, match=f"{name}: the checkpoint takes 4 channels"):
        adm.loaded(name, num_heads=2)


def test_the_node_shows_what_it_recognised(checkpoints):
    name = written(checkpoints, DDPM)
    output = nodes.NODE_CLASS_MAPPINGS["SAGLoadADM"].execute(ckpt_name=name)
    assert output.ui["text"] == [output.result[1]]


PRECISIONS = {"bf16_unet": 0.1, "fp16_unet": 0.01}


def noise_of(tiny):
    """What the loaded model says is noise in a sample half of which is."""
    comfy.model_management.load_models_gpu([tiny.model])
    x, label = 1.5 * torch.randn(2, 3, 16, 24, generator=torch.Generator().manual_seed(0)), torch.tensor([3, 7])
    return x - tiny.model.model.apply_model(x, torch.ones(2), y=label, transformer_options={})


@pytest.mark.parametrize("half", [False, True], ids=["float32 file", "float16 file"])
@pytest.mark.parametrize("option", PRECISIONS)
@pytest.mark.parametrize("variant", ["guided-diffusion, classes", "improved-diffusion", "DDPM"])
def test_half_precision_is_close_to_single(checkpoints, monkeypatch, variant, option, half):
    tensors, inputs, _ = VARIANTS[variant]
    name = written(checkpoints, {k: v.half() if half else v for k, v in tensors.items()})
    reference = noise_of(adm.loaded(name, **inputs))
    monkeypatch.setattr(args, option, True)
    tiny = adm.loaded(name, **inputs)
    assert tiny.model.model_dtype() == {"bf16_unet": torch.bfloat16, "fp16_unet": torch.float16}[option]
    guided, _ = guide(tiny.model)
    assert sample(tiny, guided).isfinite().all()
    error = (noise_of(tiny) - reference).square().mean().sqrt()
    assert error < PRECISIONS[option] * reference.std()


def test_weights_that_stay_offloaded_are_cast_as_they_are_used(checkpoints):
    tensors, inputs, _ = VARIANTS["guided-diffusion, classes"]
    tiny = adm.loaded(written(checkpoints, tensors), **inputs)
    network, x = tiny.model.model.diffusion_model, torch.randn(1, 3, 16, 16)
    given = {"x": x, "timesteps": torch.tensor([500.0]), "y": torch.tensor([3])}
    expected = network(**given)
    tiny.model.load(torch.device("cpu"), lowvram_model_memory=1)
    layers = [module for module in network.modules() if hasattr(module, "weight")]
    assert all(hasattr(module, "comfy_cast_weights") for module in layers)
    assert any(module.comfy_cast_weights for module in layers)
    assert torch.equal(network(**given), expected)


# The upsamplers

UPSAMPLER = adm.random_network(in_channels=6, num_classes=10)


def upsampler(folder):
    return adm.loaded(written(folder, UPSAMPLER), num_head_channels=16)


def picture(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def with_image(conditioning, image):
    return call("SAGLowResImage", conditioning=conditioning, image=image)[0]


def shown(tiny, **inputs):
    """The low-resolution channels that the network is given, call by call, and the samples."""
    seen = []
    handle = tiny.model.model.diffusion_model.register_forward_pre_hook(lambda module, x: seen.append(x[0][:, 3:]))
    try:
        return seen, sample(tiny, steps=1, **inputs)
    finally:
        handle.remove()


def enlarged(image, *size):
    """[B, h, w, C] in 0 to 1 as the network sees it."""
    return torch.nn.functional.interpolate(image.movedim(-1, 1) * 2 - 1, size, mode="bilinear")


@pytest.mark.parametrize("size", [(16, 24), (17, 23), (8, 8)], ids=str)
def test_the_image_is_enlarged_to_the_size_of_the_sample(checkpoints, size):
    tiny, image = upsampler(checkpoints).sized(*size), picture(1, 4, 6, 3)
    positive, negative = with_image(tiny.positive, image), with_image(tiny.negative, image)
    guided, trace = guide(tiny.model)
    seen, out = shown(tiny, positive=positive, negative=negative)
    assert out.shape == (1, 3, *size)
    assert all(torch.equal(row, enlarged(image, *size)[0]) for rows in seen for row in rows)
    assert sample(tiny, guided, positive=positive, negative=negative).isfinite().all()
    assert all(step.guided for step in only(trace).steps)


def test_the_image_decides_what_is_drawn(checkpoints):
    tiny = upsampler(checkpoints)
    conds = [with_image(tiny.positive, picture(1, 4, 6, 3, seed=seed)) for seed in (0, 0, 1)]
    first, again, other = (sample(tiny, positive=cond, cfg=1.0, negative=cond) for cond in conds)
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_images_of_a_batch_go_to_their_samples_and_both_branches(checkpoints):
    tiny, images, other = upsampler(checkpoints).sized(batch=3), picture(3, 4, 6, 3), picture(1, 4, 6, 3, seed=1)
    seen, _ = shown(tiny, positive=with_image(tiny.positive, images), negative=with_image(tiny.negative, other))
    rows = torch.cat(seen)
    expected = [*enlarged(images, 16, 24), *[enlarged(other, 16, 24)[0]] * 3]
    assert len(rows) == 6
    for row in expected:
        assert any(torch.equal(row, given) for given in rows)
    # The rows of each branch are in the order of the samples.
    places = [next(i for i, given in enumerate(rows) if torch.equal(row, given)) for row in expected[:3]]
    assert places in ([0, 1, 2], [3, 4, 5])


def test_one_image_serves_a_batch_and_transparency_is_left_out(checkpoints):
    tiny, image = upsampler(checkpoints).sized(batch=2), picture(1, 4, 6, 4)
    cond = with_image(tiny.positive, image)
    seen, _ = shown(tiny, positive=cond, negative=cond, cfg=1.0)
    (rows,) = seen
    assert_close(rows, enlarged(image[..., :3], 16, 24).expand(2, -1, -1, -1))


def test_a_part_of_the_sample_sees_its_part_of_the_image(checkpoints):
    tiny, image = upsampler(checkpoints), picture(1, 4, 6, 3)
    cond = with_image(tiny.positive, image)
    # The host counts areas in pixels of 8 x 8 latent pixels' worth: these are 8 x 8 of the sample at (4, 16).
    (part,) = call("ConditioningSetArea", conditioning=cond, width=64, height=64, x=128, y=32, strength=1.0)
    seen, _ = shown(tiny, positive=part, negative=cond, cfg=1.0)
    assert any(torch.equal(rows, enlarged(image, 16, 24)[:, :, 4:12, 16:24]) for rows in seen)


@pytest.mark.parametrize("missing", ["positive", "negative"])
def test_a_missing_image_is_an_error_before_sampling(checkpoints, missing):
    tiny = upsampler(checkpoints)
    conds = {name: with_image(getattr(tiny, name), picture(1, 4, 6, 3)) for name in ("positive", "negative")}
    seen = []
    handle = tiny.model.model.diffusion_model.register_forward_pre_hook(lambda module, x: seen.append(x))
    with pytest.raises(ValueError, match="this model is an upsampler and was given no low-resolution image"):
        sample(tiny, **(conds | {missing: getattr(tiny, missing)}))
    handle.remove()
    assert not seen


def test_other_models_take_no_notice_of_an_image(checkpoints):
    tiny = adm.load(checkpoints)
    assert torch.equal(sample(tiny, positive=with_image(tiny.positive, picture(1, 4, 6, 3))), sample(tiny))


@pytest.mark.parametrize("shape", [(1, 64, 64), (3, 64, 48), (1, 61, 61)], ids=str)
@pytest.mark.parametrize("variant", ["guided-diffusion, classes", "improved-diffusion", "DDPM"])
def test_the_host_is_told_what_a_pass_takes(checkpoints, monkeypatch, variant, shape):
    # The host's default on a CPU takes what is free.
    monkeypatch.setattr(pack_module("host.adm"), "optimized_attention", attention_pytorch)
    tensors, inputs, _ = VARIANTS[variant]
    model, (rows, *size) = adm.loaded(written(checkpoints, tensors), **inputs).model, shape
    comfy.model_management.load_models_gpu([model])
    x, y = torch.randn(rows, 3, *size), torch.zeros(rows, dtype=torch.long)

    def run():
        model.model.apply_model(x, torch.ones(rows), y=y, transformer_options={})

    run()
    assert model.model.memory_required([rows, 3, *size]) == pytest.approx(peak_memory(run, "cpu"), rel=0.25)
