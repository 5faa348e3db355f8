"""Very many requests of which half are cancelled at any moment, and very many streams, uploads and conversations, each
left in its own way: each ends once, and nothing is left of them on either side.

``WSRPC_SOAK=1`` runs 100,000 of each instead of a number that fits an ordinary test run.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import random
import tracemalloc
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from effort import QUICK, SOAK
from leftovers import living_objects, other_tasks

from wsrpc import AnonymousChannel, Context, Limits, Peer, RemoteError, RpcError
from wsrpc.testing import pair

LEFT = 1024 * 1024  # bytes


async def turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


class Bored(Exception):
    pass


class Handlers:
    """What both sides serve. It counts the generators and bodies that began, and their ``finally`` blocks."""

    def __init__(self) -> None:
        self.begun = 0
        self.left = 0

    @contextmanager
    def runs(self) -> Generator[None]:
        self.begun += 1
        try:
            yield
        finally:
            self.left += 1

    def now(self, n: int) -> int:
        return n

    async def later(self, n: int) -> int:
        await turns(n % 4)
        return n

    async def wait(self, n: int) -> None:
        await asyncio.Event().wait()

    async def endless(self) -> AsyncIterator[int]:
        with self.runs():
            for n in range(1_000_000):
                yield n

    def plain(self) -> Iterator[int]:
        with self.runs():
            yield from range(1_000_000)

    async def waits(self) -> AsyncIterator[int]:
        """Three items, then nothing, for ever."""
        with self.runs():
            for n in range(3):
                yield n
            await asyncio.Event().wait()

    async def fails(self) -> AsyncIterator[int]:
        with self.runs():
            yield 0
            raise RpcError("broken", code="broken")

    def returned(self, ctx: Context) -> AnonymousChannel:
        """ws-wrapper's own form."""
        channel = ctx.channel()
        channel.on("more", lambda n: n + 1)
        return channel

    async def upload(self, most: int, chunks: AsyncIterator[int]) -> int:
        """Stops reading after so many."""
        with self.runs():
            total = 0
            async for chunk in chunks:
                total += chunk
                if chunk == most:
                    break
            return total

    async def translate(self, chunks: AsyncIterator[int]) -> AsyncIterator[str]:
        with self.runs():
            async for chunk in chunks:
                yield str(chunk)

    async def chat(self, channel: AnonymousChannel) -> None:
        with self.runs():
            async for line in channel.events("line", returns=str):
                await channel.emit("line", line.upper())


