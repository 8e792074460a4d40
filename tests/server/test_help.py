"""Help pages as the frontend asks for them: each node has one, that names its inputs and shows a picture."""

import io
import re
import urllib.request

import pytest
from PIL import Image

from tools.provision import CHECKOUT

PAGES = sorted(path.stem for path in (CHECKOUT / "web" / "docs").glob("*.md"))
# Pages that explain every input; the others say in a sentence what to connect.
COMPLETE = ("SAGGuidance", "SAGMaskOptions", "SAGSchedule", "SAGPreset", "SAGMaskPreview", "SAGFrequencyAnalysis",
            "SAGMaskOverlap", "SAGVisualize", "SAGCompareGrid", "SAGABPairs", "SAGABScore")


def fetch(server, path):
    with urllib.request.urlopen(f"{server.url}/extensions/{CHECKOUT.name}/docs/{path}") as answer:
        return answer.read()


def test_every_node_has_a_page(server):
    found = server.get_json("/object_info")
    own = {name for name, node in found.items() if node["python_module"] == f"custom_nodes.{CHECKOUT.name}"}
    assert own == set(PAGES)


@pytest.mark.parametrize("node", PAGES)
def test_a_page_has_the_nodes_title_and_shows_a_picture(server, node):
    page = fetch(server, f"{node}.md").decode("utf-8")
    assert page.splitlines()[0] == f"# {server.object_info(node)['display_name']}"
    # The frontend puts the address of the page's folder before a picture's.
    (address,) = re.findall(r"!\[[^]]+\]\(([^):]+)\)", page)
    picture = fetch(server, address)
    image = Image.open(io.BytesIO(picture))
    assert image.format == "PNG" and len(picture) < 150_000 and image.width <= 600


@pytest.mark.parametrize("node", COMPLETE)
def test_a_page_names_every_input(server, node):
    page, info = fetch(server, f"{node}.md").decode("utf-8"), server.object_info(node)
    inputs = {name for kind in ("required", "optional") for name in info["input_order"].get(kind, [])}
    explained = set(re.findall(r"\*\*(\w+)\*\*", page))
    assert inputs - {"model"} <= explained
