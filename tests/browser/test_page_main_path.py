"""Every kind of call between a page and its server, in Chromium and in Firefox, with a drop in the middle of a stream.

The modules come from the installed package, by the lines that docs/how-to/browser.md shows.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from browser.main_path import play_in_chromium, play_in_firefox
from playwright.async_api import Browser

pytestmark = pytest.mark.asyncio(loop_scope="session")

ways = pytest.mark.parametrize(
    ("codec", "passes"),
    [("json", "websocket"), ("msgpack", "websocket"), ("msgpack", "http"), ("json", "responses that end")],
)


@ways
async def test_every_kind_of_call_in_chromium(browser: Browser, codec: str, passes: str) -> None:
    await play_in_chromium(browser, codec, passes)


@ways
async def test_every_kind_of_call_in_firefox(tmp_path: Path, codec: str, passes: str) -> None:
    await play_in_firefox(tmp_path, codec, passes)
