"""Chromium, driven by Playwright, and the chat of examples/ as its reader would run it.

Nothing here is part of `make test`: `make test-browser` runs it. One event loop serves the whole run, because the
browser lives in it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from browser.chat_server import ChatServer
from browser.pages import PATIENCE, Newcomer
from engine_servers import redis_server
from playwright.async_api import Browser, ConsoleMessage, Page, async_playwright, expect

from interop.conftest import cell, each_link, pytest_addoption, pytest_configure
from interop.node import JS, ws_wrapper_4

__all__ = ["cell", "each_link", "pytest_addoption", "pytest_configure"]  # for test_matrix.py


# A sandbox needs rights that a container does not give; the rest keeps Chromium from calling home.
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
FLAGS += ["--disable-component-update", "--disable-sync"]

expect.set_options(timeout=PATIENCE)


def find_chromium() -> str:
    found = os.environ.get("CHROMIUM") or shutil.which("chromium")
    assert found, "no chromium on the PATH: `make test-browser` finds one, or says how to get it"
    return found


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser() -> AsyncGenerator[Browser]:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=find_chromium(), args=FLAGS)
        yield browser
        await browser.close()


@pytest.fixture(scope="session")
def modules(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `npm install` gives the page of examples/contract."""
    library = request.param
    folder = tmp_path_factory.mktemp(library)
    if library == "ws-wrapper-4":
        shutil.copytree(ws_wrapper_4(), folder / "ws-wrapper")
        shutil.copytree(JS / "node_modules" / "eventemitter3", folder / "eventemitter3")
        return folder
    package = folder / "ws-wrapper"
    package.mkdir()
    for name in ("plain4.mjs", "plain4-channel.mjs"):
        shutil.copy(JS / name, package)
    (package / "index.mjs").write_text('export { default } from "./plain4.mjs"\n', "utf-8")
    return folder


# ---------------------------------------------------------------- the chat


@pytest_asyncio.fixture(loop_scope="session")
async def chat(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[ChatServer]:
    """One process, or as many workers with a Redis as a test says."""
    workers = getattr(request, "param", 1)
    redis = redis_server() if workers > 1 else None
    try:
        async with ChatServer(tmp_path, redis="" if redis is None else redis.url, workers=workers) as server:
            yield server
    finally:
        if redis is not None:
            redis.kill()


# ---------------------------------------------------------------- people in front of it


LOST = ("net::ERR_CONNECTION_REFUSED", "net::ERR_CONNECTION_RESET", "Unexpected response code: 503")
"""What the browser itself says when a server is away or drains, which only a test that ends it can bring about."""


@pytest_asyncio.fixture(loop_scope="session")
async def newcomer(browser: Browser, chat: ChatServer) -> AsyncGenerator[Newcomer]:
    """``await newcomer("Ada")``: a page of a browser of her own, in which she has said her name.

    ``url`` is that of a proxy in front of the chat. Other keyword arguments are those of Playwright's ``new_context``.
    Whatever a page complains about in its console fails the test.
    """
    complaints: list[str] = []

    def said(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            complaints.append(message.text)

    async with AsyncExitStack() as stack:

        async def come(name: str, *, url: str = chat.url, **options: Any) -> Page:
            context = await browser.new_context(**options)
            stack.push_async_callback(context.close)
            page = await context.new_page()
            page.set_default_timeout(PATIENCE)
            page.on("console", said)
            page.on("pageerror", lambda error: complaints.append(str(error)))
            await page.goto(url)
            await page.get_by_label("What shall the others call you?").fill(name)
            await page.get_by_role("button", name="Come in").click()
            await expect(page.get_by_role("status")).to_have_text("Connected")
            return page

        yield come
    assert [text for text in complaints if not any(part in text for part in LOST)] == []
