"""docs/how-to/ai-clients.md: its application, on two workers, as its reader copies it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from browser.pages import block, browsing
from browser.test_ai_chat import serving_chat
from browser.test_react import bundle
from playwright.async_api import Browser, expect
from programs import ROOT

pytestmark = pytest.mark.asyncio(loop_scope="session")

PAGE = ROOT / "docs" / "how-to" / "ai-clients.md"


async def test_an_answer_survives_reloads_and_is_stopped(browser: Browser, tmp_path: Path) -> None:
    app = block(PAGE, "# app.py")
    assert app.count("sleep(0.5)") == 1
    app = app.replace("sleep(0.5)", "sleep(600 if 'Wait!' in str(messages) else 0.5)")  # until it is stopped
    (tmp_path / "app.py").write_text(app, "utf-8")
    (tmp_path / "chat.jsx").write_text(block(PAGE, "// chat.jsx"), "utf-8")
    (tmp_path / "static").mkdir()
    bundle(tmp_path / "chat.jsx", tmp_path / "static" / "chat.js")
    async with serving_chat(tmp_path, app="app:app", app_folder=tmp_path) as chat, browsing(browser) as context:
        page = await context.new_page()
        await page.goto(chat.url)
        await page.get_by_label("Message").fill("Why?")
        await page.get_by_role("button", name="Send").click()
        said, whole = page.locator("p"), ["user: Why?", "assistant: It depends on the context."]
        await expect(said.last).to_have_text(re.compile("assistant: It "))
        await page.reload()
        await expect(said).to_have_text(whole)
        await page.reload()  # the answer has ended, and is stored
        await expect(said).to_have_text(whole)
        await page.get_by_label("Message").fill("Wait!")
        await page.get_by_role("button", name="Send").click()
        await page.get_by_role("button", name="Stop").click()
        await expect(page.get_by_role("button", name="Send")).to_be_visible()
        await expect(said.nth(2)).to_have_text("user: Wait!")
