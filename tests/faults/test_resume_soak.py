"""A connection that is cut at very many random bytes, under every kind of traffic: its session goes on each time.

The applications at both ends check what they see: nothing is lost, nothing comes twice, everything is in order.

``WSRPC_SOAK=1`` cuts 10,000 times instead of a number that fits an ordinary test run, and prints what it saw.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import random
import time
import tracemalloc
from collections import Counter
from collections.abc import AsyncIterator, Coroutine, Generator
from typing import Any

import pytest
from leftovers import turns_until
from tenacity import wait_none

from wsrpc import AnonymousChannel, Client, Limits, Peer, Reconnect, ReconnectInfo, Server
from wsrpc.testing import FaultProxy

SOAK = os.environ.get("WSRPC_SOAK") == "1"
CUTS = 10_000 if SOAK else 1_000
LIMITS = Limits(replay=256 * 1024, stream_window=32, close_timeout=1.0)
CALLERS = 3
ITEMS = 200
LEFT = 2 * 1024 * 1024  # bytes


class End:
    """One end: what it serves, and how often each numbered request ran there."""

    def __init__(self, registrar: Client | Server) -> None:
        self.ran: Counter[int] = Counter()
        self.heard: list[int] = []
        registrar.on("note", self.heard.append)
        registrar.on("count", self._count)
        registrar.on("think", self._think)
        registrar.on("items", self._items)
        registrar.on("total", self._total)
        registrar.on("talk", self._talk)

    def _count(self, number: int) -> int:
        self.ran[number] += 1
        return -number

    async def _think(self, number: int) -> int:
        self.ran[number] += 1
        await asyncio.sleep(0.001)
        return -number

    async def _items(self, count: int) -> AsyncIterator[int]:
        for n in range(count):
            if n % 7 == 0:
                await asyncio.sleep(0)
            yield n

    async def _total(self, items: AsyncIterator[int]) -> list[int]:
        return [item async for item in items]

    async def _talk(self, channel: AnonymousChannel) -> None:
        async for word in channel.events("word"):
            await channel.emit("echo", word)
            if word is None:
                return


class Traffic:
    """What one end does with the other, until `stop`. Any difference from what it expects fails its task."""

    def __init__(self, peer: Client | Peer, there: End, seed: int) -> None:
        self.peer = peer
        self.there = there
        self.dice = random.Random(seed)
        self.done: Counter[str] = Counter()
        self.notes = 0
        self._number = 0
        self._over = False
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        kinds: list[Coroutine[Any, Any, None]] = [self._call() for _ in range(CALLERS)]
        kinds += [self._note(), self._stream(), self._upload(), self._talk()]
        self._tasks = [asyncio.create_task(kind) for kind in kinds]

    def check(self) -> None:
        """Raise what has gone wrong."""
        for task in self._tasks:
            if task.done():
                task.result()

    async def stop(self) -> None:
        self._over = True
        await asyncio.gather(*self._tasks)

    async def _call(self) -> None:
        while not self._over:
            self._number += 1
            number = self._number
            assert await self.peer.request(self.dice.choice(("count", "think")), number) == -number
            assert self.there.ran.pop(number) == 1
            self.done["request"] += 1

    async def _note(self) -> None:
        while not self._over:
            await self.peer.emit("note", self.notes)
            self.notes += 1
            await asyncio.sleep(0)

    async def _stream(self) -> None:
        while not self._over:
            async with self.peer.stream("items", ITEMS, returns=int) as stream:
                assert [item async for item in stream] == list(range(ITEMS))
            self.done["stream"] += 1

    async def _upload(self) -> None:
        async def source() -> AsyncIterator[int]:
            for n in range(ITEMS):
                if n % 5 == 0:
                    await asyncio.sleep(0)
                yield n

        while not self._over:
            assert await self.peer.request("total", send=source()) == list(range(ITEMS))
            self.done["upload"] += 1

    async def _talk(self) -> None:
        while not self._over:
            channel = await self.peer.open_channel("talk")
            echoes = channel.events("echo")
            for word in [*range(20), None]:
                await channel.emit("word", word)
                assert await anext(echoes) == word
            self.done["conversation"] += 1


@pytest.fixture
def few_log_lines() -> Generator[None]:
    """pytest would keep all lines about drops."""
    logger = logging.getLogger("wsrpc")
    before = logger.level
    logger.setLevel(logging.ERROR)
    yield
    logger.setLevel(before)


@pytest.mark.usefixtures("few_log_lines")
@pytest.mark.timeout(3600 if SOAK else 240)
@pytest.mark.parametrize("seed", [1])
async def test_each_session_goes_on_and_nothing_is_lost_or_comes_twice(seed: int) -> None:
    dice = random.Random(seed)
    server = Server(limits=LIMITS)
    there, news, back = End(server), list[int](), list[ReconnectInfo]()
    ended: list[str] = []
    server.on("close", lambda: ended.append("server"))
    async with server.listen() as listener, FaultProxy(listener.url, seed=seed) as proxy:
        client = Client(proxy.url, limits=LIMITS, reconnect=Reconnect(wait=wait_none()), proxy=None)
        here = End(client)
        client.on("news", news.append)
        client.on_reconnect(back.append)
        client.on("close", lambda: ended.append("client"))
        async with client:
            (peer,) = server.peers
            for _ in range(2):  # then both sides know the name of the session, and count
                assert await client.request("count", 0) == 0
            there.ran.clear()
            up, down = Traffic(client, there, seed + 1), Traffic(peer, here, seed + 2)
            up.start()
            down.start()
            told = 0
            began, before = time.monotonic(), 0
            for number in range(CUTS):
                if SOAK and number == CUTS // 10:
                    tracemalloc.start()
                    before = tracemalloc.get_traced_memory()[0]
                drops = len(back)
                if dice.random() < 0.1:
                    proxy.drop()
                else:
                    at = dice.randrange(dice.choice((1, 300, 1000, 5000, 20_000)))
                    async with proxy.cut_after(at, dice.choice(("up", "down"))):
                        while client.state == "connected" and len(back) == drops:
                            told += (await server.emit("news", told)).sent
                            await asyncio.sleep(0)
                await turns_until(lambda: len(back) > drops, 30)  # noqa: B023 - awaited here
                up.check()
                down.check()
            took = time.monotonic() - began
            await asyncio.gather(up.stop(), down.stop())
            await turns_until(lambda: len(news) == told and len(there.heard) == up.notes)
            await turns_until(lambda: len(here.heard) == down.notes)
            assert news == list(range(told))
            assert there.heard == list(range(up.notes)) and here.heard == list(range(down.notes))
            assert not +there.ran and not +here.ran
            assert all(info.resumed for info in back) and len(back) >= CUTS
            assert server.peers == (peer,) and ended == []
            assert (client.peer.pending, client.peer.channels, peer.pending, peer.channels) == (0, 0, 0, 0)
            await turns_until(lambda: (client.peer.active, peer.active) == (0, 0))
            if SOAK:
                for lists in (news, there.heard, here.heard, back):
                    lists.clear()
                gc.collect()
                left = tracemalloc.get_traced_memory()[0] - before
                tracemalloc.stop()
                print(f"{CUTS} cuts in {took:.0f} s: {up.done + down.done}, {up.notes + down.notes + told} events")
                print(f"{left} bytes more than after a tenth of them")
                assert left < LEFT
    assert ended == ["client", "server"] or ended == ["server", "client"]
