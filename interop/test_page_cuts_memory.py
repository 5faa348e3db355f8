"""The heap of a page does not grow, however many messages it sends and receives, and however long it has no connection.

``WSRPC_SOAK=1`` sends as many messages in ten minutes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from effort import SEED, SOAK
from leftovers import nothing_left as nothing_left

from interop.test_page_cuts import Codec, Page
from wsrpc import Peer, Server
from wsrpc.testing import FaultProxy

pytestmark = pytest.mark.usefixtures("nothing_left")

WARM = 5_000
MESSAGES = 60_000 if SOAK else 15_000
"""As many as in ten minutes with 100 a second, in each direction, or a quarter of them."""
ATTEMPTS = 300 if SOAK else 100
"""To connect: more than in ten minutes, or a third of them."""
GROWS = 256 * 1024
"""Bytes, at most: caches of Node itself."""
ROUNDS = 3
"""What leaks grows in each round; Node's own code and caches do not."""


async def flood(page: Page, peer: Peer, messages: int, per_second: int | None = None) -> None:
    """Send messages in both directions at the same time."""
    pace = {} if per_second is None else {"per_second": per_second}

    async def call() -> None:
        for number in range(messages // 8):
            for _ in range(4):
                await peer.emit("tick", number)
            text = f"text {number}"
            assert await peer.request("echo", text) == text
            if per_second is not None:
                await asyncio.sleep(8 / per_second)

    async with asyncio.TaskGroup() as both:
        both.create_task(page.ask("flood", messages=messages, **pace))
        both.create_task(call())


@pytest.mark.timeout(1200 if SOAK else 240)
@pytest.mark.parametrize("codec", ["json", "msgpack"] if SOAK else ["msgpack"])
async def test_the_heap_is_flat_under_messages_and_without_a_connection(codec: Codec) -> None:
    server = Server()
    server.on("echo", lambda text: text)
    server.on("tick", lambda number: None)
    opened: asyncio.Queue[Peer] = asyncio.Queue()
    server.on("open", opened.put_nowait)
    async with server.listen() as listener, FaultProxy(listener.url) as proxy:
        async with Page.playing(proxy.url, codec, SEED) as page:
            peer = await opened.get()
            await flood(page, peer, WARM)
            await is_flat(page, lambda: flood(page, peer, MESSAGES, per_second=100 if SOAK else None))
            assert (await page.ask("ticks") - WARM // 8 * 4) % (MESSAGES // 8 * 4) == 0

            async with proxy.cut():
                await page.until("detached")
                await attempts(page, 50)
                await is_flat(page, lambda: attempts(page, ATTEMPTS))
            await page.until("open")
            await flood(page, peer, WARM)
            assert (peer.pending, peer.active, peer.anonymous_channels) == (0, 0, 0)
            await page.close()


async def is_flat(page: Page, round_of: Callable[[], Awaitable[None]]) -> None:
    """Assert that the heap does not grow in each of several rounds."""
    grown: list[int] = []
    while not grown or grown[-1] >= GROWS:
        before = await page.ask("heap")
        await round_of()
        grown.append(await page.ask("heap") - before)
        assert len(grown) < ROUNDS or grown[-1] < GROWS, grown


async def attempts(page: Page, number: int) -> None:
    until = page.attempts + number
    while page.attempts < until:
        page.dialed.clear()
        await page.dialed.wait()
