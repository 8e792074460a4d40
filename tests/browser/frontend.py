"""ComfyUI's own frontend in a real browser: what the tests do and look at in it."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import TYPE_CHECKING

from tools.provision import CHECKOUT

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

try:
    from playwright.sync_api import expect
except ImportError:  # the fixtures skip the tests and say so
    expect = None

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]
TIMEOUT_MS = 120_000
MODULES = f"/extensions/{CHECKOUT.name}/js"
SCREENSHOTS = Path(__file__).parent / "screenshots"
READY = "() => window.app?.extensionManager && window.app.canvas?.graph && window.app.rootGraph"


# The host does not sample again what it has sampled.
_SEEDS = itertools.count(1000)


def quickstart(steps: int = 6, images: int = 2, **inputs: object) -> dict:
    """The quickstart workflow, short, each with its own seed; `inputs` are those of its guidance."""
    workflow = json.loads((CHECKOUT / "example_workflows" / "quickstart.json").read_text(encoding="utf-8"))
    values = {node["type"]: node["widgets_values"] for node in workflow["nodes"] if node["type"] != "SaveImage"}
    values["KSampler"][0], values["KSampler"][2] = next(_SEEDS), steps
    values["EmptyChromaRadianceLatentImage"][2] = images
    names = ("scale", "blur_sigma", "threshold", "layer")
    for name, value in inputs.items():
        values["SAGGuidance"][names.index(name)] = value
    return workflow


class Frontend:
    """A page with ComfyUI in it.

    Args:
        page: a browser's page.
        url: of the server.
    """

    def __init__(self, page: Page, url: str):
        self.page, self.url = page, url
        self.errors: list[str] = []
        page.set_default_timeout(TIMEOUT_MS)
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

    def load(self, workflow: dict) -> None:
        """Open a workflow, as a file that is dropped on the page."""
        self.page.evaluate("workflow => window.app.loadGraphData(workflow)", workflow)

    def queue(self, end: str = "execution_success") -> list[dict]:
        """Run what is open to its end; the pack's events meanwhile, with the end among them."""
        self.page.evaluate("() => { window.heard = []; window.over = ''; window.app.queuePrompt(0); }")
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

    def look_at(self, *node_types: str) -> None:
        """Bring nodes into view."""
        self.page.evaluate("""types => {
            const nodes = window.app.rootGraph.nodes.filter((node) => types.includes(node.type));
            const left = Math.min(...nodes.map((node) => node.pos[0])), top = Math.min(...nodes.map((n) => n.pos[1]));
            window.app.canvas.ds.scale = 1;
            window.app.canvas.ds.offset = [120 - left, 140 - top];
            window.app.canvas.setDirty(true, true);
        }""", list(node_types))

    def screenshot(self, name: str) -> None:
        """Keep a picture of the page among the artefacts."""
        SCREENSHOTS.mkdir(exist_ok=True)
        self.page.screenshot(path=SCREENSHOTS / f"{name}.png")
