"""How a channel comes about, message by message; what keeps it from doing so; and its id."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from core_driver import ABORTED, Blocked, Driven, messages, rejection, turns
from leftovers import nothing_left as nothing_left
from stream_driver import PLAIN, WSRPC, Feed, agreed, emptied, values
from stream_sides import over, serving

from wsrpc import (
    AnonymousChannel,
    ChannelClosed,
    Context,
    Limits,
    RpcError,
)

pytestmark = pytest.mark.usefixtures("nothing_left")


# ---------------------------------------------------------------- by a handler


@pytest.mark.parametrize("waits", [False, True])
@pytest.mark.parametrize(
    ("result", "reason", "answer"),
    [
        ("something else", None, {"d": "something else"}),
        (RpcError("no"), None, {"e": {"message": "no"}, "_": 1}),
        ("the channel", "no", {"e": "no"}),
        ("the channel", ValueError("no"), {"e": {"message": "no"}, "_": 1}),
    ],
    ids=str,
)
async def test_a_channel_that_is_not_returned_or_that_was_aborted_before_is_never_heard_of(
    result: Any, reason: Any, answer: dict[str, Any], waits: bool
) -> None:
    d = Driven()
    made: list[AnonymousChannel] = []

    async def handler(ctx: Context) -> Any:
        channel = ctx.channel()
        made.append(channel)
        await turns(waits)
        if reason is not None:
            await channel.abort(reason)
        if isinstance(result, RpcError):
            raise result
        return channel if result == "the channel" else result

    d.peer.on("c", handler)
    assert await d.fed({"i": 5, "a": ["c"]}) == [{"i": 5, **answer}]
    with pytest.raises(ChannelClosed):
        await made[0].emit("e")
    assert made[0].closed and d.peer.anonymous_channels == 0
    d.assert_empty()


async def test_an_event_cannot_open_a_channel(caplog: pytest.LogCaptureFixture) -> None:
    async def talk(channel: AnonymousChannel) -> None:
        pytest.fail("it runs")

    def by_hand(ctx: Context) -> AnonymousChannel:
        return ctx.channel()

    for handler in (by_hand, talk, lambda: iter([1])):
        d = Driven()  # for which it is the first event that does not fit
        d.peer.on("e", handler)
        assert await d.fed({"a": ["e"]}) == []
        assert "'e' opens a channel, so it has to be requested" in messages(caplog)[-1]
        assert d.peer.anonymous_channels == 0
        d.assert_empty()


async def test_a_request_that_is_cancelled_while_its_handler_makes_the_channel() -> None:
    d = Driven(limits=Limits(channels=1))
    made: list[AnonymousChannel] = []

    async def handler(ctx: Context) -> AnonymousChannel:
        made.append(ctx.channel())
        made[0].on("e", print)
        await asyncio.Event().wait()
        return made[0]

    d.peer.on("c", handler)
    await d.fed({"i": 5, "a": ["c"]})
    error = rejection(await d.fed({"i": 7, "a": ["c"]}), 7)
    assert error["code"] == "wsrpc.too_many_channels", "one that is not delivered yet counts"
    assert await d.fed({"i": 5, "x": "bored"}) == [{"i": 5, "e": ABORTED, "_": 1}]
    assert made[0].closed
    await emptied(d.peer)


@pytest.mark.parametrize("features", [*PLAIN, WSRPC], ids=repr)
@pytest.mark.parametrize("handler", ["stream", "conversation", "channel"])
async def test_a_cancellation_that_crosses_the_answer_ends_the_channel_if_the_other_side_is_wsrpc(
    handler: str, features: tuple[str, ...] | None
) -> None:
    """Others may cancel a request that was answered long ago."""
    d, wsrpc = Driven(extensions=True), features == WSRPC
    blocked = Blocked()

    async def conversation(channel: AnonymousChannel) -> None:
        await blocked()

    def channel(ctx: Context) -> AnonymousChannel:
        return ctx.channel()

    handlers: dict[str, Any] = {"stream": Feed().__call__, "conversation": conversation, "channel": channel}
    d.peer.on("c", handlers[handler])
    if features is not None:
        await agreed(d, *features)
    assert await d.fed({"i": 5, "a": ["c"]}) == [{"i": 5, "h": 1}]
    assert await d.fed({"i": 5, "x": ABORTED, "_": 1}) == []
    assert d.peer.anonymous_channels == (not wsrpc)
    assert d.ignored == ({} if wsrpc else {"cancellation of no request": 1})
    assert len(blocked.cancelled) == (wsrpc and handler == "conversation")
    await over(d)


# ---------------------------------------------------------------- by a caller


# ---------------------------------------------------------------- ids


NO_CHANNEL: list[Any] = ["", "-5", "5.0", "5e0", " 5", "+5", "0_5", "٥", "⁵", "5" * 17, "5" * 100_000, 5.5, True, [5]]


@pytest.mark.parametrize("h", [5, 5.0, "5", "05"], ids=repr)
async def test_a_channel_is_known_by_number_and_by_digits(h: Any) -> None:
    d = await serving(Feed().__call__)
    assert values(await d.fed(*({"h": other, "a": ["start"]} for other in NO_CHANNEL))) == []
    [first] = await d.fed({"h": h, "a": ["start"]})
    assert first["h"] == 5
    await d.fed({"h": h, "x": "bye"})
    await emptied(d.peer)
    d.assert_empty()


async def test_a_request_with_the_id_of_an_open_channel_is_rejected_and_harms_nothing() -> None:
    d = await serving(Feed().__call__)
    assert "still open" in rejection(await d.fed({"i": 5, "a": ["s"]}), 5)["message"]
    assert (d.peer.anonymous_channels, d.peer.active) == (1, 1)
    assert values(await d.fed({"h": 5, "a": ["start"]})) == [0]
    await over(d)
    assert await d.fed({"i": 5, "a": ["s"]}) == [{"i": 5, "h": 1}], "now it is free again"
    assert values(await d.fed({"h": 5, "a": ["start"]})) == [0]
    await over(d)
    assert [message["h"] for message in await d.fed({"h": 5, "a": ["start"]})] == [5], "and told of once more"


# ---------------------------------------------------------------- how many


async def test_a_handler_that_will_not_end_takes_the_place_of_a_handler_but_not_of_a_channel() -> None:
    d = Driven(limits=Limits(channels=1, running=1))
    stubborn = Blocked()

    async def talk(channel: AnonymousChannel) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await stubborn()

    d.peer.on("s", talk)
    await d.fed({"i": 1, "a": ["s"]})
    await d.fed({"h": 1, "x": "bye"})
    assert (d.peer.anonymous_channels, d.peer.active) == (0, 1)
    assert await d.fed({"i": 3, "a": ["s"]}) == []  # it waits, as for any other handler
    stubborn.go.set()
    await turns()
    d.expect({"i": 3, "h": 1})
    d.transport.lose()
    await emptied(d.peer)