class Storm:
    """Calls, each with its own end. Their ways are called with the peer and a small number."""

    def __init__(self, handlers: Handlers, seed: int) -> None:
        self.handlers = handlers
        self.chance = random.Random(seed)
        self.ends: Counter[str] = Counter()

    async def rage(self, peers: tuple[Peer, Peer], ways: list[str], count: int, at_once: int) -> None:
        for start in range(0, count, at_once):
            async with asyncio.TaskGroup() as tasks:
                for _ in range(min(at_once, count - start)):
                    tasks.create_task(self.one(self.chance.choice(peers), self.chance.choice(ways)))
        await turns(30)

    async def one(self, peer: Peer, name: str) -> None:
        way: Callable[[Peer, int], Coroutine[Any, Any, None]] = getattr(self, name)
        await way(peer, self.chance.randrange(4))
        self.ends[name] += 1

    async def cancel(self, coroutine: Coroutine[Any, Any, object], after: int) -> None:
        """Cancel it, unless it has ended by then."""
        task = asyncio.ensure_future(coroutine)
        await turns(after)
        task.cancel("enough")
        try:
            await task
        except asyncio.CancelledError:
            self.ends["in time"] += 1
        else:
            self.ends["too late"] += 1

    async def answered(self, peer: Peer, n: int) -> None:
        number = self.chance.randrange(1000)
        assert await peer.request(self.chance.choice(("now", "later")), number, timeout=None) == number

    async def cancelled(self, peer: Peer, n: int) -> None:
        kind = self.chance.choice(("now", "later", "wait", "wait"))
        await self.cancel(peer.request(kind, n, timeout=None), self.chance.randrange(9))

    def stream(self, peer: Peer) -> Any:
        return peer.stream(self.chance.choice(("endless", "plain", "waits")), returns=int)

    async def source(self, size: int = 1_000_000) -> AsyncIterator[int]:
        with self.handlers.runs():
            for n in range(size):
                yield n

    async def broken_off(self, peer: Peer, n: int) -> None:
        async with self.stream(peer) as items:
            if n:
                async for item in items:
                    if item + 1 == n:
                        break

    async def closed(self, peer: Peer, n: int) -> None:
        items = self.stream(peer)
        for expected in range(n):
            assert await anext(items) == expected
        await items.aclose()

    async def thrown_away(self, peer: Peer, n: int) -> None:
        async for item in self.stream(peer):
            if item >= n - 1:
                break

    async def raised(self, peer: Peer, n: int) -> None:
        async def read() -> None:
            async with self.stream(peer) as items:
                async for item in items:
                    if item >= n - 1:
                        raise Bored

        with pytest.raises(Bored):
            await read()

    async def stream_cancelled(self, peer: Peer, n: int) -> None:
        """While it opens, reads or waits."""

        async def read() -> None:
            async with peer.stream("waits", returns=int) as items:
                async for _ in items:
                    await turns(n)

        await self.cancel(read(), 3 * n + self.chance.randrange(3))

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
        assert await peer.request("upload", -1, send=self.source(3 * n), returns=int) == sum(range(3 * n))

    async def refused(self, peer: Peer, n: int) -> None:
        assert await peer.request("upload", 1, send=self.source(), returns=int) == 1

    async def upload_cancelled(self, peer: Peer, n: int) -> None:
        await self.cancel(peer.request("upload", -1, send=self.source()), 6 * n + self.chance.randrange(3))

    async def both_ways(self, peer: Peer, n: int) -> None:
        async with peer.stream("translate", send=self.source(), returns=str) as texts:
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

        await self.cancel(talk(), 3 * n + self.chance.randrange(3))


HANDLERS = "now", "later", "wait", "endless", "plain", "waits", "fails", "returned", "upload", "translate", "chat"
REQUESTS = ["answered", "cancelled"]
STREAMS = [
    *("broken_off", "closed", "thrown_away", "raised", "stream_cancelled", "aborted", "failing", "returned"),
    *("uploaded", "refused", "upload_cancelled", "both_ways", "conversation", "conversation_cancelled"),
]


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("ways", "count", "at_once"),
    [
        pytest.param(REQUESTS, 4_000 if QUICK else 20_000, 500, id="requests"),
        pytest.param(STREAMS, 1_000 if QUICK else 3_000, 100, id="streams"),
    ],
)
async def test_every_one_of_very_many_ends_once_and_nothing_is_left(
    ways: list[str], count: int, at_once: int, caplog: pytest.LogCaptureFixture
) -> None:
    # A stream that is thrown away is warned of, and pytest would keep each of those lines.
    caplog.set_level(logging.ERROR, "wsrpc")
    count = 100_000 if SOAK else count
    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    handlers = Handlers()
    async with pair(limits=Limits(running=300, high_water=16 * 1024)) as peers:
        for peer in peers:
            for name in HANDLERS:
                peer.on(name, getattr(handlers, name))
        # So that caches, pools and remembered ids are as full as they get.
        await Storm(handlers, 1).rage(peers, ways, 4 * at_once, at_once)
        tasks = other_tasks()
        before = await living_objects()
        storm = Storm(handlers, 2)
        tracemalloc.start()
        try:
            gc.collect()
            memory = tracemalloc.get_traced_memory()[0]
            await storm.rage(peers, ways, count, at_once)
            after = await living_objects()
            grown = tracemalloc.get_traced_memory()[0] - memory
        finally:
            tracemalloc.stop()
        assert min(storm.ends[way] for way in ways) > count / len(ways) / 2
        assert storm.ends["in time"] and (storm.ends["too late"] or ways is STREAMS)
        assert handlers.begun == handlers.left
        for peer in peers:
            assert (peer.channels, peer.pending, peer.active) == (0, 0, 0)
            assert peer._core.dispatcher.active == {} and peer._core.dispatcher.running.tasks() == set()
        assert other_tasks() == tasks
        assert after == before
        assert grown < LEFT, f"{grown} bytes more than before"
    assert (complaints, caplog.records) == ([], [])
