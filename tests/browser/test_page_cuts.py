"""A page whose connection is cut at random bytes, under calls of every kind in both directions.

``WSRPC_SOAK=1`` cuts 1,000 times instead of 200, half of them with MessagePack.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest
from browser.page_site import CUT_WHILE_DIALING, Site, quiet_page, serving_site
from browser.pages import browsing
from effort import SOAK
from leftovers import turns_until
from playwright.async_api import Browser
from traffic import in_order, turns

from wsrpc import AnonymousChannel, Peer, Server

pytestmark = pytest.mark.asyncio(loop_scope="session")

CUTS = 500 if SOAK else 100
CALLERS = 8


class Traffic:
    """What the server sees: the calls of the page, and its own."""

    def __init__(self, site: Site, dice: random.Random) -> None:
        self.site = site
        self.dice = dice
        self.calm = False
        self.ran = Counter[int]()
        self.notes = 0
        self.misplaced: list[int] = []
        self.news = 0
        self.calls = 0
        self.ends: dict[int, str] = {}
        for name in ("later", "download", "upload", "talk", "park", "note"):
            site.server.on(name, getattr(self, name))

    # ------------------------------------------------------------ the calls of the page

    def note(self, n: int, pad: str) -> None:
        if n != self.notes:
            self.misplaced.append(n)
        self.notes += 1

    async def later(self, n: int, pad: str) -> int:
        self.ran[n] += 1
        await turns(n % 8)
        return n

    async def download(self, n: int, size: int) -> AsyncIterator[int]:
        self.ran[n] += 1
        for item in range(size):
            if item % 64 == 0:
                await asyncio.sleep(0)
            yield item

    async def upload(self, n: int, items: AsyncIterator[int]) -> int:
        self.ran[n] += 1
        return len([item async for item in in_order(items)])

    async def talk(self, n: int, channel: AnonymousChannel) -> None:
        self.ran[n] += 1
        channel.on("ask", lambda value: value)
        async for word in channel.events("word"):
            await channel.emit("echo", word)

    async def park(self, n: int) -> None:
        self.ran[n] += 1
        await asyncio.Event().wait()

    # ------------------------------------------------------------ calls to the page

    async def call_all(self, peer: Peer) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._tell(peer))
            for _ in range(CALLERS):
                tasks.create_task(self._call(peer))

    async def _tell(self, peer: Peer) -> None:
        while not self.calm:
            await peer.emit("news", self.news)
            self.news += 1
            await asyncio.sleep(0.001)

    async def _call(self, peer: Peer) -> None:
        kinds = [self._request, self._stream, self._leave, self._send, self._converse, self._cancel]
        while not self.calm:
            n, kind = self.calls, self.dice.choice(kinds)
            self.calls += 1
            await kind(peer, n)
            self.ends[n] = kind.__name__

    async def _request(self, peer: Peer, n: int) -> None:
        assert await peer.request("later", n, "x" * self.dice.randrange(2000), timeout=None) == n

    async def _stream(self, peer: Peer, n: int) -> None:
        size = self.dice.randrange(2000)
        assert [item async for item in peer.stream("download", n, size, timeout=None)] == list(range(size))

    async def _leave(self, peer: Peer, n: int) -> None:
        async with peer.stream("download", n, 1_000_000, timeout=None) as items:
            async for item in in_order(items):
                if item == 100:
                    break

    async def _send(self, peer: Peer, n: int) -> None:
        size = self.dice.randrange(2000)
        assert await peer.request("upload", n, send=range(size), timeout=None) == size

    async def _converse(self, peer: Peer, n: int) -> None:
        async with await peer.open_channel("talk", n, timeout=None) as channel:
            echoes = channel.events("echo")
            for word in range(self.dice.randrange(20)):
                await channel.emit("word", word)
                assert await anext(echoes) == word
            assert await channel.request("ask", n, timeout=None) == n

    async def _cancel(self, peer: Peer, n: int) -> None:
        parked = asyncio.create_task(peer.request("park", n, timeout=None))
        await turns(self.dice.randrange(50))
        parked.cancel()
        await asyncio.wait([parked])
        assert parked.cancelled()

    def check(self, seen: dict[str, Any]) -> None:
        """Each call, by either side, has ended once, in the right way, and its handler has run once."""
        assert seen["failures"] == []
        assert set(seen["states"]) == {"open", "detached"}
        for ends, ran in (
            ({int(n): kind for n, (kind, _) in seen["ends"].items()}, self.ran),
            (self.ends, Counter({int(n): times for n, times in seen["ran"].items()})),
        ):
            maybe = {n for n, kind in ends.items() if "cancel" in kind}  # before it was sent, perhaps
            assert {n: ran[n] for n in ends.keys() - maybe} == dict.fromkeys(ends.keys() - maybe, 1)
            assert max((ran[n] for n in maybe), default=0) <= 1
        for n, (_, end) in seen["ends"].items():
            assert end in ("value", "unknown") or (end, self.ran[int(n)]) == ("not_sent", 0)
        assert self.misplaced == []
        assert (seen["news"], seen["notes"]) == (self.news, self.notes)
        assert set(seen["ignored"]) <= {"response to no request", "cancellation of no request"}  # of what was cancelled


@pytest.mark.timeout(300)
@pytest.mark.parametrize("codec", ["json", "msgpack"])
async def test_cuts_at_random_bytes(browser: Browser, codec: str) -> None:
    dice, dials = random.Random(36), 0

    def dialed() -> None:
        nonlocal dials
        dials += 1

    async with serving_site(Server()) as site, browsing(browser) as context:
        traffic = Traffic(site, dice)
        async with quiet_page(context, site.url, *CUT_WHILE_DIALING) as page, asyncio.TaskGroup() as tasks:
            await page.expose_function("dialed", dialed)
            await page.evaluate(f"import('/tests/page_cuts.mjs').then((page) => page.begin('{codec}', dialed))")
            [peer] = site.opened
            calls = tasks.create_task(traffic.call_all(peer))
            for _ in range(CUTS):
                before = dials
                at = dice.randrange(dice.choice((1, 300, 1000, 5000, 20_000)))
                async with site.proxy.cut_after(at, dice.choice(("up", "down"))):
                    await turns_until(lambda: dials > before, 30)  # noqa: B023
            traffic.calm = True
            await calls
            seen = await page.evaluate("finish()")
            traffic.check(seen)
            assert site.opened == [peer] and site.closed == []
            await turns_until(lambda: peer.stats().active + peer.stats().anonymous_channels == 0)
