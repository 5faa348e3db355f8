"""The pages of README.md and docs/how-to/browser.md talk to their servers, as they stand there."""

from __future__ import annotations

from pathlib import Path

import pytest
from browser.pages import block, browsing, serving
from playwright.async_api import Browser, expect
from programs import PYTHON, ROOT, free_port, listening, start

from interop.node import JS

pytestmark = pytest.mark.asyncio(loop_scope="session")

README = ROOT / "README.md"
GUIDE = ROOT / "docs" / "how-to" / "browser.md"


async def test_the_page_of_the_readme_greets(browser: Browser, tmp_path: Path) -> None:
    files, server = str(free_port()), str(free_port())
    page_file, server_file = block(README, "<!-- page.html"), block(README, "# server.py")
    assert "python -m http.server" in page_file and "8000" in page_file + server_file
    (tmp_path / "page.html").write_text(page_file.replace("8080", server), "utf-8")
    logs = "import logging\nlogging.basicConfig(level=logging.INFO)\n"
    (tmp_path / "server.py").write_text(logs + server_file.replace("8080", server).replace("8000", files), "utf-8")
    (tmp_path / "node_modules").symlink_to(JS / "node_modules")
    static = serving("-u", "-m", "http.server", files, "--bind", "127.0.0.1", cwd=tmp_path)
    async with listening(await start(*PYTHON, "server.py", cwd=tmp_path)), static, browsing(browser) as context:
        page = await context.new_page()
        await page.goto(f"http://127.0.0.1:{files}/page.html")
        await expect(page.locator("body")).to_have_text("Hello, Grace!")


async def test_the_page_of_the_guide_greets_and_comes_back(browser: Browser, tmp_path: Path) -> None:
    port = free_port()
    (tmp_path / "page").mkdir()
    (tmp_path / "page.py").write_text(block(GUIDE, "# page.py").replace("8080", str(port)), "utf-8")
    (tmp_path / "page" / "index.html").write_text(block(GUIDE, "<!-- page/index.html"), "utf-8")
    (tmp_path / "page" / "main.mjs").write_text(block(GUIDE, "// main.mjs"), "utf-8")
    (tmp_path / "node_modules").symlink_to(JS / "node_modules")
    async with browsing(browser) as context:
        page = await context.new_page()
        async with serving("page.py", cwd=tmp_path):
            await page.goto(f"http://127.0.0.1:{port}/")
            await expect(page.locator("body")).to_have_text("Hello, Grace!")
        await page.evaluate("document.body.textContent = 'the server is away'")
        async with serving("page.py", cwd=tmp_path):
            await expect(page.locator("body")).to_have_text("Hello, Grace!")
