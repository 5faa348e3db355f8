"""How an anonymous channel ends: close, abort and drop, what travels, and what ends with it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from core_driver import Blocked, Driven, start, turns
from leftovers import nothing_left as nothing_left
from leftovers import turns_until
from stream_driver import Both, emptied, welcome
from stream_driver import both as both
from stream_sides import opened, requested

from wsrpc import AnonymousChannel, ChannelClosed, ConnectionLost, Limits, Peer, RemoteError, RpcError, Server
from wsrpc.testing import ScriptedTransport, pair

pytestmark = pytest.mark.usefixtures("nothing_left")


@asynccontextmanager
async def scripted() -> AsyncGenerator[tuple[Peer, ScriptedTransport]]:
    """A peer whose remote peer is plain, and is played by the test."""
    transport = ScriptedTransport()
    server = Server()
    async with asyncio.timeout(8):
        peer = await server.accept(transport)
        assert isinstance(peer, Peer)
        yield peer, transport
        transport.lose()
        await server.close()


@pytest.mark.parametrize("how", ["close", "abort", "remote abort", "drop"])
async def test_using_it_afterwards_tells_why_it_is_over(both: Both, how: str) -> None:
    ours, theirs = await opened(both)
    if how == "close":
        ours.close("why")
    elif how == "abort":
        await ours.abort("why")
    elif how == "remote abort":
        await theirs.abort("why")
        await ours.wait_closed()
    else:
        transport = both[0].transport
        assert transport is not None
        transport.abort()
        await ours.wait_closed()
    uses: list[Any] = [
        lambda: ours.emit("e"),
        lambda: ours.request("e"),
        lambda: ours.request("e", send=[1]),
        lambda: ours.open_channel("e"),
    ]
    for use in uses:
        with pytest.raises(ChannelClosed) as caught:
            await use()
        assert caught.value.channel == str(ours.id)
        if how == "drop":
            assert isinstance(caught.value.reason, ConnectionLost)
        else:
            assert caught.value.reason == "why" and "why" in str(caught.value)
    with pytest.raises(ChannelClosed):
        ours.emit_nowait("e")
    # Where the other side ended it, a reader that comes late hears of it as one that had come in time would.
    with pytest.raises({"remote abort": RemoteError, "drop": ConnectionLost}.get(how, ChannelClosed)):
        await anext(ours.events("e"))
    with pytest.raises(ChannelClosed):
        ours.on("e", print)
    if how == "close":  # that was local: the other side learns of it when it next sends
        assert not theirs.closed
        await theirs.emit("anything")
        await theirs.wait_closed()
        reason = theirs.close_reason
        assert isinstance(reason, RemoteError) and "does not exist" in reason.message, "as JavaScript says it"


@pytest.mark.parametrize("reads", ["items", "events", "nothing"])
async def test_closing_stops_a_producer_that_waits_for_credit_and_tells_it_why(reads: str) -> None:
    async with pair(limits=Limits(stream_window=1)) as both:
        ours, theirs = await opened(both)
        if reads == "items":
            items = ours.items()
            producing = start(anext(items))
        elif reads == "events":
            ours.events("e")
        await turns()
        ours.close("why")
        await turns()
        assert theirs.closed is (reads == "items")
        if reads == "items":
            assert theirs.close_reason == "why"
            with pytest.raises(ChannelClosed):
                await producing
        await theirs.abort()


async def test_close_and_abort_are_idempotent_and_the_first_reason_stays(both: Both) -> None:
    ours, theirs = await opened(both)
    await ours.abort("first")
    ours.close("second")
    await ours.abort("third")
    await theirs.wait_closed()
    await theirs.abort("fourth")
    assert (ours.close_reason, theirs.close_reason) == ("first", "first")


@pytest.mark.parametrize(
    ("reason", "there"),
    [("bored", "bored"), ({"n": [1, 2]}, {"n": [1, 2]}), (0, 0), (False, False), ("", ""), (1.5, 1.5)],
)
async def test_a_value_travels_as_the_reason_of_an_abort(both: Both, reason: Any, there: Any) -> None:
    ours, theirs = await opened(both)
    await ours.abort(reason)
    await theirs.wait_closed()
    assert theirs.close_reason == there and type(theirs.close_reason) is type(there)
    assert ours.close_reason == reason


async def test_an_error_travels_as_the_reason_of_an_abort(both: Both) -> None:
    ours, theirs = await opened(both)
    await theirs.abort(RpcError("full", code="E_FULL", data={"left": 0}))
    await ours.wait_closed()
    reason = ours.close_reason
    assert isinstance(reason, RemoteError)
    assert (reason.message, reason.code, reason.data) == ("full", "E_FULL", {"left": 0})


async def test_of_another_error_the_text_travels(both: Both) -> None:
    ours, theirs = await opened(both)
    await ours.abort(ValueError("no room"))
    await theirs.wait_closed()
    assert isinstance(theirs.close_reason, RemoteError) and theirs.close_reason.message == "no room"
    assert isinstance(ours.close_reason, ValueError)


async def test_without_a_reason_the_other_side_gets_the_default_error(both: Both) -> None:
    ours, theirs = await opened(both)
    await ours.abort()
    await theirs.wait_closed()
    assert ours.close_reason is None
    assert isinstance(theirs.close_reason, RemoteError) and theirs.close_reason.message == "Request aborted"


async def test_a_reason_that_cannot_be_encoded_does_not_keep_it_open(both: Both) -> None:
    ours, theirs = await opened(both)
    await ours.abort(object())
    await theirs.wait_closed()
    assert ours.closed and isinstance(theirs.close_reason, RemoteError)


async def test_pending_requests_fail_and_their_handlers_are_cancelled_when_it_closes(both: Both) -> None:
    ours, theirs = await opened(both)
    there, here = Blocked(), Blocked()
    theirs.on("wait", there)
    ours.on("wait", here)
    asking = [start(ours.request("wait", timeout=None)), start(theirs.request("wait", timeout=None))]
    await turns()
    assert there.started and here.started
    await ours.abort("enough")
    for task in asking:
        with pytest.raises(ChannelClosed) as caught:
            await task
        assert caught.value.reason == "enough"
    await emptied(*both)
    assert there.cancelled == ["enough"] and here.cancelled == ["enough"]


@pytest.mark.parametrize("how", ["close", "abort", "remote abort", "drop"])
async def test_the_remote_peer_learns_that_requests_on_it_are_over(both: Both, how: str) -> None:
    ours, theirs = await opened(both)
    started, cancelled = asyncio.Event(), asyncio.Event()

    @theirs.on("hang")
    async def hang() -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    asking = asyncio.create_task(ours.request("hang"))
    await started.wait()
    if how == "close":
        ours.close("why")  # on this side only
        assert not theirs.closed
    elif how == "abort":
        await ours.abort("why")
    elif how == "remote abort":
        await theirs.abort("why")
    else:
        transport = both[0].transport
        assert transport is not None
        transport.abort()
    async with asyncio.timeout(8):
        await cancelled.wait()
        with pytest.raises((ChannelClosed, ConnectionLost)):
            await asking
    theirs.close()


@pytest.mark.parametrize(
    ("end", "sent"),
    [
        (lambda channel: channel.close("enough"), [{"i": 2, "x": "enough"}]),
        (lambda channel: channel.abort("enough"), [{"h": 1, "x": "enough"}, {"i": 2, "x": "enough"}]),
        (None, [{"i": 2, "x": {"message": "Request aborted"}, "_": 1}]),
    ],
    ids=["close", "abort", "by the plain peer"],
)
async def test_a_plain_peer_gets_a_cancellation_of_each_request_on_it(end: Any, sent: list[Any]) -> None:
    async with scripted() as (peer, transport):
        opening = asyncio.create_task(peer.open_channel("talk"))
        await turns(5)
        [request] = transport.take()
        transport.feed({"i": request["i"], "h": request["i"]})
        channel = await opening
        asking = asyncio.create_task(channel.request("hang"))
        await turns(5)
        [inner] = transport.take()
        if end is None:
            transport.feed({"h": channel.id, "x": "gone"})
        else:
            ended = end(channel)
            if ended is not None:
                await ended
        with pytest.raises(ChannelClosed):
            await asking
        ids = {1: channel.id, 2: inner["i"]}
        transport.expect(*[{k: ids[v] if k in "ih" else v for k, v in message.items()} for message in sent])


@pytest.mark.parametrize("end", ["close", "abort", "remote abort"])
async def test_a_wsrpc_peer_that_knows_of_the_end_gets_no_cancellations(end: str) -> None:
    d = Driven(dialer=True, extensions=True)
    await d.fed(welcome())
    channel = await requested(d)
    asking = start(channel.request("hang"))
    await turns()
    [inner] = d.take()
    if end == "close":
        channel.close("enough")
        d.expect({"i": inner["i"], "x": "enough"})
    elif end == "abort":
        await channel.abort("enough")
        d.expect({"h": channel.id, "x": "enough"})
    else:
        assert await d.fed({"h": channel.id, "x": "gone"}) == []
    with pytest.raises(ChannelClosed):
        await asking


@pytest.mark.parametrize("handler", ["stream", "conversation"])
async def test_a_cancellation_by_wsrpc_that_crosses_the_answer_ends_the_channel(handler: str) -> None:
    async with scripted() as (peer, transport):
        transport.feed({"ws-wrapper": False, "wsrpc": {"t": "hello", "v": 1, "features": [], "limits": {}}})
        ended = asyncio.Event()

        @peer.on("stream")
        async def stream() -> AsyncIterator[int]:
            yield 1

        @peer.on("conversation")
        async def talk(channel: AnonymousChannel) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()

        transport.feed({"i": 1, "a": [handler]})
        await turns_until(lambda: peer.channels == 1)
        transport.feed({"i": 1, "x": {"message": "Request aborted"}, "_": 1})
        await turns_until(lambda: (peer.channels, peer.active) == (0, 0))
        assert ended.is_set() is (handler == "conversation")
        assert peer.ignored == {}


async def test_events_that_run_when_it_closes_finish(both: Both) -> None:
    ours, theirs = await opened(both)
    note = Blocked()
    theirs.on("note", note)
    await ours.emit("note", 1)
    await turns()
    await ours.abort()
    await turns()
    note.go.set()
    await emptied(*both)
    assert note.finished == [(1,)] and note.cancelled == []


async def test_wait_closed_may_be_cancelled_and_several_may_wait(both: Both) -> None:
    ours, theirs = await opened(both)
    waiting = [start(ours.wait_closed()) for _ in range(3)]
    await turns()
    waiting[0].cancel()
    await turns()
    assert not ours.closed
    await theirs.abort("x")
    await asyncio.gather(*waiting[1:])
    await ours.wait_closed()
