"""examples/contract in the browser: its page beside the script, with the same contract."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest
from browser.chat_server import ROOT
from browser.pages import PATIENCE, with_streams
from playwright.async_api import Browser, expect
from programs import free_port, printed_by

pytestmark = pytest.mark.asyncio(loop_scope="session")

EXAMPLE = ROOT / "examples" / "contract"


async def start(program: str, *arguments: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "error", str(EXAMPLE / program), *arguments),
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "adapters")])},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


@with_streams
async def test_the_page_shows_what_the_script_posts(browser: Browser, modules: Path) -> None:
    port = free_port()
    server = await start("server.py", f"{port}", "--modules", str(modules))
    context = await browser.new_context()
    context.set_default_timeout(PATIENCE)
    try:
        assert server.stdout is not None and b"Running on" in await server.stdout.readline()
        url = f"ws://127.0.0.1:{port}/ws"
        await printed_by(await start("post.py", "before", "--url", url))
        page = await context.new_page()
        errors: list[str] = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        await page.goto(f"http://127.0.0.1:{port}/")
        await expect(page.locator("li")).to_have_text(["cron: before Remove"])
        await printed_by(await start("post.py", "after", "--color", "pink", "--url", url))
        await expect(page.locator("li.pink")).to_have_text(["cron: after Remove"])
        await page.fill("#text", "from the page")
        await page.click("text=Post")
        await expect(page.locator("li")).to_have_count(3)
        await page.locator("li", has_text="before").locator("button").click()
        await expect(page.locator("li")).to_have_text(["cron: after Remove", "Grace: from the page Remove"])
        assert errors == []
    finally:
        await context.close()
        server.terminate()
        await server.communicate()
