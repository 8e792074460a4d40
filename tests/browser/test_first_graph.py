"""The README's three steps, done with the mouse: the node is found, put before the sampler, and shows its mask."""

from __future__ import annotations

import pytest

from tools.frontend import Frontend, expect, quickstart

# Takes the guidance out of the quickstart, and with it all that needs it: a graph as users have one.
WITHOUT = """() => {
    const { app } = window, graph = app.rootGraph, of = (type) => graph.nodes.filter((node) => node.type === type);
    const [loader] = of('SAGLoadADM'), [sampler] = of('KSampler'), [save] = of('SaveImage');
    for (const group of [...graph.groups]) graph.remove(group);
    for (const node of [...of('SAGGuidance'), ...of('SAGMaskPreview'), ...of('MarkdownNote'), of('SaveImage')[1],
                        of('ImageScaleBy')[1]]) graph.remove(node);
    loader.connect(0, sampler, sampler.findInputSlot('model'));
    for (const node of graph.nodes) node.pos = [-3000, 2000];
    loader.pos = [0, 60];
    sampler.pos = [860, 60];
    app.canvas.ds.scale = 0.8;
    app.canvas.ds.offset = [130, 130];
    app.canvas.draw(true, true); // until then the canvas takes clicks for nodes that were there
}"""
ROOM = 570, 250  # between the two that are left
# Where a slot is on the page.
SLOT = """([type, output, name]) => {
    const { canvas, rootGraph } = window.app;
    const node = rootGraph.nodes.find((node) => node.type === type);
    const slot = output ? node.findOutputSlot(name) : node.findInputSlot(name);
    const [x, y] = node.getConnectionPos(!output, slot);
    const { left, top } = canvas.canvas.getBoundingClientRect();
    return [left + (x + canvas.ds.offset[0]) * canvas.ds.scale, top + (y + canvas.ds.offset[1]) * canvas.ds.scale];
}"""
FOLLOWS_THE_MOUSE = """() =>
    window.app.rootGraph.nodes.some((node) => node.type === 'SAGGuidance' && node.flags.ghost)"""
LINKED = """() => {
    const graph = window.app.rootGraph, of = (type) => graph.nodes.find((node) => node.type === type);
    const source = (node) => {
        const { link } = node.inputs.find((input) => input.name === 'model');
        return graph.getNodeById(graph.getLink(link)?.origin_id)?.type;
    };
    return source(of('SAGGuidance')) === 'SAGLoadADM' && source(of('KSampler')) === 'SAGGuidance';
}"""


@pytest.mark.parametrize("nodes_2", [False, True], ids=["classic", "Nodes 2.0"])
def test_the_readmes_three_steps(frontend: Frontend, nodes_2: bool):
    frontend.set("Comfy.VueNodes.Enabled", nodes_2)
    try:
        frontend.load(quickstart())
        frontend.page.evaluate(WITHOUT)
        page = frontend.page
        page.mouse.dblclick(*ROOM)
        page.wait_for_function("() => document.activeElement.tagName === 'INPUT'")
        page.keyboard.type("SAG")
        page.get_by_text("Self-Attention Guidance (SAG)", exact=True).first.click()
        page.wait_for_function(FOLLOWS_THE_MOUSE)
        expect(page.get_by_role("dialog")).to_have_count(0)
        page.mouse.move(*ROOM)
        page.mouse.click(*ROOM)
        page.wait_for_function(f"() => !({FOLLOWS_THE_MOUSE})()")
        drag(frontend, ("SAGLoadADM", "MODEL"), ("SAGGuidance", "model"))
        drag(frontend, ("SAGGuidance", "MODEL"), ("KSampler", "model"))
        page.wait_for_function(LINKED)
        page.get_by_test_id("queue-button").click()
        expect(frontend.viewer().locator(".sag-status")).to_contain_text("6 guided, 0 skipped")
        frontend.screenshot("first_graph")
    finally:
        frontend.set("Comfy.VueNodes.Enabled", False)


def drag(frontend: Frontend, source: tuple[str, str], target: tuple[str, str]) -> None:
    """Draw a link from an output to an input with the mouse."""
    mouse = frontend.page.mouse
    mouse.move(*frontend.page.evaluate(SLOT, [source[0], True, source[1]]))
    mouse.down()
    mouse.move(*frontend.page.evaluate(SLOT, [target[0], False, target[1]]), steps=8)
    mouse.up()
