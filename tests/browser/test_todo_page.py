"""examples/todo in the browser: two pages stay in step, also after the server was killed and started again."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from browser.pages import browsing, serving, shoot
from playwright.async_api import Browser, Page, expect
from programs import ROOT, free_port

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def add(page: Page, text: str) -> None:
    await page.get_by_label("New task").fill(text)
    await page.get_by_role("button", name="Add").click()


async def expect_tasks(page: Page, texts: list[str]) -> None:
    await expect(page.get_by_role("listitem")).to_have_text(texts)


async def test_two_pages_stay_in_step_and_come_back(browser: Browser, tmp_path: Path) -> None:
    port = free_port()
    folder = tmp_path / "todo"
    ignored = shutil.ignore_patterns("tasks.json", "__pycache__")
    shutil.copytree(ROOT / "examples" / "todo", folder, ignore=ignored)
    program = folder / "webapp.py"
    program.write_text(program.read_text("utf-8").replace("8080", str(port)), "utf-8")

    async with browsing(browser, viewport={"width": 480, "height": 360}) as context:
        ada, bob = [await context.new_page() for _ in range(2)]
        async with serving("webapp.py", cwd=folder):
            for page in (ada, bob):
                await page.goto(f"http://127.0.0.1:{port}/")
                await expect(page.get_by_role("status")).to_have_text("Connected")
            await add(ada, "Buy milk")
            await expect_tasks(bob, ["Buy milk"])
            await add(bob, "Call Bob")
            await expect_tasks(ada, ["Buy milk", "Call Bob"])
            await bob.get_by_label("Buy milk").check()
            await expect(ada.get_by_label("Buy milk")).to_be_checked()
            await shoot(ada, "todo")
        for page in (ada, bob):
            await expect(page.get_by_role("status")).to_contain_text("Offline")
            await expect(page.get_by_label("New task")).to_be_disabled()
        async with serving("webapp.py", cwd=folder):
            for page in (ada, bob):
                await expect(page.get_by_role("status")).to_have_text("Connected")
                await expect_tasks(page, ["Buy milk", "Call Bob"])
                await expect(page.get_by_label("Buy milk")).to_be_checked()
            await add(ada, "Pay the rent")
            await expect_tasks(bob, ["Buy milk", "Call Bob", "Pay the rent"])
