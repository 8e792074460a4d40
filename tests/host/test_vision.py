"""The strategy DINO: a vision model of the host's looks at the clean prediction, and its attention is the mask."""

from __future__ import annotations

import json
import math
import tempfile
from pathlib import Path

import comfy.clip_vision
import comfy.model_management
import latent_preview
import numpy
import pytest
import torch
from torch.testing import assert_close

from tests.host import adm, families, models
from tests.host.graph import by_model_and_by_sampler, call, guide, maps, only, sample
from tests.host.observe import network_calls, new_tensors

SIDE, PATCH = 56, 14  # 4 x 4 tokens
COMMON = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_channels": 3, "image_size": SIDE,
          "patch_size": PATCH, "layer_norm_eps": 1e-6}
DINOV2 = COMMON | {"model_type": "dinov2", "use_mask_token": True, "use_swiglu_ffn": False,
                   "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
DINOV3 = COMMON | {"model_type": "dinov3", "num_register_tokens": 4, "intermediate_size": 64, "rope_theta": 100.0}
CLIP = COMMON | {"model_type": "clip_vision_model", "intermediate_size": 64, "hidden_act": "quick_gelu",
                 "projection_dim": 16}
SIGLIP = CLIP | {"model_type": "siglip_vision_model", "hidden_act": "gelu_pytorch_tanh"}
# Where the image's tokens start, and the last layer's projections.
MODELS = {
    "DINOv2": (DINOV2, 1, "encoder.layer.1.attention.attention", "query", "key"),
    "CLIP": (CLIP, 1, "vision_model.encoder.layers.1.self_attn", "q_proj", "k_proj"),
    "SigLIP": (SIGLIP, 0, "vision_model.encoder.layers.1.self_attn", "q_proj", "k_proj"),
    "DINOv3": (DINOV3, 5, "layer.1.attention", "q_proj", "k_proj"),
}


def vision_model(config):
    """A CLIP_VISION with random weights whose attention is far from even."""
    if config["model_type"] not in comfy.clip_vision.IMAGE_ENCODERS:
        pytest.skip(f"this ComfyUI has no {config['model_type']}")
    with tempfile.TemporaryDirectory() as folder:  # older hosts read the configuration from a file only
        path = Path(folder) / "config.json"
        path.write_text(json.dumps(config), encoding="utf-8")
        model = comfy.clip_vision.ClipVisionModel(path)
    if config["model_type"] == "dinov2":  # older hosts have places for 518 pixels only
        tokens = 1 + (config["image_size"] // config["patch_size"]) ** 2
        places = torch.empty(1, tokens, config["hidden_size"])
        model.model.embeddings.position_embeddings = torch.nn.Parameter(places)
    generator = torch.Generator().manual_seed(0)
    for name, weight in model.model.named_parameters():
        sharp = 4 if any(part in name for part in ("query", "key", "q_proj", "k_proj")) else 1
        value = torch.randn(weight.shape, generator=generator) * (sharp * weight[0].numel() ** -0.5
                                                                  if weight.ndim > 1 else 0.1)
        weight.data.copy_(value + (1 if "norm" in name and name.endswith("weight") else 0))
    return model


@pytest.fixture(scope="module", params=MODELS)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def dinov2():
    return vision_model(DINOV2)


def dino(clip_vision, **inputs):
    return call("SAGMaskOptions", strategy="DINO", clip_vision=clip_vision, **inputs)[0]


def rotated(x, side):
    """DINOv3's rotary positions on tokens [B, heads, side * side, D], written out for every token."""
    half, quarter = x.shape[-1] // 2, x.shape[-1] // 4
    out = x.clone()
    for token in range(side * side):
        place = [2 * ((axis + 0.5) / side) - 1 for axis in divmod(token, side)]
        for pair in range(half):
            frequency = 100.0 ** -((pair % quarter) * 4 / x.shape[-1])
            angle = 2 * math.pi * place[pair // quarter] * frequency
            a, b = x[:, :, token, pair], x[:, :, token, pair + half]
            out[:, :, token, pair] = a * math.cos(angle) - b * math.sin(angle)
            out[:, :, token, pair + half] = b * math.cos(angle) + a * math.sin(angle)
    return out


def features(clip_vision, images):
    """What the vision model makes of images squeezed into its square, as the host shows them to it."""
    pixels = comfy.clip_vision.clip_preprocess(images, SIDE, clip_vision.image_mean, clip_vision.image_std, crop=False)
    return clip_vision.model(pixel_values=pixels, intermediate_output=-2)[0]


def expected_map(clip_vision, kind, images):
    """The attention that the image's tokens give each other in the last layer, mean 1, in float64."""
    _, first, path, q_name, k_name = MODELS[kind]
    layer, seen = clip_vision.model.get_submodule(path), {}
    hooks = [getattr(layer, name).register_forward_hook(
        lambda module, args, output, name=name: seen.update({name: output})) for name in (q_name, k_name)]
    try:
        features(clip_vision, images)
    finally:
        for hook in hooks:
            hook.remove()
    q, k = (seen[name].double().unflatten(-1, (4, -1)).transpose(1, 2) for name in (q_name, k_name))
    if kind == "DINOv3":
        q, k = (torch.cat([t[:, :, :first], rotated(t[:, :, first:], SIDE // PATCH)], dim=2) for t in (q, k))
    probabilities = torch.softmax(q @ k.mT / math.sqrt(q.shape[-1]), dim=-1)
    mass = probabilities.mean(dim=1)[:, first:, first:].sum(dim=1)
    return (mass / mass.mean(dim=1, keepdim=True)).unflatten(-1, (SIDE // PATCH, -1))


def images(batch=2, height=48, width=80):
    return torch.rand(batch, height, width, 3, generator=torch.Generator().manual_seed(1))


# -- the map ---------------------------------------------------------------------------------------------------------


def test_map_is_the_last_layers_attention_among_the_images_tokens(kind):
    clip_vision = vision_model(MODELS[kind][0])
    attn_map = dino(clip_vision).vision.attention(images())
    assert attn_map.shape == (2, 4, 4)
    assert_close(attn_map.double(), expected_map(clip_vision, kind, images()), rtol=1e-3, atol=1e-4)
    assert attn_map.std() > 0.05 and not torch.allclose(attn_map[0], attn_map[1], atol=0.02)
    assert_close(attn_map.mean(dim=(1, 2)), torch.ones(2))


def test_the_vision_model_is_left_as_it_was(kind):
    clip_vision = vision_model(MODELS[kind][0])

    def hooks():
        return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) + ("forward" in vars(m))
                   for m in clip_vision.model.modules())

    before = features(clip_vision, images())
    vision = dino(clip_vision).vision
    vision.attention(images())
    assert hooks() == 0
    assert torch.equal(features(clip_vision, images()), before)
    with pytest.raises(RuntimeError):
        vision.attention(torch.rand(1, 8, 8, 7)[..., :2])  # no third colour
    assert hooks() == 0
    assert torch.equal(features(clip_vision, images()), before)


def test_other_nodes_hooks_on_the_vision_model_are_kept(dinov2):
    entered = []
    handles = [m.register_forward_pre_hook(lambda module, args: entered.append(module))
               for m in dinov2.model.modules() if type(m).__name__ == "BertAttention"]
    dino(dinov2).vision.attention(images())
    assert len(entered) == 2 and all(handle.id in handle.hooks_dict_ref() for handle in handles)
    for handle in handles:
        handle.remove()


# -- what it looks at ------------------------------------------------------------------------------------------------


def shown(tiny, clip_vision, **inputs):
    """The images that the vision model is shown in a run, and the clean predictions of the guided branch."""
    seen, predicted = [], []
    options = dino(clip_vision)
    model = tiny.model.clone()
    model.set_model_sampler_post_cfg_function(
        lambda args: predicted.append(args["uncond_denoised"]) or args["denoised"])
    guided, trace = guide(model, mask_options=options)
    plain = options.vision.attention
    vars(options.vision)["attention"] = lambda images: seen.append(images) or plain(images)
    sample(tiny, guided, **inputs)
    return seen, predicted, trace


@pytest.mark.parametrize("build", [models.sd15, models.sdxl, models.flux])
def test_vision_model_is_shown_the_hosts_own_preview_of_the_clean_prediction(build, dinov2):
    tiny = build().sized(8, 12, batch=2)
    seen, predicted, _ = shown(tiny, dinov2)
    form = tiny.model.model.latent_format
    previewer = latent_preview.Latent2RGBPreviewer(form.latent_rgb_factors, form.latent_rgb_factors_bias,
                                                   form.latent_rgb_factors_reshape)
    assert len(seen) == len(predicted) == 2
    for pictures, denoised in zip(seen, predicted, strict=True):
        assert pictures.shape == (2, 8, 12, 3) and pictures.min() >= 0 and pictures.max() <= 1
        for i, picture in enumerate(pictures):
            preview = torch.from_numpy(numpy.array(previewer.decode_latent_to_preview(denoised[i:i + 1])))
            assert_close(255 * picture, preview.float(), rtol=0, atol=1.5)


def test_pixels_are_looked_at_as_they_are(checkpoints, dinov2):
    """A model without latents makes pixels in -1..1."""
    tiny = adm.load(checkpoints)
    seen, predicted, trace = shown(tiny, dinov2)
    assert not only(trace).notes
    assert_close(seen[0], ((predicted[0] + 1) / 2).clamp(0, 1).movedim(1, -1), rtol=0, atol=1e-5)


# -- the run ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("build", [models.sd15, models.flux])
def test_mask_of_every_step_is_where_the_vision_model_attends(build, kind, output_folder):
    tiny, clip_vision = build().sized(8, 12, batch=2), vision_model(MODELS[kind][0])
    seen, _, trace = shown(tiny, clip_vision, steps=2)
    assert len(seen) == 2 and not only(trace).notes
    assert [step.guided for step in only(trace).steps] == [True, True]
    for step, pictures in enumerate(seen):
        attended = expected_map(clip_vision, kind, pictures) > 1
        # 4 x 4 tokens on 8 x 12 pixels, the columns stretched.
        expected = attended.repeat_interleave(2, 1).repeat_interleave(3, 2).float()
        assert torch.equal(only(trace).mask(step)[:, 0], expected)
    # The trace keeps the model's own attention.
    assert maps(trace).shape == (2, 2, 4, 6)


def test_runs_repeat_and_take_one_extra_pass(dinov2):
    for build in (models.sd15, models.flux):
        tiny = build().sized(8, 12)
        guided, _ = guide(tiny.model, mask_options=dino(dinov2))
        with network_calls(tiny.model) as calls:
            out = sample(tiny, guided)
        assert [c.is_extra for c in calls] == [False, True] * 2
        assert torch.equal(sample(tiny, guided), out)
        assert not torch.equal(out, sample(tiny, guide(tiny.model)[0]))


def test_a_guided_sampler_looks_as_well(dinov2):
    tiny = models.sd15().sized(8, 12)
    options = dino(dinov2)
    *out, trace = by_model_and_by_sampler(tiny, mask_options=options)
    assert torch.equal(*out)
    assert not only(trace).notes


def test_vision_model_is_loaded_before_the_model_that_is_sampled(dinov2, monkeypatch):
    """Where there is room for one of them alone, the one that is sampled must not be put out for the other."""
    tiny, loaded = models.sd15().sized(8, 12), []
    guided, _ = guide(tiny.model, mask_options=dino(dinov2))
    watch_loading(monkeypatch, loaded)
    sample(tiny, guided, steps=1)
    assert any(dinov2.model in group for group in loaded)
    assert any(tiny.model.model is one for one in loaded[-1])


def test_on_a_sampler_the_vision_model_stays_where_it_is(dinov2, monkeypatch):
    """The model that is sampled is loaded by then, and weights that are not on the device are cast as they are used."""
    tiny, loaded = models.sd15().sized(8, 12), []
    (sampler,) = call("KSamplerSelect", sampler_name="euler")
    sampler, trace = call("SAGSampler", sampler=sampler, scale=0.5, blur_sigma=1.5, threshold=1.0,
                          mask_options=dino(dinov2))
    watch_loading(monkeypatch, loaded)
    call("SamplerCustom", model=tiny.model, add_noise=True, noise_seed=1, cfg=3.0, positive=tiny.positive,
         negative=tiny.negative, sampler=sampler, sigmas=torch.tensor([2.0, 0.0]),
         latent_image={"samples": tiny.latent})
    assert only(trace).steps[0].guided and not any(dinov2.model in group for group in loaded)


def watch_loading(monkeypatch, loaded):
    """Note the models that the host brings to the device, call by call."""
    load = comfy.model_management.load_models_gpu

    def watched(patchers, *args, **kwargs):
        loaded.append([patcher.model for patcher in patchers])
        return load(patchers, *args, **kwargs)

    monkeypatch.setattr(comfy.model_management, "load_models_gpu", watched)


def test_vision_model_is_not_asked_where_nothing_is_guided(dinov2):
    tiny = models.sd15().sized(8, 12)
    options = dino(dinov2)

    def unseen(images):
        raise AssertionError("nobody needs to look")

    vars(options.vision)["attention"] = unseen
    guided, _ = guide(tiny.model, scale=0.0, mask_options=options)
    assert torch.equal(sample(tiny, guided), sample(tiny))


def test_no_tensor_is_kept_but_the_maps_and_masks(dinov2):
    tiny = models.sd15().sized(8, 12)
    guided, trace = guide(tiny.model, mask_options=dino(dinov2))
    sample(tiny, guided)
    with new_tensors() as kept:
        sample(tiny, guided)
    steps = only(trace).steps
    assert {id(t) for t in kept} == {id(t) for step in steps for t in (step.attn_map, step.mask)}


# -- where it cannot look --------------------------------------------------------------------------------------------


def test_a_video_is_guided_by_its_own_attention_and_the_trace_says_so(dinov2):
    family = families.FAMILIES["Wan 2.2 TI2V 5B"]
    tiny = family.at(family.build(), (3, 8, 12))
    guided, trace = guide(tiny.model, mask_options=dino(dinov2))
    plain, _ = guide(tiny.model)
    assert torch.equal(sample(tiny, guided, steps=1), sample(tiny, plain, steps=1))
    assert only(trace).notes == ["a vision model looks at images, not at videos; the model's own self-attention is "
                                 "used instead"]


def test_latents_without_known_colours_are_guided_by_their_own_attention_and_the_trace_says_so(dinov2):
    tiny = models.sd15().sized(8, 12)
    form = tiny.model.model.latent_format
    form.latent_rgb_factors = None  # an instance's own; the class is left alone
    guided, trace = guide(tiny.model, mask_options=dino(dinov2))
    plain, _ = guide(tiny.model)
    assert torch.equal(sample(tiny, guided), sample(tiny, plain))
    assert "no known colours" in only(trace).notes[0] and "self-attention is used instead" in only(trace).notes[0]


def test_an_image_model_whose_latents_have_one_frame_is_looked_at(dinov2):
    """Qwen-Image and others make images of videos of one frame."""
    family = families.FAMILIES["Qwen-Image"]
    tiny = family.at(family.build(), family.square)
    guided, trace = guide(tiny.model, mask_options=dino(dinov2))
    sample(tiny, guided, steps=1)
    assert not only(trace).notes and only(trace).steps[0].guided


def test_a_vision_model_that_fails_does_not_end_the_generation(dinov2):
    tiny = models.sd15().sized(8, 12)
    options = dino(dinov2)

    def fail(images):
        raise RuntimeError("out of memory")

    vars(options.vision)["attention"] = fail
    guided, trace = guide(tiny.model, mask_options=options)
    assert sample(tiny, guided).isfinite().all()
    assert len(only(trace).notes) == 1 and "out of memory" in only(trace).notes[0]


def test_a_vision_model_without_attention_to_read_is_refused_by_name():
    class Own:
        model_type, model = "own", torch.nn.Linear(2, 2)

    with pytest.raises(ValueError, match="vision model of type 'own' has no self-attention that can be read; load"):
        dino(Own())


def test_a_vision_model_of_no_fixed_size_is_refused_or_read():
    """SigLIP 2 naflex takes images of any size."""
    clip_vision = vision_model(SIGLIP | {"model_type": "siglip2_vision_model", "image_size": -1, "num_patches": 16})
    try:
        options = dino(clip_vision)
    except ValueError as error:
        assert "siglip2_vision_model" in str(error)
    else:
        assert options.vision.attention(images()).isfinite().all()


def test_strategies_that_look_at_nothing_need_no_vision_model(dinov2):
    assert call("SAGMaskOptions", strategy="global", clip_vision=dinov2)[0].strategy == "global"
