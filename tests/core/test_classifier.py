"""The noisy classifier, against a functional restatement of the published one, and how its files are read."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch.testing import assert_close

from sag_core.adm.classifier import ADMClassifier
from sag_core.adm.classifier_checkpoint import describe_classifier, load_classifier, read_classifier_config
from sag_core.adm.classifier_config import POOLS, ClassifierConfig
from sag_core.adm.config import ADMConfig
from sag_core.adm.unet import ADMUNet
from tests.core.adm_reference import Published, half, same, silu
from tests.core.random_weights import randomised

CLASSES = 7


def configuration(pool="attention", **fields) -> ClassifierConfig:
    return ClassifierConfig(ADMConfig(**{
        "model_channels": 32, "channel_mult": (1, 2), "num_res_blocks": 2, "attention_downsamples": (2,),
        "head_channels": 16, "learn_sigma": False, "image_size": 8} | fields), CLASSES, pool)


def classifier(config: ClassifierConfig, dtype=torch.float64) -> ADMClassifier:
    """With random parameters, norms and biases included."""
    model = ADMClassifier(config, dtype=dtype)
    return randomised(model)


class PublishedClassifier(Published):
    """guided-diffusion's EncoderUNetModel as one function of a state dict."""

    def __init__(self, state, config: ClassifierConfig):
        super().__init__(state, config.encoder)
        self.pool = config.pool

    def __call__(self, x, timesteps):
        emb = self.embedding(timesteps)
        period = self.config.num_res_blocks + 1
        h, seen = x, []
        for i in range(period * len(self.config.channel_mult)):
            h = self.block(f"input_blocks.{i}", h, emb, half if i and i % period == 0 else same)
            seen.append(h.mean((2, 3)))
        h = self.res("middle_block.0", h, emb, same)
        h = self.attention("middle_block.1", h)
        h = self.res("middle_block.2", h, emb, same)
        if self.pool.startswith("spatial"):
            h = self.layer(F.linear, "out.0", torch.cat([*seen, h.mean((2, 3))], dim=1))
            if self.pool == "spatial":
                return self.layer(F.linear, "out.2", h.clamp(min=0))
            return self.layer(F.linear, "out.3", silu(self.norm("out.1", h)))
        h = silu(self.norm("out.0", h))
        if self.pool == "adaptive":
            weight, bias = self.read("out.3.weight"), self.read("out.3.bias")
            return torch.einsum("bchw,oc->bo", h, weight[:, :, 0, 0]) / h[0, 0].numel() + bias
        return self.attention_pool(h.flatten(2))

    def attention_pool(self, places):
        """The mean over places asks, itself and every place answer; heads one after another."""
        tokens = torch.cat([places.mean(2, keepdim=True), places], dim=2) + self.read("out.2.positional_embedding")
        q, k, v = self.layer(F.conv1d, "out.2.qkv_proj", tokens).split(tokens.shape[1], dim=1)
        size, pooled = self.config.head_channels, []
        for rows in (slice(i, i + size) for i in range(0, tokens.shape[1], size)):
            probs = torch.softmax(torch.einsum("bcn,bcm->bnm", q[:, rows], k[:, rows]) / math.sqrt(size), dim=2)
            pooled.append(torch.einsum("bnm,bcm->bcn", probs, v[:, rows]))
        return self.layer(F.conv1d, "out.2.c_proj", torch.cat(pooled, dim=1))[:, :, 0]


VARIANTS = [*({"pool": pool} for pool in POOLS), {"resblock_updown": False}, {"scale_shift_norm": False},
            {"new_attention_order": True}, {"channel_mult": (2, 2, 4), "attention_downsamples": (2, 4)},
            {"norm_groups": 8}]


@pytest.mark.parametrize("fields", VARIANTS, ids=str)
def test_logits_are_those_of_the_published_classifier(normal, fields):
    config = configuration(**fields)
    model = classifier(config)
    x, timesteps = normal(2, 3, 8, 8), torch.tensor([17.0, 250.5])
    published = PublishedClassifier(model.state_dict(), config)
    expected = published(x, timesteps)
    assert expected.shape == (2, CLASSES) and expected.std() > 0.1
    assert_close(model(x, timesteps), expected, rtol=1e-5, atol=1e-5)
    assert published.used == model.state_dict().keys()


# Millions of parameters (arXiv 2105.05233, hyperparameters of the classifiers), multipliers and depth.
RELEASED = {64: (65, (1, 2, 3, 4), 4), 128: (43, (1, 1, 2, 3, 4), 2), 256: (54, (1, 1, 2, 2, 4, 4), 2),
            512: (54, (0.5, 1, 1, 2, 2, 4, 4), 2)}


