"""What the browser tests and their conftest share."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

import pytest
from playwright.async_api import Browser, BrowserContext, Locator, Page
from programs import PYTHON, ROOT, start

from interop.peers import LIBRARIES

SCREENSHOTS = ROOT / "build" / "screenshots"
PATIENCE = 60_000  # milliseconds until what a page should show counts as missing

Newcomer = Callable[..., Awaitable[Page]]

VERSIONS_4 = ["plain-4", *(name for name in LIBRARIES if name == "ws-wrapper-4")]

with_streams = pytest.mark.parametrize("modules", VERSIONS_4, indirect=True)
"""The page with ws-wrapper 4, which has streams."""


async def say(page: Page, text: str) -> None:
    await page.get_by_label("Message", exact=True).fill(text)
    await page.keyboard.press("Enter")


def log_of(page: Page, room: str = "lobby") -> Locator:
    return page.get_by_role("log", name=f"Messages in {room}")


async def shoot(page: Page, name: str) -> None:
    """Leave build/screenshots/name.png."""
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    await page.screenshot(path=SCREENSHOTS / f"{name}.png", animations="disabled")


def block(page: Path, beginning: str) -> str:
    """The block of code in a page that begins so."""
    text = page.read_text("utf-8")
    [found] = re.findall(rf"^```\w+\n({re.escape(beginning)}.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return str(found)


@asynccontextmanager
async def serving(*arguments: str, cwd: Path | None = None) -> AsyncGenerator[None]:
    """A server, from its first line of output until it is killed: nobody gets a Close frame."""
    process = await start(*PYTHON, *arguments, cwd=cwd, stderr=None)
    try:
        assert process.stdout is not None
        line = await process.stdout.readline()
        assert b"Running on" in line or b"Serving HTTP on" in line, line
        yield
    finally:
        process.kill()
        await process.communicate()


@asynccontextmanager
async def browsing(browser: Browser, *tolerated: str, **options: object) -> AsyncGenerator[BrowserContext]:
    """A browser of one's own; no page may raise an error, apart from those that a test tolerates."""
    context = await browser.new_context(**options)  # type: ignore[arg-type]
    context.set_default_timeout(PATIENCE)
    errors: list[str] = []
    context.on("weberror", lambda error: errors.append(str(error.error)))
    try:
        yield context
    finally:
        await context.close()
    assert [error for error in errors if error not in tolerated] == []


@contextmanager
def stopped(processes: set[int]) -> Iterator[None]:
    """A client that connects meanwhile reaches another process."""
    for pid in processes:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in processes:
            with suppress(ProcessLookupError):  # it was killed meanwhile
                os.kill(pid, signal.SIGCONT)
