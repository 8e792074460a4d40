"""Runs and the page they belong to: it has them back after a reload, keeps them apart, and nobody else is told."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

from tools.frontend import MODULES, Frontend, expect, frames_of, kept_files, quickstart
from tools.prompt import find_node, with_input
from tools.provision import CHECKOUT

NOTHING_YET = "The attention shows here when a run samples."


def test_a_reload_restores_the_run_from_history(frontend):
    frontend.load(quickstart())
    frontend.queue()
    frontend.wait_drawn("5 ")
    status = frontend.viewer().locator(".sag-status").inner_text()
    frontend.reload()
    frontend.wait_drawn("5 ")
    expect(frontend.viewer().locator(".sag-status")).to_have_text(status)
    frontend.viewer().locator(".sag-step").fill("1")
    frontend.wait_drawn("1 ")


def test_a_run_that_began_before_the_page_was_opened_is_shown_at_its_end(frontend):
    """Unless another run has begun meanwhile."""
    frontend.load(quickstart())
    frontend.start()
    frontend.page.wait_for_function("() => window.over && window.heard.some((event) => event.kind === 'end')")
    (end,) = (event for event in frontend.finish() if event["kind"] == "end")
    early, late = frontend.page.evaluate("""async ([modules, end]) => {
        const { addFrame, endRun, runsOf, startRun } = await import(`${modules}/runs.js?late`);
        const { workflow, node, prompt, run } = end;
        const shown = async (other) => {
            if (other) startRun(workflow, node, other, { run: other });
            addFrame(workflow, node, { run, step: 5 });
            await endRun(workflow, node, prompt, end);
            return runsOf(workflow, node).map((one) => [one.prompt, one.frames.length]);
        };
        return [await shown(), await shown('another')];
    }""", [MODULES, end])
    assert early == [[end["prompt"], 6]] and late == [["another", 0]]


def test_a_connection_that_was_lost_and_regained_is_told_again(frontend):
    frontend.load(quickstart())
    frontend.page.evaluate("""async () => {
        const { api } = await import('/scripts/api.js');
        const regained = new Promise((resolve) => api.addEventListener('reconnected', resolve, { once: true }));
        api.socket.close();
        await regained;
    }""")
    frontend.wait_told()
    assert [frame["step"] for frame in frames_of(frontend.queue())] == list(range(6))
    frontend.wait_drawn("5 ")


def test_tabs_of_one_page_keep_their_runs_apart(frontend):
    def switch(tab, workflow):
        tab.click()
        frontend.page.wait_for_function("id => window.app.rootGraph.id === id", arg=workflow)

    opened = []
    for _ in range(2):
        frontend.load(quickstart())
        opened.append(frontend.page.evaluate("window.app.rootGraph.id"))
    tabs = frontend.page.locator(".workflow-tab")
    mine, other = tabs.nth(tabs.count() - 2), tabs.last
    switch(mine, opened[0])
    frontend.start()
    frontend.wait_frames(1)
    switch(other, opened[1])
    assert {frame["workflow"] for frame in frames_of(frontend.finish())} == {opened[0]}
    for viewed in ("SAGGuidance", "SAGMaskPreview"):
        expect(frontend.viewer(viewed).locator(".sag-status")).to_have_text(NOTHING_YET)
    switch(mine, opened[0])
    frontend.wait_drawn("5 ")
    expect(frontend.viewer().locator(".sag-status")).to_contain_text("6 guided, 0 skipped")


def test_an_interrupted_run_keeps_what_it_has_shown(frontend, server):
    frontend.load(quickstart(steps=1000))
    frontend.start()
    frontend.wait_frames(2)
    frontend.page.get_by_role("button", name="Cancel current run").click()
    frontend.page.wait_for_function("() => window.over && window.heard.some((event) => event.kind === 'end')")
    heard = frontend.finish("execution_interrupted")
    (end,) = (event for event in heard if event["kind"] == "end")
    shown = len(frames_of(heard))
    assert 2 <= shown < 1000
    expect(frontend.viewer().locator(".sag-step-name")).to_contain_text(f"step {frames_of(heard)[-1]['step']},")
    expect(frontend.viewer().locator(".sag-status")).to_contain_text(f"{end['guided']} guided, 0 skipped (interrupted)")
    film = json.loads((kept_files(server)[0].parent / end["file"]).read_text(encoding="utf-8"))
    assert film["frames"] and film["end"]["state"] == end["state"]
    frontend.set_widget("KSampler", "steps", 3)
    assert len(frames_of(frontend.queue())) == 3
    frontend.wait_drawn("2 ")
    expect(frontend.viewer().locator(".sag-status")).to_contain_text("3 guided, 0 skipped")


def test_only_the_browser_that_queued_is_told(frontend, context, server):
    other = Frontend(context.new_page(), server.url, frontend.screenshots)
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
