"""Park it, cancel it, drop the line in any place of a channel's life: then both sides are empty."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import suppress
from typing import Any

import pytest
from core_driver import Driven, redialing, start, turns
from leftovers import nothing_left as nothing_left
from stream_driver import Feed, collect, credit, emptied, hello, welcome
from stream_sides import requested

from wsrpc import AnonymousChannel, ChannelClosed, Client, CloseInfo, ConnectionLost, Context, Limits, Peer
from wsrpc.testing import ScriptedTransport, pair

pytestmark = pytest.mark.usefixtures("nothing_left")


async def both_ways(peer: Peer) -> None:
    async with peer.stream("double", send=Feed()()) as stream:
        await collect(stream)


async def nested(peer: Peer) -> None:
    async with await peer.open_channel("talk") as channel, await channel.open_channel("talk") as inner:
        lines = inner.events("line")
        while True:
            await inner.emit("line", 1)
            await anext(lines)


async def opened_by_the_other_side(peer: Peer) -> None:
    await peer.request("call back", timeout=None)


def serve(peer: Peer) -> None:
    async def double(chunks: AsyncIterator[int]) -> AsyncIterator[int]:
        async for chunk in chunks:
            yield 2 * chunk

    async def talk(channel: AnonymousChannel) -> None:
        channel.on("talk", talk)
        async for line in channel.events("line"):
            await channel.emit("line", line)

    async def call_back(peer: Peer) -> None:
        await collect(peer.stream("feed"))

    for name, handler in (("feed", Feed().__call__), ("double", double), ("talk", talk), ("call back", call_back)):
        peer.on(name, handler)


@pytest.mark.parametrize("extensions", [True, False], ids=["wsrpc", "plain"])
@pytest.mark.parametrize("end", ["cancel", "drop left", "drop right", "cancel, drop right", "drop left, cancel"])
@pytest.mark.parametrize("use", [both_ways, nested, opened_by_the_other_side])
async def test_whatever_runs_ends_at_any_moment_and_leaves_nothing(use: Any, end: str, extensions: bool) -> None:
    """Calls of one kind at each place: tests/unit/test_calls.py."""
    # From before the request has left to where it runs at length.
    for parked in (*range(12), 20, 50, 120):
        async with pair(extensions=extensions) as (left, right):
            serve(left)
            serve(right)
            task = start(use(left))
            await turns(parked)
            assert not task.done()
            for act in end.split(", "):
                if act == "cancel":
                    task.cancel("bored")
                else:
                    transport = (left if "left" in act else right).transport
                    assert transport is not None
                    transport.abort()
            await asyncio.wait([task], timeout=5)
            assert task.done(), f"after {parked} turns: it hangs"
            if end == "cancel":
                assert task.cancelled()
            elif not task.cancelled():
                assert isinstance(task.exception(), (ConnectionLost, ChannelClosed)), task.exception()
            del task  # its traceback refers to a reader, which keeps what it has not read
            await emptied(left, right)


# ---------------------------------------------------------------- a connection that breaks or closes


@pytest.mark.parametrize("extensions", [True, False], ids=["wsrpc", "plain"])
@pytest.mark.parametrize("last", [0, 1, 3], ids=["first item", "an item", "the end"])
@pytest.mark.parametrize("kind", ["upload", "stream"])
@pytest.mark.parametrize("by", ["client", "server"])
async def test_an_item_that_finds_the_connection_broken_says_that_the_call_may_have_run(
    by: str, kind: str, last: int, extensions: bool
) -> None:
    """The transport knows before it has told: a client would keep what is new, and a server's peer refuse it."""
    d = (redialing if by == "client" else Driven)(extensions=extensions)
    if extensions:
        await d.fed(welcome("credit") if by == "client" else hello("credit"))

    async def source() -> AsyncIterator[int]:
        for number in range(3):
            if number == last:
                break_off()
            yield number
        break_off()

    def break_off() -> None:
        d.transport.closed = d.transport.closed or CloseInfo(1006, "broken")

    call: Coroutine[Any, Any, Any] = (
        d.peer.request("up", send=source()) if kind == "upload" else collect(d.peer.stream("up", send=source()))
    )
    task = start(call)
    await turns()
    i = d.take()[-1]["i"]
    d.feed({"i": i, "h": 1}, *([credit(i, 10)] if extensions else []), {"h": i, "a": ["start"]})
    for _ in range(4):
        await turns()
        d.feed(*({"i": message["i"], "d": None} for message in d.take() if "i" in message and "a" in message))
    closed, d.transport.closed = d.transport.closed, None
    d.transport.lose(closed)
    with pytest.raises(ConnectionLost) as caught:
        await task
    assert (caught.value.code, caught.value.outcome) == (1006, "unknown")
    await d.peer.close()
    d.assert_empty()


