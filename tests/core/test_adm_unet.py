"""The ADM U-Net, against a functional restatement of the published one that reads checkpoints by name."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.testing import assert_close

from sag_core.adm.config import ADMConfig
from sag_core.adm.unet import ADMUNet, sdpa, timestep_embedding

SMALL = {"model_channels": 32, "channel_mult": (1, 2), "num_res_blocks": 1, "attention_downsamples": (2,),
         "head_channels": 16}


class Published:
    """guided-diffusion's UNetModel as one function of a state dict (arXiv 2105.05233, sec. 3), in float64."""

    def __init__(self, state, config):
        self.state, self.config, self.used = state, config, set()

    def read(self, name):
        self.used.add(name)
        return self.state[name]

    def layer(self, function, name, x, **options):
        return function(x, self.read(name + ".weight"), self.read(name + ".bias"), **options)

    def conv(self, name, x, **options):
        return self.layer(F.conv2d, name, x, **options)

    def norm(self, name, x):
        groups = x.reshape(x.shape[0], 32, -1)
        mean = groups.mean(2, keepdim=True)
        variance = ((groups - mean) ** 2).mean(2, keepdim=True)
        x = ((groups - mean) / (variance + 1e-5).sqrt()).reshape(x.shape)
        shape = (1, -1) + (1,) * (x.ndim - 2)
        return x * self.read(name + ".weight").view(shape) + self.read(name + ".bias").view(shape)

    def embedding(self, timesteps):
        half = self.config.model_channels // 2
        rows = []
        for t in (timesteps * self.config.timestep_scale).tolist():
            angles = [t * 10000 ** (-i / half) for i in range(half)]
            rows.append([math.cos(a) for a in angles] + [math.sin(a) for a in angles])
        x = torch.tensor(rows, dtype=torch.float64)
        return self.layer(F.linear, "time_embed.2", silu(self.layer(F.linear, "time_embed.0", x)))

    def res(self, name, x, emb, resample):
        h = resample(silu(self.norm(name + ".in_layers.0", x)))
        h = self.conv(name + ".in_layers.2", h, padding=1)
        emb = self.layer(F.linear, name + ".emb_layers.1", silu(emb))[:, :, None, None]
        if self.config.scale_shift_norm:
            width = h.shape[1]
            h = self.norm(name + ".out_layers.0", h) * (1 + emb[:, :width]) + emb[:, width:]
        else:
            h = self.norm(name + ".out_layers.0", h + emb)
        h = self.conv(name + ".out_layers.3", silu(h), padding=1)
        x = resample(x)
        if x.shape[1] != h.shape[1]:
            x = self.conv(name + ".skip_connection", x)
        return x + h

    def attention(self, name, x):
        batch, channels, height, width = x.shape
        qkv = self.layer(F.conv1d, name + ".qkv", self.norm(name + ".norm", x.flatten(2)))
        heads = self.config.num_heads or channels // self.config.head_channels
        size = channels // heads
        out = []
        for head in range(heads):
            # Old order: q, k, v of head 0, then of head 1 ...; new order: q of all heads, k of all, v of all.
            first, stride = (head * size, channels) if self.config.new_attention_order else (3 * head * size, size)
            q, k, v = (qkv[:, first + i * stride:first + i * stride + size] for i in range(3))
            probs = torch.softmax(q.transpose(1, 2) @ k / math.sqrt(size), dim=2)
            out.append(v @ probs.transpose(1, 2))
        out = self.layer(F.conv1d, name + ".proj_out", torch.cat(out, dim=1))
        return x + out.reshape(batch, channels, height, width)

    def block(self, name, h, emb, resample):
        """What is in a block shows in its names, but not whether a residual block that comes last resamples."""
        parts = sorted({int(key.split(".")[2]) for key in self.state if key.startswith(name + ".")})
        for i in parts:
            part = f"{name}.{i}"
            if part + ".in_layers.0.weight" in self.state:
                h = self.res(part, h, emb, resample if i == parts[-1] else same)
            elif part + ".qkv.weight" in self.state:
                h = self.attention(part, h)
            elif part + ".op.weight" in self.state:
                h = self.conv(part + ".op", h, stride=2, padding=1)
            elif part + ".conv.weight" in self.state:
                h = self.conv(part + ".conv", twice(h), padding=1)
            else:
                h = self.conv(part, h, padding=1)
        return h

    def __call__(self, x, timesteps, y=None):
        emb = self.embedding(timesteps)
        if y is not None:
            emb = emb + self.read("label_emb.weight")[y]
        period = self.config.num_res_blocks + 1
        count = period * len(self.config.channel_mult)
        h, skips = x, []
        for i in range(count):
            h = self.block(f"input_blocks.{i}", h, emb, half if i and i % period == 0 else same)
            skips.append(h)
        h = self.res("middle_block.0", h, emb, same)
        h = self.attention("middle_block.1", h)
        h = self.res("middle_block.2", h, emb, same)
        for i in range(1, count + 1):
            h = torch.cat([h, skips.pop()], dim=1)
            h = self.block(f"output_blocks.{i - 1}", h, emb, twice if i < count and i % period == 0 else same)
        return self.conv("out.2", silu(self.norm("out.0", h)), padding=1)


