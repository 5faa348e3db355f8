"""A page in Chromium, on bad networks: each use ends right on each."""

from __future__ import annotations

from typing import Any

import pytest
from bad_networks import page_options, play
from browser.page_site import CUT_WHILE_DIALING, quiet_page, serving_site
from browser.pages import browsing
from effort import SOAK
from playwright.async_api import Browser

from wsrpc import Server

pytestmark = pytest.mark.asyncio(loop_scope="session")

PLAY = """async (options) => {
    const [{ play }, { Client }, { msgpack }] = await Promise.all(
        ["/tests/page_networks.mjs", "/wsrpc/client.js", "/wsrpc/msgpack.js"].map((url) => import(url)))
    return play(Client, msgpack, options)
}"""


ATTEMPTS = """async () => {
  const { Client } = await import("/wsrpc/client.js")
  window.attempts = []
  class Silent {
    close() {}
    constructor() {
      attempts.push(Date.now())
    }
  }
  window.client = new Client("/ws", { WebSocket: Silent })
}"""


async def test_an_attempt_after_one_without_an_answer_has_twice_the_time(browser: Browser) -> None:
    """With round trips of 3.5 seconds, no page reached a wss:// URL."""
    async with serving_site(Server()) as site, browsing(browser) as context:
        await context.clock.install()
        async with quiet_page(context, site.url) as page:
            await page.evaluate(ATTEMPTS)
            await page.clock.run_for(60_000)
            first, second, third, *_ = await page.evaluate("attempts")
            await page.evaluate("client.close()")
    assert 10_000 <= second - first < 20_000 <= third - second < 40_000


@pytest.mark.timeout(2400 if SOAK else 90)
async def test_each_use_ends_right(browser: Browser) -> None:
    async with serving_site(Server()) as site:

        async def play_in_page(urls: dict[str, str], greets: bool) -> Any:
            # In a process of its own: Chromium delays the connections of a process that opens many at once.
            async with browsing(browser) as context, quiet_page(context, site.url, *CUT_WHILE_DIALING) as page:
                return await page.evaluate(PLAY, page_options(urls, greets))

        await play(play_in_page)
