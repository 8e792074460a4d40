"""One server, one browser and one page for all tests; a machine without a browser skips them, on CI they fail."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tools.browser import ABSENT, find_browser
from tools.frontend import Frontend, launch, welcome
from tools.provision import provision
from tools.server import ComfyServer

WIDTH, HEIGHT = 1400, 1000
SCREENSHOTS = Path(__file__).parent / "screenshots"


@pytest.fixture(scope="session")
def executable() -> Path:
    """The browser, where there is one and what drives it."""
    found = find_browser()
    missing = ABSENT if found is None else ""
    if not missing and importlib.util.find_spec("playwright") is None:
        missing = "playwright is not installed; `make test` installs it"
    if missing:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(missing)
    return found


@pytest.fixture(scope="session")
def server(executable) -> Iterator[ComfyServer]:
    with ComfyServer(provision()) as running:
        welcome(running)
        yield running


@pytest.fixture(scope="module")
def context(server, executable) -> Iterator:
    """Not for the session: as long as Playwright lives, nothing else in this thread can use asyncio."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = launch(playwright, executable)
        yield browser.new_context(viewport={"width": WIDTH, "height": HEIGHT})
        browser.close()


@pytest.fixture(scope="module")
def shared(server, context) -> Frontend:
    frontend = Frontend(context.new_page(), server.url, SCREENSHOTS)
    frontend.open()
    return frontend


@pytest.fixture
def frontend(shared) -> Iterator[Frontend]:
    """The page, on which nothing may go wrong that the test does not ask for."""
    shared.errors.clear()
    yield shared
    assert shared.errors == []
