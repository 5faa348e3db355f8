"""Park it, cancel it, drop the line in any place of a channel's life: then both sides are empty."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest
from core_driver import Driven, redialing, start, turns
from leftovers import nothing_left as nothing_left
from stream_driver import collect, credit, emptied, hello, welcome
from stream_sides import requested
from stream_uses import USES, serve

from wsrpc import AnonymousChannel, ChannelClosed, Client, CloseInfo, ConnectionLost, Context, Limits, Peer
from wsrpc.testing import ScriptedTransport, pair

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


# ---------------------------------------------------------------- a connection that closes, and one that is full


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
    assert d.peer.stats().kept == 0
    closed, d.transport.closed = d.transport.closed, None
    d.transport.lose(closed)
    d.assert_empty()


async def test_what_waits_for_the_connection_leaves_in_order_but_not_after_the_end_of_its_channel() -> None:
    d = Driven(dialer=True)
    channel, other = await requested(d), await requested(d)
    d.transport.pause()
    tasks = [start((other if n % 2 else d.peer).emit("e", n)) for n in range(10)]
    waiting = [start(channel.emit("e", "late")), start(channel.request("q"))]
    await turns()
    await other.abort("bye")
    d.expect({"h": other.id, "x": "bye"})  # it passes a full connection
    d.feed({"h": channel.id, "x": "bye"})
    await turns()
    d.transport.resume()
    await asyncio.wait([*tasks, *waiting])
    assert [message["a"][1] for message in d.take()] == [0, 2, 4, 6, 8]
    assert all(isinstance(task.exception(), ChannelClosed) for task in (*tasks[1::2], *waiting))
    d.assert_empty()


# ---------------------------------------------------------------- the next connection

# JavaScript and Go count their requests from 1 on each connection, so that a new channel may have the id of an old one.


class Talker:
    """A client, and a handler that converses on the next connection on a channel with the id of an old one."""

    def __init__(self, mode: str = "paced") -> None:
        self.mode = mode
        self.client = Client(extensions=mode == "credited", limits=Limits(stream_window=1))
        self.go = asyncio.Event()
        self.client.on("talk", self.talk)

    async def talk(self, channel: AnonymousChannel) -> None:
        channel.on("ask", self.ask)
        await channel.wait_closed()

    async def ask(self) -> str:
        await self.go.wait()
        await turns(3)
        return "answered"

    async def connected(self, event: str) -> ScriptedTransport:
        line = ScriptedTransport()
        await self.client.bind(line)
        if self.mode == "credited":
            line.feed(welcome("credit"))
        line.feed({"i": 1, "a": [event]})
        await turns()
        return line

    async def wait(self) -> None:
        """Wait for ``go``, also if the task is cancelled."""
        while not self.go.is_set():
            try:
                await self.go.wait()
            except asyncio.CancelledError:
                continue


@pytest.mark.parametrize("makes_it", ["at once", "late"])
async def test_a_handler_that_outlives_its_connection_leaves_the_next_ones_channels_alone(makes_it: str) -> None:
    talker = Talker()
    channels: list[AnonymousChannel] = []

    @talker.client.on("slow")
    async def slow(ctx: Context) -> None:
        if makes_it == "at once":
            channels.append(ctx.channel())
        await talker.wait()
        channels.append(ctx.channel())

    await talker.connected("slow")
    line = await talker.connected("talk")
    assert line.take() == [{"i": 1, "h": 1}]
    assert all(isinstance(channel.close_reason, ConnectionLost) for channel in channels)
    line.feed({"i": 2, "h": 1, "a": ["ask"]})
    talker.go.set()
    await turns(20)
    assert line.take() == [{"i": 2, "d": "answered"}]
    for channel in channels:
        with pytest.raises(ChannelClosed):
            await channel.emit("line")
    await talker.client.close()


@pytest.mark.parametrize("mode", ["paced", "credited"])
@pytest.mark.parametrize("last", ["an item", "the end"])
async def test_a_source_that_outlives_its_connection_sends_nothing_on_the_next_one(mode: str, last: str) -> None:
    talker = Talker(mode)

    @talker.client.on("items")
    async def stubborn() -> AsyncIterator[str]:
        await talker.wait()
        if last == "an item":
            yield "late"

    line = await talker.connected("items")
    if mode == "credited":
        line.feed(credit(1, 10))
    line.feed({"h": 1, "a": ["start"]})
    await turns()
    line = await talker.connected("talk")
    line.take()
    talker.go.set()
    await turns(20)
    assert line.take() == []
    await talker.client.close()


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
