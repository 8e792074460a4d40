"""The live view in ComfyUI's own frontend: a run filmed while it samples, and pictures of it afterwards.

Needs Chromium. The browser is at work beside the sampler, so that no two films are the same to the byte.
"""

import io
import sys
from pathlib import Path

from PIL import Image

from tools.browser import ABSENT, find_browser, provision_driver
from tools.frontend import Frontend, launch, quickstart, welcome
from tools.provision import CHECKOUT, say_now
from tools.server import ComfyServer

DOCS = CHECKOUT / "docs"
WIDTH, HEIGHT = 900, 640
STEPS = 25
FILM_SEED, SEED = 14, 0  # the host keeps what it has sampled, and samples another seed
# As many as make a step long enough to be photographed.
IMAGES = 10
FIRST_MS, STEP_MS, LAST_MS = 800, 160, 2500
# Where the nodes that are shown lie, [x, y, width, height].
PLACES = {"SAGGuidance": [0, 0, 400, 560], "KSampler": [460, 0, 380, 220], "SaveImage": [460, 310, 380, 250]}
# The first node of each of these types there, and all others far away.
ARRANGE = """places => {
    const { app } = window, graph = app.rootGraph, seen = new Set();
    for (const group of [...graph.groups]) graph.remove(group);
    for (const node of graph.nodes) {
        const place = seen.has(node.type) ? null : places[node.type];
        seen.add(node.type);
        node.pos = place ? place.slice(0, 2) : [-4000, 3000];
        if (place) node.setSize(place.slice(2));
    }
    app.canvas.ds.scale = 1;
    app.canvas.ds.offset = [25, 45];
    app.canvas.setDirty(true, true);
}"""
DRAWN = '() => document.querySelector(`.sag-view[data-node-type="SAGGuidance"]`)?.dataset.drawn ?? ""'
SAVED = """count => [...document.querySelectorAll('[data-node-id] img')].filter(
    image => image.complete && image.naturalWidth).length >= count"""


def live_view(server: ComfyServer) -> None:
    """docs/live_view.webp, a film; docs/live_view.png and docs/live_view_nodes2.png, of both renderers.

    Raises:
        RuntimeError: there is no browser.
    """
    executable = find_browser()
    if executable is None:
        raise RuntimeError(f"the live view is photographed in a browser: {ABSENT}")
    sys.path.append(str(provision_driver(Path(sys.executable), say_now)))
    from playwright.sync_api import sync_playwright

    welcome(server)
    with sync_playwright() as playwright:
        browser = launch(playwright, executable)
        frontend = Frontend(browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}), server.url, DOCS)
        frontend.open()
        for name in ("Comfy.Graph.CanvasMenu", "Comfy.Graph.CanvasInfo"):
            frontend.set(name, False)
        frontend.set("Comfy.VueNodes.Enabled", True)
        frontend.page.evaluate("window.app.extensionManager.command.execute('Workspace.ToggleFocusMode')")
        _save(_film(frontend), DOCS / "live_view.webp")
        frontend.viewer().locator(".sag-step").fill(str(STEPS // 2))
        frontend.wait_drawn(f"{STEPS // 2} ")
        frontend.screenshot("live_view_nodes2")
        frontend.set("Comfy.VueNodes.Enabled", False)
        _classic(frontend)
        browser.close()


def _film(frontend: Frontend) -> list[Image.Image]:
    """The page at every step that it shows while a run samples, and when the run is over."""
    page = frontend.page
    _open(frontend, FILM_SEED)
    page.evaluate(ARRANGE, PLACES)
    frames, drawn = [_photograph(frontend)], ""
    frontend.start()
    while not page.evaluate("window.over"):
        if (now := page.evaluate(DRAWN)) != drawn:
            drawn = now
            frames.append(_photograph(frontend))
    frontend.wait_drawn(f"{STEPS - 1} ")
    page.wait_for_function(SAVED, arg=IMAGES)
    return [*frames, _photograph(frontend)]


def _classic(frontend: Frontend) -> None:
    """The quickstart as it comes, after a run."""
    frontend.page.set_viewport_size({"width": 1000, "height": 830})
    _open(frontend, SEED)
    frontend.look_at("SAGGuidance", "KSampler", "SAGMaskPreview", margin=(30, 40))
    frontend.queue()
    for viewed in ("SAGGuidance", "SAGMaskPreview"):
        frontend.wait_drawn(f"{STEPS - 1} ", viewed)
    frontend.screenshot("live_view")


def _open(frontend: Frontend, seed: int) -> None:
    frontend.load(quickstart(STEPS, IMAGES))
    frontend.set_widget("KSampler", "seed", seed)


def _photograph(frontend: Frontend) -> Image.Image:
    return Image.open(io.BytesIO(frontend.page.screenshot())).convert("RGB")


def _save(frames: list[Image.Image], path: Path) -> None:
    """An animated WebP that begins and ends with a rest."""
    first, *others = frames
    durations = [FIRST_MS, *[STEP_MS] * (len(frames) - 2), LAST_MS]
    first.save(path, save_all=True, append_images=others, duration=durations, loop=0, quality=75, method=6)
