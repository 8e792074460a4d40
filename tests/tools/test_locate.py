"""Which ComfyUI and which Python are taken. The trees are empty files: only their being found is looked at."""

import os
import sys
from pathlib import Path

import pytest

from tools import locate


@pytest.fixture
def tree(tmp_path):
    """A directory that looks like ComfyUI."""
    root = tmp_path / "ComfyUI"
    for name in locate._TREE:
        touch(root / name)
    return root


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def test_comfyui_path_comes_first(tree, tmp_path):
    assert locate.find_comfyui({"COMFYUI_PATH": str(tree)}, tmp_path / "checkout") == (tree, "COMFYUI_PATH")


@pytest.mark.parametrize("missing", locate._TREE)
def test_a_comfyui_path_that_is_no_comfyui_is_named(tree, missing):
    (tree / missing).unlink()
    with pytest.raises(FileNotFoundError, match="COMFYUI_PATH is .*ComfyUI'.*unset it"):
        locate.find_comfyui({"COMFYUI_PATH": str(tree)}, tree)


def test_the_comfyui_around_the_checkout(tree):
    checkout = tree / "custom_nodes" / "any-name"
    checkout.mkdir(parents=True)
    assert locate.find_comfyui({}, checkout)[0] == tree


@pytest.mark.parametrize("place", ["plugins/pack", "custom_nodes/deeper/pack"])
def test_other_places_in_a_comfyui_do_not_count(tree, place):
    checkout = tree / place
    checkout.mkdir(parents=True)
    assert locate.find_comfyui({}, checkout) is None


@pytest.fixture
def linked(tree, tmp_path):
    """A checkout elsewhere, and the symlink to it in custom_nodes."""
    checkout, link = tmp_path / "src" / "pack", tree / "custom_nodes" / "pack"
    checkout.mkdir(parents=True)
    link.parent.mkdir()
    link.symlink_to(checkout, target_is_directory=True)
    return checkout, link


def test_a_symlinked_checkout_named_by_its_link(tree, linked):
    _, link = linked
    assert locate.find_comfyui({}, link)[0] == tree


def test_a_symlinked_checkout_that_the_shell_stands_in(tree, linked):
    checkout, link = linked
    assert locate.find_comfyui({"PWD": str(link)}, checkout)[0] == tree
    assert locate.find_comfyui({"PWD": str(tree)}, checkout) is None


def test_a_checkout_linked_to_from_elsewhere_is_resolved(tree, tmp_path):
    checkout, link = tree / "custom_nodes" / "pack", tmp_path / "link"
    checkout.mkdir(parents=True)
    link.symlink_to(checkout, target_is_directory=True)
    assert locate.find_comfyui({}, link)[0] == tree


def test_the_order_of_pythons(tree):
    venv = "Scripts/python.exe" if os.name == "nt" else "bin/python"
    assert locate.find_python({}, tree) == Path(sys.executable)
    portable = touch(tree.parent / "python_embeded" / "python.exe")
    assert locate.find_python({}, tree) == portable
    plain = touch(tree / "venv" / venv)
    assert locate.find_python({}, tree) == plain
    hidden = touch(tree / ".venv" / venv)
    assert locate.find_python({}, tree) == hidden
    assert locate.find_python({"COMFYUI_PYTHON": str(portable)}, tree) == portable


def test_a_comfyui_python_that_is_no_file_is_named(tree):
    with pytest.raises(FileNotFoundError, match="COMFYUI_PYTHON is .*absent"):
        locate.find_python({"COMFYUI_PYTHON": str(tree / "absent")}, tree)


def test_a_python_without_torch_is_refused_with_the_reason(tmp_path):
    python = locate.venv_python(tmp_path / "empty")
    assert locate.capture([sys.executable, "-m", "venv", "--without-pip", tmp_path / "empty"])[0] == 0
    with pytest.raises(RuntimeError, match=r"cannot import torch.*No module named.*COMFYUI_PYTHON"):
        locate.require_host_packages(python)
