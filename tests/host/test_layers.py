"""Which layers a model offers, what they are called, and which one `auto` is."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from tests.host import adm, models
from tests.host.graph import guide, maps, only, record, sample
from tests.host.observe import network_calls


def recorded(tiny, layer):
    """The trace of a step with this layer."""
    model, trace = record(tiny.model, layer=layer)
    sample(tiny, model, steps=1)
    return trace


OFFERED = {
    models.sd15: "input.1, input.3, middle.0, output.0, output.1, output.2, output.3",
    models.sd15_four_levels: "input.5, middle.0, output.2, output.3",
    models.sdxl: "input.3, middle.0, output.0, output.1",
    models.ssd1b: "input.3, output.0, output.1",
    models.koala: "input.3, output.0, output.1",
    models.svd: "input.3, middle.0, output.0, output.1",
    models.upscaler: "input.3, middle.0, output.0, output.1",
}


@pytest.mark.parametrize("node", [guide, record], ids=["guidance", "recording"])
@pytest.mark.parametrize(("build", "offered"), OFFERED.items(), ids=[build.__name__ for build in OFFERED])
def test_an_unknown_name_is_answered_with_the_models_layers(node, build, offered):
    with pytest.raises(ValueError) as error:
        node(build().model, layer="attic.1")
    assert str(error.value) == f"layer is 'attic.1'; this model has auto, {offered}"


@pytest.mark.parametrize(("build", "offered"), OFFERED.items(), ids=[build.__name__ for build in OFFERED])
def test_every_layer_that_is_offered_can_be_recorded(build, offered):
    tiny = build().sized(16, 24)
    trace = recorded(tiny, offered)
    assert only(trace).steps[0].layer == offered
    assert only(trace).notes == []
    assert_close(maps(trace).mean(dim=(-1, -2)), torch.ones(1, tiny.latent.shape[0]))


def test_layers_of_a_pixel_model(checkpoints):
    tiny = adm.load(checkpoints)
    with pytest.raises(ValueError, match=r"this model has auto, input.3, middle.0, output.0, output.1$"):
        guide(tiny.model, layer="output.2")
    assert maps(recorded(tiny, "input.3, output.0-1")).shape == (1, 1, 8, 12)


def without_middle():
    return models.sd15(transformer_depth_middle=-1)


def decoder_alone():
    return models.sd15(transformer_depth=[0, 0], transformer_depth_middle=-1)


AUTO = {models.sd15: "middle.0", models.sdxl: "middle.0", models.refiner: "middle.0", models.svd: "middle.0",
        models.upscaler: "middle.0", models.ssd1b: "input.3", models.koala: "input.3", without_middle: "input.3",
        decoder_alone: "output.0"}


@pytest.mark.parametrize(("build", "layer"), AUTO.items(), ids=[build.__name__ for build in AUTO])
def test_auto_is_the_middle_block_else_the_deepest_layer(build, layer):
    tiny = build()
    chosen, by_name = recorded(tiny, "auto"), recorded(tiny, layer)
    assert only(chosen).steps[0].layer == layer
    assert torch.equal(maps(chosen), maps(by_name))


SAME = {
    "a range": ("output.0-2", "output.0, output.1, output.2"),
    "a range over the end": ("output.2-90", "output.2, output.3"),
    "a range without end": ("output.2-99999999999", "output.2, output.3"),
    "a range with gaps": ("input.0-3", "input.1, input.3"),
    "repeated": ("input.1, input.1, input.0-1", "input.1"),
    "auto among others": ("auto, input.1", "middle.0, input.1"),
    "spaces": ("  input.1,output.0 ", "input.1, output.0"),
    "with the transformer": ("middle.0.0", "middle.0"),
}


@pytest.mark.parametrize(("spec", "spelled_out"), SAME.values(), ids=SAME)
def test_ranges_and_lists(spec, spelled_out):
    tiny = models.sd15()
    assert torch.equal(maps(recorded(tiny, spec)), maps(recorded(tiny, spelled_out)))


@pytest.mark.parametrize("spec", ["", "input.1,", "input.2", "output.7-9", "middle", "middle.0.1", "input.1.1",
                                  "output.-1", "output.3-1", "Middle.0", "middle_block.1", "*"])
def test_what_a_model_does_not_have_is_refused_before_sampling(spec):
    tiny = models.sd15()
    with network_calls(tiny.model) as calls:
        with pytest.raises(ValueError, match="this model has auto, input.1"):
            guide(tiny.model, layer=spec)
    assert calls == []


def test_transformers_of_one_block_have_their_own_maps():
    tiny = models.sdxl()
    first, second, both = (maps(recorded(tiny, f"middle.0{k}")) for k in (".0", ".1", ".0, middle.0.1"))
    assert not torch.equal(first, second)
    assert_close(both, (first + second) / 2)


def test_temporal_attention_is_neither_offered_nor_recorded():
    tiny = models.svd()
    network = tiny.model.model.diffusion_model
    assert any("time_stack" in name for name, _ in network.named_modules())
    with pytest.raises(ValueError, match="this model has auto, input.3, middle.0, output.0, output.1$"):
        record(tiny.model, layer="middle.0.2")
    before = maps(recorded(tiny, "middle.0.1"))
    # The last thing the block does is its temporal attention: were it recorded, other weights would show.
    network.middle_block[1].time_stack[1].attn1.to_q.weight.mul_(-1)
    assert torch.equal(maps(recorded(tiny, "middle.0.1")), before)
