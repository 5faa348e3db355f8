"""Park it, cancel it, drop the line in any place of a stream's life: then both sides are empty."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest
from core_driver import Driven, start, turns
from leftovers import nothing_left as nothing_left
from leftovers import turns_until
from stream_driver import Feed, collect, emptied
from stream_uses import USES, serve

from wsrpc import AnonymousChannel, ChannelClosed, Client, ConnectionLost, Limits, Peer, RemoteError, Server
from wsrpc.testing import connect, memory_transports, pair

pytestmark = pytest.mark.usefixtures("nothing_left")


def cancel(task: asyncio.Task[None], left: Peer, right: Peer) -> None:
    task.cancel("bored")


def drop_left(task: asyncio.Task[None], left: Peer, right: Peer) -> None:
    assert left.transport is not None
    left.transport.abort()


def drop_right(task: asyncio.Task[None], left: Peer, right: Peer) -> None:
    assert right.transport is not None
    right.transport.abort()


def cancel_and_drop(task: asyncio.Task[None], left: Peer, right: Peer) -> None:
    task.cancel()
    drop_right(task, left, right)


def drop_and_cancel(task: asyncio.Task[None], left: Peer, right: Peer) -> None:
    drop_left(task, left, right)
    task.cancel()


ENDS = [cancel, drop_left, drop_right, cancel_and_drop, drop_and_cancel]


@pytest.mark.parametrize("extensions", [True, False], ids=["wsrpc", "plain"])
@pytest.mark.parametrize("end", ENDS, ids=lambda end: end.__name__)
@pytest.mark.parametrize("use", USES, ids=lambda use: use.__name__)
async def test_whatever_runs_ends_at_any_moment_and_leaves_nothing(
    use: Callable[[Peer], Any], end: Callable[..., None], extensions: bool
) -> None:
    # From before the request has left to where it runs at length.
    for parked in (*range(12), 20, 50, 120):
        async with pair(extensions=extensions) as (left, right):
            serve(left)
            serve(right)
            task = start(use(left))
            await turns(parked)
            assert not task.done()
            end(task, left, right)
            await asyncio.wait([task], timeout=5)
            assert task.done(), f"after {parked} turns: it hangs"
            if end is cancel:
                assert task.cancelled()
            elif not task.cancelled():
                assert isinstance(task.exception(), (ConnectionLost, ChannelClosed)), task.exception()
            await emptied(left, right)


@pytest.mark.parametrize("extensions", [True, False], ids=["wsrpc", "plain"])
async def test_a_drop_is_a_lost_connection_for_every_reader(extensions: bool) -> None:
    async with pair(extensions=extensions) as (left, right):
        right.on("gated", Feed(gate=3).__call__)
        stream = left.stream("gated")
        got: list[Any] = []
        task = start(collect(stream, got))
        await turns(50)
        assert got == [0, 1, 2]
        drop_right(task, left, right)
        with pytest.raises(ConnectionLost) as caught:
            await task
        assert caught.value.code == 1006
        await emptied(left, right)


@pytest.mark.parametrize("extensions", [True, False], ids=["wsrpc", "plain"])
@pytest.mark.parametrize("last", [0, 1, 3], ids=["first item", "an item", "the end"])
@pytest.mark.parametrize("kind", ["upload", "stream"])
@pytest.mark.parametrize("by", ["client", "server"])
async def test_an_item_that_finds_the_connection_broken_says_that_the_call_may_have_run(
    by: str, kind: str, last: int, extensions: bool
) -> None:
    """The transport knows before it has told: a client would keep what is new, and a server's peer refuse it."""
    server, client = Server(extensions=extensions), Client(extensions=extensions)
    async with connect(server, client=client):
        [peer] = server.peers
        caller, callee = (client.peer, peer) if by == "client" else (peer, client.peer)
        begun: list[str] = []

        async def upload(items: AsyncIterator[int]) -> None:
            begun.append("upload")
            async for _ in items:
                pass

        async def stream(items: AsyncIterator[int]) -> AsyncIterator[int]:
            begun.append("stream")
            async for item in items:
                yield item

        callee.on("upload", upload)
        callee.on("stream", stream)

        async def source() -> AsyncIterator[int]:
            for item in range(3):
                if item == last:
                    break_off()
                yield item
            break_off()

        telling: list[asyncio.Task[None]] = []

        def break_off() -> None:
            caller.transport._state = "closing"  # type: ignore[union-attr]  # it takes nothing any more
            telling.append(start(tell()))

        async def tell() -> None:
            await turns(20)
            caller.transport.abort()  # type: ignore[union-attr]

        upload_or_stream: Coroutine[Any, Any, Any] = (
            caller.request(kind, send=source()) if kind == "upload" else collect(caller.stream(kind, send=source()))
        )
        with pytest.raises(ConnectionLost) as caught:
            await upload_or_stream
        await asyncio.wait(telling)
        assert begun == [kind]
        assert (caught.value.code, caught.value.outcome) == (1006, "unknown")
        await emptied(client.peer, peer)


