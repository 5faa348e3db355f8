"""Two connected peers that stream to each other, and everything that can happen to a stream, in any order.

Whatever happens: each item arrives at most once and in order; a reader that gets to the end has got all of them, and
one that does not gets an error that says why; every source is closed; and afterwards both sides are empty.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import hypothesis.strategies as st
from effort import examples
from hypothesis import settings
from hypothesis.stateful import initialize, rule
from machine import ConnectedPeers, sides

from wsrpc import (
    ChannelClosed,
    ConnectionLost,
    Limits,
    Overloaded,
    Peer,
    RequestTimeout,
    RpcError,
    Stream,
    TooManyRequests,
)

SMALL = Limits(high_water_bytes=400, hard_cap_bytes=100_000, running=4, waiting=4, channels=6, stream_window=4)
LOST = (ConnectionLost, ChannelClosed, RequestTimeout, TooManyRequests, Overloaded)
"""What may end anything here, whatever it is."""
OVERDUE = "within 30 s"
"""So ends what nobody reads in time, and here time passes as it does nowhere else."""
SIZE = 60
"""Bytes that each item has at least, so that few of them fill the line."""

kinds = st.sampled_from(["later", "gen", "object", "slow", "fails", "translate"])
lengths = st.integers(0, 12)


class Read:
    """One stream, and what its reader has got."""

    def __init__(self, kind: str, length: int, stream: Stream[Any]) -> None:
        self.kind = kind
        self.length = length
        self.stream = stream
        self.items: list[int] = []
        self.task: asyncio.Task[None] | None = None
        self.left = False
        """Whether this side has stopped it."""
        self.ended: BaseException | None = None

    async def read(self, count: int) -> None:
        try:
            for _ in range(count):
                number, _ = await anext(self.stream)
                assert number == len(self.items), f"{number} after {self.items} of {self.kind}"
                self.items.append(number)
        except StopAsyncIteration as exc:
            if not self.left and self.ended is None:
                assert self.kind != "fails" and len(self.items) == self.length, f"{self.kind} ended early: {self.items}"
            self.ended = exc
        except RpcError as exc:
            # That these stream is known only when they have run.
            late = self.kind in ("later", "object") and exc.code == "wsrpc.too_many_channels"
            assert self.left or late or isinstance(exc, LOST) or self.kind == "fails" or OVERDUE in str(exc), exc  # noqa: PT017 - no error is right too
            if str(exc) == "enough of this":
                assert len(self.items) == self.length
            self.ended = exc
        except LOST as exc:
            self.ended = exc


class StreamingPeers(ConnectedPeers):
    limits = SMALL

    def __init__(self) -> None:
        super().__init__()
        self.reads: list[Read] = []
        self.uploads: list[tuple[int, asyncio.Task[Any]]] = []
        self.open_sources = 0

    @initialize(extensions=st.booleans())
    def begin(self, extensions: bool) -> None:
        self.make_peers(extensions)

    # ------------------------------------------------------------ handlers

    def items(self, length: int) -> Iterator[list[Any]]:
        self.open_sources += 1
        try:
            for number in range(length):
                yield [number, "x" * SIZE]
        finally:
            self.open_sources -= 1

    async def items_later(self, length: int, *, gated: bool = False) -> AsyncIterator[list[Any]]:
        self.open_sources += 1
        try:
            for number in range(length):
                if gated and number % 3 == 2:
                    await self.gate.wait()
                yield [number, "x" * SIZE]
        finally:
            self.open_sources -= 1

    def register(self, side: int, peer: Peer) -> None:
        machine = self

        class Numbers:
            def __init__(self, length: int) -> None:
                self.length = length

            def __aiter__(self) -> AsyncIterator[list[Any]]:
                return machine.items_later(self.length)

        async def fails(length: int) -> AsyncIterator[list[Any]]:
            async for item in self.items_later(length):
                yield item
            raise RpcError("enough of this")

        async def translate(items: AsyncIterator[list[Any]]) -> AsyncIterator[list[Any]]:
            async for item in items:
                yield item

        async def add(most: int, items: AsyncIterator[list[Any]]) -> int:
            count = 0
            while count < most:
                try:
                    number, _ = await anext(items)
                except StopAsyncIteration:
                    break
                assert number == count
                count += 1
            return count

        def later(length: int) -> AsyncIterator[list[Any]]:
            return self.items_later(length)

        async def slow(length: int) -> AsyncIterator[list[Any]]:
            async for item in self.items_later(length, gated=True):
                yield item

        async def lingers(length: int) -> AsyncIterator[list[Any]]:
            try:
                async for item in self.items_later(length):
                    yield item
            finally:
                await self.turns(60)

        for handler in (later, slow, fails, translate, add, lingers):
            peer.on(handler.__name__, handler)
        peer.on("gen", self.items)
        peer.on("object", Numbers)

    # ------------------------------------------------------------ what happens

    @rule(side=sides, kind=kinds, length=lengths)
    def stream(self, side: int, kind: str, length: int) -> None:
        peer = self.peers[side]
        if kind == "translate":
            stream = peer.stream(kind, send=self.items_later(length))
        else:
            stream = peer.stream(kind, length)
        self.reads.append(Read(kind, length, stream))

    @rule(side=sides, kind=st.sampled_from(["later", "lingers"]))
    def one_after_another(self, side: int, kind: str) -> None:
        """Who leaves a stream may open the next one, also where there is one place only."""
        peers = self.peers
        if any(not peer.connected or peer.pending or peer.active or peer.anonymous_channels for peer in peers):
            return

        async def main() -> None:
            for end in self.ends:
                end.release()
            try:
                for _ in range(SMALL.channels + 2):
                    async with peers[side].stream(kind, 5) as stream:
                        await anext(stream)
            except (ConnectionLost, ChannelClosed):
                return  # it was dropped in the turn before

        self.run(main())

    def some(self, which: int) -> Read | None:
        return self.reads[which % len(self.reads)] if self.reads else None

    @rule(which=st.integers(0, 20), count=st.integers(1, 15))
    def read(self, which: int, count: int) -> None:
        chosen = self.some(which)
        if chosen is not None and (chosen.task is None or chosen.task.done()):
            chosen.task = self.start(chosen.read(count))

    @rule(which=st.integers(0, 20))
    def cancel_a_read(self, which: int) -> None:
        chosen = self.some(which)
        if chosen is not None and chosen.task is not None:
            chosen.task.cancel("no more time")
            if chosen.stream._inbox is None:  # the request itself was cancelled
                chosen.left = True

    @rule(which=st.integers(0, 20))
    def leave(self, which: int) -> None:
        chosen = self.some(which)
        if chosen is not None:
            chosen.left = True
            self.run(chosen.stream.aclose())

    @rule(side=sides, length=lengths, most=st.sampled_from([0, 2, 100]), gated=st.booleans())
    def upload(self, side: int, length: int, most: int, gated: bool) -> None:
        sending = self.peers[side].request("add", most, send=self.items_later(length, gated=gated))
        self.uploads.append((min(length, most), self.loop.create_task(sending)))

    @rule(which=st.integers(0, 20))
    def cancel_an_upload(self, which: int) -> None:
        if self.uploads:
            self.uploads[which % len(self.uploads)][1].cancel("bored")

    # ------------------------------------------------------------ what must hold

    async def finish(self) -> None:
        await self.let_all_go()
        await self.turns(200)  # an exchange of few items over a full line takes more than 60
        for read in self.reads:
            await read.stream.aclose()
        await self.turns(60)
        if all(task.done() for _, task in self.uploads) and self.peers[0].connected:
            # Everything is over although the connection is not: so nothing may be left.
            for peer in self.peers:
                assert peer.anonymous_channels == 0, peer
        for peer in self.peers:
            await peer.close()
        await self.turns(60)
        for expected, task in self.uploads:
            assert task.done(), "an upload never ended"
            if not task.cancelled():
                error = task.exception()
                fine = isinstance(error, LOST) or OVERDUE in str(error)
                assert fine or (error is None and task.result() == expected), (error, expected)
        for task in self.tasks:
            assert task.done()
            if not task.cancelled() and (failed := task.exception()) is not None:
                raise failed
        assert self.open_sources == 0, "a source was not closed"
        await self.assert_empty()


TestStreamingPeers = StreamingPeers.TestCase
TestStreamingPeers.settings = settings(max_examples=examples(150), stateful_step_count=40, deadline=None)
