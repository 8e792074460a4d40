"""What the log says of the name of the pack's folder; tests/server/test_folder.py asks the host whether it is so."""

from __future__ import annotations

import pytest

from benchmarks.host import pack_module
from tests.host.boot import FOLDER
from tests.server.test_folder import REFUSED, TAKEN

folder = pack_module("host.folder")


def test_the_name_is_the_folders_also_where_it_is_a_link():
    assert folder.FOLDER == FOLDER


@pytest.mark.parametrize("name", [*REFUSED, "sag\"2", "sag?", "sag\\2", "sag^2", "sag{2}", "sag|2", "sag<2>", "sag`"])
def test_a_name_under_which_files_are_not_found_is_warned_of(name, caplog):
    folder.check_folder_name(name)
    (record,) = caplog.records
    assert "does not find files in a folder of this name" in record.getMessage()
    assert f"Rename it to {folder.safe_name(name)} and restart" in record.getMessage()
    assert folder.safe_name(name) == REFUSED.get(name, folder.safe_name(name))
    assert folder.problem_of(folder.safe_name(name)) == ""


@pytest.mark.parametrize(("name", "problem"), [
    ("ComfyUI-SAG-1.0", "help pages"), ("sag@nightly", "help pages"), ("core-sag", "does not load scripts"),
])
def test_a_name_under_which_the_frontend_misses_something_is_warned_of(name, problem, caplog):
    folder.check_folder_name(name)
    assert problem in caplog.records[0].getMessage()
    assert folder.problem_of(folder.safe_name(name)) == ""


@pytest.mark.parametrize("name", [*TAKEN, "comfyui-self-attention-guidance", *REFUSED.values()])
def test_a_good_name_is_not_spoken_of(name, caplog):
    folder.check_folder_name(name)
    assert not caplog.records
