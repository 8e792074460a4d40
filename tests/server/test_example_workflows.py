"""Every example: the form users open, the one scripts queue and the thumbnail belong together, and it does its job."""

import io
import json
import urllib.request

import numpy as np
import pytest
from PIL import Image

from tools.prompt import find_node, with_input, without_node
from tools.provision import CHECKOUT

FOLDER = CHECKOUT / "example_workflows"
EXAMPLES = sorted(path.stem for path in FOLDER.glob("*.json"))
NOTES = {"Note", "MarkdownNote"}
WIDGETS = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"}


def opened(name):
    """The form that the frontend opens."""
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))


def queued(name):
    """The form that scripts queue."""
    return json.loads((FOLDER / "api" / f"{name}.json").read_text(encoding="utf-8"))


def short(prompt):
    """The same with two images and four steps."""
    for key, node in list(prompt.items()):
        for name, value in (("batch_size", 2), ("steps", 4)):
            if name in node["inputs"]:
                prompt = with_input(prompt, key, name, value)
    return prompt


def saved(server, prompt):
    """A run's images by filename prefix, each [B, H, W, 3] in 0..255."""
    history = server.run(prompt)
    return {node["inputs"]["filename_prefix"]: np.stack(
        [np.asarray(Image.open(io.BytesIO(server.image(entry))).convert("RGB"), dtype=float)
         for entry in history.images(key)]) for key, node in prompt.items() if node["class_type"] == "SaveImage"}


def widgets(info):
    """The widgets a node has in the frontend, in their order: (name, default), and (None, None) for one it adds."""
    for kind in ("required", "optional"):
        for name in info["input_order"].get(kind, []):
            of_type, *options = info["input"][kind][name]
            options = options[0] if options else {}
            if isinstance(of_type, str) and not set(of_type.split(",")) & WIDGETS or options.get("forceInput"):
                continue
            choices = of_type if isinstance(of_type, list) else options.get("options") or [None]
            yield name, options.get("default", choices[0])
            if options.get("control_after_generate", name in ("seed", "noise_seed")):
                yield None, None


def test_there_is_an_example_for_each_idea():
    assert set(EXAMPLES) == {"quickstart", "inpaint_sag", "schedule_sag", "blur_guidance_or_sag", "economical_sag"}
    assert {path.stem for path in (FOLDER / "api").iterdir()} == set(EXAMPLES)


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_workflow_users_open_is_the_one_scripts_queue(server, name):
    """Nodes, titles, links and values are the same; what scripts leave out is at its default."""
    workflow, prompt = opened(name), queued(name)
    nodes = {str(node["id"]): node for node in workflow["nodes"] if node["type"] not in NOTES}
    assert {key: node["type"] for key, node in nodes.items()} == {
        key: node["class_type"] for key, node in prompt.items()}
    origins = {link[0]: [str(link[1]), link[2]] for link in workflow["links"]}
    for key, node in nodes.items():
        inputs, info = prompt[key]["inputs"], server.object_info(node["type"])
        links = {slot["name"]: origins[slot["link"]] for slot in node["inputs"] if slot["link"] is not None}
        assert links == {name: value for name, value in inputs.items() if isinstance(value, list)}
        expected = [(name, inputs.get(name, default)) for name, default in widgets(info)]
        # A widget that is wired keeps a value of its own; a workflow saved before an input was added lacks its value.
        for (widget, value), shown in zip(expected, node.get("widgets_values", []), strict=False):
            assert widget is None or isinstance(value, list) or shown == value, (node["type"], widget)
        assert len(node.get("widgets_values", [])) <= len(expected)
        assert node.get("title", prompt[key]["_meta"]["title"]) == prompt[key]["_meta"]["title"]


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_gives_what_it_gave_when_it_was_saved(name):
    """Its seeds do not change after a run."""
    values = [value for node in opened(name)["nodes"] for value in node.get("widgets_values", [])]
    assert "fixed" in values and "randomize" not in values


@pytest.mark.parametrize("name", sorted(set(EXAMPLES) - {"quickstart"}))
def test_an_example_says_what_to_look_at(name):
    (note,) = (node for node in opened(name)["nodes"] if node["type"] in NOTES)
    assert "**Look at**" in note["widgets_values"][0]


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


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_template_and_its_thumbnail_are_served(server, name):
    """The frontend lists the example, opens it and shows its picture."""
    assert set(server.get_json("/api/workflow_templates")[CHECKOUT.name]) == set(EXAMPLES)
    address = f"/api/workflow_templates/{CHECKOUT.name}/{name}"
    assert server.get_json(f"{address}.json") == opened(name)
    with urllib.request.urlopen(f"{server.url}{address}.jpg") as answer:
        picture = answer.read()
    image = Image.open(io.BytesIO(picture))
    assert image.format == "JPEG" and len(picture) < 100_000 and max(image.size) <= 1200
