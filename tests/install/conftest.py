"""A repository with the checkout as it is, committed or not."""

from pathlib import Path

import pytest

from tools.package import checkout_files, copy_files
from tools.process import capture

IDENTITY = ("-c", "user.name=tests", "-c", "user.email=tests@example.invalid")


@pytest.fixture(scope="session")
def repository(tmp_path_factory) -> Path:
    """A repository of its own, for a program to work in or to clone."""
    directory = copy_files(checkout_files(), tmp_path_factory.mktemp("repositories") / "comfyui-sag")
    for command in (["init", "--quiet"], ["add", "--all"], [*IDENTITY, "commit", "--quiet", "--message", "all"]):
        status, printed = capture(["git", "-C", directory, *command])
        assert status == 0, printed
    return directory
