"""Help pages as the frontend asks for them: each node has one, that shows a picture, explains it all and says what to
do when it looks wrong."""

import io
import re
import urllib.request

import pytest
from PIL import Image

from tests.tools.help_pages import INPUTS, OUTPUTS, PAGES, WRONG, is_said, quotes, sections
from tools.provision import CHECKOUT


def fetch(server, path):
    with urllib.request.urlopen(f"{server.url}/extensions/{CHECKOUT.name}/docs/{path}") as answer:
        return answer.read()


def page_of(server, node):
    return fetch(server, f"{node}.md").decode("utf-8")


def explained(text):
    return set(re.findall(r"\*\*(\w+)\*\*", text))


def test_every_node_has_a_page(server):
    found = server.get_json("/object_info")
    own = {name for name, node in found.items() if node["python_module"] == f"custom_nodes.{CHECKOUT.name}"}
    assert own == set(PAGES)


@pytest.mark.parametrize("node", PAGES)
def test_a_page_has_the_nodes_title_and_shows_a_picture(server, node):
    page = page_of(server, node)
    assert page.splitlines()[0] == f"# {server.object_info(node)['display_name']}"
    # The frontend puts the address of the page's folder before a picture's.
    (address,) = re.findall(r"!\[[^]]+\]\(([^):]+)\)", page)
    picture = fetch(server, address)
    image = Image.open(io.BytesIO(picture))
    assert image.format == "PNG" and len(picture) < 150_000 and image.width <= 600


@pytest.mark.parametrize("node", PAGES)
def test_a_page_begins_with_what_the_node_is_for_and_has_the_same_sections(server, node):
    page = page_of(server, node)
    assert re.match(r"# .+\n\n[A-Z]", page)
    assert [name for name in sections(page) if name in (INPUTS, OUTPUTS, WRONG)] == [INPUTS, OUTPUTS, WRONG]
    assert list(sections(page))[-1] == WRONG


@pytest.mark.parametrize("node", PAGES)
def test_a_page_names_every_input_and_every_output(server, node):
    parts, info = sections(page_of(server, node)), server.object_info(node)
    inputs = {name for kind in ("required", "optional") for name in info["input_order"].get(kind, [])}
    assert inputs and inputs <= explained(parts[INPUTS])
    assert set(info["output_name"]) <= explained(parts[OUTPUTS])


@pytest.mark.parametrize("node", PAGES)
def test_a_page_says_what_to_do_about_errors_that_there_are(server, node):
    page = page_of(server, node)
    assert len(re.findall(r"^- ", sections(page)[WRONG], re.MULTILINE)) >= 2
    assert [quote for quote in quotes(page) if not is_said(quote)] == []
