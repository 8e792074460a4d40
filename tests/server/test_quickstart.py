"""The main job over HTTP: the shareable workflow runs, guides, shows its mask, and bad input is refused in time."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from tools.client import ExecutionFailed, PromptRejected
from tools.prompt import find_node, with_input, without_node
from tools.provision import CHECKOUT

NODES = {"SAGGuidance", "SAGSampler", "SAGMaskOptions", "SAGSchedule", "SAGPreset", "SAGRecordAttention",
         "SAGMaskPreview", "SAGLoadADM", "SAGClassLabel", "SAGSaveTrace", "SAGLoadTrace"}


@pytest.fixture
def quickstart():
    """The quickstart workflow, short: two images, four steps."""
    prompt = json.loads((CHECKOUT / "example_workflows" / "api" / "quickstart.json").read_text(encoding="utf-8"))
    sampler = find_node(prompt, "KSampler")
    latent = prompt[sampler]["inputs"]["latent_image"][0]
    return with_input(with_input(prompt, sampler, "steps", 4), latent, "batch_size", 2)


def pictures(server, history, prompt, prefix):
    """The images a SaveImage node saved, [B, H, W, 3] in 0..255."""
    node = find_node(prompt, "SaveImage", filename_prefix=prefix)
    return np.stack([np.asarray(Image.open(io.BytesIO(server.image(entry))).convert("RGB"), dtype=float)
                     for entry in history.images(node)])


def executed(history):
    """Nodes that ran, the cached ones left out."""
    return {data["node"] for kind, data in history.events if kind == "executing"} - {None}


def test_every_node_is_there(server):
    for node in NODES:
        assert server.object_info(node)["category"] == "advanced/guidance/SAG"


def test_the_embedded_model_is_the_first_choice(server):
    options = server.object_info("SAGLoadADM")["input"]["required"]["ckpt_name"]
    assert (options[1].get("options") or options[0])[0] == "shapes32 (embedded)"


def test_guidance_changes_the_images_and_the_mask_is_shown(server, quickstart):
    guided = server.run(quickstart)
    samples = pictures(server, guided, quickstart, "SAG_quickstart")
    mask = pictures(server, guided, quickstart, "SAG_attention")
    assert samples.shape == mask.shape == (2, 256, 256, 3)

    plain_prompt = without_node(quickstart, find_node(quickstart, "SAGGuidance"), passes={0: "model"})
    plain = pictures(server, server.run(plain_prompt), plain_prompt, "SAG_quickstart")
    assert np.abs(samples - plain).mean() > 0.5

    off = with_input(quickstart, find_node(quickstart, "SAGGuidance"), "scale", 0.0)
    assert np.array_equal(pictures(server, server.run(off), off, "SAG_quickstart"), plain)


def test_the_preview_works_when_the_sampler_comes_from_the_cache(server, quickstart):
    preview, sampler = find_node(quickstart, "SAGMaskPreview"), find_node(quickstart, "KSampler")
    server.run(quickstart)
    other = with_input(quickstart, preview, "style", "heatmap")
    history = server.run(other)
    assert sampler not in executed(history) and preview in executed(history)
    assert len(pictures(server, history, other, "SAG_attention")) == 2


def test_a_new_run_of_the_same_sampler_clears_the_old_steps(server, quickstart):
    preview, sampler = find_node(quickstart, "SAGMaskPreview"), find_node(quickstart, "KSampler")
    sheet = with_input(with_input(quickstart, preview, "style", "sheet"), sampler, "scheduler", "simple")
    long = with_input(with_input(sheet, sampler, "steps", 6), sampler, "seed", 7)
    wide = pictures(server, server.run(long), long, "SAG_attention").shape
    short = with_input(long, sampler, "steps", 3)
    narrow = pictures(server, server.run(short), short, "SAG_attention").shape
    # A sheet has a column a step: three steps are shown, not six and three.
    assert narrow[2] * 2 == pytest.approx(wide[2], rel=0.05)


def test_a_second_pass_shows_its_own_run(server, quickstart):
    """Two samplers on one patched model: each preview follows its LATENT."""
    sampler, preview = find_node(quickstart, "KSampler"), find_node(quickstart, "SAGMaskPreview")
    prompt = quickstart | {
        "20": {"class_type": "LatentUpscaleBy", "inputs": {
            "samples": [sampler, 0], "upscale_method": "bilinear", "scale_by": 2.0}},
        "21": {"class_type": "KSampler", "inputs": quickstart[sampler]["inputs"] | {
            "latent_image": ["20", 0], "denoise": 0.5}},
        "22": {"class_type": "SAGMaskPreview", "inputs": {
            "trace": quickstart[preview]["inputs"]["trace"], "latent": ["21", 0], "step": -1, "style": "mask"}},
        "23": {"class_type": "SAGMaskPreview", "inputs": {
            "trace": quickstart[preview]["inputs"]["trace"], "latent": [sampler, 0], "step": -1, "style": "mask"}},
        "24": {"class_type": "MaskToImage", "inputs": {"mask": ["22", 1]}},
        "25": {"class_type": "MaskToImage", "inputs": {"mask": ["23", 1]}},
        "26": {"class_type": "SaveImage", "inputs": {"images": ["24", 0], "filename_prefix": "second"}},
        "27": {"class_type": "SaveImage", "inputs": {"images": ["25", 0], "filename_prefix": "first"}},
    }
    history = server.run(prompt)
    assert pictures(server, history, prompt, "second").shape == (2, 64, 64, 3)
    assert pictures(server, history, prompt, "first").shape == (2, 32, 32, 3)


def test_a_latent_from_elsewhere_shows_nothing_and_says_the_way_out(server, quickstart):
    preview = find_node(quickstart, "SAGMaskPreview")
    latent = quickstart[find_node(quickstart, "KSampler")]["inputs"]["latent_image"]
    history = server.run(with_input(quickstart, preview, "latent", latent))
    assert "not the result of a run in this trace. Connect the LATENT output" in history.outputs[preview]["text"][0]


def test_a_trace_is_saved_and_loaded(server, quickstart):
    preview = find_node(quickstart, "SAGMaskPreview")
    inputs = quickstart[preview]["inputs"]
    saving = quickstart | {"30": {"class_type": "SAGSaveTrace", "inputs": {
        "trace": inputs["trace"], "latent": inputs["latent"], "filename_prefix": "runs/first"}}}
    assert server.run(saving).outputs["30"]["text"] == ["first_00001_.sag.safetensors"]
    loading = {
        "1": {"class_type": "SAGLoadTrace", "inputs": {"trace_name": "runs/first_00001_.sag.safetensors [output]"}},
        "2": {"class_type": "SAGMaskPreview", "inputs": {
            "trace": ["1", 0], "latent": ["1", 1], "step": 0, "style": "heatmap"}},
        "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "loaded"}},
    }
    assert len(pictures(server, server.run(loading), loading, "loaded")) == 2


def test_a_trace_name_cannot_leave_the_folders(server):
    prompt = {
        "1": {"class_type": "SAGLoadTrace", "inputs": {"trace_name": "../../secret.sag.safetensors [output]"}},
        "2": {"class_type": "SAGMaskPreview", "inputs": {
            "trace": ["1", 0], "latent": ["1", 1], "step": 0, "style": "heatmap"}},
        "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "x"}},
    }
    with pytest.raises(PromptRejected, match="neither the output nor the input folder"):
        server.run(prompt)


@pytest.mark.parametrize(("name", "value", "said"), [
    ("scale", float("nan"), "scale is nan"),
    ("scale", 11.0, "scale is 11.0; it must be a number from -10 to 10"),
    ("blur_sigma", float("inf"), "blur_sigma is inf"),
    ("threshold", -1.0, "threshold is -1.0"),
    ("blur_kernel", 4, "blur_kernel is 4; it must be odd"),
    ("start_percent", 1.5, "start_percent is 1.5"),
])
def test_a_bad_number_is_refused_when_it_is_queued(server, quickstart, name, value, said):
    with pytest.raises(PromptRejected) as raised:
        server.run(with_input(quickstart, find_node(quickstart, "SAGGuidance"), name, value))
    assert said in str(raised.value)


def test_an_unknown_layer_is_answered_with_the_models_layers_before_sampling(server, quickstart):
    guidance, sampler = find_node(quickstart, "SAGGuidance"), find_node(quickstart, "KSampler")
    prompt = with_input(quickstart, guidance, "layer", "output.99")
    with pytest.raises(ExecutionFailed, match="'output.99'; this model has auto, .*middle.0.*output.0") as raised:
        server.run(with_input(prompt, sampler, "seed", 99))
    assert raised.value.data["node_id"] == guidance
    assert sampler not in raised.value.data["executed"]


def test_class_labels_and_cfg(server, quickstart):
    """Class-conditional with classifier-free guidance; a label the model lacks is named, with those it has."""
    sampler = find_node(quickstart, "KSampler")
    positive = quickstart[sampler]["inputs"]["positive"][0]
    cfg = with_input(with_input(quickstart, positive, "label", 3), sampler, "cfg", 2.0)
    assert len(pictures(server, server.run(cfg), cfg, "SAG_quickstart")) == 2
    with pytest.raises(ExecutionFailed, match="class label is 12; this model has labels 0 to 8"):
        server.run(with_input(cfg, positive, "label", 12))
