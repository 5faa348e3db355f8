"""Pages that leave: their server frees the session at once, although it keeps sessions for a minute."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from browser.page_site import calling_server, quiet_page, serving_site
from browser.pages import browsing
from playwright.async_api import Browser, Page
from waiting import until

pytestmark = pytest.mark.asyncio(loop_scope="session")

BEGIN = """async () => {
    const { Client } = await import("/wsrpc/client.js")
    globalThis.client = new Client("/ws")
    const read = async () => { for await (const tick of client.stream("ticks")); }
    read().catch(() => {})
    return await client.request("add", 1, 2)
}"""


WAYS: dict[str, tuple[int, Callable[[Page], Awaitable[Any]]]] = {
    "close": (1000, lambda page: page.evaluate("client.close()")),
    "close with a code": (4321, lambda page: page.evaluate("client.close(4321, 'bye')")),
    "go elsewhere": (1000, lambda page: page.goto("about:blank")),
    "close the tab": (1000, lambda page: page.close()),
}
"""Ways to leave, with the close code that the server sees. Playwright turns the back/forward cache off."""


@pytest.mark.parametrize("way", WAYS)
async def test_the_session_is_free_at_once(browser: Browser, way: str) -> None:
    code, leave = WAYS[way]
    async with serving_site(calling_server()) as site, browsing(browser) as context:
        async with quiet_page(context, site.url) as page:
            assert await page.evaluate(BEGIN) == 3
            assert len(site.server.peers) == 1
            await leave(page)
            await until(lambda: not site.server.peers)
            assert site.closed == [code]
            stats = site.server.stats()
            assert (stats.detached_peers, stats.active) == (0, 0)
