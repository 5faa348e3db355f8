"""A page goes over from HTTP to WebSocket, once a proxy passes WebSockets on: its calls go on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from browser.page_site import quiet_page, serving_site
from browser.pages import browsing
from playwright.async_api import Browser, Page
from waiting import until

from wsrpc import Handshake, Server

pytestmark = pytest.mark.asyncio(loop_scope="session")

COUNT = """async () => {
  const { Client } = await import("/wsrpc/client.js")
  let attempts = 0
  window.client = new Client(() => ({ url: "/ws", token: `token-${++attempts}` }))
  window.numbers = []
  window.over = (async () => { for await (const number of client.stream("count")) numbers.push(number) })()
  await client.request("half")
  return client.transport
}"""


CALLS = """async () => {
  const { Client } = await import("/wsrpc/client.js")
  window.client = new Client("/ws")
  client.emit("note", "first")
  window.answers = Promise.all(Array.from({ length: 20 }, (_, number) => client.request("add", number)))
}"""

TOLERATED = "Unexpected response code: 403", "before the connection", "status of 404"
"""What Chromium says of requests for a WebSocket, and of a POST for a connection that has just ended."""


async def pass_time(page: Page, seconds: int) -> None:
    """Put the clock of a page forward. The server answers every two seconds, so that the page does not miss it."""
    for _ in range(seconds // 2):
        await page.clock.run_for(2000)
        assert await page.evaluate("client.request('double', 2)") == 4


@pytest.mark.parametrize("before", ["http", "swallows", "mutes"])
async def test_a_websocket_takes_over(browser: Browser, before: str) -> None:
    """With a token of its own. One that a proxy has swallowed was waited for without a limit.

    One on which nothing arrived took over, too. Each connection over HTTP began the time until the first attempt anew.
    """
    server, half, go_on = Server(), asyncio.Event(), asyncio.Event()
    server.on("half", half.wait)
    server.on("double", lambda number: 2 * number)
    handshakes: list[tuple[bool, str | None]] = []

    @server.on_handshake
    def identify(handshake: Handshake) -> None:
        handshakes.append((handshake.headers.get("Upgrade") == "websocket", handshake.bearer_token))

    @server.on("count")
    async def count() -> AsyncIterator[int]:
        for number in range(1000):
            if number == 500:
                half.set()
                await go_on.wait()
            yield number

    async with serving_site(server, "http") as site, browsing(browser) as context:
        await context.clock.install()
        async with quiet_page(context, site.url, *TOLERATED) as page:
            assert await page.evaluate(COUNT) == "http"
            site.passes = before
            requests = site.upgrades
            await pass_time(page, 30)
            (peer,) = site.opened
            assert peer.transport is not None
            peer.transport.abort()
            await pass_time(page, 30)  # until the first attempt
            await until(lambda: site.upgrades > requests)
            site.passes = "websocket"
            await pass_time(page, 10 + 120)  # it fails, and the second one follows
            await until(lambda: handshakes[-1][0])
            go_on.set()
            await page.evaluate("over")
            assert await page.evaluate("numbers") == [*range(1000)]
            assert await page.evaluate("client.transport") == "websocket"
            await page.evaluate("client.close()")
        tokens = [
            (False, "token-2"),
            (False, "token-3"),
            (True, "token-5"),
        ]  # the others were for the attempts that failed
        assert handshakes == tokens and len(site.opened) == 1


async def test_what_a_mute_websocket_carries_moves_to_http(browser: Browser) -> None:
    """Its session ended, and the outcome of calls that were made at once was unknown."""
    server, ran = Server(), list[int | str]()

    @server.on("add")
    def add(number: int) -> int:
        ran.append(number)
        return number + 1

    server.on("note", ran.append)
    async with serving_site(server, "mutes the server") as site, browsing(browser) as context:
        await context.clock.install()
        async with quiet_page(context, site.url) as page:
            await page.evaluate(CALLS)
            await page.wait_for_function("client.status.get() === 'open'")
            await page.clock.run_for(4000)
            assert await page.evaluate("answers") == [*range(1, 21)]
            assert await page.evaluate("client.transport") == "http"
            await page.evaluate("client.close()")
        assert ran == ["first", *range(20)]
