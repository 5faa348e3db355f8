"""What belongs to one connection does not reach the next one, and a connection that ends is nobody's failure."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest
from core_driver import Driven, messages, redialing, start, turns
from leftovers import nothing_left as nothing_left
from stream_driver import Both, credit, emptied, welcome
from stream_driver import both as both

from wsrpc import (
    AnonymousChannel,
    ChannelClosed,
    Client,
    CloseInfo,
    ConnectionLost,
    Context,
    Limits,
    Overloaded,
    RequestTimeout,
    Server,
)
from wsrpc.testing import Clock, ScriptedTransport, pair

pytestmark = pytest.mark.usefixtures("nothing_left")


async def read_on(channel: AnonymousChannel, lines: Any) -> None:
    with pytest.raises(ConnectionError):
        async for _ in lines:
            pass


async def close_the_reader(channel: AnonymousChannel, lines: Any) -> None:
    await lines.aclose()


async def listen_late(channel: AnonymousChannel, lines: Any) -> None:
    async def ask(value: int) -> int:
        return value

    channel.on("ask", ask)
    await turns()


async def abort_late(channel: AnonymousChannel, lines: Any) -> None:
    await channel.abort()


Late = Callable[[AnonymousChannel, Any], Coroutine[Any, Any, None]]


@pytest.mark.parametrize(("event", "late"), [("line", read_on), ("line", close_the_reader), ("ask", listen_late)])
async def test_requests_of_a_lost_connection_are_not_answered_on_the_next(event: str, late: Late) -> None:
    first, second = ScriptedTransport(), ScriptedTransport()
    client = Client(extensions=False, limits=Limits(stream_window=1))
    await client.bind(first)
    opening = start(client.open_channel("chat"))
    await turns()
    [request] = first.take()
    h = request["i"]
    first.feed({"i": h, "h": 1})
    channel = await opening
    lines = channel.events("line") if event == "line" else None
    first.feed(*({"i": n, "h": h, "a": [event, n]} for n in range(1, 6)))
    await turns()
    await client.bind(second)
    await late(channel, lines)
    await abort_late(channel, lines)
    await turns()
    assert second.take() == []
    await client.close()


async def test_while_the_connection_closes_nothing_is_kept_for_a_channel() -> None:
    """Between the Close frame, after which nothing can be sent, and the end, which the peer hears of a moment later."""
    d = Driven(dialer=True, keeps_offline=True)
    opening = start(d.peer.open_channel("chat"))
    await turns()
    h = d.take()[0]["i"]
    d.feed({"i": h, "h": 1})
    channel: AnonymousChannel = await opening
    d.transport.closed = CloseInfo(1001, "going away")
    for _ in range(3):
        with pytest.raises(ChannelClosed):
            await channel.emit("line", 1)
    with pytest.raises(ChannelClosed):
        channel.emit_nowait("line", 1)
    with pytest.raises(ChannelClosed):
        await channel.request("line", 1)
    assert d.peer._messages.queued == 0
    closed, d.transport.closed = d.transport.closed, None
    d.transport.lose(closed)
    d.assert_empty()


async def test_an_upload_takes_no_place_that_a_request_needs() -> None:
    go = asyncio.Event()

    async def upload(items: AsyncIterator[int]) -> int:
        count = sum([item async for item in items])
        await go.wait()
        return count

    async with pair(limits=Limits(running=1, waiting=0)) as (a, b):
        b.on("upload", upload)
        b.on("go", go.set)
        await turns()
        sending = start(a.request("upload", send=[1, 2, 3]))
        await turns(50)
        await a.request("go")
        assert await sending == 6
        await emptied(a, b)


async def test_pulls_are_bounded(both: Both) -> None:
    left, right = both

    async def never() -> AsyncIterator[int]:
        await asyncio.Event().wait()
        yield 1

    right.on("never", never)
    channel = await left.open_channel("never")
    pulls = [start(channel.request("pull", timeout=None)) for _ in range(70)]
    await turns(20)
    refused = [pull for pull in pulls if pull.done()]
    assert len(refused) == 6
    assert all(isinstance(pull.exception(), Overloaded) for pull in refused)
    await channel.abort()
    await asyncio.gather(*pulls, return_exceptions=True)
    await emptied(left, right)


async def test_a_client_that_closes_amid_a_stream_is_no_failure_of_the_handler(
    caplog: pytest.LogCaptureFixture,
) -> None:
    server = Server()
    stopped = asyncio.Event()

    @server.on("count")
    async def count() -> AsyncIterator[int]:
        number = 0
        try:
            while True:
                yield (number := number + 1)
        finally:
            stopped.set()

    async with server.listen() as listener:
        async with Client(listener.url) as client:
            async for number in client.stream("count"):
                if number == 1000:
                    await client.close()
                    break
        await stopped.wait()
    assert messages(caplog, logging.ERROR) == []


async def test_a_caller_waits_for_a_slow_handler_as_long_as_it_says() -> None:
    async def slow(items: AsyncIterator[int]) -> int:
        await asyncio.Event().wait()
        return sum([item async for item in items])

    clock = Clock()
    async with pair(clock=clock) as (a, b):
        b.on("slow", slow)
        await turns()
        late = start(a.request("slow", send=[1], timeout=45.0))
        patient = start(a.request("slow", send=[1], timeout=None))
        await turns(20)
        clock.advance(44.0)
        await turns()
        assert not late.done()
        clock.advance(2.0)
        with pytest.raises(RequestTimeout, match="no response to 'slow' within 45 s"):
            await late
        assert not patient.done()
        patient.cancel()
        await emptied(a, b)


# ---------------------------------------------------------------- ids that come again

# JavaScript and Go count their requests from 1 on each connection, so that a new channel may have the id of an old one.


def client_of_javascript() -> tuple[Client, Callable[[], Coroutine[Any, Any, ScriptedTransport]]]:
    """A client, and what connects it once more."""
    client = Client(extensions=False)

    async def connected() -> ScriptedTransport:
        line = ScriptedTransport()
        await client.bind(line)
        return line

    return client, connected


@pytest.mark.parametrize("makes_it", ["at once", "late"])
async def test_a_handler_that_outlives_its_connection_leaves_the_next_ones_channels_alone(makes_it: str) -> None:
    client, connected = client_of_javascript()
    go = asyncio.Event()
    channels: list[AnonymousChannel] = []
    told: list[Any] = []

    @client.on("slow")
    async def slow(ctx: Context) -> None:
        if makes_it == "at once":
            channels.append(ctx.channel())
        try:
            await asyncio.Event().wait()
        finally:
            while not go.is_set():
                try:
                    await go.wait()
                except asyncio.CancelledError:
                    continue
            channels.append(ctx.channel())

    @client.on("talk")
    async def talk(channel: AnonymousChannel) -> None:
        channel.on("ask", asked)
        told.append(await channel.request("question"))

    async def asked() -> str:
        await go.wait()
        await turns(3)
        return "answered"

    line = await connected()
    line.feed({"i": 1, "a": ["slow"]})
    await turns()
    line = await connected()
    line.feed({"i": 1, "a": ["talk"]})
    await turns()
    opened, question = line.take()
    assert opened == {"i": 1, "h": 1} and question["a"] == ["question"]
    line.feed({"i": 2, "h": 1, "a": ["ask"]})
    go.set()
    await turns(20)
    assert line.take() == [{"i": 2, "d": "answered"}]
    line.feed({"i": question["i"], "d": "yes"})
    await turns()
    assert told == ["yes"]
    assert all(channel.closed for channel in channels) and not client.peer._core.channels.undelivered
    await client.close()


async def test_a_channel_that_was_not_delivered_ends_with_its_connection() -> None:
    client, connected = client_of_javascript()
    ended: list[Any] = []

    @client.on("slow")
    async def slow(ctx: Context) -> None:
        channel = ctx.channel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        ended.append(channel.close_reason)
        with pytest.raises(ChannelClosed):
            await channel.emit("line")

    line = await connected()
    line.feed({"i": 1, "a": ["slow"]})
    await turns()
    line.lose()
    await turns()
    [reason] = ended
    assert isinstance(reason, ConnectionLost)
    await client.close()


@pytest.mark.parametrize("mode", ["paced", "credited"])
@pytest.mark.parametrize("last", ["an item", "the end"])
async def test_a_source_that_outlives_its_connection_sends_nothing_on_the_next_one(mode: str, last: str) -> None:
    client = Client(extensions=mode == "credited")
    go = asyncio.Event()

    async def stubborn() -> AsyncIterator[str]:
        while not go.is_set():
            try:
                await go.wait()
            except asyncio.CancelledError:
                continue
        if last == "an item":
            yield "late"

    @client.on("talk")
    async def talk(channel: AnonymousChannel) -> None:
        await channel.wait_closed()

    client.on("items", stubborn)

    async def connected(event: str) -> ScriptedTransport:
        line = ScriptedTransport()
        await client.bind(line)
        if mode == "credited":
            line.feed(welcome("credit"))
        line.feed({"i": 1, "a": [event]})
        await turns()
        return line

    line = await connected("items")
    if mode == "credited":
        line.feed(credit(1, 10))
    line.feed({"h": 1, "a": ["start"]})
    await turns()
    line = await connected("talk")
    line.take()
    go.set()
    await turns(20)
    assert line.take() == []
    await client.close()


async def test_what_waits_for_its_turn_on_a_channel_does_not_leave_on_the_next_connections() -> None:
    d = redialing()
    channels: list[AnonymousChannel] = []

    async def talk(channel: AnonymousChannel) -> None:
        channels.append(channel)
        await channel.wait_closed()

    def give(ctx: Context) -> AnonymousChannel:
        return ctx.channel()

    d.peer.on("talk", talk)
    d.peer.on("give", give)
    assert await d.fed({"i": 1, "a": ["talk"]}) == [{"i": 1, "h": 1}]
    d.transport.pause()
    waiting = start(channels[0].emit("line", "of the first connection"))
    await turns()
    d.transport.lose()
    d.rebind()
    d.feed({"i": 1, "a": ["give"]})
    assert d.peer.channels == 1
    with pytest.raises(ChannelClosed):
        await waiting
    assert await d.fed() == [{"i": 1, "h": 1}]
    await d.peer.close()
