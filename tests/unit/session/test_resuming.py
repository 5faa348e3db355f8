"""Sessions that resume on another connection: what continues after a drop, is sent again, or ends with the session."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from core_driver import messages, start, turns
from leftovers import nothing_left as nothing_left
from leftovers import turns_until
from peers_inside import out_of
from session_story import Story, refuse, story
from tenacity import RetryCallState
from tenacity.wait import wait_base

import wsrpc._client.reconnect_policy
from wsrpc import (
    AnonymousChannel,
    ChannelClosed,
    ConnectionLost,
    Context,
    Handshake,
    Limits,
    MessageTooBig,
    Peer,
    Reconnect,
    Server,
    SessionLost,
)
from wsrpc._server.peers import served_peer
from wsrpc.testing import Clock, Line

pytestmark = pytest.mark.usefixtures("nothing_left")


# ---------------------------------------------------------------- what continues on another connection


class WaitingHandlers:
    """Handlers on both sides of a story. They wait for a gate, so that they run during a drop."""

    def __init__(self, s: Story) -> None:
        self.s = s
        self.gate = asyncio.Event()
        self.ran: list[Any] = []
        """Values of the requests and events that arrived, on both sides."""
        s.server.on("numbers", self.numbers)

        s.server.on("talk", self.talk)
        for side in (s.client, s.server):
            side.on("wait", self.wait)
            side.on("note", self.ran.append)

    async def wait(self, number: int) -> int:
        self.ran.append(number)
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.ran.append("cancelled")
            raise
        return number

    async def numbers(self, count: int = 6) -> AsyncIterator[int]:
        try:
            for number in range(count):
                if number == 3:
                    await self.gate.wait()
                yield number
        finally:
            self.ran.append("closed")

    async def talk(self, channel: AnonymousChannel) -> None:
        await channel.wait_closed()

    async def received(self, *expected: Any) -> None:
        await turns_until(lambda: len(self.ran) == len(expected))
        assert self.ran == [*expected]


async def requests(handlers: WaitingHandlers) -> None:
    asked = [
        handlers.s.client.request("wait", 1),
        handlers.s.peer.request("wait", 2),
        handlers.s.client.request("wait", 3),
    ]
    assert await asyncio.gather(*asked) == [1, 2, 3]
    assert sorted(handlers.ran) == [1, 2, 3], "each once"


async def a_stream(handlers: WaitingHandlers) -> None:
    assert [number async for number in handlers.s.client.stream("numbers")] == [*range(6)]


async def events_and_broadcasts(handlers: WaitingHandlers) -> None:
    room = handlers.s.server.room("all")
    room.add(handlers.s.peer)
    await handlers.s.peer.emit("note", 0)
    await handlers.s.peer.emit("note", 1)
    await handlers.gate.wait()
    assert (await room.emit("note", 2)).sent == room.emit_nowait("note", 3).sent == 1
    await handlers.s.peer.emit("note", 4)
    assert (await handlers.s.server.emit("note", 5)).sent == 1
    await handlers.received(0, 1, 2, 3, 4, 5)
    assert handlers.s.peer in room


@pytest.mark.parametrize("drop", ["a cut", "half open", "client's messages are lost", "server's are", "three cuts"])
@pytest.mark.parametrize("doing", [requests, a_stream, events_and_broadcasts])
async def test_what_was_begun_goes_on_over_another_connection(
    doing: Callable[[WaitingHandlers], Awaitable[None]], drop: str
) -> None:
    """`tests/adapters/test_contract_sessions.py` has uploads and conversations, cut at any byte."""
    async with story(client=Limits(stream_window=4)) as s:
        handlers, peer, drops = WaitingHandlers(s), s.peer, 3 if drop == "three cuts" else 1
        if "'s " in drop:
            s.ends["server" in drop].hold()
        task = asyncio.ensure_future(doing(handlers))
        await turns(20)
        for number in range(drops):
            await s.cut(half_open=drop == "half open")
            assert s.server.peers == (peer,) and peer.connected is (drop == "half open")
            if number == drops - 1:
                handlers.gate.set()
            await turns(20)
            assert not task.done()
            await s.repair()
        await task
        assert s.server.peers == (peer,) and sorted(s.notified) == ["client opened", "server opened"]
        assert [(info.resumed, info.lost) for info in s.back] == [(True, None)] * drops
        await turns_until(lambda: (peer.active, peer.anonymous_channels, s.client.peer.pending) == (0, 0, 0))
        await turns_until(lambda: [repr(theirs).count("open") for _, theirs in s.line.connections] == [0] * drops + [1])


async def test_the_time_to_begin_a_stream_is_not_that_without_a_connection() -> None:
    """After 30 s with a dead connection, the stream had ended: "nobody has begun to read the stream"."""
    async with story(clock=Clock()) as s:
        handlers = WaitingHandlers(s)
        handlers.gate.set()
        s.ends[1].hold()  # the server's answer is lost
        task = asyncio.ensure_future(a_stream(handlers))
        await turns(20)
        s.clock.advance(20.0)
        await s.cut()
        s.clock.advance(20.0)
        await turns(20)
        await s.repair()
        await task


async def test_what_is_left_meanwhile_ends_on_the_other_side_when_the_session_goes_on() -> None:
    async with story() as s:
        handlers = WaitingHandlers(s)
        cancelled = asyncio.create_task(s.client.request("wait", 1))
        async with s.client.stream("numbers") as stream:
            assert await anext(stream) == 0
            await s.cut()
            assert " detached " in repr(s.client.peer)
            cancelled.cancel()
        await turns(20)
        assert handlers.ran == [1], "nobody could tell the server yet"
        await s.repair()
        await turns_until(lambda: (s.peer.active, s.peer.anonymous_channels, s.client.peer.pending) == (0, 0, 0))
        assert sorted(handlers.ran[1:]) == ["cancelled", "closed"]


async def test_what_waits_is_sent_unless_it_is_taken_back_and_after_the_end_nothing_is_sent() -> None:
    received = list[int]()
    async with story() as s:
        s.server.on("note", received.append)
        await s.cut()
        session = out_of(s.client.peer).session
        session.send_or_wait(b'{"a":["note",1]}', True)
        asks = start(s.client.request("note", 2))
        await turns()
        asks.cancel()
        await s.repair()
        await s.client.request("note", 3)
    assert received == [1, 3]
    with pytest.raises(ConnectionLost) as caught:
        session.send_or_wait(b"{}", True)
    assert caught.value.outcome == "not_sent"


@pytest.mark.parametrize("side", ["client", "server"])
async def test_limits_that_were_changed_hold_on(side: str) -> None:
    async with story() as s:
        changes, other = (s.client.peer, s.peer) if side == "client" else (s.peer, s.client.peer)
        changes.on("size", len)
        changes.limits = changes.limits.replace(message_bytes=4096)
        for _ in range(2):
            await s.cut()
            await s.repair()
            assert await other.request("size", "x" * 1000) == 1000
            with pytest.raises(MessageTooBig):
                await other.request("size", "x" * 5000)


class Counting(wait_base):
    """Wait for nothing, and note the number of failures."""

    def __init__(self) -> None:
        self.failures: list[int] = []

    def __call__(self, retry_state: RetryCallState) -> float:
        self.failures.append(retry_state.attempt_number)
        return 0.0


@pytest.mark.parametrize(("least", "failures"), [(0.0, [1, 1, 1]), (3600.0, [1, 2, 3])])
async def test_a_client_whose_sessions_resume_and_last_counts_no_failures(
    least: float, failures: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After four drops in 30 seconds it waited for up to half a minute, although the server could be reached."""
    monkeypatch.setattr(wsrpc._client.reconnect_policy, "SERVED", least)
    counting = Counting()
    async with story(reconnect=Reconnect(wait=counting)) as s:
        for _ in range(3):
            s.line.cut()
            await turns_until(lambda: s.back)
            assert s.back.pop().resumed
        assert counting.failures == failures


