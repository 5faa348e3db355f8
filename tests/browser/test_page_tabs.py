"""More tabs than a browser has connections to a host, where only HTTP passes: they share these connections."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest
from browser.page_site import calling_server, quiet_page, serving_site
from browser.pages import browsing
from playwright.async_api import Browser

pytestmark = pytest.mark.asyncio(loop_scope="session")

OPEN = """async () => {
  const { Client } = await import("/wsrpc/client.js")
  window.client = new Client("/ws", { transports: ["http"] })
  window.noted = new Promise((resolve) => client.on("note", resolve))
  return client.request("add", 1, 2)
}"""


@pytest.mark.parametrize(("tabs", "at_once"), [(6, True), (8, True), (8, False)])
async def test_tabs_share_the_connections_of_the_browser(browser: Browser, tabs: int, at_once: bool) -> None:
    """The responses of six tabs held all connections, so that all calls of all tabs timed out, and each was "open"."""
    async with serving_site(calling_server(), "http") as site, browsing(browser) as context, AsyncExitStack() as stack:
        pages, opening = [], []
        for _ in range(tabs):
            page = await stack.enter_async_context(quiet_page(context, site.url))
            pages.append(page)
            opening.append(asyncio.ensure_future(page.evaluate(OPEN)))
            if not at_once:
                await opening[-1]
        assert await asyncio.gather(*opening) == [3] * tabs
        await site.server.emit("note", "all")
        assert await asyncio.gather(*(page.evaluate("noted") for page in pages)) == ["all"] * tabs
        calls = [page.evaluate("Promise.all([1, 2, 3].map((n) => client.request('add', n, 0)))") for page in pages]
        assert await asyncio.gather(*calls) == [[1, 2, 3]] * tabs
        assert len(site.opened) == tabs and not site.closed
