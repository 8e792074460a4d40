"""What nodes say of their results, in words on the node: the frontend itself shows texts of its own nodes alone."""

from __future__ import annotations

import json

from tools.frontend import Frontend, expect, quickstart

TEXTS = ("chosen by the samples", ".sag.safetensors")
# Adds a preset and the saving of the trace to the quickstart, and shows the preset's layer, so that it is asked.
ADD = """() => {
    const { app, LiteGraph } = window, graph = app.rootGraph, of = (type) => graph.nodes.find((n) => n.type === type);
    const add = (type) => {
        const node = LiteGraph.createNode(type);
        graph.add(node);
        return node;
    };
    const preset = add('SAGPreset'), save = add('SAGSaveTrace'), text = add('PreviewAny');
    of('SAGLoadADM').connect(0, preset, 0);
    preset.connect(0, text, 0);
    of('SAGGuidance').connect(1, save, save.findInputSlot('trace'));
    of('KSampler').connect(0, save, save.findInputSlot('latent'));
}"""


def test_nodes_say_in_words_what_came_of_them(frontend: Frontend):
    frontend.load(quickstart())
    frontend.page.evaluate(ADD)
    frontend.queue()
    said = frontend.page.locator(".sag-result")
    for text in TEXTS:
        expect(said.filter(has_text=text)).to_have_count(1)
    workflow = json.dumps(frontend.page.evaluate("window.app.rootGraph.serialize()"))
    assert "SAG_RESULT" not in workflow and ".sag.safetensors" not in workflow
    frontend.set("Comfy.VueNodes.Enabled", True)
    try:
        for text in TEXTS:
            expect(frontend.page.locator("[data-node-id] .sag-result", has_text=text)).to_have_count(1)
    finally:
        frontend.set("Comfy.VueNodes.Enabled", False)
