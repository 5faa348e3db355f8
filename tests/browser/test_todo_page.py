"""examples/todo in the browser: two pages stay in step, also after the server was killed and started again."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from browser.chat_server import ROOT
from browser.pages import PATIENCE, Screenshot
from playwright.async_api import Browser, Page, expect
from programs import free_port

pytestmark = pytest.mark.asyncio(loop_scope="session")

EXAMPLE = ROOT / "examples" / "todo"


@asynccontextmanager
async def serving(folder: Path) -> AsyncGenerator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "error", "webapp.py"),
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "adapters")])},
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        assert b"Running on" in await process.stdout.readline()
        yield process
    finally:
        if process.returncode is None:
            process.kill()  # the pages get no Close frame
            await process.wait()


async def add(page: Page, text: str) -> None:
    await page.get_by_label("New task").fill(text)
    await page.get_by_role("button", name="Add").click()


async def expect_tasks(page: Page, texts: list[str]) -> None:
    await expect(page.get_by_role("listitem")).to_have_text(texts)


async def test_two_pages_stay_in_step_and_come_back(
    browser: Browser, modules: Path, screenshot: Screenshot, tmp_path: Path
) -> None:
    port = free_port()
    folder = tmp_path / "todo"
    shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns("node_modules", "tasks.json", "__pycache__"))
    (folder / "node_modules").symlink_to(modules)
    program = folder / "webapp.py"
    program.write_text(program.read_text("utf-8").replace("8080", str(port)), "utf-8")

    context = await browser.new_context(viewport={"width": 480, "height": 360})
    context.set_default_timeout(PATIENCE)
    ada, bob = [await context.new_page() for _ in range(2)]
    errors: list[str] = []
    for page in (ada, bob):
        page.on("pageerror", lambda error: errors.append(str(error)))
    async with serving(folder):
        for page in (ada, bob):
            await page.goto(f"http://127.0.0.1:{port}/")
            await expect(page.get_by_role("status")).to_have_text("Connected")
        await add(ada, "Buy milk")
        await expect_tasks(bob, ["Buy milk"])
        await add(bob, "Call Bob")
        await expect_tasks(ada, ["Buy milk", "Call Bob"])
        await bob.get_by_label("Buy milk").check()
        await expect(ada.get_by_label("Buy milk")).to_be_checked()
        await screenshot(ada, "todo")
    for page in (ada, bob):
        await expect(page.get_by_role("status")).to_contain_text("Offline")
        await expect(page.get_by_label("New task")).to_be_disabled()
    async with serving(folder):
        for page in (ada, bob):
            await expect(page.get_by_role("status")).to_have_text("Connected")
            await expect_tasks(page, ["Buy milk", "Call Bob"])
            await expect(page.get_by_label("Buy milk")).to_be_checked()
        await add(ada, "Pay the rent")
        await expect_tasks(bob, ["Buy milk", "Call Bob", "Pay the rent"])
    assert errors == []
    await context.close()
