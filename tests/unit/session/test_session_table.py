"""Every cell of the table of a session's states, played with real sessions."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from core_driver import Driven, redialing, start, turns
from leftovers import nothing_left as nothing_left
from leftovers import turns_until
from session_story import Dialed, Visitor, dialing, refuse
from stream_driver import control, hello

from wsrpc import CloseInfo, ConnectionLost, Limits, Peer, Server, SessionLost
from wsrpc._core.api.peer import current_of
from wsrpc._core.session.client_session import ClientSession
from wsrpc._core.session.connection import Connection
from wsrpc._core.session.parts import cut
from wsrpc._core.session.peer_owner import PeerOwner
from wsrpc._core.session.session import Session
from wsrpc._core.session.session_states import TABLE, SessionInput, SessionState, after
from wsrpc._core.wire.settings import make_settings
from wsrpc.testing._clock import Clock

pytestmark = pytest.mark.usefixtures("nothing_left")

LIMITS = Limits(replay_bytes=128 * 1024, hard_cap_bytes=150_000)
TTL = 3.0
LARGE = "x" * 100_000
S, I = SessionState, SessionInput  # noqa: E741
ON_SERVERS = [(S.STRANDED, I.STOPPED_KEEPING), (S.DETACHED, I.RESUMED)]
"""Cells that only the session of a server has."""


class Transport(Dialed):
    """A transport that closes when the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.may_close = asyncio.Event()

    async def close(self, code: int | None = 1000, reason: str = "") -> None:
        await self.may_close.wait()
        await super().close(code, reason)


class Keeps(PeerOwner):
    """An owner that keeps sessions, as a client that dials again."""

    def keeps_session(self, info: CloseInfo, /) -> bool:
        return True


class Scene:
    """A peer that has dialed, whose server the test plays."""

    def __init__(self) -> None:
        self.clock, self.transport = Clock(), Transport()
        self.transports = [self.transport]
        settings = make_settings(LIMITS, None)
        self.peer = Peer(settings, dialer=True, loop=self.clock, can_resume=True, owner=Keeps())
        self.go = asyncio.Event()
        self.peer.on("large", self.large)
        self.tasks: list[asyncio.Task[Any]] = []
        self.session: Session = current_of(self.peer).session

    async def large(self) -> str:
        await self.go.wait()
        return LARGE

    def another(self) -> Transport:
        self.transports.append(Transport())
        return self.transports[-1]

    def welcome(self) -> None:
        fields = {"features": ["resume"], "limits": {}, "sid": "s", "token": "secret", "ttl": TTL}
        self.transport.feed(control("welcome", **fields))

    def refuse(self) -> None:
        """Let the connection take no more messages, and send one."""
        refuse(self.transport)
        with suppress(ConnectionLost):
            self.peer.emit_nowait("note")

    def overflow(self) -> None:
        for _ in range(3):
            self.peer.emit_nowait("large", LARGE)

    def ask(self) -> None:
        assert isinstance(self.session, ClientSession)
        self.transport = self.another()
        self.session.ask_to_resume(
            Connection(self.transport),
            refused=lambda connection: connection.transport.abort(),
            failed=lambda info: None,
        )

    async def reach(self, state: SessionState) -> None:
        if state is S.NEW:
            return
        self.peer.bind(self.transport)
        self.tasks.append(start(self.peer.request("add", 1, 2)))
        await turns()
        if state in (S.RESUMABLE, S.STRANDED, S.DETACHED, S.ASKING):
            self.welcome()
            self.transport.feed(*({"i": 2 * number + 2, "a": ["large"]} for number in range(4)))
            await turns()
        if state in (S.DEAD, S.STRANDED):
            self.refuse()
        if state in (S.DETACHED, S.ASKING):
            self.transport.lose()
        if state is S.ASKING:
            self.ask()
        if state is S.CLOSING:
            self.tasks.append(start(self.peer.close()))
        await turns()

    async def happen(self, state: SessionState, happened: SessionInput) -> None:
        steps: dict[SessionInput, Callable[[], Any]] = {
            I.STARTED: lambda: self.peer.bind(self.transport),
            I.COUNTED: self.welcome,
            I.STOPPED_KEEPING: self.overflow,
            I.SEND_FAILED: self.refuse,
            I.DETACHED: self.transport.lose,
            I.ASKED: self.ask,
            I.RESUMED: lambda: self.transport.feed(control("resumed", rx=0, bytes=0, token="other", limits={})),
            I.REFUSED: lambda: self.transport.feed(control("gone", why="expired")),
            I.EXPIRED: lambda: self.clock.advance(TTL),
            I.OVERFLOWED: self.go.set,
            I.REPLACED: lambda: self.peer.bind(self.another()),
            I.CLOSED: lambda: self.tasks.append(start(self.peer.close())),
            I.ENDED: lambda: self.transport.lose(CloseInfo(1000, "bye", was_clean=True)),
        }
        if state is S.DETACHED and happened is I.ENDED:  # the client gives up
            self.session.end(I.ENDED, "the client gave up")
        elif state is S.ASKING and happened is I.ENDED:
            self.transport.feed(control("resumed", rx=9, bytes=9, token="other", limits={}))
        else:
            steps[happened]()
        await turns(20)

    async def end(self) -> None:
        self.go.set()
        for transport in self.transports:
            transport.may_close.set()
        await self.peer.close()
        await asyncio.gather(*self.tasks, return_exceptions=True)


