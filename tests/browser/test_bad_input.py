"""The live view where something is wrong or unusually large: it says so, and the page keeps working."""

from __future__ import annotations

import json
import re
import urllib.error
import urllib.request

import pytest

from tools.frontend import MODULES, expect, frames_of, kept_files, quickstart

CANNOT_BE_SHOWN = "The pictures of the last run cannot be shown"
MOST_KEPT = 128  # steps of a run
# What a fresh page would show on the quickstart's guidance.
RESTORED = """async ([modules, query]) => {
    const { restoreRuns, runsOf } = await import(`${modules}/runs.js?${query}`);
    const workflow = window.app.rootGraph.id;
    await restoreRuns(workflow);
    const node = window.app.rootGraph.nodes.find((node) => node.type === 'SAGGuidance');
    return runsOf(workflow, String(node.id)).map((run) => run.problem);
}"""


def run_again(frontend):
    """Whatever was wrong, the next run is shown."""
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
    note = "no step was guided: the mask is empty"
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


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"client": "x"}', b'{"client": "x", "side": "y"}'])
def test_a_malformed_wish_is_refused(server, body):
    request = urllib.request.Request(f"{server.url}/sag/live", body, {"Content-Type": "application/json"})
    with pytest.raises(urllib.error.HTTPError, match="400"):
        urllib.request.urlopen(request)


def test_a_damaged_file_only_says_so(frontend, server):
    frontend.load(quickstart())
    frontend.queue()
    frontend.wait_drawn("5 ")
    for text in ("{", json.dumps({"version": 1, "frames": [{"map": 3}]}), "[]"):
        for path in kept_files(server):
            path.write_text(text, encoding="utf-8")
        (said,) = frontend.page.evaluate(RESTORED, [MODULES, f"{len(text)}"])
        assert said.startswith(CANNOT_BE_SHOWN)
    frontend.reload()
    expect(frontend.viewer().locator(".sag-status")).to_contain_text(CANNOT_BE_SHOWN)
    run_again(frontend)


def test_a_corrupt_history_entry_only_says_so(frontend):
    frontend.load(quickstart())
    prompt = frames_of(frontend.queue())[0]["prompt"]
    frontend.wait_drawn("5 ")
    damaged = {prompt: {"prompt": [0, prompt, {}, {"extra_pnginfo": {"workflow": {"nodes": [None]}}}]}}
    answers = {"text": {"body": "{"}, "types": {"json": damaged}, "error": {"status": 500, "body": "{}"}}
    history = re.compile("/history/.+")
    wrong = ""
    frontend.page.route(history, lambda route: route.fulfill(**answers[wrong]))
    for wrong in answers:
        (said,) = frontend.page.evaluate(RESTORED, [MODULES, wrong])
        assert said.startswith(CANNOT_BE_SHOWN)
    frontend.reload()
    expect(frontend.viewer().locator(".sag-status")).to_have_text(f"{CANNOT_BE_SHOWN}: status 500.")
    run_again(frontend)
    frontend.page.unroute(history)


def test_of_a_huge_batch_one_image_is_shown(frontend):
    workflow = quickstart(steps=2, images=256, side=16)
    for node in workflow["nodes"]:  # nor need all be saved
        if node["type"] == "ImageScaleBy":
            node |= {"type": "ImageFromBatch", "widgets_values": [0, 1]}
    frontend.load(workflow)
    frames = frames_of(frontend.queue())
    assert len(frames) == 2 and all(len(json.dumps(frame)) < 5000 for frame in frames)
    for viewed in ("SAGGuidance", "SAGMaskPreview"):
        frontend.wait_drawn("1 ", viewed)
        expect(frontend.viewer(viewed).locator(".sag-status")).to_contain_text("0 skipped \u00b7 image 1 of 256")


def test_of_a_long_run_no_more_is_kept_than_can_be_looked_at(frontend, server):
    steps = MOST_KEPT + 12
    frontend.load(quickstart(steps=steps, images=1, side=16))
    frontend.start()
    frontend.page.wait_for_function("() => window.over && window.heard.some((event) => event.kind === 'end')")
    heard = frontend.finish()
    frames = frames_of(heard)
    (end,) = (event for event in heard if event["kind"] == "end")
    assert len(frames) == steps - end["dropped"]
    viewer = frontend.viewer()
    expect(viewer.locator(".sag-status")).to_contain_text(f"{steps} guided, 0 skipped")
    expect(viewer.locator(".sag-step-name")).to_contain_text(f"step {frames[-1]['step']},")
    last = int(viewer.locator(".sag-step").get_attribute("max"))
    assert MOST_KEPT / 2 <= last < MOST_KEPT
    frontend.look_at("SAGGuidance")
    viewer.locator(".sag-step").fill(str(last - 1))
    frontend.wait_drawn(f"{last - 1} ")
    viewer.locator(".sag-chart").click(position={"x": 1, "y": 10})
    frontend.wait_drawn("0 ")
    film = json.loads((kept_files(server)[0].parent / end["file"]).read_text(encoding="utf-8"))
    assert 0 < len(film["frames"]) <= MOST_KEPT and film["end"]["steps"] == steps
    slider = frontend.viewer("SAGMaskPreview").locator(".sag-step")
    expect(slider).to_have_attribute("max", str(steps // 2 - 1))
