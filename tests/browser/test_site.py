"""The documentation site in a browser: nothing comes from elsewhere, and everybody can read it.

Every page is looked at in light and in dark mode, and on a phone's width.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from browser.pages import serving
from playwright.async_api import Browser
from programs import ROOT, free_port

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(240)]  # the site is built, or waited for

LOW_CONTRAST = (Path(__file__).parent / "low_contrast.js").read_text("utf-8")
WITHOUT_TEXT = """() => [
  ...[...document.images].filter(each => !each.alt),
  ...[...document.querySelectorAll("main svg[role=img]")].filter(each => !each.querySelector("title")?.textContent),
].map(each => each.outerHTML.slice(0, 100))"""
# Use the switch in the header, and do not wait until the colors have faded.
OTHER_MODE = """() => {
  document.querySelector("header label[for^=__palette]:not([hidden])").click()
  document.getAnimations().forEach(each => each.finish())
}"""
PARTS = 6
"""Of the pages, for workers that have nothing else to do."""


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """The site, built once for all workers."""
    shared = tmp_path_factory.getbasetemp()
    if hasattr(request.config, "workerinput"):
        shared = shared.parent
    folder = shared / "site"
    with (shared / "site.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            built = subprocess.run(
                [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", folder],
                cwd=ROOT,
                env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
                capture_output=True,
                text=True,
                timeout=110,
            )
            assert built.returncode == 0, built.stdout + built.stderr
    return folder


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def address(site: Path) -> AsyncGenerator[str]:
    port = free_port()
    async with serving("-u", "-m", "http.server", str(port), "--bind", "127.0.0.1", "--directory", str(site)):
        yield f"http://127.0.0.1:{port}/"


def pages_of(site: Path) -> list[str]:
    """Where each page is, below the site's address. Pages of files of the repository are left out: they are code."""
    found = sorted(str(file.parent.relative_to(site)).removeprefix(".") for file in site.rglob("index.html"))
    assert len(found) > 30
    return [f"{page}/".lstrip("/") for page in found if not page.startswith("files/")]


@pytest.mark.parametrize("part", range(PARTS))
async def test_each_page_can_be_read(browser: Browser, address: str, site: Path, part: int) -> None:
    """In both modes, and on a phone without scrolling sideways."""
    async with await browser.new_context() as context:
        page = await context.new_page()
        elsewhere: list[str] = []
        page.on("request", lambda request: None if request.url.startswith(address) else elsewhere.append(request.url))
        # Each page would read the whole index of the search, which takes half of the time.
        await page.route("**/search_index.json", lambda route: route.abort())
        problems: dict[str, Any] = {}
        for path in pages_of(site)[part::PARTS]:
            await page.set_viewport_size({"width": 1280, "height": 900})
            await page.goto(address + path)
            found: list[Any] = await page.evaluate(WITHOUT_TEXT)
            schemes = set()
            for _ in range(2):
                schemes.add(await page.locator("body").get_attribute("data-md-color-scheme"))
                found += await page.evaluate(LOW_CONTRAST)
                await page.evaluate(OTHER_MODE)
            assert schemes == {"default", "slate"}
            await page.set_viewport_size({"width": 390, "height": 844})
            width = await page.evaluate("document.documentElement.scrollWidth")
            if width > 390:
                found.append(f"{width} pixels wide on a phone of 390")
            if found:
                problems[path] = found
        assert not problems
        assert not [url for url in elsewhere if not url.startswith("data:")]
