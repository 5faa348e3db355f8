"""Very many streams, uploads and conversations, each left in its own way: nothing is left of them on either side.

``WSRPC_SOAK=1`` opens and abandons 100,000 of them instead of a number that fits an ordinary test run.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import random
import tracemalloc
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
from effort import QUICK, SOAK
from leftovers import living_objects

from wsrpc import AnonymousChannel, Client, Context, Limits, Peer, RemoteError, RpcError, Server
from wsrpc.testing import pair

STREAMS = 100_000 if SOAK else 1_000 if QUICK else 3_000
AT_ONCE = 100
LEFT = 1024 * 1024  # bytes


async def turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


class Bored(Exception):
    pass


class Sources:
    """What each side serves. It counts the generators and bodies that began, and their ``finally`` blocks."""

    def __init__(self, peer: Peer) -> None:
        self.begun = 0
        self.left = 0
        for handler in (
            self.endless,
            self.plain,
            self.waits,
            self.fails,
            self.returned,
            self.upload,
            self.enough,
            self.translate,
            self.chat,
        ):
            peer.on(handler.__name__, handler)

    async def endless(self) -> AsyncIterator[int]:
        self.begun += 1
        try:
            n = 0
            while True:
                yield n
                n += 1
        finally:
            self.left += 1

    def plain(self) -> Iterator[int]:
        self.begun += 1
        try:
            yield from range(1_000_000)
        finally:
            self.left += 1

    async def waits(self) -> AsyncIterator[int]:
        """Three items, then nothing, for ever."""
        self.begun += 1
        try:
            for n in range(3):
                yield n
            await asyncio.Event().wait()
        finally:
            self.left += 1

    async def fails(self) -> AsyncIterator[int]:
        self.begun += 1
        try:
            yield 0
            raise RpcError("broken", code="broken")
        finally:
            self.left += 1

    def returned(self, ctx: Context) -> AnonymousChannel:
        """ws-wrapper's own form."""
        channel = ctx.channel()
        channel.on("more", lambda n: n + 1)
        return channel

    async def upload(self, chunks: AsyncIterator[int]) -> int:
        self.begun += 1
        try:
            return sum([chunk async for chunk in chunks])
        finally:
            self.left += 1

    async def enough(self, chunks: AsyncIterator[int]) -> int:
        """Stops reading after two."""
        self.begun += 1
        try:
            total = 0
            async for chunk in chunks:
                total += chunk
                if chunk == 1:
                    break
            return total
        finally:
            self.left += 1

    async def translate(self, chunks: AsyncIterator[int]) -> AsyncIterator[str]:
        self.begun += 1
        try:
            async for chunk in chunks:
                yield str(chunk)
        finally:
            self.left += 1

    async def chat(self, channel: AnonymousChannel) -> None:
        self.begun += 1
        try:
            async for line in channel.events("line", returns=str):
                await channel.emit("line", line.upper())
        finally:
            self.left += 1


class Source:
    """What is uploaded."""

    def __init__(self, counts: Counter[str], size: int) -> None:
        self._counts = counts
        self._size = size

    async def items(self) -> AsyncIterator[int]:
        self._counts["sources begun"] += 1
        try:
            for n in range(self._size):
                yield n
        finally:
            self._counts["sources left"] += 1


class Leaving:
    """The ways of leaving. Each reads ``n`` items, or as many as there are, and goes."""

    def __init__(self, counts: Counter[str], chance: random.Random) -> None:
        self.counts = counts
        self.chance = chance

    def event(self) -> str:
        return self.chance.choice(("endless", "plain", "waits"))

    async def broken_off(self, peer: Peer, n: int) -> None:
        async with peer.stream(self.event(), returns=int) as items:
            if n:
                async for item in items:
                    if item + 1 == n:
                        break

    async def closed(self, peer: Peer, n: int) -> None:
        items = peer.stream(self.event(), returns=int)
        for expected in range(n):
            assert await anext(items) == expected
        await items.aclose()

    async def thrown_away(self, peer: Peer, n: int) -> None:
        async for item in peer.stream(self.event(), returns=int):
            if item >= n - 1:
                break

    async def raised(self, peer: Peer, n: int) -> None:
        try:
            async with peer.stream(self.event(), returns=int) as items:
                async for item in items:
                    if item >= n - 1:
                        raise Bored
        except Bored:
            self.counts["bored"] += 1

    async def cancelled(self, peer: Peer, n: int) -> None:
        """While it opens, reads or waits."""

        async def read() -> None:
            async with peer.stream("waits", returns=int) as items:
                async for _ in items:
                    await turns(n)

        await self.cancel(read(), n)

    async def aborted(self, peer: Peer, n: int) -> None:
        channel = await peer.open_channel("endless")
        items = channel.events("next") if n == 3 else aiter(channel)
        if n != 3:  # nothing comes where nobody says `start`
            for _ in range(n):
                await anext(items)
        await channel.abort(self.chance.choice((None, "bored", RpcError("bored", code="bored"))))
        assert channel.closed

    async def failing(self, peer: Peer, n: int) -> None:
        items = peer.stream("fails", returns=int)
        assert await anext(items) == 0
        with pytest.raises(RemoteError, match="broken"):
            await anext(items)

    async def returned(self, peer: Peer, n: int) -> None:
        async with await peer.open_channel("returned") as channel:
            for number in range(n):
                assert await channel.request("more", number) == number + 1

    async def uploaded(self, peer: Peer, n: int) -> None:
        source = Source(self.counts, 3 * n)
        total = await peer.request("upload", send=source.items(), returns=int)
        assert total == sum(range(3 * n))

    async def refused(self, peer: Peer, n: int) -> None:
        total = await peer.request("enough", send=Source(self.counts, 1_000_000).items(), returns=int)
        assert total == 1

    async def upload_cancelled(self, peer: Peer, n: int) -> None:
        await self.cancel(peer.request("upload", send=Source(self.counts, 1_000_000).items()), 2 * n)

    async def both_ways(self, peer: Peer, n: int) -> None:
        async with peer.stream("translate", send=Source(self.counts, 1_000_000).items(), returns=str) as texts:
            for expected in range(n):
                assert await anext(texts) == str(expected)

    async def conversation(self, peer: Peer, n: int) -> None:
        channel = await peer.open_channel("chat")
        lines = channel.events("line", returns=str)
        for number in range(n):
            await channel.emit("line", f"a{number}")
            assert await anext(lines) == f"A{number}"
        await channel.abort("bye")

    async def conversation_cancelled(self, peer: Peer, n: int) -> None:
        async def talk() -> None:
            async with await peer.open_channel("chat") as channel:
                lines = channel.events("line", returns=str)
                while True:
                    await channel.emit("line", "a")
                    assert await anext(lines) == "A"

        await self.cancel(talk(), n)

    async def cancel(self, coroutine: Coroutine[Any, Any, object], n: int) -> None:
        task = asyncio.ensure_future(coroutine)
        await turns(3 * n + self.chance.randrange(3))
        task.cancel("enough")
        with pytest.raises(asyncio.CancelledError):
            await task

    @property
    def ways(self) -> list[Callable[[Peer, int], Coroutine[Any, Any, None]]]:
        return [
            self.broken_off,
            self.closed,
            self.thrown_away,
            self.raised,
            self.cancelled,
            self.aborted,
            self.failing,
            self.returned,
            self.uploaded,
            self.refused,
            self.upload_cancelled,
            self.both_ways,
            self.conversation,
            self.conversation_cancelled,
        ]


