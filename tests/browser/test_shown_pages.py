"""The pages of README.md and of the guides for pages talk to their servers, as they stand there."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from pathlib import Path

import pytest
from browser.pages import block, browsing, serving
from playwright.async_api import Browser, WebSocket, expect
from programs import PYTHON, ROOT, free_port, listening, start

from interop.node import JS

pytestmark = pytest.mark.asyncio(loop_scope="session")

README = ROOT / "README.md"
GUIDE = ROOT / "docs" / "how-to" / "browser.md"
WS_WRAPPER = ROOT / "docs" / "how-to" / "ws-wrapper.md"


async def test_the_page_of_the_readme_greets(browser: Browser, tmp_path: Path) -> None:
    files, server = str(free_port()), str(free_port())
    page_file, server_file = block(README, "<!-- page.html"), block(README, "# server.py")
    copy, serve = re.findall(r"^  (cp .*|python .*?)(?: -->)?$", page_file, re.MULTILINE)
    assert serve == "python -m http.server" and "8000" in page_file + server_file
    (tmp_path / "page.html").write_text(page_file.replace("8080", server), "utf-8")
    logs = "import logging\nlogging.basicConfig(level=logging.INFO)\n"
    (tmp_path / "server.py").write_text(logs + server_file.replace("8080", server).replace("8000", files), "utf-8")
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    copying = await start("sh", "-c", copy, cwd=tmp_path, env={"PATH": path}, stderr=None)
    assert await copying.wait() == 0
    static = serving("-u", "-m", "http.server", files, "--bind", "127.0.0.1", cwd=tmp_path)
    async with listening(await start(*PYTHON, "server.py", cwd=tmp_path)), static, browsing(browser) as context:
        page = await context.new_page()
        await page.goto(f"http://127.0.0.1:{files}/page.html")
        await expect(page.locator("body")).to_have_text("Hello, Grace!")


async def test_the_page_of_the_guide_greets_and_comes_back(browser: Browser, tmp_path: Path) -> None:
    port = free_port()
    (tmp_path / "page.py").write_text(block(GUIDE, "# page.py").replace("8080", str(port)), "utf-8")
    (tmp_path / "index.html").write_text(block(GUIDE, "<!-- index.html"), "utf-8")
    back = asyncio.Event()

    def connected(socket: WebSocket) -> None:
        socket.on("framereceived", lambda message: back.set() if '"t":"welcome"' in str(message) else None)

    async with browsing(browser) as context:
        page = await context.new_page()
        async with serving("page.py", cwd=tmp_path):
            await page.goto(f"http://127.0.0.1:{port}/")
            await expect(page.locator("h1")).to_have_text("Hello, Grace!")
            await expect(page.locator("p")).to_have_text("1 2 3 4 5")
        page.on("websocket", connected)
        async with serving("page.py", cwd=tmp_path):
            await back.wait()


async def test_the_page_of_the_guide_for_ws_wrapper_greets_and_comes_back(browser: Browser, tmp_path: Path) -> None:
    port = free_port()
    program = block(GUIDE, "# page.py").replace("8080", str(port)).replace('"index.html"', '"page/index.html"')
    folders = re.findall(r"`(app\.router\.add_static\(.*?\))`", WS_WRAPPER.read_text("utf-8"))
    changed = program.replace("app.on_shutdown", "\n".join([*folders, "app.on_shutdown"]))
    (tmp_path / "page.py").write_text(changed, "utf-8")
    (tmp_path / "page").mkdir()
    (tmp_path / "page" / "index.html").write_text(block(WS_WRAPPER, "<!-- page/index.html"), "utf-8")
    (tmp_path / "page" / "main.mjs").write_text(block(WS_WRAPPER, "// main.mjs"), "utf-8")
    (tmp_path / "node_modules").symlink_to(JS / "node_modules")
    async with browsing(browser) as context:
        page = await context.new_page()
        async with serving("page.py", cwd=tmp_path):
            await page.goto(f"http://127.0.0.1:{port}/")
            await expect(page.locator("body")).to_have_text("Hello, Grace!")
        await page.evaluate("document.body.textContent = 'the server is away'")
        async with serving("page.py", cwd=tmp_path):
            await expect(page.locator("body")).to_have_text("Hello, Grace!")
