"""A server closes a peer while its client has no connection. The client gets the close when it connects again."""

from __future__ import annotations

from typing import Any

import pytest
from core_driver import start, turns
from leftovers import nothing_left as nothing_left
from stream_driver import control, hello

from wsrpc import CloseInfo, ConnectionLost, Handshake, Peer, Server
from wsrpc._server.server import accept_of
from wsrpc.testing import Clock, ScriptedTransport

pytestmark = pytest.mark.usefixtures("nothing_left")


# ---------------------------------------------------------------- which clients get the code, and for how long


class Returning:
    """A client that has lost its connection, played by the test, and its server. Its session was closed meanwhile."""

    def __init__(self, **options: Any) -> None:
        self.server = Server(**options)
        self.clock = Clock()
        self.session: dict[str, Any] = {}

        @self.server.on_handshake
        def check(handshake: Handshake) -> None:
            handshake.principal = handshake.query.get("user")

    async def connect(self, first: dict[str, Any], user: str = "ann") -> tuple[ScriptedTransport, Peer | None]:
        line = ScriptedTransport()
        handshake = Handshake(f"/?user={user}", {"sec-websocket-protocol": "wsrpc.resume"})
        await self.server.handshake(handshake)
        accepting = start(accept_of(self.server)(line, handshake, self.clock))
        await turns()
        line.feed(first)
        try:
            peer = await accepting
        except ConnectionLost:
            return line, None
        assert isinstance(peer, Peer)
        return line, peer

    async def close_while_detached(self) -> None:
        line, peer = await self.connect(hello("resume"))
        assert peer is not None
        [answer] = line.pop_sent()
        self.session = answer["wsrpc"]
        line.feed(control("ack", n=0, bytes=0))
        line.lose(CloseInfo(1006))
        assert peer.detached
        await peer.close(1008, "banned")

    async def resume(self, gen: int = 1, user: str = "ann", **other: str) -> tuple[CloseInfo | None, Any]:
        """Ask to resume, and return how the connection was closed, and the answer."""
        asked = hello("resume", t="resume")
        asked["wsrpc"] |= {"sid": self.session["sid"], "token": self.session["token"], "gen": gen, "rx": 0, "bytes": 0}
        asked["wsrpc"] |= other
        line, _ = await self.connect(asked, user)
        return line.closed, (line.pop_sent() or [None])[0]


GONE = control("gone", why="expired")


async def test_only_who_has_the_token_is_told_and_once() -> None:
    returning = Returning()
    await returning.close_while_detached()
    assert await returning.resume(token="guessed") == (None, GONE)
    assert await returning.resume(gen=0) == (None, GONE)
    assert await returning.resume(user="bea") == (None, control("gone", why="auth"))
    assert await returning.resume() == (CloseInfo(1008, "banned", was_clean=True), None)
    assert await returning.resume(gen=2) == (None, GONE)
    await returning.server.close()


async def test_the_number_that_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wsrpc._core.session.sessions.MOST_CLOSED", 1)
    returning = Returning(detached_timeout=30.0)
    await returning.close_while_detached()
    oldest = returning.session
    returning.clock.advance(5.0)
    await returning.close_while_detached()
    assert returning.clock.next_deadline == 35.0, "the timer of the oldest is gone, too"
    assert (await returning.resume())[0] is not None
    assert returning.clock.next_deadline is None
    returning.session = oldest
    assert await returning.resume() == (None, GONE)
    await returning.server.close()
