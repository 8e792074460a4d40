"""The English texts that the live view shows, found in the pack's sources."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from benchmarks.host import pack_module
from tests.host.boot import CHECKOUT

SCRIPTS = sorted((CHECKOUT / "web" / "js").glob("*.js"))
HOST = CHECKOUT / "nodes" / "host"
# What the library says of runs: an error of this name, which nodes show, and notes.
LIBRARY = [CHECKOUT / "sag_core" / name for name in ("recording.py", "store.py", "trace.py")]
MISSING = "RunMissing"
# What tells the user something, in its last argument, and the names of arguments that only hand a text on.
TELLERS = ("note", "problem", "tell")
HANDED_ON = ("problem", "text")
# Their errors are quoted by notes.
QUOTED = ("layers.py", "run.py", "vision.py")


def in_scripts(function: str) -> set[str]:
    """The texts that a function of texts.js is called with.

    Raises:
        AssertionError: a call has no literal text, so that nobody could find its translation.
    """
    texts = set()
    for script in SCRIPTS:
        for call in re.finditer(rf'\b{function}\((?:"([^"]+)")?', script.read_text(encoding="utf-8")):
            assert call[1], f"{script.name}: {function}(...) at {call.start()} is not given a literal text"
            texts.add(call[1])
    return texts


def by_the_server() -> set[str]:
    """Notes, the errors that they quote, and why steps went unguided; <> stands for a value.

    Raises:
        AssertionError: a text is made in a way that is not understood here.
    """
    files = [*sorted(HOST.glob("*.py")), *LIBRARY]
    modules = {path.name: ast.parse(path.read_text(encoding="utf-8")) for path in files}
    constants = {node.targets[0].id: node.value for module in modules.values() for node in module.body
                 if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)}
    said = [node for name, module in modules.items() for node in _said(module, errors=name in QUOTED)]
    said = [constants.get(node.id, node) if isinstance(node, ast.Name) else node for node in said]
    texts = {_text(node) for node in said if not (isinstance(node, ast.Name) and node.id in HANDED_ON)}
    reasons = set(pack_module("host.view").WORDS.values())
    assert texts and reasons
    return (texts | reasons) - {""}


def _said(module: ast.Module, errors: bool) -> Iterator[ast.expr]:
    for node in ast.walk(module):
        if isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) in TELLERS:
            yield node.args[-1]
        elif isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and (
                errors or getattr(node.exc.func, "id", "") == MISSING):
            yield node.exc.args[0]


def _text(node: ast.expr) -> str:
    if isinstance(node, ast.JoinedStr):
        return "".join(part.value if isinstance(part, ast.Constant) else "<>" for part in node.values)
    assert isinstance(node, ast.Constant) and isinstance(node.value, str), f"line {node.lineno}: {ast.unparse(node)}"
    return node.value
