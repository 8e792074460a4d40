"""The live view, seen by a user: it shows a run while it samples and afterwards, on every node that has one."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from sag_core.trace import AttentionTrace, Recording, Step, fingerprint
from tests.server.examples import opened
from tools.frontend import MODULES, expect, frames_of, quickstart
from tools.provision import CHECKOUT

STEPS, IMAGES = 12, 32
# The row and column of the brightest of a canvas's tokens.
BRIGHTEST = """(canvas, [rows, columns]) => {
    const context = canvas.getContext('2d');
    const light = (row, column) => context.getImageData(
        (column + 0.5) * canvas.width / columns, (row + 0.5) * canvas.height / rows, 1, 1).data.reduce((a, b) => a + b);
    const tokens = Array.from({ length: rows * columns }, (_, i) => [Math.floor(i / columns), i % columns]);
    return tokens.sort((a, b) => light(...b) - light(...a))[0];
}"""


def node_of(workflow: dict, node_type: str) -> dict:
    """The only node of a type."""
    (node,) = (node for node in workflow["nodes"] if node["type"] == node_type)
    return node


def save_video(path: Path) -> None:
    """Save a trace of 3 steps and 5 frames: in step i, the token of row i and column k is attended to in frame k."""
    samples, steps = torch.zeros(1, 16, 5, 16, 24), []
    for i in range(3):
        attn_map = torch.zeros(1, 5, 8, 12)
        attn_map[0, range(5), i, range(5)] = 96
        steps.append(Step(1 - i / 3, attn_map, "block.7", "cond", guided=i > 0))
    trace = AttentionTrace()
    trace.add(Recording((5, 16, 24), steps=steps, results={fingerprint(samples)}))
    path.parent.mkdir(exist_ok=True)
    trace.save(path, samples)


def test_the_template_shows_its_mask_while_it_samples(frontend):
    frontend.open(f"?template=quickstart&source={CHECKOUT.name}")
    frontend.page.wait_for_function("() => window.app.rootGraph.nodes.some((node) => node.type === 'SAGGuidance')")
    frontend.set_widget("KSampler", "steps", STEPS)
    # Steps that take long enough to be drawn one by one, also where the browser shares a core with the sampler.
    frontend.set_widget("EmptyChromaRadianceLatentImage", "batch_size", IMAGES)
    frontend.page.evaluate("""() => {
        window.drawn = [];
        new MutationObserver((changes) => changes.forEach(({ target }) => {
            if (target.dataset.nodeType === 'SAGGuidance') window.drawn.push([target.dataset.drawn, window.over]);
        })).observe(document.body, { subtree: true, attributes: true, attributeFilter: ['data-drawn'] });
    }""")
    heard = frontend.queue()
    assert [frame["step"] for frame in frames_of(heard)] == list(range(STEPS))
    kinds = [event["kind"] for event in heard]
    assert kinds[:2] == ["start", "frame"] and kinds[-1] == "execution_success"
    # Drawn step by step, before the run was over.
    during = [int(drawn.split()[0]) for drawn, over in frontend.page.evaluate("window.drawn") if not over]
    assert len(set(during)) >= 2 and during == sorted(during)
    frontend.wait_drawn(f"{STEPS - 1} ")
    expect(frontend.viewer().locator(".sag-status")).to_have_text(
        f"input.3 \u00b7 16x16 tokens \u00b7 cond \u00b7 {STEPS} guided, 0 skipped \u00b7 image 1 of {IMAGES}")
    frontend.wait_drawn(f"{STEPS - 1} ", "SAGMaskPreview")
    frontend.look_at("SAGGuidance", "KSampler", "SAGMaskPreview")
    frontend.screenshot("after_a_run")


def test_slider_chart_play_and_choices(frontend):
    frontend.load(quickstart())
    frontend.queue()
    viewer = frontend.viewer()
    frontend.wait_drawn("5 overlay")
    frontend.look_at("SAGGuidance")
    last = frontend.pixels()
    viewer.locator(".sag-step").fill("2")
    frontend.wait_drawn("2 ")
    expect(viewer.locator(".sag-step-name")).to_contain_text("step 2, sigma")
    assert frontend.pixels() != last
    chart = viewer.locator(".sag-chart")
    chart.click(position={"x": chart.bounding_box()["width"] * 4.5 / 6, "y": 20})
    frontend.wait_drawn("4 ")
    seen = {}
    for mode in ("heatmap", "mask", "overlay"):
        viewer.locator(".sag-mode").select_option(mode)
        frontend.wait_drawn(f"4 {mode}")
        seen[mode] = frontend.pixels()
    assert len(set(seen.values())) == 3
    viewer.locator(".sag-opacity").fill("0")
    frontend.wait_drawn("4 overlay 0 ")
    assert frontend.pixels() not in seen.values()
    viewer.locator(".sag-play").click()
    frontend.wait_drawn("5 ")
    frontend.wait_drawn("0 ")
    viewer.locator(".sag-play").click()


def test_choices_are_kept_in_the_workflow_and_pictures_are_not(frontend):
    frontend.load(quickstart())
    frontend.queue()
    frontend.wait_drawn("5 ")
    frontend.viewer().locator(".sag-mode").select_option("heatmap")
    workflow = frontend.page.evaluate("window.app.rootGraph.serialize()")
    (node,) = (node for node in workflow["nodes"] if node["type"] == "SAGGuidance")
    assert node["properties"]["sag_view"] == {"mode": "heatmap", "opacity": 0.6}
    before = {node["id"]: len(node["widgets_values"]) for node in quickstart()["nodes"] if "widgets_values" in node}
    assert len(node["widgets_values"]) >= before[node["id"]]
    assert "data:image" not in json.dumps(workflow) and "sag_view" not in json.dumps(node["widgets_values"])
    prompt = frontend.page.evaluate("async () => (await window.app.graphToPrompt()).output")
    assert not any("sag_view" in node["inputs"] for node in prompt.values())
    frontend.load(workflow)
    frontend.wait_drawn("5 heatmap 0.6")


def test_a_double_click_enlarges(frontend):
    frontend.load(quickstart())
    frontend.queue()
    frontend.wait_drawn("5 ")
    frontend.look_at("SAGGuidance")
    picture = frontend.viewer().locator(".sag-picture canvas")
    small = picture.bounding_box()
    picture.dblclick()
    large = frontend.page.locator(".sag-large .sag-view")
    expect(large).to_have_attribute("data-drawn", "5 overlay 0.6 viridis")
    assert large.locator(".sag-picture canvas").bounding_box()["height"] > 1.5 * small["height"]
    large.locator(".sag-step").fill("4")
    expect(large.locator(".sag-step-name")).to_contain_text("step 4")
    frontend.screenshot("enlarged")
    frontend.page.keyboard.press("Escape")
    expect(frontend.page.locator(".sag-large")).to_have_count(0)
    frontend.viewer().locator(".sag-enlarge").press("Enter")  # and without a mouse
    expect(frontend.page.locator(".sag-large .sag-view")).to_be_visible()
    frontend.page.keyboard.press("Escape")
    expect(frontend.page.locator(".sag-large")).to_have_count(0)


def test_a_guided_sampler_is_shown(frontend):
    workflow = opened("schedule_sag")
    sampler = node_of(workflow, "SAGSampler")
    frontend.load(workflow)
    frontend.set_widget("BasicScheduler", "steps", 5)
    frontend.set_widget("EmptyChromaRadianceLatentImage", "batch_size", 2)
    frames = frames_of(frontend.queue())
    assert [(frame["node"], frame["step"]) for frame in frames] == [(str(sampler["id"]), step) for step in range(5)]
    frontend.wait_drawn("4 ", "SAGSampler")
    viewer = frontend.viewer("SAGSampler")
    expect(viewer.locator(".sag-status")).to_have_text(
        "input.3 \u00b7 16x16 tokens \u00b7 cond \u00b7 4 guided, 1 skipped (outside the interval) \u00b7 image 1 of 2")
    last = frontend.pixels("SAGSampler")
    viewer.locator(".sag-step").fill("0")
    frontend.wait_drawn("0 ", "SAGSampler")
    assert frontend.pixels("SAGSampler") != last


def test_a_recording_is_shown_as_one(frontend):
    workflow = quickstart()
    node = node_of(workflow, "SAGGuidance")
    node |= {"type": "SAGRecordAttention", "inputs": node["inputs"][:1], "widgets_values": ["input.3"]}
    frontend.load(workflow)
    assert [frame["step"] for frame in frames_of(frontend.queue())] == list(range(6))
    for viewed in ("SAGRecordAttention", "SAGMaskPreview"):
        frontend.wait_drawn("5 ", viewed)
        expect(frontend.viewer(viewed).locator(".sag-status")).to_have_text(
            "input.3 \u00b7 16x16 tokens \u00b7 cond \u00b7 6 steps recorded \u00b7 image 1 of 2")


def test_of_a_saved_video_the_middle_frame_is_shown(frontend, server):
    save_video(server.base / "output" / "video.sag.safetensors")
    frontend.load(quickstart())
    frontend.page.evaluate("""name => {
        const { app, LiteGraph } = window;
        app.rootGraph.clear();
        const [saved, preview, image] = ['SAGLoadTrace', 'SAGMaskPreview', 'SaveImage'].map((type) => {
            const node = LiteGraph.createNode(type);
            app.rootGraph.add(node);
            return node;
        });
        saved.widgets[0].value = name;
        saved.connect(0, preview, 0);
        saved.connect(1, preview, 1);
        preview.connect(0, image, 0);
    }""", "video.sag.safetensors [output]")
    frontend.queue()
    frontend.wait_drawn("2 ", "SAGMaskPreview")
    viewer = frontend.viewer("SAGMaskPreview")
    expect(viewer.locator(".sag-status")).to_have_text(
        "block.7 \u00b7 12x8 tokens \u00b7 cond \u00b7 2 guided, 1 skipped \u00b7 frame 3 of 5")
    viewer.locator(".sag-mode").select_option("heatmap")
    for step in range(3):
        viewer.locator(".sag-step").fill(str(step))
        frontend.wait_drawn(f"{step} heatmap", "SAGMaskPreview")
        assert viewer.locator("canvas").first.evaluate(BRIGHTEST, [8, 12]) == [step, 2]


def test_the_keyboard_moves_the_step_and_leaves_the_graph_alone(frontend):
    frontend.load(quickstart())
    frontend.queue()
    frontend.wait_drawn("5 ")
    frontend.look_at("SAGGuidance")
    frontend.page.evaluate("""() => window.app.canvas.selectNode(
        window.app.rootGraph.nodes.find((node) => node.type === 'SAGGuidance'))""")
    nodes = "() => window.app.rootGraph.nodes.map((node) => [node.id, ...node.pos, node.mode])"
    before = frontend.page.evaluate(nodes)
    frontend.viewer().locator(".sag-play").focus()
    frontend.page.keyboard.press("Tab")
    expect(frontend.viewer().locator(".sag-step")).to_be_focused()
    # On the graph, the last two bypass and remove the selected node.
    for key, step in (("ArrowLeft", 4), ("Home", 0), ("ArrowRight", 1), ("Control+b", 1), ("Delete", 1)):
        frontend.page.keyboard.press(key)
        frontend.wait_drawn(f"{step} ")
    assert frontend.page.evaluate(nodes) == before
    frontend.page.evaluate("() => { window.heard = []; window.over = ''; }")
    frontend.page.keyboard.press("Control+Enter")
    frontend.finish()


def test_settings(frontend):
    frontend.load(quickstart())
    frontend.set("SAG.Live.Enabled", False)
    frontend.wait_told()
    heard = frontend.queue()
    assert not [event for event in heard if event["kind"] in ("start", "frame", "end", "kept")]
    expect(frontend.viewer().locator(".sag-status")).to_contain_text("Live view is off")
    frontend.set("SAG.Live.Enabled", True)
    frontend.set("SAG.Live.Size", 128)
    frontend.wait_told()
    frontend.set_widget("KSampler", "seed", 5)
    assert frames_of(frontend.queue())
    frontend.wait_drawn("5 overlay 0.6 viridis")
    before = frontend.pixels()
    frontend.set("SAG.Live.ColourMap", "inferno")
    frontend.wait_drawn("5 overlay 0.6 inferno")
    assert frontend.pixels() != before
    frontend.set("SAG.Live.ColourMap", "viridis")
    frontend.page.evaluate("window.app.extensionManager.command.execute('Comfy.ShowSettingsDialog')")
    frontend.page.get_by_role("dialog").get_by_text("Self-Attention Guidance").first.click()
    for name in ("Show attention while sampling", "Size of the pictures", "Colour map of attention"):
        expect(frontend.page.get_by_role("dialog").get_by_text(name).first).to_be_visible()
    frontend.screenshot("settings")
    frontend.page.keyboard.press("Escape")


def test_colour_maps_rise_evenly_in_lightness(frontend):
    tables = frontend.page.evaluate("""async (modules) => {
        const { COLOUR_MAPS, colourTable } = await import(`${modules}/colours.js`);
        return Object.fromEntries(COLOUR_MAPS.map((name) => [name, colourTable(name)]));
    }""", MODULES)
    assert list(tables) == ["viridis", "cividis", "inferno"]
    for name, table in tables.items():
        light = [lightness(colour) for colour in table]
        steps = [b - a for a, b in zip(light[:-32:32], light[32::32], strict=True)]
        assert max(steps) < 1.5 * min(steps), (name, steps)


def lightness(rgb):
    """CIE L* of sRGB."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (v / 255 for v in rgb)]
    y = sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
    return 116 * y ** (1 / 3) - 16 if y > 0.008856 else 903.3 * y


