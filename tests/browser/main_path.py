"""Each kind of call between a page and its server, with a drop in the middle of a stream, and what the page sees."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from browser.firefox import firefox
from browser.page_site import Front, Site, calling_server, quiet_page, serving_site
from browser.pages import browsing
from playwright.async_api import Browser
from waiting import until

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
    "large": 5 * 1024 * 1024,
    "room": ["to all", True],
    "conversation": ["HELLO", "NAME", "Ada"],
    "called": {"request": "Grace", "stream": ["a", "b", "c"], "upload": 499_500, "conversation": "HELLO"},
    "notes": ["from the server"],
    "dropped": 3000,
    "after": 11,
    "states": ["connecting", "open", "detached", "open", "closed"],
}
BYTES = {"json": "TypeError", "msgpack": True}


def check(seen: dict[str, Any], codec: str, passes: str) -> None:
    expected = {**SEEN, "bytes": BYTES[codec], "transport": "websocket" if passes == "websocket" else "http"}
    if passes == "responses that end" and "detached" not in seen["states"]:
        expected["states"] = ["connecting", "open", "closed"]  # the drop came between two requests
    assert {key: (seen.get(key), expected[key]) for key in expected if seen.get(key) != expected[key]} == {}


async def check_sessions(site: Site, passes: str, front: Front | None) -> None:
    abandoned = [1006] if front and passes == "responses that end" else []  # with the response that was held back
    await until(lambda: len(site.opened) == len(site.closed))
    assert sorted(site.closed) == [1000, *abandoned]


TOLERATED = ("Unexpected response code: ", "Failed to load resource: ", "Establishing a tunnel via proxy server failed")
"""What Chromium says where WebSocket does not pass."""


async def play_in_chromium(
    browser: Browser, codec: str, passes: str, front: Front | None = None, **options: Any
) -> None:
    """Play the main path.

    Args:
        passes: what a proxy passes on; see `on_aiohttp`.
        front: as for `serving_site`.
        options: those of Playwright's ``new_context``.
    """
    server = calling_server(lambda: site.proxy.drop())
    tolerated = () if passes == "websocket" else TOLERATED
    async with serving_site(server, passes, front) as site, browsing(browser, **options) as context:
        async with quiet_page(context, site.url, *tolerated) as page:
            call = "async (codec) => (await import('/tests/page_main_path.mjs')).mainPath(codec)"
            check(await page.evaluate(call, codec), codec, passes)
            await until(lambda: 1000 in site.closed)  # the page is still there
        await check_sessions(site, passes, front)


async def play_in_firefox(folder: Path, codec: str, passes: str, front: Front | None = None) -> None:
    """Play the same with a profile in ``folder``."""
    server = calling_server(lambda: site.proxy.drop())
    async with serving_site(server, passes, front) as site:
        async with firefox(folder, f"{site.url}tests/page_report.html?codec={codec}"):
            report = await site.reports.get()
            check(report["seen"], codec, passes)
            assert report["complaints"] == []
            await until(lambda: 1000 in site.closed)  # the page is still there
        await check_sessions(site, passes, front)
