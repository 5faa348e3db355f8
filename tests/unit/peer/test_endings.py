"""What a Close frame keeps from starting, and which codes and reasons may be sent."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest
from core_driver import Blocked, Driven, start
from leftovers import nothing_left as nothing_left
from waiting import settled, until

from wsrpc import AnonymousChannel, ChannelClosed, Client, ConnectionLost, Limits, Peer, RpcError, Server, Service
from wsrpc._base.closing import check_close, sendable
from wsrpc._core.session.connection import Connection
from wsrpc.testing import ScriptedTransport, connect, memory_transports
from wsrpc.types import RawConnection

pytestmark = pytest.mark.usefixtures("nothing_left")

LIMITS = Limits(close_timeout=2.0)


@pytest.mark.parametrize("how", ["close", "violation"])
@pytest.mark.parametrize("waits", ["place", "order"])
async def test_a_handler_that_waits_does_not_start_once_a_close_frame_is_queued(waits: str, how: str) -> None:
    d, work = Driven(limits=Limits(running=1 if waits == "place" else 1024)), Blocked()
    d.transport.may_close = asyncio.Event()  # the remote peer does not answer the frame
    d.peer.on("work", work, ordered=waits == "order")
    d.feed({"a": ["work", 0]}, {"a": ["work", 1]}, {"i": 1, "a": ["work", 2]}, {"a": ["work", 3]})
    await settled()
    if how == "close":
        closing = start(d.peer.close(4001, "logged out"))
    else:
        d.feed(*['{"a":["work"'] * 12)
    await settled()
    work.go.set()
    await settled()
    d.transport.lose()
    d.transport.may_close.set()
    if how == "close":
        await closing
    await settled()
    assert work.started == [(0,)]
    refused = waits == "place" and how == "close"  # the request is answered before the frame
    assert d.ignored["dropped at the end"] == (3 if waits == "place" else 2) - refused
    assert d.peer.active == 0


async def test_the_handlers_of_all_requests_are_cancelled_and_those_of_events_go_on() -> None:
    d, work = Driven(), Blocked()
    d.peer.on("work", work)
    d.feed({"i": 1, "a": ["work", 1]}, {"a": ["work", 2]}, {"i": 3, "a": ["work", 3]}, {"i": 4, "a": ["work", 4]})
    await settled()
    d.transport.lose()
    await settled()
    work.go.set()
    await settled()
    assert len(work.cancelled) == 3 and work.finished == [(2,)]


@pytest.mark.parametrize(("code", "reason", "text"), [(1005, "", "may not be sent"), (1000, "ü" * 62, "123 bytes")])
async def test_a_code_or_reason_that_may_not_be_sent_is_a_local_error(code: int, reason: str, text: str) -> None:
    async with connect(Server()) as client:
        for closable in (client, client.peer, client.peer.transport):
            assert closable is not None
            with pytest.raises(ValueError, match=text):
                await closable.close(code, reason)
        assert client.connected


class Fails(ScriptedTransport):
    """A transport that cannot close."""

    async def close(self, code: int | None = 1000, reason: str = "") -> None:
        raise RuntimeError("this cannot be closed")


async def answers_a_violation(transport: ScriptedTransport) -> None:
    Driven(bind=False).peer.bind(transport)
    transport.feed(*['{"a":["work"'] * 12)


async def refuses_a_reason(transport: ScriptedTransport) -> None:
    server = Server()
    server.add_service(Refuses)
    await server.accept(transport)


async def ends_a_raw_function(transport: ScriptedTransport) -> None:
    server = Server()

    @server.serve_raw
    async def serve(connection: RawConnection) -> None:
        raise RpcError("\ud800 is half of a character" + "x" * 100)

    await server.accept(transport)


async def closes_a_client(transport: ScriptedTransport) -> None:
    async with Client() as client:
        await client.bind(transport)


class Refuses(Service):
    """Refuses each connection, for a reason that is longer than a Close frame can hold."""

    def on_open(self) -> None:
        raise RpcError("ü" * 100)


ENDS: dict[str, tuple[Callable[[ScriptedTransport], Awaitable[None]], tuple[int, str]]] = {
    each.__name__: (each, end)
    for each, end in (
        (answers_a_violation, (1007, "more than 10 malformed messages a minute")),
        (refuses_a_reason, (1008, "ü" * 61)),
        (ends_a_raw_function, (1008, "? is half of a character" + "x" * 99)),
        (closes_a_client, (1000, "")),
    )
}
"""What ends a connection, and how it ends."""


@pytest.mark.parametrize("how", ENDS)
async def test_a_connection_ends_although_its_transport_cannot_close(
    how: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Closing raised in a task, and the connection stayed open. A reason that was too long did the same."""
    end, (code, reason) = ENDS[how]
    for transport in (ScriptedTransport(), Fails()):
        await end(transport)
        await settled()
        assert transport.closed is not None
        fails = isinstance(transport, Fails)
        assert (transport.closed.code, transport.closed.reason) == ((1006, "aborted") if fails else (code, reason))
        assert ("closing a connection failed, so it is dropped" in caplog.text) is fails