async def test_a_clean_close_by_either_side_ends_streams() -> None:
    for closes in (0, 1):
        feed = Feed(gate=3)
        async with pair() as peers:
            left, right = peers
            right.on("gated", feed.__call__)
            task = start(collect(left.stream("gated")))
            await turns(50)
            await peers[closes].close(1001, "bye")
            with pytest.raises(ConnectionLost) as caught:
                await task
            assert (caught.value.code, caught.value.reason) == (1001, "bye")
            assert feed.finished.is_set()
            await emptied(left, right)


async def test_another_connection_begins_with_nothing() -> None:
    server = Server()
    feed = Feed()
    server.on("feed", feed.__call__)
    client = Client()
    async with connect(server, client=client):
        stream = client.stream("feed")
        assert await anext(stream) == 0
        [old] = server.peers
        ours, theirs = memory_transports()
        accepting = start(server.accept(theirs))
        await client.bind(ours)
        await accepting
        with pytest.raises(ConnectionLost):
            await collect(stream)
        await turns_until(lambda: old.active == old.channels == 0)
        assert feed.finished.is_set()
        async with client.stream("feed") as again:
            assert await anext(again) == 0
        await turns_until(lambda: all(peer.active == peer.channels == 0 for peer in server.peers))


async def test_a_thousand_streams_at_once_and_all_are_dropped() -> None:
    async with pair() as (left, right):
        feeds = [Feed(gate=2) for _ in range(1000)]
        waiting = iter(feeds)

        async def feed() -> AsyncIterator[int]:
            async for number in next(waiting)():
                yield number

        right.on("feed", feed)
        tasks = [start(collect(left.stream("feed"))) for _ in feeds]
        await turns_until(lambda: all(feed.waiting.is_set() for feed in feeds), patience=25)
        assert left.channels == right.channels == right.active == 1000
        drop_left(tasks[0], left, right)
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(result, ConnectionLost) for result in results)
        await emptied(left, right)
        await turns_until(lambda: all(feed.finished.is_set() for feed in feeds), patience=25)


async def test_a_stream_whose_connection_is_held_can_be_left() -> None:
    async with pair(limits=Limits(high_water=1000)) as (left, right):

        async def blocks() -> AsyncIterator[str]:
            while True:
                yield "x" * 500

        right.on("blocks", blocks)
        async with left.stream("blocks") as stream:
            await anext(stream)
            right.transport.hold()  # type: ignore[union-attr]
            for _ in range(70):
                reading = start(anext(stream))
                await turns(3)
                if not reading.done():
                    break
            reading.cancel()
            await asyncio.wait([reading])
        await turns(20)
        assert right.channels == right.active == 0, "the abort came through: that line is free"
        right.transport.release()  # type: ignore[union-attr]
        await emptied(left, right)


async def test_messages_of_a_stream_that_was_left_are_answered_by_nothing_but_one_abort() -> None:
    async with pair(extensions=False) as (left, right):
        made: list[AnonymousChannel] = []

        async def talk(channel: AnonymousChannel) -> None:
            made.append(channel)
            await asyncio.Event().wait()

        right.on("talk", talk)
        channel = await left.open_channel("talk")
        await turns()
        channel.close()
        for n in range(5):
            made[0].emit_nowait("line", n)
        await emptied(left, right)
        assert isinstance(made[0].close_reason, RemoteError)
        assert not left.ignored and not right.ignored


@pytest.mark.parametrize("kind", ["plain", "conversation", "stream"])
async def test_a_handler_that_drops_its_own_connection_is_cancelled_like_any_other(kind: str) -> None:
    d = Driven()
    cancelled: list[str] = []

    async def drop_and_wait() -> None:
        d.transport.lose()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(kind)
            raise

    async def conversation(channel: AnonymousChannel) -> None:
        await drop_and_wait()

    async def stream() -> AsyncIterator[int]:
        yield 0
        await drop_and_wait()

    handlers: dict[str, Callable[..., Any]] = {"plain": drop_and_wait, "conversation": conversation, "stream": stream}
    d.peer.on("h", handlers[kind])
    await d.fed({"i": 5, "a": ["h"]})
    if kind == "stream":
        await d.fed({"h": 5, "i": 7, "a": ["pull", 2]})
    await emptied(d.peer)
    assert cancelled == [kind]
