"""The help pages in Korean: one for each English one, of the same build, with the names that the nodes show."""

import json
import re

import pytest

from tests.tools.help_pages import DOCS, PAGES, english, quotes, spans
from tools.provision import CHECKOUT

NODES = json.loads((CHECKOUT / "locales" / "ko" / "nodeDefs.json").read_text(encoding="utf-8"))
NOTES = json.loads((CHECKOUT / "locales" / "ko" / "main.json").read_text(encoding="utf-8"))["SAG"]["notes"]
# What both pages have in the same order.
BUILD = {
    "headings": r"^#+(?= )",
    "items": r"^ *[-*](?= )",
    "rows": r"^\|",
    "pictures": r"!\[[^]]+\]\(([^)]+)\)",
    "links": r"(?<!!)\[[^]]+\]\(([^)]+)\)",
}


def korean(node: str) -> str:
    return (DOCS / node / "ko.md").read_text(encoding="utf-8")


def titles() -> dict[str, str]:
    """English names of nodes and the Korean ones."""
    return {english(node).splitlines()[0][2:]: NODES[node]["display_name"] for node in PAGES}


def test_every_page_is_there_and_no_other():
    found = {str(path.relative_to(DOCS).as_posix()) for path in DOCS.rglob("*.md")}
    assert PAGES and found == {f"{node}.md" for node in PAGES} | {f"{node}/ko.md" for node in PAGES}
    assert set(NODES) == set(PAGES)


@pytest.mark.parametrize("node", PAGES)
def test_a_page_is_in_korean_and_has_the_nodes_title(node):
    page = korean(node)
    assert page.splitlines()[0] == f"# {NODES[node]['display_name']}"
    assert len(re.findall(r"[\uac00-\ud7a3]", page)) > 0.25 * len(re.sub(r"\s|`[^`]*`|\([^)]*\)", "", page))


@pytest.mark.parametrize("node", PAGES)
def test_a_page_is_built_as_the_english_one(node):
    for name, pattern in BUILD.items():
        found, expected = (re.findall(pattern, page, re.MULTILINE) for page in (korean(node), english(node)))
        assert (name, found) == (name, expected)
    blocks = [len(re.split(r"\n{2,}", page.strip())) for page in (korean(node), english(node))]
    assert blocks[0] == blocks[1]


@pytest.mark.parametrize("node", PAGES)
def test_a_page_names_every_input_as_the_node_and_as_the_errors_do(node):
    page = korean(node)
    lost = [name for name, text in NODES[node]["inputs"].items() if f"**{text['name']}** (`{name}`)" not in page]
    assert lost == []


@pytest.mark.parametrize("node", PAGES)
def test_a_page_names_every_output_that_the_node_names(node):
    page = korean(node)
    assert [text["name"] for text in NODES[node].get("outputs", {}).values() if f"**{text['name']}**" not in page] == []


@pytest.mark.parametrize("node", PAGES)
def test_other_nodes_are_called_by_their_korean_names(node):
    page = korean(node)
    text = " ".join(english(node).split())
    assert [name for name, other in titles().items() if f"*{name}*" in text and other not in page] == []


@pytest.mark.parametrize("node", PAGES)
def test_code_and_numbers_stay_as_they_are(node):
    page, text = korean(node), english(node)
    assert [code for code in re.findall(r"`([^`]+)`", text) if f"`{code}`" not in page] == []
    kept = set(re.findall(r"(?<![\w.])\d+(?:[.,]\d+)*(?!\w|,\d)", text))
    assert sorted(kept - set(re.findall(r"(?<![a-zA-Z\d.])\d+(?:[.,]\d+)*", page))) == []


@pytest.mark.parametrize("node", PAGES)
def test_errors_and_notes_are_quoted_as_the_user_sees_them(node):
    """Errors come in English, the notes on a node in the user's language."""
    shown = [span for span in spans(korean(node)) if len(span.split()) > 2]
    for quote in quotes(english(node)):
        notes = [note for text, note in NOTES.items() if quote in text]
        assert any(span in notes[0] for span in shown) if notes else quote in shown, quote


@pytest.mark.parametrize("node", PAGES)
def test_emphasis_ends_where_it_should(node):
    """In Markdown a mark between punctuation and a letter does not close: a particle after (SAG)* is such a letter."""
    page = re.sub(r"`[^`]*`|^ *\*(?= )", "", korean(node), flags=re.MULTILINE)
    spans = re.compile(r"(?<![\w*])(\*{1,2})(?=[^\s*])[^*]*[^\s*]\1(?!\*)")
    assert [match[0] for match in spans.finditer(page)
            if re.match(r"\W", match[0].rstrip("*")[-1]) and page[match.end():match.end() + 1].isalnum()] == []
    assert "*" not in spans.sub("", page)
