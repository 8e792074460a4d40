"""The examples that need nothing but this pack, run: each does what its note says."""

import io
import json
import re
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import torch
from PIL import Image

from sag_core.adm.published import PUBLISHED
from sag_core.adm.unet import ADMUNet
from tests.server.examples import RUNNABLE, files, opened, put_empty_files, queued, short
from tools.prompt import find_node, with_input, without_node


def saved(server, prompt):
    """A run's images by filename prefix, each [B, H, W, 3] in 0..255."""
    history = server.run(prompt)
    return {node["inputs"]["filename_prefix"]: np.stack(
        [np.asarray(Image.open(io.BytesIO(server.image(entry))).convert("RGB"), dtype=float)
         for entry in history.images(key)]) for key, node in prompt.items() if node["class_type"] == "SaveImage"}


def test_inpainting_draws_and_blurs_only_inside_the_mask(server):
    prompt = short(queued("inpaint_sag"))
    box, place = (prompt[find_node(prompt, kind, **inputs)]["inputs"]
                  for kind, inputs in (("SolidMask", {"value": 1.0}), ("MaskComposite", {})))
    inside = np.zeros((32, 32), dtype=bool)
    inside[place["y"]:place["y"] + box["height"], place["x"]:place["x"] + box["width"]] = True
    images = saved(server, with_input(prompt, find_node(prompt, "SAGMaskPreview"), "style", "mask"))
    # Enlarged by 8.
    before, after = (images[name][:, ::8, ::8] for name in ("SAG_inpaint_picture", "SAG_inpaint"))
    assert np.abs(after - before)[:, ~inside].max() <= 1
    assert np.abs(after - before)[:, inside].mean() > 5
    mask = images["SAG_inpaint_mask"][:, ::8, ::8, 0]
    assert mask[:, ~inside].max() == 0
    assert 0 < mask[:, inside].mean() < 255


def test_the_schedule_guides_the_sampler(server):
    prompt = short(queued("schedule_sag"))
    guided = saved(server, prompt)
    plain = saved(server, without_node(prompt, find_node(prompt, "SAGSampler"), passes={0: "sampler"}))
    constant = saved(server, with_input(prompt, find_node(prompt, "SAGSchedule"), "scale_curve", "constant"))
    for other in (plain, constant):
        assert np.abs(guided["SAG_schedule"] - other["SAG_schedule"]).mean() > 0.1
    # Two images, four steps.
    _, height, width, _ = guided["SAG_schedule_steps"].shape
    assert width / height == pytest.approx(2, rel=0.02)


def test_blur_guidance_and_sag_differ_and_share_their_seed(server):
    prompt = short(queued("blur_guidance_or_sag"))
    images = saved(server, prompt)
    assert np.abs(images["SAG_blur_guidance"] - images["SAG_self_attention"]).mean() > 0.1
    strategy = with_input(prompt, find_node(prompt, "SAGMaskOptions"), "strategy", "self-attention")
    images = saved(server, strategy)
    assert np.array_equal(images["SAG_blur_guidance"], images["SAG_self_attention"])


def test_economical_guidance_guides_with_fewer_passes(server):
    prompt = short(queued("economical_sag"))
    images = saved(server, prompt)
    none, every, some = (images[name] for name in ("SAG_none", "SAG_every_step", "SAG_first_fifth"))
    for one, other in ((none, every), (every, some), (some, none)):
        assert np.abs(one - other).mean() > 0.1
    each = with_input(prompt, find_node(prompt, "SAGSchedule"), "end", 1.0)
    assert np.array_equal(saved(server, each)["SAG_first_fifth"], every)


def test_sag_on_the_sampler_changes_what_cfg_gives(server):
    prompt = short(queued("sampler_custom_advanced_sag"))
    images = saved(server, prompt)
    assert np.abs(images["SAG_custom"] - images["SAG_custom_plain"]).mean() > 0.1
    off = saved(server, with_input(prompt, find_node(prompt, "SAGSampler"), "scale", 0.0))
    assert np.array_equal(off["SAG_custom"], images["SAG_custom_plain"])


def test_classifier_guidance_and_sag_add_up(server):
    prompt = short(queued("cg_and_sag"))
    rows = ("SAG_cg_none", "SAG_cg_cg", "SAG_cg_sag", "SAG_cg_both")
    none, cg, sag, both = (saved(server, prompt)[row] for row in rows)
    for one, other in combinations((none, cg, sag, both), 2):
        assert np.abs(one - other).mean() > 0.1
    without = prompt
    for key, node in prompt.items():
        if node["class_type"] == "SAGClassifierGuidance":
            without = with_input(without, key, "scale", 0.0)
    images = saved(server, without)
    assert np.array_equal(images["SAG_cg_cg"], none) and np.array_equal(images["SAG_cg_both"], sag)


def test_the_analysis_shows_and_measures(server):
    """One layer attends to the object, as its note says, and the other does not; every node shows a picture."""
    prompt = short(queued("analysis_sag"))
    history = server.run(prompt)
    shown = [key for key, node in prompt.items() if node["class_type"] in (
        "SAGVisualize", "SAGMaskOverlap", "SAGFrequencyAnalysis", "SAGCompareGrid")]
    assert len(shown) == 6 and all(history.images(key) for key in shown)
    titles = {node["_meta"]["title"]: key for key, node in prompt.items()}
    gains = [float(re.search(r"gain ([+-]\d+)%", history.outputs[titles[title]]["text"][0]).group(1))
             for title in ("Does input.3 attend to the object?", "Does middle.0?")]
    assert gains[0] > 0 > gains[1]


@pytest.mark.parametrize(("name", "published", "side"), [
    ("adm_sag", "ADM ImageNet or LSUN 256x256", 96), ("iddpm_sag", "IDDPM ImageNet 64x64", 64)])
def test_the_papers_graphs_run_on_a_narrow_network_of_their_layout(server, name, published, side):
    """It has the layer they ask for; with random weights, and small, there is nothing to see."""
    torch.manual_seed(0)
    network = ADMUNet(replace(PUBLISHED[published], model_channels=64))
    torch.nn.init.normal_(network.out[-1].weight, std=0.02)
    put_empty_files(server, name)
    ((folder, file),) = files(name)
    path = server.base / "models" / folder / file
    torch.save(network.state_dict(), path)
    prompt = queued(name)
    latent = find_node(prompt, "EmptyChromaRadianceLatentImage")
    for key, input_name, value in ((latent, "width", side), (latent, "height", side), (latent, "batch_size", 1),
                                   (find_node(prompt, "SAGADMSampler"), "respacing", "2")):
        prompt = with_input(prompt, key, input_name, value)
    images = saved(server, prompt)
    path.write_bytes(b"")
    assert len(images) == 2
    for picture in images.values():
        assert picture.shape[0] == 1 and picture.shape[1] == picture.shape[2] and picture.shape[1] % side == 0
        assert picture.std() > 1


@pytest.mark.parametrize("name", sorted(set(RUNNABLE) - {"analysis_sag"}))
def test_a_saved_picture_holds_its_graph(server, name):
    """What dropping it on the page restores."""
    prompt, workflow = short(queued(name)), opened(name)
    history = server.run(prompt, workflow=workflow)
    key = next(key for key, node in prompt.items() if node["class_type"] == "SaveImage")
    text = Image.open(io.BytesIO(server.image(history.images(key)[0]))).text
    assert json.loads(text["workflow"]) == workflow
    assert json.loads(text["prompt"]) == prompt