@pytest.mark.parametrize(
    ("state", "happened"),
    [(state, happened) for state in S for happened in TABLE[state] if (state, happened) not in ON_SERVERS],
    ids=lambda value: value.name,
)
async def test_a_cell(state: SessionState, happened: SessionInput, monkeypatch: pytest.MonkeyPatch) -> None:
    played: list[tuple[SessionState, SessionInput]] = []

    def noted(before: SessionState, now: SessionInput) -> SessionState:
        played.append((before, now))
        return after(before, now)

    monkeypatch.setattr("wsrpc._core.session.session.after", noted)
    scene = Scene()
    try:
        await scene.reach(state)
        session = scene.session
        assert session.state is state
        await scene.happen(state, happened)
        assert (state, happened) in played
        assert session.state is after(state, happened)
        if (state, happened) == (S.ASKING, I.EXPIRED):
            assert scene.transport.pop_sent()[-1] == control("gone", why="closed"), "the server need not keep it"
        if state in (S.NEW, S.CLOSING):
            return
        (request, *_) = scene.tasks
        assert request.done() == session.over
        if session.over:
            error = request.exception()
            assert type(error) is (SessionLost if state in (S.DETACHED, S.ASKING) else ConnectionLost)
    finally:
        await scene.end()


@pytest.mark.parametrize("state", S, ids=lambda state: state.name)
async def test_a_message_leaves_waits_or_fails_as_the_table_says(state: SessionState) -> None:
    scene = Scene()
    await scene.reach(S.ATTACHED if state is S.OVER else state)
    if state is S.OVER:
        scene.transport.lose()
    assert scene.session.state is state
    kept = scene.peer.stats().kept_bytes
    try:
        scene.peer.emit_nowait("note", 1)
        waits = scene.peer.stats().kept_bytes > kept
        found = "leaves" if {"a": ["note", 1]} in scene.transport.pop_sent() else "waits" if waits else "is lost"
    except ConnectionLost:
        found = "fails"
    assert found == ("leaves" if state.sends else "waits" if state.waits else "fails")
    await scene.end()


CODES = (1000, 1001, 1002, 1005, 1006, 1008, 1011, 1012, 1013, 1014, 4000, 4400, 4409, 4411, 4412)


async def test_the_close_codes_after_which_a_client_asks_to_resume() -> None:
    """Proxies send 1001 when they restart."""
    for code in CODES:
        scene = Scene()
        await scene.reach(S.RESUMABLE)
        scene.transport.lose(CloseInfo(code, "restarting", was_clean=code != 1006))
        assert scene.session.state is (S.DETACHED if code in (1001, 1006, 4411, 4412) else S.OVER), code
        await scene.end()


async def test_a_close_after_a_violation_is_the_end_by_the_user() -> None:
    scene, notified = Scene(), list[CloseInfo]()
    scene.peer.on("close", lambda peer, info: notified.append(info))
    await scene.reach(S.RESUMABLE)
    scene.transport.feed(control("limits", limits={"message": 0}))
    assert scene.session.state is S.CLOSING
    scene.tasks.append(start(scene.peer.close(4001, "mine")))
    await turns()
    with pytest.raises(ConnectionLost, match="4001 mine"):
        scene.peer.emit_nowait("note")
    await scene.end()
    assert [info.user_closed for info in notified] == [True]


@pytest.mark.parametrize("make", [redialing, Driven])
async def test_close_handlers_that_wait_for_events_learn_that_the_user_has_closed(make: Callable[[], Driven]) -> None:
    driven, go, notified = make(), asyncio.Event(), list[CloseInfo]()
    driven.peer.on("close", lambda peer, info: notified.append(info))
    driven.peer.on("note", go.wait, ordered=True)
    driven.feed({"a": ["note"]}, {"a": ["note"]})
    await turns()
    driven.transport.lose()
    await driven.peer.close(4000, "enough")
    assert notified == []
    go.set()
    await turns_until(lambda: notified)
    assert [(info.user_closed, info.will_reconnect) for info in notified] == [(True, False)]


