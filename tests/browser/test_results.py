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


def test_results_come_back_with_their_tab_inside_subgraphs_too(frontend: Frontend):
    frontend.load(quickstart(steps=2))
    frontend.page.evaluate(ADD)
    frontend.page.evaluate("""() => {
        const graph = window.app.rootGraph;
        graph.convertToSubgraph(new Set([graph.nodes.find((node) => node.type === 'SAGSaveTrace')]));
    }""")
    workflow = frontend.page.evaluate("window.app.rootGraph.id")
    frontend.queue()
    frontend.load(quickstart())
    tabs = frontend.page.locator(".workflow-tab")
    tabs.nth(tabs.count() - 2).click()
    frontend.page.wait_for_function("id => window.app.rootGraph.id === id", arg=workflow)
    frontend.page.evaluate("""() => {
        const outer = window.app.rootGraph.nodes.find((node) => node.subgraph);
        window.app.canvas.openSubgraph(outer.subgraph, outer);
    }""")
    expect(frontend.page.locator(".sag-result", has_text=".sag.safetensors")).to_have_count(1)
    frontend.page.evaluate("window.app.canvas.setGraph(window.app.rootGraph)")