async def test_while_the_connection_closes_nothing_is_kept_for_a_channel() -> None:
    """Between the Close frame, after which nothing can be sent, and the end, which the peer hears of a moment later."""
    d = Driven(dialer=True, keeps_offline=True)
    channel = await requested(d)
    d.transport.closed = CloseInfo(1001, "going away")
    for use in (channel.emit, channel.request):
        with pytest.raises(ChannelClosed):
            await use("line", 1)
    with pytest.raises(ChannelClosed):
        channel.emit_nowait("line", 1)
    assert d.peer.stats().kept_bytes == 0
    closed, d.transport.closed = d.transport.closed, None
    d.transport.lose(closed)
    d.assert_empty()


# ---------------------------------------------------------------- the next connection

# JavaScript and Go count their requests from 1 on each connection, so that a new channel may have the id of an old one.


async def connected(client: Client, event: str) -> ScriptedTransport:
    """The next connection of a client, on which the other side makes a request with the id 1."""
    line = ScriptedTransport()
    await client.bind(line)
    line.feed({"i": 1, "a": [event]})
    await turns()
    return line


async def stubborn(go: asyncio.Event) -> None:
    """Wait for ``go``, also if the task is cancelled."""
    while not go.is_set():
        with suppress(asyncio.CancelledError):
            await go.wait()


@pytest.mark.parametrize("last", ["a channel", "a late channel", "an item", "the end"])
async def test_a_handler_that_outlives_its_connection_leaves_the_next_ones_channels_alone(last: str) -> None:
    client, go = Client(extensions=False), asyncio.Event()
    channels: list[AnonymousChannel] = []

    async def talk(channel: AnonymousChannel) -> None:
        channel.on("ask", lambda: "answered")
        await channel.wait_closed()

    async def opens(ctx: Context) -> None:
        if last == "a channel":
            channels.append(ctx.channel())
        await stubborn(go)
        channels.append(ctx.channel())

    async def items() -> AsyncIterator[str]:
        await stubborn(go)
        if last == "an item":
            yield "late"

    client.on("talk", talk)
    client.on("slow", opens if "channel" in last else items)
    line = await connected(client, "slow")
    line.feed({"h": 1, "a": ["start"]})
    await turns()
    line = await connected(client, "talk")
    assert line.pop_sent() == [{"i": 1, "h": 1}]
    go.set()
    await turns(20)
    line.expect()
    for channel in channels:
        with pytest.raises(ChannelClosed):
            await channel.emit("line")
    line.feed({"i": 2, "h": 1, "a": ["ask"]})
    await turns()
    line.expect({"i": 2, "d": "answered"})
    await client.close()


@pytest.mark.parametrize("late", ["read", "close the reader", "listen", "abort"])
async def test_requests_of_a_lost_connection_are_not_answered_on_the_next(late: str) -> None:
    d = redialing(limits=Limits(stream_window=1))
    channel = await requested(d)
    lines = channel.events("line") if late != "listen" else None
    d.feed(*({"i": n, "h": channel.id, "a": ["line", n]} for n in range(1, 6)))
    await turns()
    d.transport.pause()
    waiting = start(channel.emit("line", "of the first connection"))
    await turns()
    d.transport.lose()
    d.rebind()
    if lines is None:
        channel.on("line", lambda n: n)
    elif late == "read":
        with pytest.raises(ConnectionLost):
            await collect(lines)
    elif late == "close the reader":
        await lines.aclose()
    await channel.abort()
    with pytest.raises(ChannelClosed):
        await waiting
    assert await d.fed() == []
    await d.peer.close()