@pytest.mark.parametrize("answers", ["resumed", "nothing"])
async def test_a_client_asks_until_the_session_has_expired(answers: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """After two attempts without an answer, it gave up a session that the server had kept, on a link that was full."""
    monkeypatch.setattr("wsrpc._core.session.client_session.ANSWER_TIMEOUT", 0.002)
    async with dialing(ttl=60.0 if answers == "resumed" else 0.3) as (client, lines):
        request = start(client.request("note"))
        await turns()
        lines[0].lose()
        if answers == "resumed":
            await turns_until(lambda: len(lines) == 6)
            lines[5].feed(control("resumed", rx=0, bytes=0, token="t", limits={}))
            asked, sent = lines[5].pop_sent()
            assert asked["wsrpc"]["gen"] == 5
            lines[5].feed({"i": sent["i"], "d": None})
            await request
        else:
            with pytest.raises(SessionLost, match="no connection resumed it in time"):
                await request
            await client.wait_connected()
            assert lines[-1].pop_sent()[0]["wsrpc"]["t"] == "hello"


async def test_a_dropped_attempt_does_not_make_the_next_one_wait_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    """After many drops, a client waited for minutes for an answer that was lost."""
    monkeypatch.setattr("wsrpc._core.session.client_session.ANSWER_TIMEOUT", 0.1)
    async with asyncio.timeout(8), dialing() as (_, lines):  # it was 10 seconds
        for _ in range(99):
            lines[-1].lose()
            await turns_until(lambda: lines[-1].pop_sent() != [])
        await turns_until(lambda: len(lines) > 100)


async def test_a_client_whose_welcome_is_late_joins_parts_nevertheless() -> None:
    """The server sends them until it has read that the session will not resume."""
    driven = Driven(dialer=True, extensions=True, can_resume=True)
    notes = list[str]()
    driven.peer.on("note", notes.append)
    driven.clock.advance(10.0)  # after that, nothing that was sent is kept
    driven.feed(control("welcome", features=["resume", "parts"], limits={}, sid="s", token="secret", ttl=60.0))
    assert driven.take()[-1] == control("gone", why="closed")
    for part in cut(b'{"a":["note","' + b"x" * 100_000 + b'"]}', True, 30_000):
        driven.raw(part, text=False)
    await turns()
    assert notes == ["x" * 100_000]
    driven.transport.lose()
    assert state_of(driven.peer) is S.OVER


def state_of(peer: Peer) -> SessionState:
    return current_of(peer).session.state


async def test_a_session_whose_client_is_about_to_close_takes_no_messages_any_more() -> None:
    page = Visitor()
    peer = await page.begin()
    refuse(page.line)
    peer.emit_nowait("note")
    assert state_of(peer) is S.STRANDED and peer.stats().kept_bytes > 0
    page.line.feed(control("gone", why="closed"))
    assert state_of(peer) is S.DEAD
    with pytest.raises(ConnectionLost, match="broken"):
        peer.emit_nowait("note")
    page.line.lose()
    assert state_of(peer) is S.OVER and not page.server.peers
    await page.server.close()


async def test_a_session_whose_client_leaves_before_it_counts_ends_with_its_connection() -> None:
    page = Visitor()
    peer = await page.connect(hello("resume"))
    page.line.feed(control("gone", why="closed"), control("ack", n=0, bytes=0))
    peer.emit_nowait("note", 1)
    assert state_of(peer) is S.ATTACHED and peer.stats().kept_bytes == 0
    page.line.lose()
    assert state_of(peer) is S.OVER and not peer.ignored
    await page.server.close()


async def test_a_connection_that_takes_no_message_counts_as_ended() -> None:
    scene = Scene()
    await scene.reach(S.STRANDED)
    scene.clock.advance(1.0)
    stats = scene.peer.stats()
    assert (stats.uptime, stats.detached, scene.peer.connected) == (0.0, False, False)
    await scene.end()


async def test_a_session_that_has_resumed_no_longer_takes_room_from_those_without_a_connection() -> None:
    server = Server(detached_bytes=130_000)
    page, other = Visitor(server), Visitor(server)
    peer, served = await page.begin(), await other.begin()
    page.line.lose()
    peer.emit_nowait("note", "x" * 50_000)
    await page.resume()
    other.line.lose()
    served.emit_nowait("note", "x" * 80_000)
    assert (state_of(peer), state_of(served)) == (S.RESUMABLE, S.DETACHED)
    await server.close()


async def test_callers_that_wait_for_room_get_the_end_of_their_session() -> None:
    page = Visitor(Server(limits=LIMITS, detached_timeout=TTL))
    peer = await page.begin()
    page.line.lose()
    for _ in range(2):
        peer.emit_nowait("note", LARGE)
    calls = [start(peer.emit("note")), start(peer.request("add", 1, 2))]
    await turns()
    assert not any(call.done() for call in calls)
    page.clock.advance(TTL)
    assert state_of(peer) is S.OVER
    lost = await asyncio.gather(*calls, peer.emit("note"), return_exceptions=True)
    assert [type(error) for error in lost] == [SessionLost, SessionLost, ConnectionLost]
    assert [error.outcome for error in lost if isinstance(error, ConnectionLost)] == ["not_sent"] * 3
    await page.server.close()


def test_what_is_in_no_cell_cannot_happen() -> None:
    for state in S:
        for happened in {*I} - {*TABLE[state]}:
            with pytest.raises(AssertionError, match="cannot happen"):
                after(state, happened)