@dataclass(frozen=True)
class User:
    name: str
    role: str = field(compare=False)


async def test_what_waited_is_handled_as_the_new_handshake_says() -> None:
    """It was handled with the state from before, and the principal stayed the object of the first handshake."""
    server, roles = Server(limits=Limits(running=3)), iter(["admin", "guest"])
    got, go_on = list[Any](), asyncio.Event()

    @server.on_handshake
    def check(handshake: Handshake) -> None:
        handshake.state["role"] = role = next(roles)
        handshake.principal = User("ada", role)

    @server.on("who")
    async def who(peer: Peer) -> None:
        assert isinstance(peer.principal, User)
        got.append((peer.state["role"], peer.principal.role))
        await go_on.wait()

    async with story(server=server) as s:
        peer, served = s.peer, served_peer(s.peer)
        assert served is not None
        for _ in range(4):
            s.client.emit_nowait("who")
        await turns_until(lambda: len(got) == 3)
        s.line.down = True
        served.expire_at(0.0)
        await turns_until(lambda: peer.detached)
        go_on.set()
        await turns()
        await s.repair()
        assert s.back[0].resumed and server.peers == (peer,)
        await turns_until(lambda: len(got) == 4)
        assert got == [("admin", "admin")] * 3 + [("guest", "guest")]