def silu(x):
    return x / (1 + torch.exp(-x))


def same(x):
    return x


def twice(x):
    return x.repeat_interleave(2, -1).repeat_interleave(2, -2)


def half(x):
    return (x[..., ::2, ::2] + x[..., 1::2, ::2] + x[..., ::2, 1::2] + x[..., 1::2, 1::2]) / 4


def unet(dtype=torch.float64, attention=sdpa, **fields):
    """A small U-Net with random parameters, norms and biases included."""
    model = ADMUNet(ADMConfig(**(SMALL | fields)), attention=attention, dtype=dtype)
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        fan_in = parameter[0].numel() if parameter.ndim > 1 else 4
        parameter.data = (noise / math.sqrt(fan_in) + (parameter.ndim == 1)).to(dtype)
    return model.requires_grad_(False)


TIMESTEPS = torch.tensor([17.0, 250.5])

ORDERS = [dict(zip(("new_attention_order", "scale_shift_norm", "resblock_updown"), values, strict=True))
          for values in itertools.product([False, True], repeat=3)]
VARIANTS = [
    *ORDERS,
    {"learn_sigma": False},
    {"num_heads": 2},
    {"in_channels": 6},
    {"num_classes": 5},
    {"timestep_scale": 0.25},
    {"num_res_blocks": 2, "channel_mult": (1, 1, 2), "attention_downsamples": (1, 4)},
    {"num_res_blocks": 2, "channel_mult": (2, 1), "attention_downsamples": (), "resblock_updown": False},
]


@pytest.mark.parametrize("fields", VARIANTS, ids=lambda fields: " ".join(f"{k}={v}" for k, v in fields.items()))
def test_output_is_that_of_the_published_model(normal, fields):
    model = unet(**fields)
    x = normal(2, model.config.in_channels, 8, 12)
    y = torch.tensor([3, 0]) if model.config.num_classes else None
    published = Published(model.state_dict(), model.config)
    expected = published(x, TIMESTEPS, y)
    assert expected.shape == (2, 6 if model.config.learn_sigma else 3, 8, 12)
    assert_close(model(x, TIMESTEPS, y), expected, rtol=1e-5, atol=1e-5)
    assert published.used == model.state_dict().keys()


# Millions of parameters, arXiv 2105.05233, table 11.
SIZES = {
    "ImageNet 64": (296, {"model_channels": 192, "channel_mult": (1, 2, 3, 4), "num_res_blocks": 3,
                          "attention_downsamples": (2, 4, 8), "num_classes": 1000}),
    "ImageNet 128": (422, {"model_channels": 256, "channel_mult": (1, 1, 2, 3, 4), "num_res_blocks": 2, "num_heads": 4,
                           "attention_downsamples": (4, 8, 16), "num_classes": 1000}),
    "ImageNet 256": (554, {"model_channels": 256, "channel_mult": (1, 1, 2, 2, 4, 4), "num_res_blocks": 2,
                           "attention_downsamples": (8, 16, 32), "num_classes": 1000}),
    "ImageNet 512": (559, {"model_channels": 256, "channel_mult": (0.5, 1, 1, 2, 2, 4, 4), "num_res_blocks": 2,
                           "attention_downsamples": (16, 32, 64), "num_classes": 1000}),
    "LSUN 256": (552, {"model_channels": 256, "channel_mult": (1, 1, 2, 2, 4, 4), "num_res_blocks": 2,
                       "attention_downsamples": (8, 16, 32)}),
}


