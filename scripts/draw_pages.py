"""Draw what a page of `rlcredit analyze` shows: report.png (a response) and maps.png (its maps and spans).

    python scripts/draw_pages.py REPORT.html docs/pictures ["response=2&token=40"]

The last word is the address's fragment: what is chosen on the page. Needs a Chromium (`apt-get install chromium`, or
RLCREDIT_CHROMIUM=/path/to/it). docs/analysis.md names the run.
"""

from __future__ import annotations

import io
import os
import shutil
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

WIDTH, MARGIN = 1200, 24  # pixels
TALLEST = 960
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def save(page: Page, top: str, bottom: str, path: Path) -> None:
    """The page from the top of one element to the bottom of another, at most TALLEST pixels."""
    edges = page.evaluate(
        """([top, bottom]) => [document.querySelector(top).getBoundingClientRect().top + scrollY,
        document.querySelector(bottom).getBoundingClientRect().bottom + scrollY]""",
        [top, bottom],
    )
    start, height = edges[0] - MARGIN, min(TALLEST, edges[1] - edges[0] + MARGIN)
    shot = page.screenshot(full_page=True, clip={"x": 0, "y": start, "width": WIDTH, "height": height})
    picture = Image.open(io.BytesIO(shot)).convert("RGB")
    picture.save(path, optimize=True)
    print(f"{path}: {picture.width} x {picture.height}, {path.stat().st_size // 1000} kB")


def main() -> None:
    if len(sys.argv) not in (3, 4):
        sys.exit('draw_pages.py takes a page of rlcredit analyze, a folder, and "response=2&token=40" if you like')
    source, folder, fragment = Path(sys.argv[1]).resolve(), Path(sys.argv[2]), "".join(sys.argv[3:])
    found = os.environ.get("RLCREDIT_CHROMIUM") or next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        sys.exit("draw_pages.py needs a Chromium: apt-get install chromium, or RLCREDIT_CHROMIUM=/path/to/it")
    with sync_playwright() as playwright:
        flags = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=found, args=flags)
        page = browser.new_page(viewport={"width": WIDTH, "height": 900}, color_scheme="light")
        page.set_default_timeout(120_000)
        page.goto(f"{source.as_uri()}#{fragment}")
        page.wait_for_selector("#curves .main-svg", state="attached")
        page.wait_for_timeout(500)
        page.evaluate("document.querySelector('#tip').hidden = true")  # it would hide the text around the token
        save(page, "#view-heading", "#view .reading", folder / "report.png")
        save(page, "#maps-heading", "#spans", folder / "maps.png")
        browser.close()


if __name__ == "__main__":
    main()