@pytest.mark.parametrize("half_open", [False, True])
async def test_a_client_that_comes_back_with_other_limits_begins_a_new_session(half_open: bool) -> None:
    """It kept the limits of the first handshake, also after its user was allowed less."""
    server, sizes, cancelled = Server(), iter([4096, 4096, 1024]), list[str]()

    @server.on_handshake
    def check(handshake: Handshake) -> None:
        handshake.limits = handshake.limits.replace(message_bytes=next(sizes), rate=1000)

    @server.on("wait")
    async def wait(ctx: Context) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.append(str(ctx.cancel_reason))

    async with story(server=server) as s:
        asked = asyncio.create_task(s.client.request("wait"))
        await turns_until(lambda: s.peer.active)
        await s.cut()
        await s.repair()
        first = s.peer
        assert s.back[0].resumed, "the limits are the same, although the object is not"
        await s.cut(half_open=half_open)
        assert first.connected is half_open
        await s.repair()
        lost = s.back[1].lost
        assert lost is not None and lost.reason == "the connection has other limits than the session"
        with pytest.raises(SessionLost, match="other limits") as caught:
            await asked
        assert caught.value.outcome == "unknown"
        await turns_until(lambda: len(cancelled) == 1)
        assert "the connection has other limits than the session" in cancelled[0]
        assert s.peer is not first and s.peer.limits.message_bytes == 1024
        with pytest.raises(MessageTooBig):
            await s.client.emit("note", "x" * 2000)
        assert not first.connected and s.notified.count("server closed") == 1


# ---------------------------------------------------------------- how it ends


async def close(s: Story) -> None:
    await s.peer.close()


async def go_elsewhere(s: Story) -> None:
    """As a balancer does that does not know of sessions."""
    other = Server()
    other.on("add", lambda a, b: a + b)
    s.line = Line(other)


async def wait_too_long(s: Story) -> None:
    s.clock.advance(29.0)
    await turns(10)
    assert s.peer.detached and s.peer.active == 2
    s.clock.advance(2.0)
    await turns_until(lambda: not s.server.peers)


ENDED: list[tuple[Callable[[Story], Awaitable[None]], str]] = [
    (close, "no such session any more"),
    (wait_too_long, "no such session any more"),
    (go_elsewhere, "a session of another server process"),
]


