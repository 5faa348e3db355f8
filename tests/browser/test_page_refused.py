"""A page learns over HTTP that it is refused, in Chromium, also from a server of another origin."""

from __future__ import annotations

from contextlib import AsyncExitStack

import pytest
from browser.page_site import quiet_page, serving_site
from browser.pages import browsing
from playwright.async_api import Browser

from wsrpc import Handshake, Server

pytestmark = pytest.mark.asyncio(loop_scope="session")

REFUSED = """async (url) => {
  const { Client } = await import("/wsrpc/client.js")
  const client = new Client(url)
  const call = client.request("add", 1, 2).catch(({ outcome }) => outcome)
  while (client.status.get() !== "closed") await new Promise((resolve) => client.status.subscribe(resolve))
  return [client.error.code, client.error.message, await call]
}"""
TOLERATED = "HTTP Authentication failed", "Failed to load resource"
"""What Chromium says of refused requests."""


@pytest.mark.parametrize("where", ["its own host", "another origin"])
async def test_a_page_whose_login_has_expired_is_closed(browser: Browser, where: str) -> None:
    async with AsyncExitStack() as stack:
        site = await stack.enter_async_context(serving_site(own := Server()))
        server, url = own, "/ws"
        if where == "another origin":
            server = Server(origins=[site.url.rstrip("/")])
            url = (await stack.enter_async_context(server.listen())).url

        @server.on_handshake
        def log_in(handshake: Handshake) -> None:
            handshake.reject(401, "log in first")

        context = await stack.enter_async_context(browsing(browser))
        async with quiet_page(context, site.url, *TOLERATED) as page:
            told = await page.evaluate(REFUSED, url)
            assert told == [3000, "the connection has ended: 3000 HTTP 401 log in first", "not_sent"]
