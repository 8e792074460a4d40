"""Finding a browser for the tests that need one."""

import pytest

from tools import browser


@pytest.fixture
def chromium(tmp_path):
    path = tmp_path / "chromium"
    path.write_text("#!/bin/sh\n", encoding="utf-8")
    path.chmod(0o755)
    return path


def test_a_browser_on_the_path_is_found(chromium):
    assert browser.find_browser({"PATH": str(chromium.parent)}) == chromium


def test_a_named_browser_goes_before_all_others(chromium, tmp_path):
    named = tmp_path / "my browser"
    named.touch()
    assert browser.find_browser({"PATH": str(chromium.parent), "SAG_BROWSER": str(named)}) == named


def test_a_wrong_name_is_an_error_that_says_which(tmp_path):
    with pytest.raises(FileNotFoundError, match="SAG_BROWSER is '.*nowhere', which is not a file"):
        browser.find_browser({"SAG_BROWSER": str(tmp_path / "nowhere")})


def test_without_one_there_is_none(tmp_path, monkeypatch):
    monkeypatch.setattr(browser, "PLACES", ())
    assert browser.find_browser({"PATH": str(tmp_path)}) is None