async def test_another_connection_while_the_first_one_is_closed_without_a_code() -> None:
    """The first one was closed once more, with the code 1005, and that raised an exception in a task."""
    d = Driven(bind=False)
    first, other = memory_transports()
    other.start(Connection(other))
    d.peer.bind(first)
    closing = start(d.peer.close(None))
    await asyncio.sleep(0)
    d.peer.bind(ScriptedTransport())
    await closing
    await settled()
    assert d.peer.connected


async def test_a_handler_that_binds_as_it_is_the_last_of_its_session() -> None:
    """The `close` handlers were called after the next `open` handlers, and readers of the new session got an error."""
    d, other, calls = Driven(), ScriptedTransport(), list[str]()
    for event in ("open", "close"):
        d.peer.on(event, lambda *_, event=event: calls.append(event))
    d.peer.on("note", lambda: d.peer.bind(other))
    d.transport.pause()  # so that the event waits
    d.feed({"a": ["note"]})
    d.transport.lose()
    assert calls == ["close", "open"]
    reading = start(anext(d.peer.events("news")))
    await settled()
    other.feed({"a": ["news", 5]})
    assert await reading == 5
    await d.peer.close()


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        *(((code, "why"), (code, "why")) for code in (1000, 1011, 1014, 3000, 4999)),
        *(((code, "why"), (1011, "why")) for code in (-1, 0, 999, 1004, 1006, 1015, 1016, 2999, 5000, 70_000)),
        *(((code, "why"), (None, "")) for code in (None, 1005)),
        ((4000, "x" + "ü" * 123), (4000, "x" + "ü" * 61)),
        ((4000, "🦆" * 31), (4000, "🦆" * 30)),
        ((4000, "\udcff"), (4000, "?")),
    ],
)
def test_what_a_close_frame_cannot_carry(given: tuple[int | None, str], sent: tuple[int | None, str]) -> None:
    code, reason = sendable(*given)
    assert (code, reason) == sent
    assert check_close(code, reason) == (1005 if code is None else code)


async def begun(items: Any) -> Any:
    """Return a stream of which one item was read."""
    assert await anext(items) == 0
    return items


async def left_alone(stream: Any) -> None:
    """Let go of a stream that was not closed. The caller holds it no more after this call."""


async def read(stream: Any) -> None:
    with suppress(ConnectionLost, ChannelClosed):
        async for _ in stream:
            pass
    with suppress(StopAsyncIteration, ConnectionLost, ChannelClosed):
        await anext(stream)


async def talk(channel: Any) -> None:
    for call in (channel.emit("say", 1), channel.request("say", 1)):
        with pytest.raises((ConnectionLost, ChannelClosed)):
            await call
    await read(channel.events("say"))
    channel.close()


KEPT: dict[str, Callable[[Peer], Awaitable[Any]]] = {
    "a stream": lambda peer: begun(peer.stream("numbers")),
    "events": lambda peer: begun(peer.events("news")),
    "a channel": lambda peer: peer.open_channel("talks"),
}
USES: dict[str, tuple[list[str], Callable[[Any], Awaitable[None]]]] = {
    "left alone": ([*KEPT], left_alone),
    "read": (["a stream", "events"], read),
    "used": (["a channel"], talk),
}


@pytest.mark.parametrize(("what", "use"), [(what, use) for use, (kinds, _) in USES.items() for what in kinds])
async def test_a_part_that_is_kept_works_after_the_end(what: str, use: str) -> None:
    problems: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: problems.append(context))
    server = Server()

    async def numbers() -> AsyncIterator[int]:
        yield 0
        await asyncio.Event().wait()

    async def talks(channel: AnonymousChannel) -> None:
        async with channel.events("say") as said:
            await anext(said, None)

    async with connect(server) as client:
        client.on("numbers", numbers)
        client.on("talks", talks)
        (peer,) = server.peers
        beginning = asyncio.ensure_future(KEPT[what](peer))
        if what != "a channel":
            await settled()
            await client.emit("news", 0)
        kept = await beginning
        del beginning
    watched = weakref.ref(peer)
    del peer, client
    await until(lambda: gc.collect() >= 0 and watched() is None)
    await USES[use][1](kept)
    del kept
    await settled()
    assert not problems
