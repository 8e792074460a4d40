"""One real ComfyUI server for all server tests, with the checkout in its custom_nodes."""

from collections.abc import Iterator

import pytest

from tools.provision import provision
from tools.server import ComfyServer


@pytest.fixture(scope="session")
def server() -> Iterator[ComfyServer]:
    with ComfyServer(provision()) as running:
        yield running
