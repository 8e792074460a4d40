"""Every example in ComfyUI's own frontend: it opens, converts to what scripts queue, and comes back from a PNG."""

from __future__ import annotations

import io
import json
import urllib.request

import pytest
from PIL import Image, PngImagePlugin

from tests.server.examples import EXAMPLES, opened, put_empty_files, queued, widgets

MISSING = """() => window.app.rootGraph.nodes.filter(
    node => !window.LiteGraph.registered_node_types[node.type] || node.has_errors).map(node => node.type)"""
PROMPT = "async () => (await window.app.graphToPrompt()).output"


@pytest.fixture(scope="module")
def complete(server):
    """Fills in a prompt what it leaves out, as the frontend writes it; titles are dropped."""
    with urllib.request.urlopen(f"{server.url}/object_info") as answer:
        nodes = json.load(answer)
    return lambda prompt: {key: {"class_type": node["class_type"], "inputs": {
        **{name: default for name, default in widgets(nodes[node["class_type"]]) if name},
        **node["inputs"]}} for key, node in prompt.items()}


def converted(frontend):
    """What the open graph is queued as."""
    return {key: {"class_type": node["class_type"], "inputs": node["inputs"]}
            for key, node in frontend.page.evaluate(PROMPT).items()}


@pytest.fixture(scope="module", autouse=True)
def models_are_there(server, shared):
    """Of those that examples ask for, the names; the page asks for the lists again, as on pressing R."""
    for name in EXAMPLES:
        put_empty_files(server, name)
    shared.page.evaluate("() => window.app.refreshComboInNodes()")


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_opens_and_converts(frontend, complete, name):
    frontend.load(opened(name))
    assert frontend.page.evaluate(MISSING) == []
    assert converted(frontend) == complete(queued(name))


def test_a_picture_that_is_dropped_on_the_page_restores_its_graph(frontend, complete):
    kept = PngImagePlugin.PngInfo()
    kept.add_text("workflow", json.dumps(opened("cg_and_sag")))
    kept.add_text("prompt", json.dumps(queued("cg_and_sag")))
    picture = io.BytesIO()
    Image.new("RGB", (8, 8)).save(picture, "PNG", pnginfo=kept)
    frontend.load(opened("quickstart"))
    frontend.page.evaluate("""bytes => window.app.handleFile(
        new File([new Uint8Array(bytes)], 'saved.png', { type: 'image/png' }))""", list(picture.getvalue()))
    frontend.page.wait_for_function("() => window.app.rootGraph.nodes.some(node => node.type === 'SAGLoadClassifier')")
    assert converted(frontend) == complete(queued("cg_and_sag"))
