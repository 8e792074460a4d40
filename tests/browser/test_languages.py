"""The nodes' texts, their help pages and the live view in another language of the frontend."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tools.frontend import MODULES, Frontend, expect, quickstart
from tools.provision import CHECKOUT

TEXTS = json.loads((CHECKOUT / "locales" / "ko" / "nodeDefs.json").read_text(encoding="utf-8"))
LIVE = json.loads((CHECKOUT / "locales" / "ko" / "main.json").read_text(encoding="utf-8"))["SAG"]
NOTHING_TO_BLUR = "no step was guided: the mask is empty; lower the threshold, or check your own mask"
# What a user sees of a new node of every type.
SHOWN = """types => types.map((type) => {
    const node = window.LiteGraph.createNode(type);
    const names = (slots) => slots.map((slot) => [slot.name, slot.localized_name]);
    return { title: node.title, description: node.constructor.nodeData.description,
             widgets: Object.fromEntries((node.widgets ?? []).map((widget) => [widget.name, widget.label])),
             inputs: Object.fromEntries(names(node.inputs)), outputs: names(node.outputs) };
})"""
SELECT = """type => window.app.canvas.selectNode(window.app.rootGraph.nodes.find((node) => node.type === type))"""


@pytest.fixture(scope="module")
def opened_in_korean(shared: Frontend) -> Iterator[None]:
    shared.set("Comfy.Locale", "ko")
    shared.open()
    yield
    shared.set("Comfy.Locale", "en")  # the server remembers it


@pytest.fixture
def korean(opened_in_korean: None, frontend: Frontend) -> Frontend:
    """The page in Korean."""
    return frontend


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


def says(frontend: Frontend, guided: str, reason: str, note: str, modes: list[str], step: str) -> None:
    """Wait until the viewer of a run without guidance says this, and no more."""
    viewer = frontend.viewer()
    status = viewer.locator(".sag-status")
    expect(status).to_contain_text(f"{guided} ({reason})")
    expect(status).to_contain_text(note)
    expect(viewer.locator(".sag-mode option")).to_have_text(modes)
    expect(viewer.locator(".sag-step")).to_have_attribute("aria-label", step)
    expect(viewer.locator(".sag-step-name")).to_contain_text(f"{step} 5,", ignore_case=True)


def test_the_live_view_speaks_the_users_language_and_follows_a_change(korean: Frontend):
    live, notes = LIVE["live"], LIVE["notes"]
    guided = live["<guided> guided, <skipped> skipped"].replace("<guided>", "0").replace("<skipped>", "6")
    in_korean = (guided, notes["nothing to blur"], notes[NOTHING_TO_BLUR],
                 [live[mode] for mode in ("overlay", "heat map", "mask")], live["Step"])
    in_english = ("0 guided, 6 skipped", "nothing to blur", NOTHING_TO_BLUR, ["overlay", "heat map", "mask"], "Step")
    korean.load(quickstart(threshold=99.0))
    expect(korean.viewer().locator(".sag-status")).to_have_text(live["The attention shows here when a run samples."])
    korean.queue()
    toast = korean.page.locator(".p-toast-message", has_text=notes[NOTHING_TO_BLUR]).first
    expect(toast).to_contain_text(live["Self-Attention Guidance"])
    korean.look_at("SAGGuidance")
    says(korean, *in_korean)
    korean.screenshot("korean")
    for locale, said in (("en", in_english), ("ko", in_korean), ("fr", in_english), ("ko", in_korean)):
        korean.set("Comfy.Locale", locale)
        says(korean, *said)


def test_what_a_note_quotes_is_translated_with_it(korean: Frontend):
    notes = LIVE["notes"]
    quoted = notes["layer is <layer>; this model has <layers>"]
    quoted = quoted.replace("<layer>", "'output.99'").replace("<layers>", "auto, middle.0; x")
    expected = notes["<error>; <layer> is used instead"].replace("<error>", quoted).replace("<layer>", "middle.0")
    unknown = "a (text) nobody <b>knows</b>"
    said = korean.page.evaluate("""async ([modules, texts]) => {
        const { translate } = await import(`${modules}/texts.js`);
        return texts.map(translate);
    }""", [MODULES, ["layer is 'output.99'; this model has auto, middle.0; x; middle.0 is used instead", unknown]])
    assert said == [expected, unknown]
