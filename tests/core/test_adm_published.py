"""Published models are known by their tensors, told by name, and overruled by who knows better."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sag_core.adm.checkpoint import read_config
from sag_core.adm.config import ADMConfig
from sag_core.adm.published import PUBLISHED, Overrides, describe
from sag_core.adm.unet import ADMUNet

MULTIPLES = {512: (0.5, 1, 1, 2, 2, 4, 4), 256: (1, 1, 2, 2, 4, 4), 128: (1, 1, 2, 3, 4), 64: (1, 2, 3, 4),
             32: (1, 2, 2, 2)}


def from_flags(code: str, flags: str, upsampler: bool = False) -> ADMConfig:
    """The configuration that flags of guided-diffusion's or improved-diffusion's scripts stand for."""
    guided, given = code == "guided", dict(flag.split(" ") for flag in flags.split("--")[1:] for flag in [flag.strip()])

    def true(name, default):
        return given.get(name, str(default)) == "True"

    size, steps = int(given["size"]), int(given["diffusion_steps"])
    # The script of guided-diffusion's upsampler of 512 pixels has the multiples of 256.
    mult = MULTIPLES[256 if upsampler else size]
    return ADMConfig(
        int(given["num_channels"]), mult, int(given["num_res_blocks"]),
        tuple(sorted(size // int(side) for side in given.get("attention_resolutions", "16,8").split(","))),
        num_heads=0 if "num_head_channels" in given else int(given.get("num_heads", 4)),
        head_channels=int(given.get("num_head_channels", 64)), in_channels=6 if upsampler else 3,
        learn_sigma=true("learn_sigma", False), num_classes=1000 if true("class_cond", False) else 0,
        scale_shift_norm=true("use_scale_shift_norm", True), resblock_updown=true("resblock_updown", False),
        new_attention_order=true("use_new_attention_order", False), image_size=size,
        noise_schedule=given["noise_schedule"], timesteps=steps,
        timestep_scale=1000 / steps if true("rescale_timesteps", not guided) else 1.0)


ADM = "--num_res_blocks 2 --diffusion_steps 1000 --noise_schedule linear --learn_sigma True --resblock_updown True "
IDDPM = "--num_channels 128 --num_res_blocks 3 --learn_sigma True --diffusion_steps 4000 --noise_schedule cosine "
HEADS = "--num_channels 256 --attention_resolutions 32,16,8 --num_head_channels 64 "
UPSAMPLERS = ("ADM upsampler 64x64 to 256x256", "ADM upsampler 128x128 to 512x512", "IDDPM upsampler 64x64 to 256x256")
# The READMEs of the two repositories; millions of parameters by tables 11 and 12 of arXiv 2105.05233, and by the names
# of improved-diffusion's files, where those give more than one digit.
MODELS = {
    "ADM ImageNet 64x64": (
        "guided", 296, "--size 64 --num_channels 192 --num_res_blocks 3 --attention_resolutions 32,16,8 "
        "--class_cond True --diffusion_steps 1000 --noise_schedule cosine --learn_sigma True --num_head_channels 64 "
        "--resblock_updown True --use_new_attention_order True"),
    "ADM ImageNet 128x128": (
        "guided", 422, ADM + "--size 128 --num_channels 256 --attention_resolutions 32,16,8 --num_heads 4 "
        "--class_cond True"),
    "ADM ImageNet 256x256": ("guided", 554, ADM + HEADS + "--size 256 --class_cond True"),
    "ADM ImageNet or LSUN 256x256": ("guided", 552, ADM + HEADS + "--size 256"),
    "ADM ImageNet 512x512": ("guided", 559, ADM + HEADS + "--size 512 --class_cond True"),
    "ADM ImageNet 512x512 (finetuned)": ("guided", 558, ADM + HEADS + "--size 512"),
    "ADM upsampler 64x64 to 256x256": (
        "guided", 312, ADM + "--size 256 --num_channels 192 --attention_resolutions 32,16,8 --num_heads 4 "
        "--class_cond True"),
    "ADM upsampler 128x128 to 512x512": (
        "guided", 309, ADM + "--size 512 --num_channels 192 --attention_resolutions 32,16 --num_head_channels 64 "
        "--class_cond True"),
    "IDDPM ImageNet 64x64": ("improved", None, IDDPM + "--size 64"),
    "IDDPM ImageNet 64x64 (270M)": (
        "improved", 270, IDDPM.replace("128", "192") + "--size 64 --class_cond True --rescale_timesteps False"),
    "IDDPM CIFAR-10 32x32": ("improved", 52.5, IDDPM + "--size 32"),
    "IDDPM LSUN bedroom 256x256": (
        "improved", None, "--size 256 --num_channels 128 --num_res_blocks 2 --num_heads 1 --learn_sigma True "
        "--use_scale_shift_norm False --attention_resolutions 16 --diffusion_steps 1000 --noise_schedule linear "
        "--rescale_timesteps False"),
    "IDDPM upsampler 64x64 to 256x256": (
        "improved", 280, "--size 256 --num_channels 192 --num_res_blocks 2 --learn_sigma True --class_cond True "
        "--diffusion_steps 4000 --noise_schedule linear --rescale_timesteps False"),
}


def tensors(config):
    return ADMUNet(config, device="meta").state_dict()


def small(**fields):
    return ADMConfig(**({"model_channels": 64, "channel_mult": (1, 1), "num_res_blocks": 1,
                         "attention_downsamples": (2,)} | fields))


@pytest.mark.parametrize("name", MODELS)
def test_published_models_are_known_by_their_tensors_alone(name):
    code, millions, flags = MODELS[name]
    config = from_flags(code, flags, name in UPSAMPLERS)
    state = tensors(config)
    assert read_config(state) == config
    count = sum(tensor.numel() for tensor in state.values())
    # The files' names round to ten million.
    assert millions is None or count / 1e6 == pytest.approx(millions, abs=1 if code == "guided" else 4)
    assert describe(config, count).startswith(f"{name}, ")


def test_every_model_of_the_table_is_tested():
    """DDPM's, which come under other names, are in test_adm_rename.py."""
    assert {name for name, config in PUBLISHED.items() if not config.asymmetric_padding} == set(MODELS)