def test_the_other_renderer(frontend):
    frontend.set("Comfy.VueNodes.Enabled", True)
    try:
        frontend.load(quickstart())
        frontend.page.wait_for_selector('[data-node-id] .sag-view[data-node-type="SAGGuidance"]')
        assert frames_of(frontend.queue())
        frontend.wait_drawn("5 ")
        frontend.look_at("SAGGuidance")
        viewer = frontend.viewer()
        expect(viewer.locator(".sag-picture canvas")).to_be_visible()
        assert viewer.locator(".sag-picture").bounding_box()["height"] > 100
        viewer.locator(".sag-chart").click(position={"x": 3, "y": 10})
        frontend.wait_drawn("0 ")
        viewer.locator(".sag-step").fill("4")
        frontend.wait_drawn("4 ")
        frontend.screenshot("nodes_2")
    finally:
        frontend.set("Comfy.VueNodes.Enabled", False)


def test_inside_a_subgraph(frontend):
    frontend.load(quickstart())
    frontend.page.evaluate("""() => {
        const graph = window.app.rootGraph;
        graph.convertToSubgraph(new Set([graph.nodes.find((node) => node.type === 'SAGGuidance')]));
    }""")
    heard = frontend.queue()
    (node,) = {event["node"] for event in frames_of(heard)}
    assert node.count(":") == 1
    frontend.page.evaluate("""() => {
        const outer = window.app.rootGraph.nodes.find((node) => node.subgraph);
        window.app.canvas.openSubgraph(outer.subgraph, outer);
    }""")
    frontend.wait_drawn("5 ")
    frontend.page.evaluate("window.app.canvas.setGraph(window.app.rootGraph)")


