"""The help pages as texts: their sections, and what they quote of errors and notes."""

import ast
import re
from functools import cache

from tools.provision import CHECKOUT

DOCS = CHECKOUT / "web" / "docs"
PAGES = sorted(path.stem for path in DOCS.glob("*.md"))
INPUTS, OUTPUTS, WRONG = "Inputs", "Outputs", "When it looks wrong"


def english(node: str) -> str:
    """A node's page."""
    return (DOCS / f"{node}.md").read_text(encoding="utf-8")


def sections(page: str) -> dict[str, str]:
    """Texts by their headings, in the order of the page."""
    parts = re.split(r"^## +(.+)$", page, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def spans(text: str) -> list[str]:
    """What is emphasised once."""
    return [" ".join(span.split()) for span in re.findall(r"(?<!\*)\*(?!\*)([^*]+)\*(?!\*)", text)]


def quotes(page: str) -> list[str]:
    """Errors and notes that an English page says what to do about; ... stands for what varies."""
    titles = {english(node).splitlines()[0][2:] for node in PAGES}
    return [span for span in spans(sections(page)[WRONG]) if len(span.split()) > 2 and span not in titles]


@cache
def messages() -> list[str]:
    """Every text in the pack's code, with a space for each value in it."""
    found = []
    for folder in ("nodes", "sag_core"):
        for path in sorted((CHECKOUT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found.append(node.value)
                elif isinstance(node, ast.JoinedStr):
                    found.append("".join(part.value if isinstance(part, ast.Constant) else " "
                                         for part in node.values))
    return found


def is_said(quote: str) -> bool:
    """Whether one of the pack's messages reads like this."""
    wanted = re.compile(".+".join(re.escape(part.strip()) for part in quote.split("...")), re.DOTALL)
    return any(wanted.search(message) for message in messages())