@pytest.mark.parametrize(("config", "expected"), [
    (PUBLISHED["ADM ImageNet 256x256"],
     "ADM ImageNet 256x256, 1000 classes (12.3 M parameters), linear 1000 steps"),
    (PUBLISHED["IDDPM ImageNet 64x64"],
     "IDDPM ImageNet 64x64, unconditional (12.3 M parameters), cosine 4000 steps"),
    (PUBLISHED["ADM upsampler 64x64 to 256x256"],
     "ADM upsampler 64x64 to 256x256, 1000 classes (12.3 M parameters), linear 1000 steps, needs a low-resolution "
     "image"),
    (replace(PUBLISHED["ADM ImageNet 256x256"], num_classes=7),
     "a model shaped like ADM ImageNet 256x256, 7 classes (12.3 M parameters), linear 1000 steps"),
    (small(), "a model of guided-diffusion with 2 levels of 64 channels and up, unconditional (12.3 M parameters), "
              "linear 1000 steps"),
    (small(resblock_updown=False, num_heads=4, noise_schedule="cosine"),
     "a model of improved-diffusion with 2 levels of 64 channels and up, unconditional (12.3 M parameters), "
     "cosine 1000 steps"),
    (small(resblock_updown=False, asymmetric_padding=True),
     "a model of DDPM with 2 levels of 64 channels and up, unconditional (12.3 M parameters), linear 1000 steps"),
])
def test_a_model_is_told_in_a_line(config, expected):
    assert describe(config, 12_345_678) == expected


@pytest.mark.parametrize("fields", [{"num_classes": 7}, {"learn_sigma": False}, {"num_res_blocks": 1}], ids=str)
def test_relatives_of_a_published_model_have_its_process_and_heads(fields):
    for name in ("ADM ImageNet 64x64", "ADM ImageNet 128x128", "IDDPM CIFAR-10 32x32", "DDPM CIFAR-10 32x32"):
        config = replace(PUBLISHED[name], **fields)
        assert read_config(tensors(config), ddpm=config.asymmetric_padding) == config


GIVEN = [
    ({}, {}),
    ({"noise_schedule": "cosine"}, {"noise_schedule": "cosine"}),
    ({"timesteps": 4000}, {"timesteps": 4000}),
    ({"timesteps": 4000, "rescale_timesteps": True}, {"timesteps": 4000, "timestep_scale": 0.25}),
    ({"rescale_timesteps": True}, {"timestep_scale": 1.0}),
    ({"num_heads": 2}, {"num_heads": 2}),
    ({"head_channels": 32}, {"head_channels": 32, "num_heads": 0}),
    ({"new_attention_order": True}, {"new_attention_order": True}),
]


@pytest.mark.parametrize(("given", "expected"), GIVEN, ids=str)
def test_what_the_user_gives_overrules(given, expected):
    config = small()
    assert read_config(tensors(config), overrides=Overrides(**given)) == replace(config, **expected)
    published = PUBLISHED["ADM ImageNet 64x64"]
    assert read_config(tensors(published), overrides=Overrides(**given)) == replace(published, **expected)


@pytest.mark.parametrize(("given", "scale"), [
    ({"timesteps": 2000}, 0.5), ({"timesteps": 2000, "rescale_timesteps": False}, 1.0), ({}, 0.25),
    ({"rescale_timesteps": False}, 1.0), ({"noise_schedule": "linear"}, 0.25)], ids=str)
def test_improved_diffusion_goes_on_scaling_timesteps_where_their_number_is_given(given, scale):
    state = tensors(PUBLISHED["IDDPM ImageNet 64x64"])
    assert read_config(state, overrides=Overrides(**given)).timestep_scale == scale


def test_heads_that_do_not_divide_the_channels_can_be_given():
    config = small(model_channels=32, num_heads=2)
    with pytest.raises(ValueError, match="a level of 32 channels .* head_channels 64"):
        read_config(tensors(config))
    assert read_config(tensors(config), overrides=Overrides(num_heads=2)) == config


@pytest.mark.parametrize(("given", "named"), [
    ({"num_heads": 4, "head_channels": 64}, "num_heads is 4 and head_channels is 64"),
    ({"noise_schedule": "sigmoid"}, "noise_schedule is 'sigmoid'"),
    ({"timesteps": -1}, "timesteps is -1"),
    ({"num_heads": 5}, "a level of 64 channels .* num_heads 5"),
], ids=str)
def test_values_that_cannot_be_are_refused_by_name(given, named):
    with pytest.raises(ValueError, match=named):
        read_config(tensors(small()), overrides=Overrides(**given))
