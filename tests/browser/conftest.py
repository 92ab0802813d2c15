"""The browser of these tests, and pages in it that are watched.

The browser is the system's (Debian: `apt-get install chromium`; another one: RLCREDIT_CHROMIUM=/path/to/it). Without
it every test here is skipped. Screenshots are kept where RLCREDIT_SCREENSHOTS says, else in pytest's own folder.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@pytest.fixture(scope="session")
def browser():
    api = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install playwright")
    path = os.environ.get("RLCREDIT_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.skip("no chromium: apt-get install chromium, or RLCREDIT_CHROMIUM")
    with api.sync_playwright() as playwright:
        # as root, as in a container, Chromium runs without its sandbox only; it opens files of ours alone
        flags = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=path, args=flags)
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser):
    """Open a page, `ready` in it; at the end: nothing on the console, no errors, nothing asked for but the pages."""
    said, asked, pages = [], set(), {}

    def opened(address, ready, width=1280, height=900, **options):
        page = browser.new_page(viewport={"width": width, "height": height}, **options)
        page.on("console", lambda message: said.append(message.text) if message.type != "log" else None)
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.add(request.url.split("#")[0]))
        page.goto(address)
        page.wait_for_selector(ready, state="attached")
        pages[page] = address.split("#")[0]
        return page

    yield opened
    hacked = [page.evaluate("window.hacked") for page in pages]
    for page in pages:
        page.close()
    assert said == []
    assert asked == set(pages.values())
    assert hacked == [None] * len(pages)  # no script of a shown text has run


@pytest.fixture(scope="session")
def screenshots(tmp_path_factory):
    folder = os.environ.get("RLCREDIT_SCREENSHOTS")
    path = Path(folder) if folder else tmp_path_factory.mktemp("screenshots")
    path.mkdir(parents=True, exist_ok=True)
    return path
