"""How a channel comes about, message by message, and what keeps it from doing so."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from core_driver import ABORTED, Driven, messages, rejection, turns
from leftovers import nothing_left as nothing_left
from stream_driver import emptied
from stream_sides import served, start_opening

from wsrpc import AnonymousChannel, ChannelClosed, ConnectionLost, Context, Peer, RemoteError, RequestTimeout, RpcError

pytestmark = pytest.mark.usefixtures("nothing_left")


async def test_a_channel_that_is_not_returned_is_closed_and_never_heard_of() -> None:
    d = Driven()
    made: list[AnonymousChannel] = []

    def handler(ctx: Context) -> str:
        made.append(ctx.channel())
        return "something else"

    async def slow(ctx: Context) -> str:
        made.append(ctx.channel())
        await turns(1)
        return "something else"

    async def fails(ctx: Context) -> None:
        made.append(ctx.channel())
        raise RpcError("no")

    for i, function in enumerate((handler, slow), 1):
        d.peer.on("c", None)
        d.peer.on("c", function)
        assert await d.fed({"i": i, "a": ["c"]}) == [{"i": i, "d": "something else"}]
    d.peer.on("f", fails)
    assert rejection(await d.fed({"i": 3, "a": ["f"]}), 3) == {"message": "no"}
    for channel in made:
        assert channel.closed
        with pytest.raises(ChannelClosed):
            await channel.emit("e")
    assert d.peer.channels == 0


@pytest.mark.parametrize(
    ("reason", "rejected"),
    [
        ("no", {"e": "no"}),
        ({"n": 1}, {"e": {"n": 1}}),
        (RpcError("no", code="E"), {"e": {"message": "no", "code": "E"}, "_": 1}),
        (ValueError("no"), {"e": {"message": "no"}, "_": 1}),
    ],
    ids=["text", "value", "RpcError", "other error"],
)
async def test_one_that_was_aborted_before_it_was_returned_rejects_with_that(reason: Any, rejected: Any) -> None:
    d = Driven()

    async def handler(ctx: Context) -> AnonymousChannel:
        channel = ctx.channel()
        await channel.abort(reason)
        return channel

    d.peer.on("c", handler)
    assert await d.fed({"i": 5, "a": ["c"]}) == [{"i": 5, **rejected}]
    assert d.peer.channels == 0
    d.assert_empty()


async def test_an_event_cannot_open_a_channel(caplog: pytest.LogCaptureFixture) -> None:
    bodies: list[str] = []

    def by_hand(ctx: Context) -> AnonymousChannel:
        return ctx.channel()

    async def talk(channel: AnonymousChannel) -> None:
        bodies.append("talk")

    async def items() -> Any:
        bodies.append("items")
        yield 1

    for name, handler in (("by_hand", by_hand), ("talk", talk), ("items", items)):
        d = Driven()  # for which it is the first event that does not fit
        d.peer.on(name, handler)
        assert await d.fed({"a": [name]}) == []
        assert f"'{name}' opens a channel, so it has to be requested" in messages(caplog)[-1]
        assert bodies == [] and d.peer.channels == 0
        d.assert_empty()


async def test_a_channel_that_comes_after_the_cancellation_is_aborted() -> None:
    d = Driven(dialer=True)
    task, i = await start_opening(d)
    task.cancel("bored")
    await turns()
    d.expect({"i": i, "x": "bored"})
    await d.fed({"i": i, "h": 1})
    assert d.peer.channels == 0
    assert await d.fed({"h": i, "a": ["e"]}) == [], "it was aborted already"


async def test_that_abort_is_sent_once() -> None:
    d = Driven(dialer=True)
    task, i = await start_opening(d)
    task.cancel()
    await turns()
    d.take()
    [abort] = await d.fed({"i": i, "h": 1}, {"h": i, "a": ["e"]}, {"i": i, "h": 1})
    assert abort["h"] == i and abort["_"] == 1


async def test_a_channel_that_comes_after_the_timeout_is_aborted() -> None:
    d = Driven(dialer=True)
    task, i = await start_opening(d, timeout=2.0)
    d.clock.advance(2.0)
    with pytest.raises(RequestTimeout):
        await task
    assert [message["i"] for message in d.take()] == [i]
    [abort] = await d.fed({"i": i, "h": 1})
    assert abort["h"] == i and d.peer.channels == 0


async def test_cancelling_in_the_very_turn_in_which_it_comes_leaves_nothing() -> None:
    d = Driven(dialer=True)
    task, i = await start_opening(d)
    d.feed({"i": i, "h": 1})
    task.cancel("bored")
    await turns()
    assert task.cancelled()
    assert d.take() == [{"h": i, "x": "bored"}]
    await emptied(d.peer)


async def test_a_drop_while_it_is_being_opened_is_a_lost_connection() -> None:
    d = Driven(dialer=True)
    task, _ = await start_opening(d)
    d.transport.lose()
    with pytest.raises(ConnectionLost):
        await task
    await emptied(d.peer)


@pytest.mark.parametrize("what", ["abort", "drop"])
async def test_one_that_ends_in_the_read_that_brings_it_is_closed_with_the_reason(what: str) -> None:
    d = Driven(dialer=True)
    task, i = await start_opening(d)
    d.feed({"i": i, "h": 1}, *([{"h": i, "x": {"message": "full"}, "_": 1}] if what == "abort" else []))
    if what == "drop":
        d.transport.lose()
    channel: AnonymousChannel = await task
    assert channel.closed
    assert isinstance(channel.close_reason, RemoteError if what == "abort" else ConnectionLost)
    with pytest.raises(type(channel.close_reason)):
        async for _ in channel:
            pass
    with pytest.raises(ChannelClosed):
        await channel.emit("e")
    await emptied(d.peer)


async def test_a_request_that_is_cancelled_while_its_handler_makes_the_channel() -> None:
    d = Driven()
    made: list[AnonymousChannel] = []

    async def handler(ctx: Context) -> AnonymousChannel:
        made.append(ctx.channel())
        made[0].on("e", print)
        await asyncio.Event().wait()
        return made[0]

    d.peer.on("c", handler)
    await d.fed({"i": 5, "a": ["c"]})
    assert await d.fed({"i": 5, "x": "bored"}) == [{"i": 5, "e": ABORTED, "_": 1}]
    assert made[0].closed
    await emptied(d.peer)


async def test_a_cancellation_after_the_delivery_changes_nothing() -> None:
    d = Driven()
    channel = await served(d)
    assert await d.fed({"i": 5, "x": "late"}) == []
    assert not channel.closed
    channel.close()


async def test_a_channel_that_an_open_handler_opens_works_at_once() -> None:
    d = Driven(dialer=True, bind=False)
    heard: list[str] = []

    async def on_open(peer: Peer) -> None:
        channel = await peer.open_channel("c")
        line: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        channel.on("line", line.set_result)
        heard.append(await line)
        channel.close()

    d.peer.on("open", on_open)
    d.peer.bind(d.transport)
    await turns()
    [request] = d.take()
    await d.fed({"i": request["i"], "h": 1}, {"h": request["i"], "a": ["line", "hi"]})
    assert heard == ["hi"]
    d.transport.lose()
    await turns()
