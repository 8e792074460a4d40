"""The nodes' texts and help pages in another language of the frontend."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.browser.frontend import Frontend, quickstart
from tools.provision import CHECKOUT

TEXTS = json.loads((CHECKOUT / "locales" / "ko" / "nodeDefs.json").read_text(encoding="utf-8"))
# What a user sees of a new node of every type.
SHOWN = """types => types.map((type) => {
    const node = window.LiteGraph.createNode(type);
    const names = (slots) => slots.map((slot) => [slot.name, slot.localized_name]);
    return { title: node.title, description: node.constructor.nodeData.description,
             widgets: Object.fromEntries((node.widgets ?? []).map((widget) => [widget.name, widget.label])),
             inputs: Object.fromEntries(names(node.inputs)), outputs: names(node.outputs) };
})"""
SELECT = """type => window.app.canvas.selectNode(window.app.rootGraph.nodes.find((node) => node.type === type))"""


@pytest.fixture
def korean(frontend: Frontend) -> Iterator[Frontend]:
    """The page in Korean, and afterwards in English again."""
    frontend.set("Comfy.Locale", "ko")
    frontend.open()
    yield frontend
    frontend.set("Comfy.Locale", "en")
    frontend.open()


def test_nodes_and_their_help_speak_the_users_language(korean: Frontend):
    shown = dict(zip(TEXTS, korean.page.evaluate(SHOWN, list(TEXTS)), strict=True))
    for node_type, expected in TEXTS.items():
        node = shown[node_type]
        assert (node["title"], node["description"]) == (expected["display_name"], expected["description"])
        for name, text in expected["inputs"].items():
            assert text["name"] in (node["widgets"].get(name), node["inputs"].get(name))
        for index, text in expected.get("outputs", {}).items():
            assert node["outputs"][int(index)][1] == text["name"]

    korean.load(quickstart())
    korean.look_at("SAGGuidance")
    korean.page.evaluate(SELECT, "SAGGuidance")
    korean.page.get_by_test_id("info-button").click()
    page = korean.page.locator(".node-help-content")
    page.get_by_role("heading", name=TEXTS["SAGGuidance"]["display_name"], exact=True).wait_for()
    # Pictures are where the English page has them.
    korean.page.wait_for_function("() => document.querySelector('.node-help-content img')?.naturalWidth")
