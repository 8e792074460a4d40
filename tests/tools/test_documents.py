"""Pages for people: what they point to is there."""

import re

import pytest

from tools.package import checkout_files
from tools.provision import CHECKOUT

PAGES = [path for path in checkout_files() if path.endswith(".md") and not path.startswith("web/")]
LINK = re.compile(r"\]\((?!https?://)([^)#\s]*)(?:#([\w-]*))?\)")


def anchors(text: str) -> set[str]:
    """What headings are called in links, as GitHub does it."""
    headings = re.findall(r"^#+ +(.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    text = (CHECKOUT / page).read_text(encoding="utf-8")
    for target, anchor in LINK.findall(text):
        found = (CHECKOUT / page).parent / target if target else CHECKOUT / page
        assert found.exists(), target
        if anchor:
            assert anchor in anchors(found.read_text(encoding="utf-8")), f"{target}#{anchor}"


def test_anchors_are_those_of_headings():
    assert anchors("# A page, of *two* words\n\ntext # not one\n## Beside ComfyUI's own node\n") == {
        "a-page-of-two-words", "beside-comfyuis-own-node"}
