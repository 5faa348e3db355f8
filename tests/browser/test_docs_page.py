"""docs/how-to/browser.md: its page and server run as they stand there, and its page comes back."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from browser.chat_server import ROOT
from browser.pages import PATIENCE
from playwright.async_api import Browser, expect
from programs import free_port

from interop.node import JS

pytestmark = pytest.mark.asyncio(loop_scope="session")

PAGE = (ROOT / "docs" / "how-to" / "browser.md").read_text("utf-8")


def file_of(name: str) -> str:
    """The block that begins with that name in a comment."""
    [text] = re.findall(rf"^```\w+\n((?:#|//|<!--) {re.escape(name)}\b.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    return str(text)


@asynccontextmanager
async def serving(folder: Path) -> AsyncGenerator[None]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "error", "page.py"),
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "adapters")])},
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        assert b"Running on" in await process.stdout.readline()
        yield
    finally:
        process.terminate()
        await process.wait()


async def test_the_page_runs_as_shown_and_comes_back(browser: Browser, tmp_path: Path) -> None:
    port = free_port()
    (tmp_path / "page").mkdir()
    (tmp_path / "page.py").write_text(file_of("page.py").replace("8080", str(port)), "utf-8")
    (tmp_path / "page" / "index.html").write_text(file_of("page/index.html"), "utf-8")
    (tmp_path / "page" / "main.mjs").write_text(file_of("main.mjs"), "utf-8")
    (tmp_path / "node_modules").symlink_to(JS / "node_modules")

    context = await browser.new_context()
    context.set_default_timeout(PATIENCE)
    page = await context.new_page()
    async with serving(tmp_path):
        await page.goto(f"http://127.0.0.1:{port}/")
        await expect(page.locator("body")).to_have_text("Hello, Grace!")
    await page.evaluate("document.body.textContent = 'the server is away'")
    async with serving(tmp_path):
        await expect(page.locator("body")).to_have_text("Hello, Grace!")
    await context.close()