async def open_and_leave(a: Peer, b: Peer, count: int, seed: int) -> Counter[str]:
    """``count`` of them, `AT_ONCE` at a time, from both sides. Returns how often each way was gone."""
    chance = random.Random(seed)
    counts: Counter[str] = Counter()
    leaving = Leaving(counts, chance)

    async def leave(peer: Peer, way: Callable[[Peer, int], Coroutine[Any, Any, None]], n: int) -> None:
        await way(peer, n)
        counts[way.__name__] += 1

    for start in range(0, count, AT_ONCE):
        async with asyncio.TaskGroup() as tasks:
            for _ in range(min(AT_ONCE, count - start)):
                tasks.create_task(leave(chance.choice((a, b)), chance.choice(leaving.ways), chance.randrange(4)))
    await turns(30)
    return counts


@pytest.mark.timeout(600)
async def test_nothing_is_left_of_very_many_that_were_left_in_any_way(caplog: pytest.LogCaptureFixture) -> None:
    # A stream that is thrown away is warned of, and pytest would keep each of those lines.
    caplog.set_level(logging.ERROR, "wsrpc")
    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    async with pair(limits=Limits(high_water=16 * 1024)) as (a, b):
        sources = [Sources(peer) for peer in (a, b)]
        await open_and_leave(a, b, 1000, 1)  # so that caches, pools and remembered ids are as full as they get
        tasks = asyncio.all_tasks()
        before = await living_objects()
        tracemalloc.start()
        try:
            gc.collect()
            memory = tracemalloc.get_traced_memory()[0]
            counts = await open_and_leave(a, b, STREAMS, 2)
            after = await living_objects()
            grown = tracemalloc.get_traced_memory()[0] - memory
        finally:
            tracemalloc.stop()
        for way in Leaving(counts, random.Random()).ways:
            assert counts[way.__name__] > STREAMS // 28, way.__name__
        assert counts["bored"] == counts["raised"]
        assert counts["sources begun"] == counts["sources left"] > 0
        for source in sources:
            assert source.begun == source.left > STREAMS // 4
        for peer in (a, b):
            assert (peer.channels, peer.pending, peer.active) == (0, 0, 0)
            assert peer._core.dispatcher.active == {} and peer._core.dispatcher.running.tasks() == set()
        assert asyncio.all_tasks() == tasks
        assert after == before
        assert grown < LEFT, f"{grown} bytes more than before"
    assert (complaints, caplog.records) == ([], [])


async def test_a_thousand_streams_are_open_on_one_connection_at_once_and_all_are_read_to_the_end() -> None:
    at_once, each = 1000, 600  # more than a window has
    server = Server()
    serving: set[Peer] = set()

    @server.on("count")
    async def count(first: int, peer: Peer) -> AsyncIterator[int]:
        serving.add(peer)
        for n in range(first, first + each):
            yield n

    async with server.listen("127.0.0.1", 0) as listener, Client(listener.url) as client:
        async with AsyncExitStack() as stack:
            streams = [
                await stack.enter_async_context(client.stream("count", 1000 * number, returns=int))
                for number in range(at_once)
            ]
            assert [await anext(stream) for stream in streams] == [1000 * number for number in range(at_once)]
            (peer,) = serving
            assert (client.peer.channels, peer.channels) == (at_once, at_once)

            async def rest(items: AsyncIterator[int]) -> list[int]:
                return [item async for item in items]

            for number, items in enumerate(await asyncio.gather(*map(rest, streams))):
                assert items == list(range(1000 * number + 1, 1000 * number + each))
        assert (client.peer.channels, client.peer.pending, client.peer.active) == (0, 0, 0)
        assert (peer.channels, peer.pending, peer.active) == (0, 0, 0)
