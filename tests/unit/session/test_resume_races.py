"""Races of a resume: a refusal, an end or a timer between two steps of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import pytest
from core_driver import turns
from leftovers import nothing_left as nothing_left
from leftovers import timers_due, turns_until
from session_story import SMALL, story

import wsrpc._core.session.client_session
import wsrpc._core.session.incoming_resume
import wsrpc._core.session.replay
from wsrpc import CallNext, ConnectionLost, Context, Handshake, Limits, Peer, Server
from wsrpc._server.peers import served_peer
from wsrpc.errors import QueueFull
from wsrpc.testing import MemoryTransport, ScriptedTransport, memory_transports

pytestmark = pytest.mark.usefixtures("nothing_left")


@pytest.mark.parametrize("how", ["closed", "another is bound"])
async def test_nothing_is_left_of_a_resume_whose_session_has_ended(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wsrpc._core.session.client_session, "ANSWER_TIMEOUT", 0.05)
    received: list[int] = []
    silent: list[MemoryTransport] = []

    async def dial_nobody(url: str, **dialing: Any) -> MemoryTransport:
        silent.append(memory_transports()[0])
        return silent[-1]

    async with story() as s:
        s.server.on("n", received.append)
        vars(s.line)["dial"] = dial_nobody  # the answer to the resume does not come
        s.line.cut()
        await turns_until(lambda: silent)
        if how == "closed":
            await s.client.close()
        else:
            ours, theirs = memory_transports()
            await asyncio.gather(s.server.accept(theirs), s.client.bind(ours))
        await timers_due(wsrpc._core.session.client_session.ANSWER_TIMEOUT)
        del vars(s.line)["dial"]
        assert s.client.state == ("closed" if how == "closed" else "connected")
        await s.client.connect()
        await s.client.emit("n", 1)
        await turns_until(lambda: received == [1])


@pytest.mark.parametrize("side", ["client", "server"])
async def test_a_handler_that_a_resume_starts_may_close(side: str) -> None:
    """It has waited because too much was kept, and the remote peer tells as it resumes that it has got all of it.

    From Python 3.12 on it takes its first step, and closes, while the session resumes.
    """
    limits, started = Limits(replay_bytes=SMALL), asyncio.Event()
    async with story(server=limits, client=limits) as s:
        closing, remote = (s.client.peer, s.peer) if side == "client" else (s.peer, s.client.peer)

        async def leave() -> None:
            started.set()
            await (s.client if side == "client" else closing).close(4000, "enough")

        (s.client if side == "client" else s.server).on("leave", leave)
        remote.emit_nowait("leave")
        for _ in range(3):
            closing.emit_nowait("n", "x" * 60_000)
        await turns(1)  # everything arrives, and is not acknowledged yet
        await s.cut()
        await s.settled()
        assert not started.is_set()
        s.line.down = False
        await started.wait()
        await turns_until(lambda: s.closed and "server closed" in s.notified)
        assert [(info.code, info.reason) for info in s.closed] == [(4000, "enough")]
        if side == "client":
            await turns_until(lambda: s.client.state == "closed" and not s.server.peers)


async def test_a_close_handler_may_close_and_start_the_client_while_the_server_refuses_the_session() -> None:
    """The connection that the refusal came on is closed: the new order dials its own."""
    async with story() as s:
        closing: list[Any] = []

        def start_anew() -> None:
            if not closing:
                closing.append(s.client.close())
                closing[0].send(None)  # the first step, as in an eager task
                s.client.start()

        s.client.on("close", start_anew)
        await s.cut()
        await s.peer.close()  # so the server does not know the session any more
        s.line.down = False
        await turns_until(lambda: closing)
        closing[0].close()
        await s.client.wait_connected()
        await s.settled()
        assert len(s.server.peers) == 1
        assert [transport for transport, _ in s.line.connections if "open" in repr(transport)] == [s.ends[0]]


@pytest.mark.parametrize("says", ["close", "bind"])
@pytest.mark.parametrize("waits_for", ["on_detach", "an event"])
async def test_a_close_handler_that_had_to_wait_says_what_is_to_be(waits_for: str, says: str) -> None:
    """It is called as the next connection is there. That one used to begin a session all the same."""
    other = Server()
    other.on("name", lambda: "other")
    async with story() as s:
        began, goes_on = asyncio.Event(), asyncio.Event()
        ours, theirs = memory_transports()
        accepting = asyncio.create_task(other.accept(theirs))
        calls: list[Any] = []

        async def hold(*_: object) -> None:
            began.set()
            await goes_on.wait()

        def say() -> None:
            if not calls:
                calls.append(s.client.close() if says == "close" else s.client.bind(ours))
                calls[0].send(None)  # the first step, as in an eager task

        s.client.on("close", say)
        if waits_for == "on_detach":
            s.client.on_detach(hold)
            await s.cut()
            await s.peer.close()  # so the server does not know the session any more
        else:
            s.client.on("note", hold, ordered=True)
            await s.peer.emit("note")
            await began.wait()
            await s.peer.close(1012)
        s.line.down = False
        await turns_until(lambda: calls)
        goes_on.set()
        await turns_until(lambda: not s.server.peers)
        if says == "close":
            await turns_until(lambda: s.client.state == "closed")
            accepting.cancel()
        else:
            await accepting
            assert await s.client.request("name") == "other"
        calls[0].close()
    await other.close()


async def test_an_answer_that_ends_its_session_leaves_no_channel(caplog: pytest.LogCaptureFixture) -> None:
    """Too much waits for another connection already, as a stream begins to answer."""
    started, goes_on = asyncio.Event(), asyncio.Event()

    async with story(server=Limits(replay_bytes=SMALL, hard_cap_bytes=SMALL + 1024)) as s:

        @s.server.use
        async def slow(ctx: Context, call_next: CallNext) -> Any:
            started.set()
            await goes_on.wait()
            return await call_next(ctx)

        @s.server.on("ticks")
        async def ticks() -> AsyncIterator[int]:
            yield 1

        reading = asyncio.create_task(anext(aiter(s.client.stream("ticks"))))
        await started.wait()
        peer = s.peer
        await s.cut()
        await turns_until(lambda: peer.detached)
        for size in (1000, 0):
            with suppress(QueueFull):
                for _ in range(10_000):
                    peer.emit_nowait("note", "x" * size)
        goes_on.set()
        await turns_until(lambda: not s.server.peers)
        assert peer.anonymous_channels == 0
        assert "failed" not in caplog.text
        reading.cancel()


@pytest.mark.parametrize("where", ["connected", "detached"])
async def test_closing_the_peer_of_a_client_ends_the_client_also_without_a_connection(where: str) -> None:
    async with story() as s:
        client, peer = s.client, s.client.peer
        s.server.on("wait", asyncio.Event().wait)
        parked = asyncio.create_task(client.request("wait"))
        await s.settled()
        if where != "connected":
            await s.cut()
        dialed = len(s.line.connections)
        await peer.close(4000, "bye")
        assert client.state == "closed"
        assert [(info.code, info.user_closed, info.will_reconnect) for info in s.closed] == [(4000, True, False)]
        for waiting in (parked, client.wait_connected()):
            with pytest.raises(ConnectionLost):
                await waiting
        s.line.down = False
        await turns(50)
        assert len(s.line.connections) == dialed


async def test_a_client_that_binds_another_connection_leaves_servers_that_hear_of_no_close_frame() -> None:
    """As those of some ASGI servers. They would keep the session for a client that does not come back."""
    async with story() as s:
        ours, _ = s.ends

        async def close(code: int | None = None, reason: str = "") -> None:
            await turns(10)
            ours.abort()

        vars(ours)["close"] = close
        dialed, accepted = memory_transports()
        await asyncio.gather(s.client.bind(dialed), s.server.accept(accepted))
        await turns_until(lambda: len(s.server.peers) == 1)
        assert s.server.stats().detached_peers == 0


async def test_what_waits_when_credentials_expire_is_handled_once_the_session_goes_on() -> None:
    async with story() as s:
        got: list[int] = []
        go_on = asyncio.Event()

        @s.server.on("note", ordered=True)
        async def note(n: int) -> None:
            got.append(n)
            await go_on.wait()

        for n in range(4):
            await s.client.emit("note", n)
        await turns_until(lambda: got == [0])
        s.line.down = True
        served = served_peer(s.peer)
        assert served is not None
        served.expire_at(0.0)
        await turns_until(lambda: s.peer.detached)
        go_on.set()
        await turns()
        assert got == [0]
        await s.repair()
        await turns_until(lambda: got == [0, 1, 2, 3])
        assert s.back[0].resumed


async def test_a_connection_whose_client_does_not_name_its_session_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """It began a new session, whose first message ended the client's own one: "the server did not resume it"."""
    monkeypatch.setattr(wsrpc._core.session.incoming_resume, "FIRST_MESSAGE", 0.01)

    def say(transport: ScriptedTransport, **fields: Any) -> None:
        transport.feed({"ws-wrapper": False, "wsrpc": fields})

    opened: list[Peer] = []
    server = Server()
    server.on("open", opened.append)
    first, late, last = ScriptedTransport(), ScriptedTransport(), ScriptedTransport()
    peer = await server.accept(first)
    assert isinstance(peer, Peer)
    say(first, t="hello", v=1, features=["resume"], limits={})
    [welcome] = first.pop_sent()
    say(first, t="ack", n=0, bytes=0)
    first.lose()
    assert peer.detached
    asks = Handshake("/", {"Wsrpc-Resume": "1"})
    with pytest.raises(ConnectionLost, match="the client has not named its session"):
        await server.accept(late, asks)
    assert late.pop_sent() == [] and late.closed
    assert server.peers == (peer,) and opened == [peer]
    monkeypatch.undo()
    accepting = asyncio.create_task(server.accept(last, asks))
    await turns()
    named = {name: welcome["wsrpc"][name] for name in ("sid", "token")}
    say(last, t="resume", v=1, features=["resume"], limits={}, gen=1, rx=0, bytes=0, **named)
    assert await accepting is peer and not peer.detached
    await server.close()
