"""Every example in ComfyUI's own frontend: it opens, converts to what scripts queue, and comes back from a PNG."""

from __future__ import annotations

import json
import urllib.request

import pytest

from tests.server.examples import EXAMPLES, opened, put_empty_files, queued, widgets
from tools.frontend import expect, quickstart
from tools.provision import CHECKOUT

MISSING = """() => window.app.rootGraph.nodes.filter(
    node => !window.LiteGraph.registered_node_types[node.type] || node.has_errors).map(node => node.type)"""
HAS = "type => window.app.rootGraph.nodes.some(node => node.type === type)"
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


def test_a_template_is_opened_by_hand(frontend, complete):
    frontend.load(opened("analysis_sag"))
    frontend.page.get_by_role("button", name="Templates").click()
    dialog = frontend.page.get_by_role("dialog")
    dialog.get_by_text(CHECKOUT.name, exact=True).click()
    card = dialog.get_by_test_id("template-workflow-quickstart")
    card.scroll_into_view_if_needed()
    thumbnail = card.locator("img").first.element_handle()
    frontend.page.wait_for_function("image => image.naturalWidth", arg=thumbnail)
    card.click()
    expect(dialog).to_have_count(0)
    frontend.page.wait_for_function(HAS, arg="SAGGuidance")
    assert converted(frontend) == complete(queued("quickstart"))


def test_a_saved_picture_that_is_dropped_on_the_page_restores_its_graph(frontend, server):
    before = set((server.base / "output").glob("*.png"))
    frontend.load(quickstart(steps=2, scale=1.25))
    frontend.queue()
    picture = min(set((server.base / "output").glob("*.png")) - before)
    wanted = converted(frontend)
    frontend.load(opened("cg_and_sag"))
    frontend.page.evaluate("""bytes => {
        const dropped = new DataTransfer();
        dropped.items.add(new File([new Uint8Array(bytes)], 'saved.png', { type: 'image/png' }));
        document.querySelector('#graph-canvas').dispatchEvent(
            new DragEvent('drop', { bubbles: true, cancelable: true, dataTransfer: dropped }));
    }""", list(picture.read_bytes()))
    frontend.page.wait_for_function(HAS, arg="SAGGuidance")
    frontend.page.wait_for_function(f"type => !({HAS})(type)", arg="SAGLoadClassifier")
    assert converted(frontend) == wanted