@pytest.mark.parametrize(("millions", "fields"), SIZES.values(), ids=SIZES)
def test_published_models_have_their_published_size(millions, fields):
    model = ADMUNet(ADMConfig(**fields), device="meta")
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=1)


def test_embedding_by_hand():
    # Two frequencies, 1 and 1/100; cosines first; an odd width ends in a zero.
    t = torch.tensor([0.0, 3.0])
    expected = [[1, 1, 0, 0, 0], [math.cos(3), math.cos(0.03), math.sin(3), math.sin(0.03), 0]]
    assert_close(timestep_embedding(t, 5), torch.tensor(expected))
    assert_close(timestep_embedding(t, 4), torch.tensor(expected)[:, :4])
    assert_close(timestep_embedding(torch.tensor([3]), 4), torch.tensor(expected)[1:, :4])


def test_batch_rows_have_their_own_timestep_and_label(normal):
    model, x, y = unet(num_classes=5), normal(2, 3, 8, 8), torch.tensor([3, 0])
    both = model(x, TIMESTEPS, y)
    for i in range(2):
        assert_close(both[i:i + 1], model(x[i:i + 1], TIMESTEPS[i:i + 1], y[i:i + 1]), rtol=1e-10, atol=1e-10)
    assert not torch.allclose(both, model(x, TIMESTEPS.flip(0), y))
    assert not torch.allclose(both, model(x, TIMESTEPS, y.flip(0)))


def test_output_keeps_the_dtype(normal, dtype):
    x = normal(2, 3, 8, 8)
    out = unet(dtype)(x.to(dtype), TIMESTEPS)
    assert out.dtype == dtype
    # Rounding grows through a dozen layers.
    size = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 0.03, torch.bfloat16: 0.2}[dtype]
    reference = unet()(x, TIMESTEPS)
    assert (out.double() - reference).square().mean().sqrt() < size * reference.square().mean().sqrt()


def test_observers_see_every_attention_by_its_block_and_true_grid(normal):
    seen = []

    def attention(q, k, v, heads, transformer_options):
        seen.append((transformer_options["block"], transformer_options["activations_shape"], heads, tuple(q.shape)))
        assert q.is_contiguous() and k.is_contiguous() and v.is_contiguous() and k.shape == v.shape == q.shape
        return sdpa(q, k, v, heads, transformer_options)

    model = unet(attention=attention, channel_mult=(1, 2, 2), attention_downsamples=(2,))
    x = normal(2, 3, 8, 12)
    watched = model(x, TIMESTEPS, transformer_options={})
    outer, middle = ([2, 64, 4, 6], 4, (2, 4, 24, 16)), ([2, 64, 2, 3], 4, (2, 4, 6, 16))
    assert seen == [(("input", 3), *outer), (("middle", 0), *middle), (("output", 2), *outer), (("output", 3), *outer)]
    assert torch.equal(watched, unet(channel_mult=(1, 2, 2), attention_downsamples=(2,))(x, TIMESTEPS))


def test_attention_is_the_one_that_was_given(normal):
    x = normal(2, 3, 8, 8)
    none = unet(attention=lambda q, k, v, heads, transformer_options: torch.zeros_like(v).transpose(1, 2).flatten(2))
    assert not torch.allclose(none(x, TIMESTEPS), unet()(x, TIMESTEPS))


def test_every_layer_with_parameters_comes_from_the_operations():
    made = Counter()

    def counted(name):
        def make(*args, **kwargs):
            made[name] += 1
            return getattr(nn, name)(*args, **kwargs)
        return make

    operations = SimpleNamespace(**{name: counted(name) for name in
                                    ("Conv1d", "Conv2d", "Linear", "GroupNorm", "Embedding")})
    model = ADMUNet(ADMConfig(**SMALL, num_classes=5), operations, dtype=torch.bfloat16, device="meta")
    assert made == Counter(type(m).__name__ for m in model.modules() if hasattr(m, "weight"))
    assert made.keys() == {"Conv1d", "Conv2d", "Linear", "GroupNorm", "Embedding"}
    assert {(p.dtype, p.device.type) for p in model.parameters()} == {(torch.bfloat16, "meta")}
