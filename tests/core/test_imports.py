"""Who may know whom: the library knows no host, one file names the host's internals, one its server."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("sag_core", "nodes", "training", "tools", "tests", "benchmarks")
FILES = sorted([*ROOT.glob("*.py"), *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))])
HOST_INTERNALS = {"comfy", "comfy_execution", "comfy_extras", "execution", "folder_paths", "latent_preview", "nodes"}


def imported(source: str, package: str = "") -> set[str]:
    """Full names of the modules a file imports, and of what it takes from them; "." is the repository root.

    Relative imports are resolved against `package`, the file's own, and marked by a leading dot.
    """
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".") if package else []
                parents = parents[:len(parents) - node.level + 1]
                base = "." + ".".join([*parents, *([node.module] if node.module else [])])
            names |= {f"{base}.{alias.name}" if base not in ("", ".") else base + alias.name for alias in node.names}
        elif isinstance(node, ast.Call) and _name(node.func) in ("__import__", "import_module"):
            names |= {a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str)}
    return names


def _name(node: ast.AST) -> str:
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def identifiers(source: str) -> set[str]:
    """Every name, attribute and imported name in a file; not its comments and strings."""
    tree = list(ast.walk(ast.parse(source)))
    return {_name(node) for node in tree} | {node.name for node in tree if isinstance(node, ast.alias)}


def of(*folders: str) -> list[Path]:
    """Files in these folders; "" is the root itself."""
    return [path for path in FILES if (path.relative_to(ROOT).parts[0] if path.parent != ROOT else "") in folders]


def imports_of(path: Path) -> set[str]:
    return imported(path.read_text("utf-8"), ".".join(path.relative_to(ROOT).parent.parts))


def tops(names: set[str]) -> set[str]:
    """Top-level packages; those of this repository with a leading dot."""
    return {"." + name[1:].split(".")[0] if name.startswith(".") else name.split(".")[0] for name in names}


def each(*folders: str, but: str = ""):
    """One test per file in these folders; `but` is a module that is left out, be it a file or a package."""
    paths = [path for path in of(*folders)
             if ".".join(path.relative_to(ROOT).with_suffix("").parts[:2]) != but]
    return pytest.mark.parametrize("path", paths, ids=[path.relative_to(ROOT).as_posix() for path in paths])


@pytest.mark.parametrize(("source", "package", "names"), [
    ("import a, b.c as d", "", {"a", "b.c"}),
    ("from a.b import c", "", {"a.b.c"}),
    ("def f():\n    import a", "", {"a"}),
    ("from . import a", "sag_core", {".sag_core.a"}),
    ("from .a import b", "sag_core.adm", {".sag_core.adm.a.b"}),
    ("from ..a import b", "sag_core.adm", {".sag_core.a.b"}),
    ("from ..training import scenes", "nodes", {".training.scenes"}),
    ("from .. import training", "nodes", {".training"}),
    ("from .nodes import x", "", {".nodes.x"}),
    ("importlib.import_module('a.b')", "", {"a.b"}),
    ("__import__('a')", "", {"a"}),
])
def test_every_form_of_import_is_seen(source, package, names):
    assert imported(source, package) == names


def test_the_library_is_seen():
    assert len(of("sag_core")) >= 8 and len(of("tests")) >= 10


@each("sag_core")
def test_library_knows_torch_einops_safetensors_and_the_standard_library_only(path):
    assert tops(imports_of(path)) <= {"torch", "einops", "safetensors", ".sag_core", *sys.stdlib_module_names}


@each("", "sag_core", "nodes", "training", but="nodes.host")
def test_only_nodes_host_names_the_hosts_internals(path):
    assert not tops(imports_of(path)) & HOST_INTERNALS


# Who may know whom, from the bottom to the top.
LEVELS = ["sag_core", "nodes.live", "nodes.host", "nodes"]


def level_of(module: str) -> int:
    """The place in LEVELS of a module of the pack, by its dotted name."""
    return next(i for i, level in enumerate(LEVELS) if f"{module}.".startswith(f"{level}."))


@each("sag_core", "nodes")
def test_imports_go_one_way(path):
    own = level_of(module_of(path))
    for name in imports_of(path):
        if name.startswith((".sag_core.", ".nodes.")):
            assert level_of(name[1:]) <= own, name


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def test_no_module_imports_itself_by_way_of_others():
    paths = {module_of(path): path for path in of("sag_core", "nodes")}

    def used_by(module: str) -> set[str]:
        names = {name[1:] for name in imports_of(paths[module])}
        return {other for other in paths if other != module and not module.startswith(f"{other}.")
                and any(name == other or name.startswith(f"{other}.") for name in names)}

    uses = {module: used_by(module) for module in paths}
    reached = {module: set(used) for module, used in uses.items()}
    for _ in paths:
        reached = {module: used.union(*(uses[other] for other in used)) for module, used in reached.items()}
    assert [module for module, used in reached.items() if module in used] == []


@each("sag_core", "training", "tools")
def test_the_hosts_api_is_for_nodes_and_the_entry_point(path):
    assert "comfy_api" not in tops(imports_of(path))


@each("", "sag_core", "nodes", "training", but="nodes.host")
def test_only_nodes_host_names_the_server(path):
    assert "server" not in tops(imports_of(path))
    assert "PromptServer" not in identifiers(path.read_text("utf-8"))


@each("", "sag_core", "nodes")
def test_what_is_installed_does_not_need_training_tools_tests_or_benchmarks(path):
    others = {"training", "tools", "tests", "benchmarks"}
    assert not {name.lstrip(".") for name in tops(imports_of(path))} & others


@each("", "sag_core", "nodes")
def test_what_is_installed_imports_itself_relatively(path):
    # A host loads the pack under a name of its own choice, with the pack's folder not on the path.
    assert not tops(imports_of(path)) & {"sag_core", "nodes"}


@each("", *FOLDERS)
def test_file_is_ascii(path):
    assert path.read_bytes().isascii()