@pytest.mark.parametrize(("how", "says"), ENDED)
async def test_a_session_that_ends_takes_with_it_what_was_sent_and_nothing_else(
    how: Callable[[Story], Awaitable[None]], says: str
) -> None:
    clock = Clock()
    async with story(server=Server(detached_timeout=30.0), clock=clock) as s:
        s.server.on("add", lambda a, b: a + b)
        handlers, peer = WaitingHandlers(s), s.peer
        sent = asyncio.create_task(s.client.request("wait", 1))
        channel = await s.client.open_channel("talk")
        await turns(10)
        await s.cut()
        waiting = asyncio.create_task(s.client.request("add", 1, 2))
        bound = s.client.request("add", 1, 2, offline="fail")
        not_sent = tuple(map(asyncio.ensure_future, (bound, channel.request("anything"))))
        await turns(10)
        await how(s)
        s.line.down = False
        with pytest.raises(SessionLost, match=says) as caught:
            await sent
        assert caught.value.outcome == "unknown"
        for each in not_sent:
            with pytest.raises(ConnectionLost) as refused:
                await each
            assert refused.value.outcome == "not_sent"
        assert await waiting == 3, "never written, so it waits for the next session"
        assert isinstance(channel.close_reason, SessionLost)
        with pytest.raises(ChannelClosed):
            await channel.emit("anything")
        await turns_until(lambda: s.back)
        assert [(info.resumed, type(info.lost)) for info in s.back] == [(False, SessionLost)]
        assert [info.will_reconnect for info in s.closed] == [True]
        clock.advance(31.0)  # the first server knows nothing of the second
        await turns_until(lambda: peer.active == 0)
        assert peer not in s.server.peers and handlers.ran == [1, "cancelled"]


async def test_a_request_that_may_not_wait_for_a_connection_fails_at_a_drop_while_it_waits_for_a_place() -> None:
    async with story(server=Limits(running=1, waiting=0)) as s:
        handlers = WaitingHandlers(s)
        first = asyncio.create_task(s.client.request("wait", 1))
        bound = asyncio.ensure_future(s.client.request("wait", 2, offline="fail"))
        later = asyncio.create_task(s.client.request("wait", 3))
        await s.settled()
        await s.cut()
        with pytest.raises(ConnectionLost) as refused:
            await bound
        assert refused.value.outcome == "not_sent"
        handlers.gate.set()
        await s.repair()
        assert (await first, await later) == (1, 3) and handlers.ran == [1, 3]


async def test_messages_that_waited_in_an_ended_session_are_sent_before_later_ones() -> None:
    received: list[str] = []
    other = Server()
    other.on("note", received.append)
    async with story() as s:
        handlers = WaitingHandlers(s)
        working = asyncio.create_task(s.client.request("wait", 1))
        await turns(10)
        refuse(s.ends[0])
        await s.client.emit("note", "first")  # waits in the session
        closing = asyncio.create_task(s.server.close(drain_timeout=60.0))
        await turns(10)
        await s.client.emit("note", "second")  # waits for the next session, because the server drains
        assert s.client.peer.connected is False and not closing.done()
        await s.cut()
        s.line = Line(other)
        await turns_until(lambda: len(received) == 2)
        assert received == ["first", "second"] and handlers.ran == [1, "cancelled"]
        with pytest.raises(SessionLost):
            await working
        await closing
    await other.close()


async def test_a_session_that_the_client_does_not_keep_ends_with_its_connection(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    async with story(reconnect=Reconnect(retry=lambda error: False)) as s:
        s.server.on("park", asyncio.Event().wait)
        asked = asyncio.ensure_future(s.client.request("park"))
        await turns_until(lambda: s.peer.active)
        s.line.cut()
        with pytest.raises(ConnectionLost) as raised:
            await asked
        assert (type(raised.value), raised.value.outcome) == (ConnectionLost, "unknown")
        assert s.client.state == "closed" and not s.client.peer.detached
        assert [info.will_reconnect for info in s.closed] == [False]
    name = s.client.peer.id
    assert not [text for text in messages(caplog) if name in text and "its session is kept" in text]
