"""``offline="fail"``: no message waits for another connection."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, Literal

import pytest
from core_driver import Driven, messages, redialing, start, turns
from leftovers import turns_until
from peers_inside import out_of
from stream_driver import welcome

from wsrpc import (
    AnonymousChannel,
    ChannelClosed,
    Client,
    ConnectionLost,
    Limits,
    MessageTooBig,
    Peer,
    RequestTimeout,
    Server,
)
from wsrpc.testing import ScriptedTransport, connect, memory_transports, pair

Offline = Literal["queue", "fail"]


async def read(caller: Any, **options: Any) -> None:
    async with caller.stream("s", **options):
        pytest.fail("opened")


async def emit_nowait(caller: Any, **options: Any) -> None:
    caller.emit_nowait("e", **options)


CALLS: dict[str, Callable[..., Coroutine[Any, Any, Any]]] = {
    "emit": lambda caller, **options: caller.emit("e", **options),
    "emit_nowait": emit_nowait,
    "request": lambda caller, **options: caller.request("r", **options),
    "upload": lambda caller, **options: caller.request("u", send=[1], **options),
    "open_channel": lambda caller, **options: caller.open_channel("c", **options),
    "stream": read,
}
AWAITED = sorted(CALLS.keys() - {"emit_nowait"})
each_call = pytest.mark.parametrize("name", list(CALLS))
each_awaited = pytest.mark.parametrize("name", AWAITED)


def assert_not_sent(error: BaseException | None, code: int = 1006) -> None:
    assert isinstance(error, ConnectionLost)
    assert (error.code, error.outcome) == (code, "not_sent")


def names(sent: list[Any]) -> list[Any]:
    return [message["a"][0] for message in sent]


# ---------------------------------------------------------------- not connected


@each_call
@pytest.mark.parametrize("said", ["call", "client"])
async def test_without_a_connection_it_fails_at_once_and_nothing_is_left(name: str, said: str) -> None:
    client = Client(offline="fail" if said == "client" else "queue", extensions=False)
    options: dict[str, Any] = {"offline": "fail"} if said == "call" else {}
    for caller in (client, client.peer, client.of("room")):
        with pytest.raises(ConnectionLost) as caught:
            await CALLS[name](caller, **options)
        assert_not_sent(caught.value)
        assert caught.value.reason == "not connected"
    assert client.peer.pending == 0
    transport = ScriptedTransport()
    await client.bind(transport)
    await turns()
    transport.expect()
    await client.close()


async def test_a_source_is_closed_if_there_is_nobody_to_send_it_to() -> None:
    async def source() -> AsyncIterator[int]:
        yield 1

    items = source()
    client = Client(offline="fail")
    with pytest.raises(ConnectionLost):
        await client.request("u", send=items)
    with pytest.raises(StopAsyncIteration):
        await anext(items)


async def test_a_call_may_wait_although_its_client_does_not() -> None:
    client = Client(offline="fail", extensions=False)
    waiting = start(client.request("waits", offline="queue"))
    await turns(1)
    await client.emit("waits, too", offline="queue")
    client.emit_nowait("and this", offline="queue")
    transport = ScriptedTransport()
    await client.bind(transport)
    await turns()
    sent = transport.take()
    assert names(sent) == ["waits", "waits, too", "and this"]
    transport.feed({"i": sent[0]["i"], "d": 5})
    assert await waiting == 5
    await client.close()


@each_call
async def test_it_fails_in_a_close_handler_and_after_close(name: str) -> None:
    client = Client(offline="fail", extensions=False)
    errors: list[BaseException] = []

    async def try_it() -> None:
        with pytest.raises(ConnectionLost) as caught:
            await CALLS[name](client)
        errors.append(caught.value)

    client.on("close", try_it)
    await client.bind(ScriptedTransport())
    await client.close(4000, "bye")
    await try_it()
    assert len(errors) == 2
    for error in errors:
        assert_not_sent(error, 4000)


@each_call
async def test_it_fails_while_the_close_frame_is_on_its_way(name: str) -> None:
    server = Server()
    async with connect(server, client=Client(offline="fail")) as client:
        closing = start(client.peer.close())
        await turns(1)
        with pytest.raises(ConnectionLost) as caught:
            await CALLS[name](client)
        assert_not_sent(caught.value, 1000)
        await closing
    await server.close()


@each_call
async def test_it_fails_on_a_connection_that_has_ended_untold(name: str) -> None:
    d = redialing()

    def refuse(payload: bytes, text: bool = True, /) -> None:
        raise ConnectionLost(1006, "broken pipe", "not_sent")

    out_of(d.peer).session.send = refuse
    with pytest.raises(ConnectionLost) as caught:
        await CALLS[name](d.peer, offline="fail")
    assert_not_sent(caught.value)
    d.rebind()
    await turns()
    d.expect()
    d.assert_empty()


@each_call
@pytest.mark.parametrize("offline", ["Queue", "", True, 0, "drop", ["queue"]])
async def test_what_offline_does_not_take(name: str, offline: Any) -> None:
    client = Client()
    with pytest.raises(ValueError, match=r'"queue".*"fail"'):
        await CALLS[name](client, offline=offline)
    with pytest.raises(ValueError, match=r'"queue".*"fail"'):
        Client(offline=offline)
    assert client.peer.pending == 0


# ---------------------------------------------------------------- while `open` handlers run


def opening(**options: Any) -> tuple[Driven, asyncio.Event]:
    """A peer whose `open` handler waits."""
    d = redialing(bind=False, **options)
    go = asyncio.Event()

    async def opened(peer: Peer) -> None:
        await peer.emit("hello", offline="fail")  # there is a connection, for whoever opens it
        await go.wait()
        await peer.emit("ready")

    d.peer.on("open", opened)
    d.peer.bind(d.transport)
    return d, go


async def test_it_waits_for_the_open_handlers_in_order() -> None:
    d, go = opening()
    await turns()
    tasks = [start(d.peer.emit("1", offline="fail"))]
    await turns(1)
    d.peer.emit_nowait("2", offline="fail")
    tasks.append(start(d.peer.request("3", offline="fail")))
    await turns(1)
    await d.peer.emit("4")
    await turns()
    assert names(d.take()) == ["hello"]
    assert not tasks[0].done()  # it cannot be said yet what becomes of it
    go.set()
    await turns()
    sent = d.take()
    assert names(sent) == ["ready", "1", "2", "3", "4"]
    await tasks[0]
    d.feed({"i": sent[3]["i"], "d": True})
    assert await tasks[1] is True
    d.assert_empty()


@each_awaited
async def test_it_does_not_ride_over_to_another_connection(name: str) -> None:
    d, go = opening()
    await turns()
    refused = start(CALLS[name](d.peer, offline="fail"))
    await turns()
    await d.peer.emit("rides over")
    d.take()
    d.rebind()  # the old connection is over, and a new one there, in one step
    go.set()
    await turns()
    assert_not_sent(refused.exception(), 1001)
    assert names(d.take()) == ["hello", "ready", "rides over"]
    d.assert_empty()


async def test_an_event_that_nobody_waits_for_is_lost_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    d, go = opening()
    await turns()
    d.peer.emit_nowait("lost", offline="fail")
    d.transport.lose()
    assert [text for text in messages(caplog) if "not sent" in text]
    d.rebind()
    go.set()
    await turns()
    assert names(d.take()) == ["hello", "ready"]


async def test_what_is_cancelled_while_open_handlers_run_is_not_sent() -> None:
    d, go = opening()
    await turns()
    leaves = start(d.peer.emit("leaves", offline="fail"))
    stays = start(d.peer.emit("stays", offline="fail"))
    await turns()
    leaves.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaves
    go.set()
    await stays
    assert names(d.take()) == ["hello", "ready", "stays"]


async def test_a_deadline_runs_while_open_handlers_do() -> None:
    d, go = opening()
    late = start(d.peer.request("late", timeout=1, offline="fail"))
    await turns()
    d.clock.advance(1)
    with pytest.raises(RequestTimeout):
        await late
    go.set()
    await turns()
    assert names(d.take()) == ["hello", "ready"]


@pytest.mark.parametrize(
    ("announced", "value"), [({"message": 1000}, "x" * 2000), ({"values": 100}, [0] * 200)], ids=["bytes", "values"]
)
async def test_what_is_too_big_for_the_other_side_is_said_to_whoever_waits(
    announced: dict[str, int], value: Any, caplog: pytest.LogCaptureFixture
) -> None:
    d, go = opening(extensions=True)
    emitting = start(d.peer.emit("big", value, offline="fail"))
    requesting = start(d.peer.request("big", value, offline="fail"))
    d.peer.emit_nowait("big", value)
    d.peer.send_raw_nowait(json.dumps([0] * 200))
    await d.fed(welcome(**announced))
    go.set()
    await turns()
    assert isinstance(emitting.exception(), MessageTooBig)
    assert isinstance(requesting.exception(), MessageTooBig)
    assert [line for line in messages(caplog) if "an event that waited for a connection was not sent: " in line]
    assert d.take()[-1] == [0] * 200, "a raw message has no values for the other side"


async def test_closing_while_open_handlers_run_writes_what_was_accepted() -> None:
    d, _ = opening()
    await turns()
    emitting = start(d.peer.emit("accepted", offline="fail"))
    await turns()
    await d.peer.close()
    await emitting
    assert names(d.take()) == ["hello", "accepted"]


# ---------------------------------------------------------------- on a full line


@each_awaited
@pytest.mark.parametrize("at_once", [True, False])
async def test_what_waits_for_its_turn_fails_with_the_connection(name: str, at_once: bool) -> None:
    d = redialing()
    d.transport.pause()
    waits = start(d.peer.emit("rides over"))
    refused = start(CALLS[name](d.peer, offline="fail"))
    await turns()
    if not at_once:
        d.transport.lose()
        await turns()
        assert_not_sent(refused.exception())
    d.rebind()
    d.transport.pause()  # the next line is full as well, which is no reason to wait
    await turns()
    assert_not_sent(refused.exception(), 1001 if at_once else 1006)
    d.transport.resume()
    await waits
    assert names(d.take()) == ["rides over"]
    d.assert_empty()


async def test_a_turn_that_comes_with_the_drop_is_not_used() -> None:
    d = redialing()
    d.transport.pause()
    refused = start(d.peer.emit("refused", offline="fail"))
    await turns()
    d.transport.resume()
    d.rebind()
    await turns()
    assert_not_sent(refused.exception(), 1001)
    d.expect()
    d.assert_empty()


async def test_a_connection_that_drains_sends_it() -> None:
    d = redialing()
    d.transport.pause()
    tasks = [start(d.peer.emit("1", offline="fail")), start(d.peer.emit("2"))]
    await turns()
    d.transport.resume()
    await asyncio.gather(*tasks)
    assert names(d.take()) == ["1", "2"]


async def test_what_waits_for_remote_capacity_fails_with_the_connection() -> None:
    d = redialing(extensions=True)
    await d.fed(welcome(running=1, waiting=0, waiting_bytes=0))
    taken = start(d.peer.request("takes the place"))
    refused = start(d.peer.request("refused", offline="fail"))
    waits = start(d.peer.request("waits", timeout=None))
    await turns()
    assert names(d.take()) == ["takes the place"]
    d.rebind()
    await turns()
    assert isinstance(error := taken.exception(), ConnectionLost) and error.outcome == "unknown"
    assert_not_sent(refused.exception(), 1001)
    assert names([message for message in d.take() if "a" in message]) == ["waits"]
    waits.cancel()
    await turns()
    d.assert_empty()


# ---------------------------------------------------------------- where it means nothing


@pytest.mark.parametrize("offline", ["queue", "fail", None])
async def test_a_servers_peer_never_queues(offline: Offline | None) -> None:
    server = Server()
    peers: list[Peer] = []
    server.on("open", peers.append)
    async with connect(server) as client:
        client.on("add", lambda a, b: a + b)
        [peer] = peers
        assert await peer.request("add", 1, 2, offline=offline) == 3
        await peer.emit("e", offline=offline)
        peer.emit_nowait("e", offline=offline)
    for name in CALLS:
        with pytest.raises(ConnectionLost) as caught:
            await CALLS[name](peer, offline=offline)
        assert_not_sent(caught.value, 1000)
    await server.close()


@pytest.mark.parametrize("name", ["emit", "emit_nowait", "request", "open_channel"])
async def test_an_anonymous_channel_belongs_to_its_connection(name: str) -> None:
    async with pair() as (left, right):

        @right.on("talk")
        async def talk(channel: AnonymousChannel) -> None:
            await channel.wait_closed()

        async with await left.open_channel("talk") as channel:
            for option in ("offline", "retry"):
                with pytest.raises(TypeError, match=option):
                    await CALLS[name](channel, **{option: None})


async def test_what_waits_on_an_anonymous_channel_fails_as_on_any_client() -> None:
    client, server = Client(offline="fail", limits=Limits(high_water=100)), Server()

    @server.on("talk")
    async def talk(channel: AnonymousChannel) -> None:
        await channel.wait_closed()

    dialed, accepted = memory_transports(limits=Limits(high_water=100))
    await asyncio.gather(server.accept(accepted), client.bind(dialed))
    channel = await client.open_channel("talk")
    dialed.hold()
    await client.emit("fills the line", "x" * 200)
    waiting = start(channel.emit("e"))
    await turns()
    assert not waiting.done()
    dialed.abort()
    with pytest.raises(ChannelClosed):
        await waiting
    await client.close()
    await server.close()


@each_call
async def test_while_the_other_side_drains_it_fails_at_once(name: str) -> None:
    async with connect(server := Server()) as client:
        began, may_end = asyncio.Event(), asyncio.Event()

        @server.on("work")
        async def work() -> str:
            began.set()
            await may_end.wait()
            return "done"

        begun = start(client.request("work"))
        await began.wait()
        closing = start(server.close(drain=60))
        await turns_until(lambda: client.peer._out.silent)
        with pytest.raises(ConnectionLost) as caught:
            async with asyncio.timeout(5):
                await CALLS[name](client, offline="fail")
        assert (caught.value.code, caught.value.outcome) == (1012, "not_sent")
        assert not begun.done()
        may_end.set()
        assert await begun == "done"
        await closing


async def test_what_waits_for_the_open_handlers_fails_when_the_other_side_drains() -> None:
    server, go_on = Server(), asyncio.Event()
    client = Client(offline="fail", reconnect=None)

    @client.on("open")
    async def opened() -> None:
        await go_on.wait()

    ours, theirs = memory_transports()
    binding = start(client.bind(ours))
    await server.accept(theirs)
    waits = [start(client.emit("a")), start(client.request("b"))]
    await asyncio.sleep(0)
    closing = start(server.close(drain=60))
    for each in waits:
        with pytest.raises(ConnectionLost) as caught:
            async with asyncio.timeout(5):
                await each
        assert (caught.value.code, caught.value.outcome) == (1012, "not_sent")
    assert not closing.done()
    go_on.set()
    await binding
    await closing
    await client.close()


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (1, "1 event that waited for a connection was not sent"),
        (2, "2 events that waited for a connection were not sent"),
    ],
)
async def test_the_log_says_how_many_events_never_left(count: int, text: str, caplog: pytest.LogCaptureFixture) -> None:
    client = Client()
    for _ in range(count):
        await client.emit("lost")
    await client.close()
    assert text in messages(caplog)
