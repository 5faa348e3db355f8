"""Pages that leave: their server frees the session at once, although it keeps sessions for a minute."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
from browser.page_site import calling_server, quiet_page, serving_site
from browser.pages import browsing
from leftovers import turns_until
from playwright.async_api import Browser, Page

pytestmark = pytest.mark.asyncio(loop_scope="session")

BEGIN = """async () => {
    const { Client } = await import("/wsrpc/client.js")
    globalThis.client = new Client("/ws")
    const read = async () => { for await (const tick of client.stream("ticks")); }
    read().catch(() => {})
    return await client.request("add", 1, 2)
}"""


async def close(page: Page) -> None:
    await page.evaluate("client.close()")


async def close_with_a_code(page: Page) -> None:
    await page.evaluate("client.close(4321, 'bye')")


async def go_elsewhere(page: Page) -> None:
    await page.goto("about:blank")


async def close_the_tab(page: Page) -> None:
    await page.close()


WAYS: dict[Callable[[Page], Awaitable[None]], int] = {
    close: 1000,
    close_with_a_code: 4321,
    go_elsewhere: 1000,
    close_the_tab: 1000,
}
"""Ways to leave, with the close code that the server sees. Playwright turns the back/forward cache off."""


@pytest.mark.parametrize("leave", WAYS)
async def test_the_session_is_free_at_once(browser: Browser, leave: Callable[[Page], Awaitable[None]]) -> None:
    async with serving_site(calling_server()) as site, browsing(browser) as context:
        async with quiet_page(context, site.url) as page:
            assert await page.evaluate(BEGIN) == 3
            assert len(site.server.peers) == 1
            await leave(page)
            await turns_until(lambda: not site.server.peers)
            assert site.closed == [WAYS[leave]]
            stats = site.server.stats()
            assert (stats.detached_peers, stats.active) == (0, 0)


async def test_a_page_that_is_loaded_again_has_a_new_session(browser: Browser) -> None:
    async with serving_site(calling_server()) as site, browsing(browser) as context:
        async with quiet_page(context, site.url) as page:
            assert await page.evaluate(BEGIN) == 3
            await page.reload()
            await turns_until(lambda: not site.server.peers)
            assert await page.evaluate(BEGIN) == 3
            first, second = site.opened
            assert site.server.peers == (second,) and first.id != second.id
            assert site.closed == [1000]
