"""Names that the browser tests and their conftest share."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
from playwright.async_api import Locator, Page

from interop.peers import LIBRARIES

PATIENCE = 10_000  # milliseconds until what a page should show counts as missing

Newcomer = Callable[..., Awaitable[Page]]
Screenshot = Callable[[Page, str], Awaitable[None]]

VERSIONS_4 = ["plain-4", *(name for name in LIBRARIES if name == "ws-wrapper-4")]

both_libraries = pytest.mark.parametrize("modules", ["ws-wrapper", *VERSIONS_4], indirect=True)
"""The page with ws-wrapper 3 and 4."""
with_streams = pytest.mark.parametrize("modules", VERSIONS_4, indirect=True)
"""The page with ws-wrapper 4, which has streams."""


async def say(page: Page, text: str) -> None:
    await page.get_by_label("Message", exact=True).fill(text)
    await page.keyboard.press("Enter")


def log_of(page: Page, room: str = "lobby") -> Locator:
    return page.get_by_role("log", name=f"Messages in {room}")
