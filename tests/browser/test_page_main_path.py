"""Every kind of call between a page and its server, in Chromium and in Firefox, with a drop in the middle of a stream.

The modules come from the installed package, by the lines that docs/how-to/browser.md shows.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from browser.firefox import firefox
from browser.page_site import calling_server, quiet_page, serving_site
from browser.pages import browsing
from leftovers import turns_until
from playwright.async_api import Browser

pytestmark = pytest.mark.asyncio(loop_scope="session")

SEEN = {
    "request": 3,
    "named": 7,
    "values": ["ä€😀", None, True, 1.5, {"a": []}],
    "error": [True, "it failed", "bad_luck", {"why": [1, 2]}, "ran"],
    "aborted": True,
    "stream": 1000,
    "loop": [0, 1, 2],
    "upload": 500 + 499_500,
    "progress": [1000, 1000],
    "conversation": ["HELLO", "NAME", "Ada"],
    "called": {"request": "Grace", "stream": ["a", "b", "c"], "upload": 499_500, "conversation": "HELLO"},
    "notes": ["from the server"],
    "dropped": 3000,
    "after": 11,
    "states": ["connecting", "open", "detached", "open", "closed"],
}
BYTES = {"json": "TypeError", "msgpack": True}


@pytest.mark.parametrize("codec", BYTES)
async def test_every_kind_of_call_in_chromium(browser: Browser, codec: str) -> None:
    server = calling_server(lambda: site.proxy.drop())
    async with serving_site(server) as site, browsing(browser) as context:
        async with quiet_page(context, site.url) as page:
            call = "async (codec) => (await import('/tests/page_main_path.mjs')).mainPath(codec)"
            assert await page.evaluate(call, codec) == {**SEEN, "bytes": BYTES[codec]}
            await turns_until(lambda: site.closed)  # the page is still there
        assert site.closed == [1000] and len(site.opened) == 1


@pytest.mark.parametrize("codec", BYTES)
async def test_every_kind_of_call_in_firefox(tmp_path: Path, codec: str) -> None:
    server = calling_server(lambda: site.proxy.drop())
    async with serving_site(server) as site:
        async with firefox(tmp_path, f"{site.url}tests/page_report.html?codec={codec}"):
            assert await site.reports.get() == {"seen": {**SEEN, "bytes": BYTES[codec]}, "complaints": []}
            await turns_until(lambda: site.closed)  # the page is still there
        assert site.closed == [1000] and len(site.opened) == 1
