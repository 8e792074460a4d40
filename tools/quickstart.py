"""The same pictures without and with Self-Attention Guidance, made by a real ComfyUI server. Runs in ComfyUI's Python.

Started by tools/demo.py, with the provisioned host and the seconds that took.
"""

import io
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from tools.prompt import Prompt, find_node, without_node
from tools.provision import CHECKOUT, Host, run_command
from tools.server import ComfyServer
from tools.sheet import differences, grid, labelled_rows

WORKFLOW = CHECKOUT / "example_workflows" / "api" / "quickstart.json"
OUTPUT = CHECKOUT / "demo_output"
SAMPLES_PREFIX, MASK_PREFIX = "SAG_quickstart", "SAG_attention"
COLUMNS = 4


def unguided(prompt: Prompt) -> Prompt:
    """The workflow with its guidance node taken out, and with it all that shows what the guidance saw."""
    return without_node(prompt, find_node(prompt, "SAGGuidance"), passes={0: "model"})


def run_images(server: ComfyServer, prompt: Prompt, label: str) -> dict[str, list[Image.Image]]:
    """Run a prompt under a progress bar; the images of its SaveImage nodes, by filename prefix."""
    with tqdm(desc=f"{label:8}", unit="step") as bar:

        def show(_: str, value: int, maximum: int) -> None:
            bar.total = maximum
            bar.update(value - bar.n)

        history = server.run(prompt, on_progress=show)
    return {
        node["inputs"]["filename_prefix"]: [
            Image.open(io.BytesIO(server.image(entry))).convert("RGB") for entry in history.images(node_id)
        ]
        for node_id, node in prompt.items()
        if node["class_type"] == "SaveImage"
    }


def write_sheets(plain: list[Image.Image], guided: list[Image.Image], overlay: list[Image.Image]) -> list[Path]:
    """Write the four sheets to OUTPUT and return their paths."""
    apart, gain = differences(plain, guided)
    comparison = labelled_rows(
        [
            ("plain", plain),
            ("guided by self-attention (same seed)", guided),
            ("what the guidance attends to", overlay),
            (f"difference (x{gain:.1f})", apart),
        ]
    )
    sheets = {
        "plain.png": grid(plain, COLUMNS),
        "guided.png": grid(guided, COLUMNS),
        "attention_mask.png": grid(overlay, COLUMNS),
        "comparison.png": comparison,
    }
    OUTPUT.mkdir(exist_ok=True)
    for name, sheet in sheets.items():
        sheet.save(OUTPUT / name)
    return [OUTPUT / name for name in sheets]


@contextmanager
def stopwatch(times: dict[str, float], label: str) -> Iterator[None]:
    """Note how long the block took in `times`."""
    started = time.monotonic()
    yield
    times[label] = time.monotonic() - started


def report(paths: list[Path], times: dict[str, float]) -> str:
    """Where the sheets are, as seen from where the user is, and how long each part took."""
    where = [f"  {os.path.relpath(path)}" for path in paths]
    took = [f"  {label:16} {seconds:6.1f} s" for label, seconds in {**times, "total": sum(times.values())}.items()]
    return "\n".join(["", "Made:", *where, "", "Took:", *took])


def main() -> int:
    host, times = Host.from_json(sys.argv[1]), {"provisioning": float(sys.argv[2])}
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # leave by way of the `with`, which stops the server
    prompt = json.loads(WORKFLOW.read_text(encoding="utf-8"))
    with ExitStack() as stack:
        print("Starting ComfyUI ...", flush=True)
        with stopwatch(times, "starting ComfyUI"):
            server = stack.enter_context(ComfyServer(host))
        with stopwatch(times, "plain run"):
            plain = run_images(server, unguided(prompt), "plain")
        with stopwatch(times, "guided run"):
            guided = run_images(server, prompt, "guided")
    paths = write_sheets(plain[SAMPLES_PREFIX], guided[SAMPLES_PREFIX], guided[MASK_PREFIX])
    print(report(paths, times))
    return 0


if __name__ == "__main__":
    run_command(main)
