"""Fixtures of the host suite. Importing this starts the host, which the tests import from."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
import torch

from tests.host import document
from tests.host.boot import boot, comfyui_tree

torch.set_num_threads(1)  # The models are so small that more threads only wait for each other.
_BASE = tempfile.TemporaryDirectory(prefix="sag-host-tests-")
boot(comfyui_tree(), Path(_BASE.name))


def pytest_addoption(parser):
    parser.addoption("--write-docs", action="store_true", help="write the tables in docs/ from what the tests see")


def pytest_configure(config):
    document.writing = config.getoption("--write-docs")


def pytest_sessionfinish():
    if document.writing:
        document.write_tables()


@pytest.fixture(autouse=True)
def _as_the_executor_does():
    """The host runs every node in inference mode."""
    with torch.inference_mode():
        yield


@pytest.fixture
def checkpoints() -> Path:
    """The host's folder of checkpoints."""
    import folder_paths

    return Path(folder_paths.get_folder_paths("checkpoints")[0])


@pytest.fixture
def output_folder(tmp_path, monkeypatch) -> Path:
    """An empty output folder of the host's."""
    import folder_paths

    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path))
    return tmp_path


@pytest.fixture
def every_step_is_shown(monkeypatch):
    """In the live view, whatever that costs on a machine that is busy."""
    from benchmarks.host import pack_module

    monkeypatch.setattr(pack_module("host.view"), "ALLOWANCE", float("inf"))
