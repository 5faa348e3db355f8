"""A server closes a peer while its client has no connection. The client gets the close when it connects again."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from core_driver import start, turns
from leftovers import nothing_left as nothing_left
from leftovers import turns_until
from session_story import SOON, story
from stream_driver import control, hello

from wsrpc import Client, CloseInfo, ConnectionLost, Handshake, Peer, Reconnect, Server, SessionLost
from wsrpc._server.server import accept_of
from wsrpc.testing import Clock, ScriptedTransport

pytestmark = pytest.mark.usefixtures("nothing_left")


# ---------------------------------------------------------------- what clients do


@pytest.mark.parametrize("code", [1008, 3000, 4410])
async def test_a_client_that_was_closed_while_it_was_detached_gives_up(code: int) -> None:
    async with story() as s:
        peer = s.peer
        await s.cut()
        await turns_until(lambda: peer.detached)
        await peer.close(code, "banned")
        s.line.down = False
        with pytest.raises(ConnectionLost, match="banned") as caught:
            await s.client.wait_connected()
        assert caught.value.code == code and s.client.state == "closed"
        assert [(info.code, info.reason, info.will_reconnect) for info in s.closed] == [(code, "banned", False)]
        assert s.notified == ["client opened", "server opened", "server closed"] and s.server.peers == ()
        await s.client.connect()  # the user may try again, as after any other kick
        assert len(s.server.peers) == 1


@pytest.mark.parametrize(("code", "said"), [(None, []), (1000, []), (4001, [4001])])
async def test_other_codes_are_told_once_and_then_a_new_session_begins(code: int | None, said: list[int]) -> None:
    """A client that dials again after the code would connect again and again if it got the code each time.

    A code that says nothing would only cost it another attempt, and a page that is hidden waits a minute for that.
    """
    failures: list[BaseException] = []

    def retry(error: BaseException) -> bool:
        failures.append(error)
        return True

    async with story(reconnect=Reconnect(initial=0.001, max=0.001, retry=retry)) as s:
        await s.cut()
        await turns_until(lambda: s.peer.detached)
        await s.peer.close(code, "" if code is None else "banned")
        del failures[:]
        s.line.down = False
        await s.client.wait_connected()
        notified = [error for error in failures if isinstance(error, ConnectionLost)]
        assert [error.code for error in notified] == said and not s.back[0].resumed
        assert [(info.code, info.will_reconnect) for info in s.closed] == [(said[0] if said else 1006, True)]
        assert s.notified.count("server opened") == 2


async def test_a_session_that_a_server_ends_with_1001_is_over_when_the_client_has_dialed_again() -> None:
    """A proxy may have sent the 1001, so the client asks."""
    server, closed, back = Server(), list[CloseInfo](), list[bool]()
    forever = asyncio.Event()
    server.on("wait", forever.wait)
    async with asyncio.timeout(20), server.listen("127.0.0.1", 0) as listener:
        async with Client(listener.url, reconnect=SOON) as client:
            client.on("close", lambda peer, info: closed.append(info))
            client.on_reconnect(lambda info: back.append(info.resumed))
            call = start(client.request("wait"))
            await turns_until(lambda: server.peers and server.stats().active)
            await server.peers[0].close(1001, "bye")
            with pytest.raises(SessionLost) as caught:
                await call
            await turns_until(lambda: back)
            assert (caught.value.code, caught.value.outcome, back) == (1001, "unknown", [False])
            assert [(info.code, info.reason, info.will_reconnect) for info in closed] == [(1001, "bye", True)]


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


async def test_a_client_that_may_not_have_been_told_is_told_again() -> None:
    """The next connection may drop before the Close frame has arrived."""
    async with story() as s:
        peer = s.peer
        await s.cut()
        await turns_until(lambda: peer.detached)
        await peer.close(1008, "banned")
        s.line.down = False
        before = len(s.line.connections)
        await turns_until(lambda: len(s.line.connections) > before)
        s.line.cut()
        with pytest.raises(ConnectionLost, match="banned"):
            await s.client.wait_connected()


@pytest.mark.parametrize(("seconds", "notified"), [(29.0, True), (31.0, False)])
async def test_it_is_remembered_as_long_as_the_session_could_have_resumed(seconds: float, notified: bool) -> None:
    returning = Returning(detached_timeout=30.0)
    await returning.close_while_detached()
    returning.clock.advance(seconds)
    closed, answer = await returning.resume()
    assert (closed is not None) is notified and (answer == GONE) is not notified
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


async def test_a_session_that_was_closed_with_its_client_is_not_remembered() -> None:
    """Nor one that has expired, or that the client has closed."""
    returning = Returning()
    line, peer = await returning.connect(hello("resume"))
    assert peer is not None
    returning.session = line.pop_sent()[0]["wsrpc"]
    line.feed(control("ack", n=0, bytes=0))
    await peer.close(1008, "banned")
    assert await returning.resume() == (None, GONE)
    await returning.server.close()
