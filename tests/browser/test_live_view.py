"""The live view, seen by a user: it shows a run while it samples and afterwards, and keeps to itself."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.browser.frontend import MODULES, Frontend, expect, quickstart
from tools.prompt import find_node, with_input
from tools.provision import CHECKOUT

KEPT = "sag_live"
STEPS, IMAGES = 12, 32


def frames_of(heard, node=None):
    return [event for event in heard if event["kind"] == "frame" and node in (None, event["node"])]


def kept_files(server):
    return sorted((server.base / "temp" / KEPT).glob("*.json"))


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


def test_a_reload_restores_the_run_from_history_and_a_damaged_file_only_says_so(frontend, server):
    frontend.load(quickstart())
    frontend.queue()
    frontend.wait_drawn("5 ")
    status = frontend.viewer().locator(".sag-status").inner_text()
    # The frontend keeps an open workflow over a reload once it has saved its draft.
    frontend.page.wait_for_function(
        "() => [localStorage, sessionStorage].some((store) => Object.values(store).some((text) => "
        "text.includes(window.app.rootGraph.id)))")
    frontend.open()
    frontend.wait_drawn("5 ")
    expect(frontend.viewer().locator(".sag-status")).to_have_text(status)
    frontend.viewer().locator(".sag-step").fill("1")
    frontend.wait_drawn("1 ")
    for text in ("{", json.dumps({"version": 1, "frames": [{"map": 3}]}), "[]"):
        for path in kept_files(server):
            path.write_text(text, encoding="utf-8")
        said = frontend.page.evaluate("""async ([modules, file]) => {
            const { loadRun, runsOf } = await import(`${modules}/runs.js`);
            await loadRun('other', '1', 'prompt', file);
            return runsOf('other', '1').map((run) => run.problem);
        }""", [MODULES, kept_files(server)[0].name])
        assert len(said) == 1 and said[0].startswith("The pictures of the last run cannot be shown: ")
    frontend.open()
    expect(frontend.viewer().locator(".sag-status")).to_contain_text("The pictures of the last run cannot be shown")
    frontend.set_widget("KSampler", "seed", 77)
    assert frames_of(frontend.queue())
    frontend.wait_drawn("5 ")


def test_a_wrong_layer_is_answered_with_those_there_are(frontend):
    frontend.load(quickstart(layer="output.99"))
    frontend.queue(end="execution_error")
    expect(frontend.viewer().locator(".sag-status")).to_contain_text("'output.99'; this model has auto")
    frontend.look_at("SAGGuidance")
    frontend.screenshot("wrong_layer")
    frontend.page.keyboard.press("Escape")
    frontend.load(quickstart())
    assert frames_of(frontend.queue())
    frontend.errors.clear()  # the frontend logs that a node failed


def test_a_fallback_is_told_in_a_toast_and_on_the_node(frontend):
    frontend.load(quickstart(threshold=99.0))
    heard = frontend.queue()
    note = "no step was guided: nowhere was there anything to blur"
    assert any(event["kind"] == "note" and event["text"].startswith(note) for event in heard)
    expect(frontend.page.locator(".p-toast-message", has_text=note).first).to_be_visible()
    status = frontend.viewer().locator(".sag-status")
    expect(status).to_contain_text("0 guided, 6 skipped (nothing to blur)")
    expect(status).to_contain_text(note)


def test_a_run_without_steps_says_so(frontend):
    workflow = quickstart()
    (sampler,) = (node for node in workflow["nodes"] if node["type"] == "KSampler")
    sampler["widgets_values"][-1] = 0.0
    preview = [node for node in workflow["nodes"] if node["type"] == "SAGMaskPreview"]
    for node in preview:  # it would rightly refuse to show what is not there
        node["mode"] = 4
    frontend.load(workflow)
    frontend.set_widget("SAGGuidance", "scale", 1.25)
    assert not frames_of(frontend.queue())
    expect(frontend.viewer().locator(".sag-status")).to_contain_text("No step was sampled")


def test_a_result_from_the_cache_says_so(frontend):
    workflow = quickstart()
    frontend.load(workflow)
    assert frames_of(frontend.queue())
    frontend.load(workflow)  # another tab, with an id of its own
    assert not frames_of(frontend.queue())
    expect(frontend.viewer().locator(".sag-status")).to_contain_text("kept from an earlier run")
    expect(frontend.viewer("SAGMaskPreview").locator(".sag-status")).to_contain_text("kept from an earlier run")


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


def test_only_the_browser_that_queued_is_told(frontend, context, server):
    other = Frontend(context.new_page(), server.url)
    other.open()
    frontend.load(quickstart())
    assert frames_of(frontend.queue())
    assert not other.page.evaluate("window.heard")
    other.page.close()


def test_scripts_pay_nothing(frontend, server):
    prompt = json.loads((CHECKOUT / "example_workflows" / "api" / "quickstart.json").read_text(encoding="utf-8"))
    sampler = find_node(prompt, "KSampler")
    prompt = with_input(with_input(prompt, sampler, "steps", 2), sampler, "seed", 9)
    before = kept_files(server)
    frontend.page.evaluate("window.heard = []")
    with ThreadPoolExecutor(1) as elsewhere:  # this thread has the browser's event loop
        history = elsewhere.submit(server.run, prompt).result()
    assert "sag.live" not in {kind for kind, _ in history.events}
    assert kept_files(server) == before
    assert not frontend.page.evaluate("window.heard.filter((event) => event.kind === 'frame').length")


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"client": "x"}', b'{"client": "x", "side": "y"}'])
def test_a_malformed_wish_is_refused(server, body):
    request = urllib.request.Request(f"{server.url}/sag/live", body, {"Content-Type": "application/json"})
    with pytest.raises(urllib.error.HTTPError, match="400"):
        urllib.request.urlopen(request)


def test_runs_and_steps_in_words(frontend):
    """What there is to say of videos, records, interrupted runs and runs of several samplers."""
    said = frontend.page.evaluate("""async (modules) => {
        const { describeRun } = await import(`${modules}/describe.js`);
        const run = (about, end, frames = []) => describeRun({ about, end, frames, notes: [] }, true);
        return [
            run({ kind: 'guide', layer: 'block.3', batch: 1, video: 9 },
                { state: 'finished', guided: 2, skipped: 3, steps: 5, why: { a: 1, b: 2 } }),
            run({ kind: 'record', layer: 'auto', batch: 4 }, { state: 'InterruptProcessingException', steps: 2 }),
            run({ kind: 'guide', layer: '', batch: 1 }, { state: 'finished', steps: 0 }),
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
