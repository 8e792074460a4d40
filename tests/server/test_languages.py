"""What the server gives the frontend for other languages: the nodes' texts, and help pages in Korean."""

import json
import urllib.request

import pytest

from tools.provision import CHECKOUT

LOCALES = CHECKOUT / "locales"
LANGUAGES = sorted(path.name for path in LOCALES.iterdir())
PAGES = sorted(path.parent.name for path in (CHECKOUT / "web" / "docs").glob("*/ko.md"))


def test_the_nodes_texts_are_served(server):
    served = server.get_json("/i18n")
    assert LANGUAGES == ["ja", "ko", "zh"]
    for language in LANGUAGES:
        for name in ("nodeDefs", "settings"):
            texts = json.loads((LOCALES / language / f"{name}.json").read_text(encoding="utf-8"))
            assert served[language][name].items() >= texts.items()
        assert "Self-Attention Guidance" in served[language]["settingsCategories"]


@pytest.mark.parametrize("node", PAGES)
def test_help_pages_are_served_as_text(server, node):
    address = f"{server.url}/extensions/{CHECKOUT.name}/docs/{node}/ko.md"
    with urllib.request.urlopen(address) as answer:
        # The frontend takes HTML for a page that is not there.
        assert "html" not in answer.headers.get_content_type()
        assert answer.read().decode("utf-8").startswith("# ")
