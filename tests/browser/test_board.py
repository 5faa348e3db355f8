"""examples/contract in the browser: its page beside the script, with the same contract."""

from __future__ import annotations

from pathlib import Path

import pytest
from browser.pages import browsing, serving, with_streams
from playwright.async_api import Browser, expect
from programs import PYTHON, ROOT, free_port, printed_by, start

pytestmark = pytest.mark.asyncio(loop_scope="session")

EXAMPLE = ROOT / "examples" / "contract"


@with_streams
async def test_the_page_shows_what_the_script_posts(browser: Browser, modules: Path) -> None:
    port = free_port()
    post, url = str(EXAMPLE / "post.py"), f"ws://127.0.0.1:{port}/ws"
    async with serving(str(EXAMPLE / "server.py"), f"{port}", "--modules", str(modules)):
        await printed_by(await start(*PYTHON, post, "before", "--url", url))
        async with browsing(browser) as context:
            page = await context.new_page()
            await page.goto(f"http://127.0.0.1:{port}/")
            await expect(page.locator("li")).to_have_text(["cron: before Remove"])
            await printed_by(await start(*PYTHON, post, "after", "--color", "pink", "--url", url))
            await expect(page.locator("li.pink")).to_have_text(["cron: after Remove"])
            await page.fill("#text", "from the page")
            await page.click("text=Post")
            await expect(page.locator("li")).to_have_count(3)
            await page.locator("li", has_text="before").locator("button").click()
            await expect(page.locator("li")).to_have_text(["cron: after Remove", "Grace: from the page Remove"])