@pytest.mark.parametrize("size", RELEASED)
@pytest.mark.parametrize("pool", POOLS)
def test_released_classifiers_are_read_from_their_tensors(size, pool):
    millions, mult, depth = RELEASED[size]
    config = ClassifierConfig(ADMConfig(
        128, mult, depth, (size // 32, size // 16, size // 8), learn_sigma=False, image_size=size,
        noise_schedule="cosine" if size == 64 else "linear"), 1000, pool)
    tensors = ADMClassifier(config, device="meta").state_dict()
    assert read_classifier_config(tensors) == config
    parameters = sum(tensor.numel() for tensor in tensors.values())
    if pool == "attention":
        assert abs(parameters / 1e6 - millions) < 1
        assert describe_classifier(config, parameters).startswith(
            f"ADM classifier of ImageNet {size} x {size}, 1000 classes, attention pooling (")


@pytest.mark.parametrize("fields", VARIANTS, ids=str)
def test_what_tensors_show_is_read(fields):
    config = configuration(**{"channel_mult": (2, 4), "head_channels": 64, "num_res_blocks": 3} | fields)
    read = read_classifier_config(ADMClassifier(config, device="meta").state_dict())
    assert read.pool == config.pool and read.num_classes == CLASSES
    for field in ("model_channels", "channel_mult", "num_res_blocks", "attention_downsamples", "scale_shift_norm",
                  "resblock_updown"):
        assert getattr(read.encoder, field) == getattr(config.encoder, field)
    if config.pool == "attention":
        assert read.encoder.image_size == 8


def write(path, config, drop=(), metadata=None):
    tensors = {name: value.half() for name, value in classifier(config).state_dict().items() if name not in drop}
    save_file(tensors, path, metadata)
    return path


def test_a_file_says_what_its_tensors_cannot(tmp_path):
    config = configuration(noise_schedule="cosine", timesteps=400, norm_groups=8)
    tensors, read = load_classifier(write(tmp_path / "own.safetensors", config, metadata={
        "adm_classifier_config": config.to_json()}))
    assert read == config and tensors["out.2.c_proj.weight"].dtype == torch.float16


def test_the_user_knows_better_than_the_size_and_than_the_file(tmp_path):
    """Published classifiers of 64 pixels go by cosine, others by linear; anybody's may have been trained otherwise."""
    plain = write(tmp_path / "plain.safetensors", configuration(channel_mult=(2, 4), head_channels=64))
    own = configuration(noise_schedule="cosine", timesteps=500)
    said = write(tmp_path / "said.safetensors", own, metadata={"adm_classifier_config": own.to_json()})

    def process(path, **given):
        encoder = load_classifier(path, **given)[1].encoder
        return encoder.noise_schedule, encoder.timesteps, encoder.timestep_scale

    for path, schedule, timesteps in ((plain, process(plain)[0], 1000), (said, "cosine", 500)):
        other = "linear" if schedule == "cosine" else "cosine"
        assert process(path) == (schedule, timesteps, 1.0)
        assert process(path, noise_schedule=other) == (other, timesteps, 1.0)
        assert process(path, timesteps=4000) == (schedule, 4000, 1.0)
    with pytest.raises(ValueError, match="plain.safetensors: timesteps is 0; it must be"):
        load_classifier(plain, timesteps=0)


def test_the_host_gets_a_pt_file_as_well(tmp_path):
    config = configuration(head_channels=64, norm_groups=32, channel_mult=(2, 4))
    torch.save(classifier(config).state_dict(), tmp_path / "a.pt")
    assert load_classifier(tmp_path / "a.pt")[1].encoder.channel_mult == (2, 4)


@pytest.mark.parametrize(("drop", "message"), [
    (("out.2.c_proj.bias",), "1 tensors are missing and 0 left over, such as 'out.2.c_proj.bias'"),
    (("middle_block.1.qkv.weight",), "not a noisy classifier of guided-diffusion"),
    (("input_blocks.1.0.emb_layers.1.weight",), "'input_blocks.1.0.emb_layers.1.weight' is missing"),
])
def test_files_with_missing_tensors_are_refused_by_name(tmp_path, drop, message):
    with pytest.raises(ValueError, match=f"a.safetensors: .*{message}"):
        load_classifier(write(tmp_path / "a.safetensors", configuration(channel_mult=(2, 4), head_channels=64), drop))


def test_a_diffusion_model_is_sent_to_its_own_loader(tmp_path):
    model = ADMUNet(ADMConfig(32, (1, 2), 1, (2,), head_channels=16))
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="model.safetensors: .* a diffusion model's: load it with Load ADM"):
        load_classifier(tmp_path / "model.safetensors")


def test_an_empty_file_is_no_classifier(tmp_path):
    save_file({}, tmp_path / "empty.safetensors")
    with pytest.raises(ValueError, match="the first of 0 is 'none'"):
        load_classifier(tmp_path / "empty.safetensors")


def test_blocks_that_form_no_levels_are_refused():
    tensors = ADMClassifier(configuration(channel_mult=(2, 2), head_channels=64), device="meta").state_dict()
    del tensors["input_blocks.5.1.qkv.weight"]  # one of the two blocks of a level attends
    with pytest.raises(ValueError, match="6 encoder blocks that do not form levels"):
        read_classifier_config(tensors)


@pytest.mark.parametrize(("fields", "message"), [
    ({"pool": "mean"}, "pool is 'mean'; known ones are attention, adaptive, spatial, spatial_v2"),
    ({"image_size": 9}, "image_size is 9; 2 levels need a multiple of 2"),
    ({"head_channels": 7}, "cannot be split into attention heads"),
])
def test_impossible_configurations_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        configuration(**fields)


@pytest.mark.parametrize("text", ["[]", "{}", '{"encoder": 3}', '{"encoder": {}, "shape": 1}', "not json"])
def test_metadata_of_anything_else_is_refused(text):
    with pytest.raises(ValueError):
        ClassifierConfig.from_json(text)


@pytest.mark.parametrize(("pool", "size", "message"), [
    ("attention", (8, 16), "the images are 16x8; this classifier knows only 8x8"),
    ("adaptive", (7, 8), "the images are 8x7; this classifier needs sides that are multiples of 2"),
])
def test_images_it_cannot_name_are_refused_by_their_size(pool, size, message):
    with pytest.raises(ValueError, match=message):
        configuration(pool).check_size(*size)
    configuration(pool).check_size(8, 8)
    configuration("adaptive").check_size(4, 16)
