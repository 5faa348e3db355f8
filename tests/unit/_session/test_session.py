"""Two sessions with each other, without a core above them: transports that survive drops."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Coroutine
from functools import partial
from typing import Any

import pytest
from core_driver import turns

from wsrpc import CloseInfo, ConnectionLost, Handshake, Limits
from wsrpc._base.logs import PeerLog
from wsrpc._base.scheduler import LoopScheduler
from wsrpc._protocol.codecs import NegotiatedCodec
from wsrpc._protocol.control import Announced, Credit, Drain
from wsrpc._protocol.settings import make_settings
from wsrpc._session.client import ClientSession
from wsrpc._session.connection import Connection
from wsrpc._session.session import Session
from wsrpc._session.sessions import Arrival, ServerSession, Sessions
from wsrpc._session.waiting import WaitingMessage
from wsrpc.testing import MemoryTransport, memory_transports
from wsrpc.transport import ConnectionInfo

SETTINGS = make_settings(Limits(), None, None)
HANDSHAKE = Handshake("/", {})


class Above:
    """The receiver of one session, which notes what it is told, and its host on a server."""

    principal = None
    info = ConnectionInfo()

    def __init__(self) -> None:
        self.ignored = Counter[str]()
        self.log = PeerLog("")
        self.peer = self
        self.got: list[bytes] = []
        self.told: list[str] = []
        self.controls: list[Credit | Drain] = []
        self.lost: ConnectionLost | None = None
        self.session: Session

    def begin(self, session: Session, connection: Connection) -> None:
        self.session = session
        session.begin(connection, can_resume=True)
        session.start(self.receive, lambda: None)

    def receive(self, payload: bytes | bytearray, text: bool, /) -> None:
        if not self.session.take_control(payload):
            self.got.append(bytes(payload))

    def takes_raw(self) -> bool:
        return False

    def spawn(self, coroutine: Coroutine[Any, Any, None], /) -> None:
        self.task = asyncio.create_task(coroutine)

    def fail(self, code: int, reason: str, /) -> None:
        self.told.append(f"fail {code}")

    def agree(self, announced: Announced, codec: NegotiatedCodec | None, common: frozenset[str], /) -> None:
        self.told.append("agreed")

    def take_credit_or_drain(self, message: Credit | Drain, /) -> None:
        self.controls.append(message)

    def room_changed(self) -> None: ...

    def connection_ended(self, connection: Connection, /) -> None: ...

    def session_detached(self, info: CloseInfo, dropped: bool, /) -> None:
        self.told.append("detached" if dropped else "in vain")

    def session_reattached(self, connection: Connection, limits: Announced, /) -> None: ...

    def session_resumed(self) -> None:
        self.told.append("resumed")

    def session_over(self) -> None:
        self.lost = self.session.end_reason

    def session_refused(self, connection: Connection, first: tuple[bytes | bytearray, bool] | None, /) -> None:
        self.told.append("refused")

    def use_handshake(self, handshake: Handshake, /) -> None:
        self.told.append("handshake")

    def memory(self) -> int:
        return 0

    def drop_rest(self) -> None: ...


class Story:
    """A client and a server, which has many sessions."""

    def __init__(self) -> None:
        self.client, self.server = Above(), Above()
        self.sessions = Sessions(60.0, 10**9)
        self.loop = LoopScheduler()

    async def begin(self) -> MemoryTransport:
        near, far = memory_transports()
        accepted = ServerSession(SETTINGS, self.loop, self.server, sessions=self.sessions)
        self.server.begin(accepted, Connection(far))
        self.client.begin(ClientSession(SETTINGS, self.loop, self.client), Connection(near))
        await turns(10)
        return near

    async def cut(self, transport: MemoryTransport) -> None:
        transport.abort()
        await turns(10)
        assert self.client.session.detached and self.server.session.detached

    async def resume(self, sessions: Sessions | None = None) -> MemoryTransport:
        near, far = memory_transports()
        arrival = Arrival(self.sessions if sessions is None else sessions, far, HANDSHAKE)
        arrival.connection.start(arrival._receive, lambda: None)
        assert isinstance(self.client.session, ClientSession)
        self.client.session.ask_to_resume(Connection(near))
        await turns(10)
        return near


async def test_what_is_sent_without_a_connection_waits_and_can_be_taken_back() -> None:
    story = Story()
    near = await story.begin()
    assert story.client.session.send(b'"before"', True) is None
    await turns(10)
    await story.cut(near)
    tickets = [story.client.session.send(b"%d" % number, True) for number in range(3)]
    assert all(isinstance(ticket, WaitingMessage) for ticket in tickets)
    assert tickets[1].take_back() and not tickets[1].take_back()
    story.server.session.send(b'"back"', True)
    await story.resume()
    assert story.server.got == [b'"before"', b"0", b"2"]
    assert story.client.got == [b'"back"']
    assert not tickets[0].take_back(), "it was sent"
    assert story.client.told == ["agreed", "detached", "resumed"]
    assert story.server.told == ["agreed", "detached", "handshake", "resumed"]


async def test_a_refused_message_waits_before_the_end_is_reported() -> None:
    story = Story()
    near = await story.begin()
    near.abort()
    session = story.client.session
    assert session.connection is not None
    ticket = session.send(b"1", True)
    assert isinstance(ticket, WaitingMessage)
    assert session.connection is None and not session.detached and session.resumable
    await turns(10)
    await story.resume()
    assert story.server.got == [b"1"]


async def test_what_is_kept_back_precedes_what_waits_and_then_no_more() -> None:
    story = Story()
    await story.begin()
    session = story.client.session
    kept = [b"1"]

    def send_kept() -> None:
        while kept:
            session.send(kept.pop(), True)

    end = session.precede(send_kept)
    session.drop(CloseInfo(1006, "no network"))
    session.send(b"2", True)
    end()
    await turns(10)
    await story.resume()
    session.send_kept_back()  # as a channel does that closes
    assert session.send(b"3", True) is None
    await turns(10)
    assert story.server.got == [b"1", b"2", b"3"]
    assert session.connection is not None


async def test_what_is_kept_back_within_something_that_is_kept_back_leaves_after_it() -> None:
    story = Story()
    await story.begin()
    session = story.client.session
    outer, inner = [b"1"], [b"2"]

    def send(kept: list[bytes]) -> None:
        while kept:
            session.send(kept.pop(), True)

    end_outer, end_inner = session.precede(partial(send, outer)), session.precede(partial(send, inner))
    session.send(b"3", True)
    end_inner()
    outer.append(b"4")
    session.send(b"5", True)
    end_outer()
    await turns(10)
    assert story.server.got == [b"1", b"2", b"3", b"4", b"5"]


async def test_a_plain_peer_gets_what_the_transport_gets() -> None:
    near, _ = memory_transports()
    above = Above()
    above.begin(ServerSession(SETTINGS, LoopScheduler(), above, sessions=None), Connection(near))
    assert above.session.send == near.send
    near.abort()
    await turns(10)
    assert above.lost is not None and above.lost.outcome == "unknown"
    assert above.lost is above.session.end_reason
    with pytest.raises(ConnectionLost) as raised:
        above.session.send(b"1", True)
    assert (raised.value.reason, raised.value.outcome) == (above.lost.reason, "not_sent")
