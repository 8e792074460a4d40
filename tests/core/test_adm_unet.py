"""The ADM U-Net, against a functional restatement of the published one that reads checkpoints by name."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from sag_core.adm.config import ADMConfig
from sag_core.adm.unet import ADMUNet, sdpa, timestep_embedding
from tests.core.adm_reference import Published
from tests.core.random_weights import randomised

SMALL = {"model_channels": 32, "channel_mult": (1, 2), "num_res_blocks": 1, "attention_downsamples": (2,),
         "head_channels": 16}


def unet(dtype=torch.float64, attention=sdpa, **fields):
    """A small U-Net with random parameters, norms and biases included."""
    model = ADMUNet(ADMConfig(**(SMALL | fields)), attention=attention, dtype=dtype)
    return randomised(model)


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
    {"norm_eps": 0.1},
    {"embedding_shift": 1},
    {"asymmetric_padding": True, "resblock_updown": False, "channel_mult": (1, 2, 2)},
    {"norm_groups": 8},
    {"channel_mult": (0.5, 1), "model_channels": 64},
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


def test_embedding_by_hand():
    # Two frequencies, 1 and 1/100; cosines first; an odd width ends in a zero.
    t = torch.tensor([0.0, 3.0])
    expected = [[1, 1, 0, 0, 0], [math.cos(3), math.cos(0.03), math.sin(3), math.sin(0.03), 0]]
    assert_close(timestep_embedding(t, 5), torch.tensor(expected))
    assert_close(timestep_embedding(t, 4), torch.tensor(expected)[:, :4])
    assert_close(timestep_embedding(torch.tensor([3]), 4), torch.tensor(expected)[1:, :4])
    # DDPM's frequencies end at 1/10000.
    ends = [[math.cos(3), math.cos(0.0003), math.sin(3), math.sin(0.0003)]]
    assert_close(timestep_embedding(torch.tensor([3]), 4, shift=1), torch.tensor(ends))


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
