"""ComfyUI's own frontend in a real browser: what tests and pictures do and look at in it."""

from __future__ import annotations

import itertools
import json
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

from tools.provision import CHECKOUT
from tools.server import ComfyServer

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page, Playwright

try:
    from playwright.sync_api import expect
except ImportError:  # not installed, or not on the path yet
    expect = None

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]
TIMEOUT_MS = 120_000
MODULES = f"/extensions/{CHECKOUT.name}/js"
READY = "() => window.app?.extensionManager && window.app.canvas?.graph && window.app.rootGraph"
# The first visit of a user begins with a tour, which would cover the page.
SETTINGS = {"Comfy.TutorialCompleted": True}
# The host does not sample again what it has sampled.
_SEEDS = itertools.count(1000)


def launch(playwright: Playwright, executable: Path) -> Browser:
    """Chromium, as it runs on machines without a display."""
    return playwright.chromium.launch(executable_path=executable, args=FLAGS)


def welcome(server: ComfyServer) -> None:
    """Make the server greet a browser as one that has been there before."""
    request = urllib.request.Request(f"{server.url}/settings", json.dumps(SETTINGS).encode(),
                                     {"Content-Type": "application/json"})
    urllib.request.urlopen(request).close()


def quickstart(steps: int = 6, images: int = 2, side: int = 32, **inputs: object) -> dict:
    """The quickstart workflow, short, each with its own seed; `inputs` are those of its guidance."""
    workflow = json.loads((CHECKOUT / "example_workflows" / "quickstart.json").read_text(encoding="utf-8"))
    values = {node["type"]: node["widgets_values"] for node in workflow["nodes"] if node["type"] != "SaveImage"}
    values["KSampler"][0], values["KSampler"][2] = next(_SEEDS), steps
    values["EmptyChromaRadianceLatentImage"][:] = side, side, images
    names = ("scale", "blur_sigma", "threshold", "layer")
    for name, value in inputs.items():
        values["SAGGuidance"][names.index(name)] = value
    return workflow


def frames_of(heard: list[dict]) -> list[dict]:
    """The steps that a page was shown, among the events it heard."""
    return [event for event in heard if event["kind"] == "frame"]


def kept_files(server: ComfyServer) -> list[Path]:
    """The files of the runs that a server has kept."""
    return sorted((server.base / "temp" / "sag_live").glob("*.json"))


class Frontend:
    """A page with ComfyUI in it.

    Args:
        page: a browser's page.
        url: of the server.
        screenshots: where they are kept.
    """

    def __init__(self, page: Page, url: str, screenshots: Path):
        self.page, self.url, self.screenshots = page, url, screenshots
        self.errors: list[str] = []
        page.set_default_timeout(TIMEOUT_MS)
        if expect is not None:
            expect.set_options(timeout=TIMEOUT_MS)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("console", lambda message: self._hear(message.type, f"{message.text} ({message.location.get('url')})"))

    def _hear(self, kind: str, text: str) -> None:
        # The frontend complains of files that users may have and of sites that it cannot reach.
        if kind == "error" and ("SAG" in text or MODULES in text):
            self.errors.append(text)

    def open(self, query: str = "") -> None:
        """Go to the page, or load it again."""
        self.page.goto(f"{self.url}/{query}")
        self.page.wait_for_function(READY)
        self.page.evaluate("""async () => {
            const { api } = await import('/scripts/api.js');
            window.heard = [];
            api.addEventListener('sag.live', ({ detail }) => window.heard.push(detail));
            api.addEventListener('execution_start', () => { window.over = ''; });
            for (const end of ['execution_success', 'execution_error', 'execution_interrupted'])
                api.addEventListener(end, () => { window.heard.push({ kind: end }); window.over = end; });
        }""")
        # Runs are shown to browsers that have asked for it.
        self.wait_told()

    def wait_told(self) -> None:
        """Wait until the server knows what this page wants to be shown."""
        self.page.wait_for_function(f"async () => (await import('{MODULES}/settings.js')).isTold()")

    def reload(self) -> None:
        """Load the page again, as soon as it would come back with the workflow that is open."""
        self.page.wait_for_function("""() => [localStorage, sessionStorage].some((store) =>
            Object.values(store).some((text) => text.includes(window.app.rootGraph.id)))""")
        self.open()

    def load(self, workflow: dict) -> None:
        """Open a workflow, as a file that is dropped on the page."""
        self.page.evaluate("workflow => window.app.loadGraphData(workflow)", workflow)

    def queue(self, end: str = "execution_success") -> list[dict]:
        """Run what is open to its end; the pack's events meanwhile, with the end among them."""
        self.start()
        return self.finish(end)

    def start(self) -> None:
        """Run what is open."""
        self.page.evaluate("() => { window.heard = []; window.over = ''; window.app.queuePrompt(0); }")

    def wait_frames(self, count: int) -> None:
        """Wait until the page has been shown so many steps of the run that was started."""
        self.page.wait_for_function(
            "count => window.heard.filter((event) => event.kind === 'frame').length >= count", arg=count)

    def finish(self, end: str = "execution_success") -> list[dict]:
        """Wait for the end of the run that was started; the pack's events since its start, with the end among them."""
        self.page.wait_for_function("() => window.over")
        assert self.page.evaluate("window.over") == end
        return self.page.evaluate("window.heard")

    def set(self, setting: str, value: object) -> None:
        """Change a setting."""
        self.page.evaluate("([id, value]) => window.app.extensionManager.setting.set(id, value)", [setting, value])

    def set_widget(self, node_type: str, name: str, value: object) -> None:
        """Change the value of a node's widget."""
        self.page.evaluate("""([type, name, value]) => {
            const node = window.app.rootGraph.nodes.find((node) => node.type === type);
            node.widgets.find((widget) => widget.name === name).value = value;
        }""", [node_type, name, value])

    def viewer(self, node_type: str = "SAGGuidance") -> Locator:
        """The viewer on a node of this type."""
        return self.page.locator(f'.sag-view[data-node-type="{node_type}"]')

    def wait_drawn(self, starts: str = "", node_type: str = "SAGGuidance") -> str:
        """Wait until a viewer has drawn a step, one whose name starts so; "step mode opacity colours"."""
        self.page.wait_for_function(
            "([type, starts]) => document.querySelector(`.sag-view[data-node-type=\"${type}\"]`)"
            "?.dataset.drawn?.startsWith(starts)", arg=[node_type, starts])
        return self.viewer(node_type).get_attribute("data-drawn")

    def pixels(self, node_type: str = "SAGGuidance") -> str:
        """What is on the viewer's canvas."""
        return self.viewer(node_type).locator(".sag-picture canvas").evaluate("canvas => canvas.toDataURL()")

    def look_at(self, *node_types: str, margin: tuple[int, int] = (120, 140)) -> None:
        """Bring nodes into view, this far from the left and the top."""
        self.page.evaluate("""([types, margin]) => {
            const nodes = window.app.rootGraph.nodes.filter((node) => types.includes(node.type));
            const left = Math.min(...nodes.map((node) => node.pos[0])), top = Math.min(...nodes.map((n) => n.pos[1]));
            window.app.canvas.ds.scale = 1;
            window.app.canvas.ds.offset = [margin[0] - left, margin[1] - top];
            window.app.canvas.setDirty(true, true);
        }""", [list(node_types), list(margin)])

    def screenshot(self, name: str) -> None:
        """Keep a picture of the page."""
        self.screenshots.mkdir(exist_ok=True)
        self.page.screenshot(path=self.screenshots / f"{name}.png")
