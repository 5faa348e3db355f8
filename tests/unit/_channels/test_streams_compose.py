"""Streams where users put them: relayed, on named channels, in `open` handlers, within conversations, while offline."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import pytest
from core_driver import Driven, start, turns
from leftovers import nothing_left as nothing_left
from leftovers import turns_until
from stream_driver import Both, Feed, collect, done, emptied, is_empty, item, total
from stream_driver import both as both

from wsrpc import AnonymousChannel, ChannelClosed, Client, Context, Peer, RemoteError, RpcError, Server
from wsrpc.testing import connect, pair

pytestmark = pytest.mark.usefixtures("nothing_left")


async def test_a_stream_may_be_relayed_as_it_is(both: Both) -> None:
    left, right = both
    origin = Feed()
    async with pair() as (middle, source):
        source.on("feed", origin.__call__)
        right.on("relay", lambda: middle.stream("feed"))
        async with left.stream("relay") as stream:
            async for number in stream:
                if number == 200:
                    break
        await emptied(left, right, middle, source)
        assert origin.finished.is_set()


async def test_what_one_sends_may_be_what_another_streams(both: Both) -> None:
    left, right = both
    right.on("feed", Feed(limit=100).__call__)
    right.on("total", total)
    assert await left.request("total", send=left.stream("feed")) == 4950


async def test_an_error_of_what_is_relayed_arrives_as_an_internal_one(both: Both) -> None:
    left, right = both
    async with pair() as (middle, source):
        source.on("feed", Feed(limit=2, error=RpcError("secret of the third")).__call__)
        right.on("relay", lambda: middle.stream("feed"))
        got: list[Any] = []
        with pytest.raises(RemoteError) as caught:
            await collect(left.stream("relay"), got)
        assert got == [0, 1] and "secret" not in str(caught.value)


async def test_on_named_channels() -> None:
    server = Server()
    io = server.of("io")
    io.on("feed", Feed(limit=100).__call__)
    io.on("total", total)

    @io.on("talk")
    async def talk(channel: AnonymousChannel) -> None:
        async for line in channel.events("line"):
            await channel.emit("line", line)

    async with connect(server) as client:
        channel = client.of("io")
        assert await collect(channel.stream("feed", returns=int)) == list(range(100))
        assert await channel.request("total", send=[1, 2], returns=int) == 3
        async with await channel.open_channel("talk") as conversation:
            lines = conversation.events("line")
            await conversation.emit("line", "hi")
            assert await anext(lines) == "hi"
        with pytest.raises(RemoteError):
            await collect(client.stream("feed"))
        await emptied(*server.peers)


async def test_on_the_channel_of_a_conversation(both: Both) -> None:
    left, right = both

    async def talk(channel: AnonymousChannel) -> None:
        channel.on("total", total)
        await asyncio.Event().wait()

    right.on("talk", talk)
    async with await left.open_channel("talk") as channel:
        assert await channel.request("total", send=range(100)) == 4950
        assert left.channels == 1


@pytest.mark.parametrize("side", ["client", "server"])
async def test_in_an_open_handler(side: str) -> None:
    server, client = Server(), Client()
    results: list[Any] = []
    here, there = (client, server) if side == "client" else (server, client)
    there.on("feed", Feed(limit=100).__call__)
    there.on("total", total)

    @there.on("talk")
    async def talk(channel: AnonymousChannel) -> None:
        channel.on("ask", lambda: 42)
        await channel.emit("line", await channel.request("ask"))
        await asyncio.Event().wait()

    async def on_open(peer: Peer) -> None:
        results.append(len(await collect(peer.stream("feed"))))
        results.append(await peer.request("total", send=[1, 2]))
        async with await peer.open_channel("talk") as channel:
            line: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
            channel.on("ask", lambda: "asked")
            channel.on("line", line.set_result)
            results.append([await channel.request("ask"), await line])

    here.on("open", on_open)
    async with asyncio.timeout(8):  # less than after what an overdue handler is given up
        async with connect(server, client=client):
            await turns_until(lambda: len(results) == 3)
            await turns_until(lambda: all(is_empty(peer) for peer in server.peers))
    assert results == [100, 3, [42, "asked"]]


async def test_asked_for_while_offline_it_begins_with_the_connection() -> None:
    d = Driven(dialer=True, keeps_offline=True, bind=False)
    reading = start(collect(d.peer.stream("feed", 1)))
    uploading = start(d.peer.request("total", send=[7]))
    await turns()
    d.peer.bind(d.transport)
    await turns()
    feed, upload = d.take()
    assert (feed["a"], upload["a"]) == (["feed", 1], ["total"])
    sent = await d.fed({"i": feed["i"], "h": 1}, {"i": upload["i"], "h": 1}, {"h": upload["i"], "a": ["start"]})
    assert {"h": feed["i"], "a": ["start"]} in sent
    [first] = [message for message in sent if "i" in message]
    [end] = await d.fed({"i": first["i"]}, item(feed["i"], 5), done(feed["i"]))
    await d.fed({"i": end["i"], "d": 7})
    assert (await reading, await uploading) == ([5], 7)
    d.assert_empty()


async def test_cancelled_while_offline_it_is_never_asked_for() -> None:
    d = Driven(dialer=True, keeps_offline=True, bind=False)
    tasks = [start(collect(d.peer.stream("feed"))), start(d.peer.request("total", send=[7]))]
    await turns()
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    d.peer.bind(d.transport)
    await turns()
    d.expect()
    d.assert_empty()


async def test_a_streams_handler_may_use_its_channel_besides(both: Both) -> None:
    left, right = both
    gate = asyncio.Event()

    async def feed(ctx: Context) -> AsyncIterator[int]:
        channel = ctx.channel()
        channel.on("pause?", lambda: "no")
        for number in range(3):
            yield number
        await channel.emit("note", "half")
        await gate.wait()
        yield 3

    right.on("feed", feed)
    async with await left.open_channel("feed") as channel:
        notes = channel.events("note")
        items = aiter(channel)
        assert [await anext(items) for _ in range(3)] == [0, 1, 2]
        assert await channel.request("pause?") == "no"
        assert await anext(notes) == "half"
        gate.set()
        assert await collect(items) == [3]


async def test_a_channel_that_is_read_again_after_its_loop_was_left_does_not_hang(both: Both) -> None:
    left, right = both
    right.on("feed", Feed(limit=1000).__call__)
    async with await left.open_channel("feed") as channel:
        async for number in channel:
            if number == 300:
                break
        gc.collect(1)
        await turns()
        later: list[int] = []
        async with asyncio.timeout(5):
            # What had arrived meanwhile went with the first loop. A plain producer is told that nobody takes its items.
            with suppress(ChannelClosed):
                await collect(aiter(channel), later)
        assert later == sorted(later) and (channel.closed or later[-1] == 999)


async def test_what_the_first_loop_has_not_read_is_for_the_second_although_the_producer_has_finished() -> None:
    async def feed() -> AsyncIterator[int]:
        for number in range(5):
            yield number

    async with pair() as (left, right):
        right.on("feed", feed)
        channel = await left.open_channel("feed")
        async for number in channel.items():
            if number == 1:
                break
        await turns()  # all items have arrived, and their end
        assert await collect(channel.items()) == [2, 3, 4]


async def test_a_read_that_waits_ends_with_its_stream_and_takes_nothing_of_the_next_one() -> None:
    send = asyncio.Event()

    async def feed() -> AsyncIterator[int]:
        yield 0
        await send.wait()
        yield 1

    async with pair() as (left, right):
        right.on("feed", feed)
        channel = await left.open_channel("feed")
        first = channel.items()
        assert await anext(first) == 0
        waiting = asyncio.ensure_future(anext(first))
        await turns()
        await first.aclose()
        with pytest.raises(StopAsyncIteration):
            await waiting
        send.set()
        assert await collect(channel.items()) == [1]


async def test_a_stream_that_was_left_does_not_disturb_the_one_that_reads_on() -> None:
    send = asyncio.Event()

    async def feed() -> AsyncIterator[int]:
        yield 0
        await send.wait()
        for number in range(1, 4):
            yield number

    async with pair() as (left, right):
        right.on("feed", feed)
        channel = await left.open_channel("feed")
        first = channel.items()
        async with first:
            assert await anext(first) == 0
        second = channel.items()
        await first.aclose()
        with pytest.raises(RuntimeError, match="being read"):
            channel.items()
        del first
        gc.collect(1)
        await turns()
        with pytest.raises(RuntimeError, match="being read"):
            channel.items()
        send.set()
        await turns()
        await right.close()
        await turns_until(lambda: channel.closed)
        assert await collect(second) == [1, 2, 3]
