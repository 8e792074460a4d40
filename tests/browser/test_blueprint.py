"""The subgraph blueprint of this pack in ComfyUI's own frontend: it is offered, and runs with a model connected."""

from __future__ import annotations

import json

from tools.provision import CHECKOUT

NAME = "Sample with SAG and show mask"
BLUEPRINT = CHECKOUT / "subgraphs" / f"{NAME}.json"
OFFERED = """() => document.querySelector('#vue-app').__vue_app__.config.globalProperties.$pinia._s.get('subgraph')
    ?.subgraphBlueprints.map(blueprint => blueprint.display_name)"""
# Connects the embedded model and what else the blueprint's node takes, by the names of its inputs and outputs.
CONNECT = """() => {
    const { app, LiteGraph } = window, graph = app.rootGraph, [sample] = graph.nodes;
    const set = (node, values) => node.widgets.forEach(widget => widget.value = values[widget.name] ?? widget.value);
    const add = (type, values = {}) => {
        const node = LiteGraph.createNode(type);
        graph.add(node);
        set(node, values);
        return node;
    };
    const none = add('SAGClassLabel', { label: -1 });
    const inputs = { model: add('SAGLoadADM'), positive: none, negative: none,
        vae: add('VAELoader', { vae_name: 'pixel_space' }),
        latent_image: add('EmptyChromaRadianceLatentImage', { width: 32, height: 32, batch_size: 1 }) };
    for (const [name, node] of Object.entries(inputs)) node.connect(0, sample, sample.findInputSlot(name));
    set(sample, { steps: 3, cfg: 1, scale: 2, layer: 'input.3' });
    for (const name of ['IMAGE', 'mask'])
        sample.connect(sample.findOutputSlot(name), add('SaveImage', { filename_prefix: name }), 0);
}"""


def test_the_frontend_lists_the_blueprint(frontend):
    frontend.page.wait_for_function(f"name => ({OFFERED})()?.includes(name)", arg=NAME)


def test_the_blueprint_samples_and_shows_the_mask(server, frontend):
    frontend.load(json.loads(BLUEPRINT.read_text(encoding="utf-8")))
    frontend.page.evaluate(CONNECT)
    prompt = frontend.page.evaluate("async () => (await window.app.graphToPrompt()).output")
    by_class = {node["class_type"]: node["inputs"] for node in prompt.values()}
    assert by_class["SAGGuidance"]["scale"] == 2 and by_class["SAGGuidance"]["layer"] == "input.3"
    assert by_class["KSampler"]["steps"] == 3 and by_class["SAGMaskPreview"]["style"] == "overlay"
    frontend.queue()
    saved = {path.name.split("_")[0] for path in (server.base / "output").glob("*.png")}
    assert {"IMAGE", "mask"} <= saved
