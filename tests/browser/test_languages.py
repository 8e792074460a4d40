"""The nodes' texts and help pages in the languages of the frontend."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.browser.frontend import Frontend
from tools.provision import CHECKOUT

LANGUAGES = ("ja", "ko", "zh")
# What a user sees of a new node.
SHOWN = """type => {
    const node = window.LiteGraph.createNode(type);
    const { name, description, inputs } = Object.getPrototypeOf(node).constructor.nodeData;
    return { title: node.title, description,
             widgets: Object.fromEntries(node.widgets.map((widget) => [widget.name, widget.label])),
             inputs: Object.fromEntries(node.inputs.map((slot) => [slot.name, slot.localized_name])),
             outputs: Object.fromEntries(node.outputs.map((slot, index) => [index, slot.localized_name])) };
}"""


@pytest.fixture(params=LANGUAGES)
def language(frontend: Frontend, request) -> Iterator[str]:
    """The page in another language, and afterwards in English again."""
    frontend.set("Comfy.Locale", request.param)
    frontend.open()
    yield request.param
    frontend.set("Comfy.Locale", "en")
    frontend.open()


def texts(language: str) -> dict:
    return json.loads((CHECKOUT / "locales" / language / "nodeDefs.json").read_text(encoding="utf-8"))


def test_new_nodes_speak_the_users_language(frontend: Frontend, language: str):
    for node_type, expected in texts(language).items():
        shown = frontend.page.evaluate(SHOWN, node_type)
        assert (shown["title"], shown["description"]) == (expected["display_name"], expected["description"])
        names = {name: text["name"] for name, text in expected["inputs"].items()}
        assert names.items() <= (shown["widgets"] | shown["inputs"]).items()
        assert {index: text["name"] for index, text in expected.get("outputs", {}).items()}.items() <= (
            shown["outputs"].items())
