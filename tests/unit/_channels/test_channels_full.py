"""Channels and streams on a line that is full, or that carries what breaks a bound."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from core_driver import Driven, idle, rejection, start, turns
from leftovers import nothing_left as nothing_left
from stream_driver import Feed, collect, done, emptied, item
from stream_sides import requested

from wsrpc import AnonymousChannel, ChannelClosed, HandlerFailed, Limits, MessageTooBig, Peer, Server, StreamOverflow
from wsrpc.testing import connect, pair

pytestmark = pytest.mark.usefixtures("nothing_left")


async def test_what_waits_for_the_connection_is_not_sent_after_the_end_of_its_channel() -> None:
    d = Driven(dialer=True)
    channel = await requested(d)
    d.transport.pause()
    waiting = [start(channel.emit("e")), start(channel.request("q")), start(d.peer.emit("main"))]
    await turns()
    d.feed({"h": channel.id, "x": "bye"})
    await turns()
    d.transport.resume()
    await turns()
    for task in waiting[:2]:
        with pytest.raises(ChannelClosed):
            await task
    await waiting[2]
    d.expect({"a": ["main"]})
    d.assert_empty()


async def test_an_abort_passes_a_full_connection_but_not_what_was_sent_before_it() -> None:
    d = Driven(dialer=True)
    channel = await requested(d)
    await channel.emit("e")
    d.transport.pause()
    await channel.abort("bye")
    d.expect({"h": channel.id, "a": ["e"]}, {"h": channel.id, "x": "bye"})
    d.transport.resume()
    await emptied(d.peer)


async def test_what_waits_for_the_connection_leaves_in_order() -> None:
    d = Driven(dialer=True)
    channel = await requested(d)
    d.transport.pause()
    tasks = [start(channel.emit("e", n)) if n % 2 else start(d.peer.emit("e", n)) for n in range(10)]
    await turns()
    d.transport.resume()
    await asyncio.gather(*tasks)
    assert [message["a"][1] for message in d.take()] == list(range(10))
    channel.close()


@pytest.mark.parametrize("listener", ["handler", "reader", "nobody"])
async def test_the_bounds_of_names_and_arguments_hold_on_channels(listener: str) -> None:
    d = Driven(dialer=True)
    channel = await requested(d)
    seen: list[Any] = []
    long = "n" * 257
    if listener == "handler":
        channel.on("e", lambda *args: seen.append(args))
        channel.on(long, lambda *args: seen.append(args))
    events = channel.events("e") if listener == "reader" else None
    many = list(range(65))
    h = channel.id
    sent = await d.fed({"h": h, "i": 7, "a": ["e", *many]}, {"h": h, "i": 9, "a": [long]})
    assert "64" in rejection(sent, 7)["message"] and "256" in rejection(sent, 9)["message"]
    await d.fed({"h": h, "a": ["e", *many]}, {"h": h, "a": [long]})
    assert d.ignored == {"too many arguments": 1, "name too long": 1} and seen == []
    await d.fed({"h": h, "a": ["e", *many[1:]]})
    if events is not None:
        assert await anext(events) == tuple(many[1:])
    elif listener == "handler":
        assert seen == [tuple(many[1:])]
    channel.close()


async def test_events_that_nobody_reads_fast_enough_overflow_after_what_was_queued() -> None:
    d = Driven(dialer=True)
    channel = await requested(d)
    events = channel.events("e")
    for n in range(30):
        d.feed({"h": channel.id, "a": ["e", n, "x" * 100_000]})
    got: list[Any] = []
    with pytest.raises(StreamOverflow):
        await collect(events, got)
    assert [n for n, _ in got] == list(range(len(got))) and 9 <= len(got) <= 11
    assert channel.closed and isinstance(channel.close_reason, StreamOverflow)
    [abort] = d.take()
    assert abort["h"] == channel.id and abort["_"] == 1


async def test_an_upload_without_flow_control_that_nobody_reads_is_aborted() -> None:
    d = Driven()
    seen: list[Any] = []

    async def slow(chunks: AsyncIterator[str]) -> None:
        try:
            async for _ in chunks:
                await asyncio.Event().wait()
        except asyncio.CancelledError as exc:
            seen.append(exc.args[0])
            raise

    d.peer.on("up", slow)
    await d.fed({"i": 5, "a": ["up"]})
    for _ in range(30):
        d.feed(item(5, "x" * 100_000))
    await turns()
    [abort] = d.take()
    assert abort["h"] == 5 and abort["_"] == 1
    assert isinstance(seen[0], StreamOverflow)
    d.assert_empty()
    assert d.peer.channels == 0


async def test_two_tasks_of_a_handler_that_read_are_one_too_many() -> None:
    errors: list[str] = []

    async def up(chunks: AsyncIterator[int]) -> list[int]:
        first = start(anext(chunks))  # type: ignore[arg-type]
        await turns(1)
        try:
            await anext(chunks)
        except RuntimeError as exc:
            errors.append(str(exc))
        return [await first, *await collect(chunks)]

    d = Driven()
    d.peer.on("up", up)
    await d.fed({"i": 5, "a": ["up"]})
    assert await d.fed(item(5, 1), item(5, 2), done(5, 7)) == [{"i": 7, "d": [1, 2]}]
    assert len(errors) == 1 and "two tasks" in errors[0]


async def test_chunks_that_are_read_after_the_handler_returned_are_none() -> None:
    kept: list[AsyncIterator[int]] = []

    async def up(chunks: AsyncIterator[int]) -> int:
        kept.append(chunks)
        return await anext(chunks)

    async with pair() as (left, right):
        right.on("up", up)
        assert await left.request("up", send=range(10)) == 0
        assert await collect(kept[0]) == []
        await emptied(left, right)


async def test_a_generator_may_ask_its_consumer_while_it_streams() -> None:
    async with pair() as (left, right):

        async def squares(peer: Peer) -> AsyncIterator[int]:
            for number in range(100):
                yield await peer.request("square", number)

        right.on("squares", squares)
        left.on("square", lambda number: number * number)
        assert await collect(left.stream("squares")) == [number * number for number in range(100)]
        await emptied(left, right)


async def test_what_a_generator_in_a_thread_raises_comes_after_its_items() -> None:
    d = Driven()
    closed = threading.Event()

    def broken() -> Iterator[int]:
        try:
            yield 0
            raise ValueError("secret")
        finally:
            closed.set()

    d.peer.on("broken", broken, thread=True)
    d.feed({"i": 5, "a": ["broken"]})
    while not d.peer.channels:
        await turns(1)
    d.feed({"h": 5, "i": 7, "a": ["pull", 1]})
    d.feed({"h": 5, "i": 9, "a": ["pull", 1]})
    await idle(d)
    sent = d.take()
    assert {"i": 7, "d": {"values": [0], "done": False}} in sent
    assert "secret" not in str(rejection(sent, 9))
    assert closed.is_set() and d.peer.channels == 0


async def test_an_error_of_a_thread_reaches_the_consumer() -> None:
    def broken() -> Iterator[int]:
        yield 0
        raise ValueError("secret")

    async with pair() as (left, right):
        right.on("broken", broken, thread=True)
        got: list[Any] = []
        with pytest.raises(HandlerFailed):
            await collect(left.stream("broken"), got)
        assert got == [0]
        while right.active:
            await turns(1)
        await emptied(left, right)


async def test_emitting_to_all_reports_those_who_do_not_take_it() -> None:
    server = Server(limits=Limits(message=10_000))
    seen: list[Any] = []
    async with connect(server) as client:
        client.on("e", seen.append)
        server.on("sync", lambda: None)
        await client.request("sync")
        await server.emit("e", "small")
        # What this client announced is 4 MiB.
        report = await server.emit("e", "x" * 5_000_000)
        [error] = report.errors
        assert report.sent == 0 and isinstance(error.__cause__, MessageTooBig)
        await client.request("sync")
    assert seen == ["small"]


async def test_a_conversation_does_not_take_the_place_of_a_handler() -> None:
    async def talk(channel: AnonymousChannel) -> None:
        channel.on("ask", lambda: "answer")
        await asyncio.Event().wait()

    async with pair(limits=Limits(running=1)) as (left, right):
        right.on("talk", talk)
        right.on("feed", Feed(limit=3).__call__)
        channels = [await left.open_channel("talk") for _ in range(5)]
        assert [await channel.request("ask") for channel in channels] == ["answer"] * 5
        assert await collect(left.stream("feed")) == [0, 1, 2]
        for channel in channels:
            await channel.abort()
        await emptied(left, right)
