"""SAG Preset: settings that SAG Guidance takes as they are, and the right row for every family."""

from __future__ import annotations

import pytest

import nodes
from tests.host import models
from tests.host.graph import call, guide, only, sample

NAMES = ("scale", "blur_sigma", "threshold", "layer", "blur_kernel")
BY_FAMILY = {
    models.sd15: "Stable Diffusion 1, 2", models.v_prediction: "Stable Diffusion 1, 2",
    models.ip2p: "Stable Diffusion 1, 2", models.sdxl: "Stable Diffusion XL", models.refiner: "Stable Diffusion XL",
    models.koala: "Stable Diffusion XL", models.svd: "other latent models", models.flux: "other latent models"}


def preset(model, name="auto"):
    *settings, source = call("SAGPreset", model=model, preset=name)
    return dict(zip(NAMES, settings, strict=True)), source


@pytest.mark.parametrize(("build", "expected"), BY_FAMILY.items(), ids=[build.__name__ for build in BY_FAMILY])
def test_auto_picks_by_the_loaded_model(build, expected):
    tiny = build()
    settings, source = preset(tiny.model)
    assert source.startswith(f"{expected}: ")
    assert (settings, source) == preset(tiny.model, expected)
    guided, trace = guide(tiny.model, **settings)
    assert sample(tiny, guided).isfinite().all()
    assert all(step.guided for step in only(trace).steps) and only(trace).notes == []


def test_embedded_model_has_its_own():
    embedded = nodes.NODE_CLASS_MAPPINGS["SAGLoadADM"].define_schema().inputs[0].options[0]
    settings, source = preset(call("SAGLoadADM", ckpt_name=embedded)[0])
    assert source.startswith("embedded model: ")
    assert settings == {"scale": 2.0, "blur_sigma": 1.0, "threshold": 1.0, "layer": "input.3", "blur_kernel": 0}


@pytest.mark.parametrize(("name", "scale", "blur_sigma", "layer"), [
    ("ADM 128, with labels", 0.1, 3.0, "output.8"), ("ADM 256, without labels", 0.5, 9.0, "output.2"),
    ("ADM 256, with labels", 0.2, 9.0, "output.2"), ("ADM 256, LSUN cat", 0.05, 9.0, "output.2"),
    ("ADM 256, LSUN horse", 0.01, 9.0, "output.2"),
])
def test_the_papers_settings(name, scale, blur_sigma, layer):
    """Table 1 of the paper, and the published commands: psi 1, kernel 31."""
    settings, source = preset(models.sd15().model, name)
    assert settings == {"scale": scale, "blur_sigma": blur_sigma, "threshold": 1.0, "layer": layer, "blur_kernel": 31}
    assert "the paper" in source


def test_every_preset_says_where_it_comes_from_and_is_accepted():
    schema = nodes.NODE_CLASS_MAPPINGS["SAGPreset"].define_schema()
    model = models.sd15().model
    for name in schema.inputs[1].options[1:]:
        settings, source = preset(model, name)
        assert source.removeprefix(f"{name}: ")
        guide(model, **settings | {"layer": "auto"})