def test_two_passes_of_one_prompt_are_two_runs(frontend):
    frontend.load(quickstart())
    frontend.page.evaluate("""() => {
        const graph = window.app.rootGraph, of = (type) => graph.nodes.find((node) => node.type === type);
        const first = of('KSampler'), second = window.LiteGraph.createNode('KSampler');
        graph.add(second);
        first.inputs.forEach((input, slot) => {
            const link = input.link && graph.getLink(input.link);
            if (link && input.name !== 'latent_image')
                graph.getNodeById(link.origin_id).connect(link.origin_slot, second, slot);
        });
        first.connect(0, second, first.inputs.findIndex((input) => input.name === 'latent_image'));
        second.connect(0, of('VAEDecode'), 0);
        for (const [name, value] of [['steps', 3], ['denoise', 0.5], ['cfg', 1]])
            second.widgets.find((widget) => widget.name === name).value = value;
    }""")
    assert [frame["step"] for frame in frames_of(frontend.queue())] == [*range(6), *range(3)]
    frontend.wait_drawn("2 ")
    which = frontend.viewer().locator(".sag-run")
    expect(which.locator("option:checked")).to_have_text("run 2 of 2")
    which.select_option("run 1 of 2")
    frontend.wait_drawn("5 ")


def test_runs_that_overlap_and_long_ones_are_kept_in_order(frontend):
    """The last steps of a run are sent while the next one begins; of a long run every second step is left out."""
    first, second, seen = frontend.page.evaluate("""async (modules) => {
        const { addFrame, endRun, runsOf, startRun } = await import(`${modules}/runs.js?alone`);
        const steps = (run) => run.frames.map((frame) => frame.step);
        for (const run of ['a', 'b']) startRun('w', '1', 'p', { run });
        for (let step = 0; step < 998; step++) addFrame('w', '1', { run: 'b', step, guided: step % 2 === 0 });
        addFrame('w', '1', { run: 'a', step: 0 });
        endRun('w', '1', 'p', { run: 'a' });
        const [a, b] = runsOf('w', '1');
        return [steps(a), b.end === null ? steps(b) : [], b.seen];
    }""", MODULES)
    assert first == [0] and (seen["steps"], seen["guided"], seen["skipped"]) == (998, 499, 499)
    assert second == [*range(0, 998, 8), 997]


def test_runs_and_steps_in_words(frontend):
    """What there is to say of videos, records, interrupted runs and runs of several samplers."""
    said = frontend.page.evaluate("""async (modules) => {
        const { describeRun } = await import(`${modules}/describe.js`);
        const run = (about, end, frames = []) => describeRun({ about, end, frames, notes: [] }, true);
        return [
            run({ purpose: 'guide', layer: 'block.3', batch: 1, video: 9 },
                { state: 'finished', guided: 2, skipped: 3, steps: 5, why: { a: 1, b: 2 } }),
            run({ purpose: 'record', layer: 'auto', batch: 4 }, { state: 'InterruptProcessingException', steps: 2 }),
            run({ purpose: 'guide', layer: '', batch: 1 }, { state: 'finished', steps: 0 }),
            describeRun(undefined, false), describeRun(undefined, true),
        ];
    }""", MODULES)
    assert said == [
        "block.3 \u00b7 2 guided, 3 skipped (1 a, 2 b) \u00b7 frame 5 of 9",
        "auto \u00b7 2 steps recorded (interrupted) \u00b7 image 1 of 4",
        "no layer \u00b7 no step was sampled",
        "Live view is off (Settings, Self-Attention Guidance).",
        "The attention shows here when a run samples.",
    ]
