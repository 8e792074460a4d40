"""Every example: the form users open, the one scripts queue and the thumbnail belong together."""

import io
import json
import re
import urllib.request
from itertools import combinations

import pytest
from PIL import Image

from sag_core.presets import PRESETS
from tests.server.examples import (
    EXAMPLES,
    FOLDER,
    NOTES,
    OF_OTHER_MODELS,
    RUNNABLE,
    files,
    note,
    opened,
    put_empty_files,
    queued,
    widgets,
)
from tools.provision import CHECKOUT


def test_there_is_an_example_for_each_idea():
    assert set(RUNNABLE) == {"quickstart", "inpaint_sag", "schedule_sag", "blur_guidance_or_sag", "economical_sag",
                             "sampler_custom_advanced_sag", "cg_and_sag", "analysis_sag"}
    assert set(OF_OTHER_MODELS) == {"sd15_sag", "sdxl_sag", "flux_sag", "wan_video_sag", "pag_and_sag", "adm_sag",
                                    "iddpm_sag"}
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


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_says_what_to_look_at_and_which_files_it_needs(name):
    text = note(name)
    assert "**Look at**" in text
    assert {f"`{file}`" for _, file in files(name)} <= set(text.split()) | set(re.findall("`[^`]+`", text))
    assert not re.search(r"https?://", text)


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_is_laid_out(name):
    """No node covers another, and links go from left to right, or down within a column."""
    workflow = opened(name)
    boxes = {node["id"]: (*node["pos"], node["pos"][0] + node["size"][0], node["pos"][1] + node["size"][1])
             for node in workflow["nodes"]}
    title = 30
    for one, other in combinations(boxes.values(), 2):
        apart = one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] - title or other[3] <= one[1] - title
        assert apart, (one, other)
    for _, origin, _, target, *_ in workflow["links"]:
        start, end = boxes[origin], boxes[target]
        assert start[2] <= end[0] or (start[0] == end[0] and start[3] <= end[1]), (origin, target)


@pytest.mark.parametrize("name", OF_OTHER_MODELS)
def test_an_example_of_another_model_is_accepted_by_the_server(server, name):
    """Files of the right names are all it lacks: the host accepts every node, and stops at the empty files."""
    put_empty_files(server, name)
    body = json.dumps({"prompt": queued(name)}).encode()
    request = urllib.request.Request(f"{server.url}/prompt", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as answer:
        assert json.load(answer)["node_errors"] == {}


@pytest.mark.parametrize(("name", "preset"), [
    ("sd15_sag", "Stable Diffusion 1, 2"), ("sdxl_sag", "Stable Diffusion XL"), ("flux_sag", "other latent models"),
    ("wan_video_sag", "other latent models"), ("pag_and_sag", "Stable Diffusion 1, 2"),
    ("adm_sag", "ADM 256, without labels"), ("quickstart", "embedded model"), ("cg_and_sag", "embedded model"),
    ("sampler_custom_advanced_sag", "embedded model")])
def test_settings_are_those_of_the_preset(name, preset):
    chosen = PRESETS[preset]
    guided = [node["inputs"] for node in queued(name).values() if node["class_type"] in ("SAGGuidance", "SAGSampler")]
    for inputs in guided:
        assert inputs["scale"] == chosen.scale and inputs["blur_sigma"] == chosen.blur_sigma
        assert inputs["threshold"] == chosen.threshold and inputs["layer"] == chosen.layer
        assert inputs.get("blur_kernel", 0) == chosen.blur_kernel
    assert guided


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


def test_the_blueprint_is_offered(server):
    (path,) = (CHECKOUT / "subgraphs").glob("*.json")
    found = [entry["info"]["node_pack"] for entry in server.get_json("/global_subgraphs").values()
             if entry["name"] == path.stem]
    assert found == [f"custom_nodes.{CHECKOUT.name}"]
