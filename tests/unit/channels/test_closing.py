"""How an anonymous channel ends: close, abort and drop, what travels, and what ends with it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from core_driver import Blocked, Driven, start, turns
from leftovers import nothing_left as nothing_left
from stream_driver import PLAIN, WSRPC, Both, emptied, welcome
from stream_driver import both as both
from stream_sides import opened, requested

from wsrpc import AnonymousChannel, ChannelClosed, ConnectionLost, Limits, Overloaded, RemoteError, RpcError
from wsrpc.testing import pair

pytestmark = pytest.mark.usefixtures("nothing_left")

WAYS = pytest.mark.parametrize("how", ["close", "abort", "remote abort", "drop"])


async def end(both: Both, ours: AnonymousChannel, theirs: AnonymousChannel, how: str) -> None:
    """End a channel, or let the other side end it, and let it know."""
    if how == "close":
        ours.close("why")
    elif how == "abort":
        await ours.abort("why")
    elif how == "remote abort":
        await theirs.abort("why")
    else:
        assert both[0].transport is not None
        both[0].transport.abort()
    await ours.wait_closed()


@WAYS
async def test_using_it_afterwards_tells_why_it_is_over(both: Both, how: str) -> None:
    ours, theirs = await opened(both)
    await end(both, ours, theirs, how)
    for use in (ours.emit("e"), ours.request("e"), ours.request("e", send=[1]), ours.open_channel("e")):
        with pytest.raises(ChannelClosed) as caught:
            await use
        assert caught.value.channel == str(ours.id)
        if how == "drop":
            assert isinstance(caught.value.reason, ConnectionLost)
        else:
            assert caught.value.reason == "why" and "why" in str(caught.value)
    # Where the other side ended it, a reader that comes late hears of it as one that had come in time would.
    with pytest.raises({"remote abort": RemoteError, "drop": ConnectionLost}.get(how, ChannelClosed)):
        await anext(ours.events("e"))
    for begin in (lambda: ours.emit_nowait("e"), ours.items, lambda: ours.on("e", print)):
        with pytest.raises(ChannelClosed):
            begin()
    if how == "close":  # that was local: the other side learns of it when it next sends, and once
        assert not theirs.closed
        for n in range(5):
            theirs.emit_nowait("anything", n)
        await theirs.wait_closed()
        reason = theirs.close_reason
        assert isinstance(reason, RemoteError) and "does not exist" in reason.message, "as JavaScript says it"
        assert not both[0].ignored and not both[1].ignored


@pytest.mark.parametrize("reads", ["items", "events"])
async def test_closing_stops_a_producer_that_waits_for_credit_and_tells_it_why(reads: str) -> None:
    async with pair(limits=Limits(stream_window=1)) as both:
        ours, theirs = await opened(both)
        reading = start(anext(ours.items() if reads == "items" else ours.events("e")))
        await turns()
        ours.close("why")
        await turns()
        assert (theirs.closed, theirs.close_reason) == ((True, "why") if reads == "items" else (False, None))
        with pytest.raises(ChannelClosed):
            await reading
        await theirs.abort()


async def test_close_and_abort_are_idempotent_and_the_first_reason_stays(both: Both) -> None:
    ours, theirs = await opened(both)
    waiting = start(theirs.wait_closed())
    await ours.abort("first")
    ours.close("second")
    await ours.abort("third")
    await waiting
    await theirs.abort("fourth")
    assert (ours.close_reason, theirs.close_reason) == ("first", "first")


FULL = RpcError("full", code="E_FULL", data={"left": 0})
ERROR = ValueError("no room")


@pytest.mark.parametrize(
    ("reason", "there"),
    [
        *((value, value) for value in ("bored", {"n": [1, 2]}, 0)),
        (FULL, ("full", "E_FULL", {"left": 0})),
        (Overloaded("busy"), ("busy", "wsrpc.overloaded", None)),  # no refusal: the handler that opened it has run
        (RpcError("no", "E", object()), ("no (data and fields left out: they cannot be encoded)", "E", None)),
        (ERROR, ("no room", None, None)),  # only its text travels
        (None, ("Request aborted", None, None)),
        (object(), ("Request aborted", None, None)),  # what cannot be encoded does not keep it open
        (RpcError("\ud800", code="E", data=object()), ("Request aborted", None, None)),
    ],
)
async def test_the_reason_of_an_abort_travels(both: Both, reason: Any, there: Any) -> None:
    ours, theirs = await opened(both)
    await ours.abort(reason)
    await theirs.wait_closed()
    got = theirs.close_reason
    if isinstance(there, tuple):
        assert type(got) is RemoteError
        got = (got.message, got.code, got.data)
    assert got == there and type(got) is type(there)
    assert ours.close_reason is reason


@pytest.mark.parametrize(
    "reason", [None, "bored" * 20, RpcError("bored" * 20), object(), RpcError("no", data=object())]
)
async def test_an_abort_that_is_larger_than_this_side_may_send_ends_it_on_this_side(reason: Any) -> None:
    async with pair(limits=Limits(sent_message_bytes=48), extensions=False) as (a, b):
        gone = asyncio.Event()

        @b.on("c")
        async def c(channel: AnonymousChannel) -> None:
            await gone.wait()

        channel = await a.open_channel("c")
        await channel.abort(reason)
        assert channel.closed and a.anonymous_channels == 0 and a.connected
        gone.set()


@WAYS
async def test_requests_on_it_fail_and_their_handlers_are_cancelled_while_events_go_on(both: Both, how: str) -> None:
    ours, theirs = await opened(both)
    there, here, note = Blocked(), Blocked(), Blocked()
    theirs.on("wait", there)
    theirs.on("note", note)
    ours.on("wait", here)
    asking = [start(ours.request("wait", timeout=None)), start(theirs.request("wait", timeout=None))]
    await ours.emit("note", 1)
    await turns()
    assert there.started and here.started
    await end(both, ours, theirs, how)
    for task, by in zip(asking, ("us", "them"), strict=True):
        if (how, by) == ("close", "them"):  # that was local: the other side learns of the handler's end alone
            with pytest.raises(RemoteError, match="Request aborted"):
                await task
            assert not theirs.closed
            theirs.close()
        else:
            with pytest.raises((ChannelClosed, ConnectionLost)) as caught:
                await task
            assert how == "drop" or (isinstance(caught.value, ChannelClosed) and caught.value.reason == "why")
    note.go.set()
    await emptied(*both)
    assert note.finished == [(1,)] and note.cancelled == []
    assert len(there.cancelled) == len(here.cancelled) == 1
    assert how == "drop" or there.cancelled == here.cancelled == ["why"]


ABORT: dict[str, Any] = {"h": "channel", "x": "why"}
CANCEL: dict[str, Any] = {"i": "request", "x": "why"}


@pytest.mark.parametrize(
    ("how", "features", "sent"),
    [
        *(("close", features, [CANCEL]) for features in [*PLAIN, WSRPC]),
        *(("abort", features, [ABORT, CANCEL]) for features in PLAIN),
        ("abort", WSRPC, [ABORT]),
        *(
            ("remote abort", features, [{"i": "request", "x": {"message": "Request aborted"}, "_": 1}])
            for features in PLAIN
        ),
        ("remote abort", WSRPC, []),
    ],
    ids=str,
)
async def test_a_peer_that_does_not_know_of_the_end_gets_a_cancellation_of_each_request(
    how: str, features: tuple[str, ...] | None, sent: list[Any]
) -> None:
    d = Driven(dialer=True, extensions=True)
    if features is not None:
        await d.fed(welcome(*features))
    channel = await requested(d)
    d.take()
    asking = start(channel.request("hang"))
    await turns()
    [inner] = d.take()
    if how == "remote abort":
        d.feed({"h": channel.id, "x": "gone"})
    elif how == "close":
        channel.close("why")
    else:
        await channel.abort("why")
    with pytest.raises(ChannelClosed):
        await asking
    ids = {"channel": channel.id, "request": inner["i"]}
    d.expect(*({key: ids[value] if key in "ih" else value for key, value in message.items()} for message in sent))
