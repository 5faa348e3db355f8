"""What a server answers clients that come back to a session, and web pages, which cannot ping and send probes."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from leftovers import nothing_left as nothing_left
from leftovers import turns_until
from session_story import Visitor, story
from stream_driver import control, hello

from wsrpc import CloseInfo, ConnectionLost, Handshake, Limits, Peer, Server
from wsrpc._core.api.peer import current_of
from wsrpc.testing._clock import Clock

pytestmark = pytest.mark.usefixtures("nothing_left")


# ---------------------------------------------------------------- closed while it was detached


def identifying(**options: Any) -> Server:
    server = Server(**options)

    @server.on_handshake
    def check(handshake: Handshake) -> None:
        handshake.principal = handshake.query.get("user")

    return server


class Returning(Visitor):
    """A client that has lost its connection, and whose session is closed meanwhile."""

    async def close_while_detached(self) -> None:
        peer = await self.begin()
        self.line.lose(CloseInfo(1006))
        assert peer.detached
        await peer.close(1008, "banned")

    async def told(self, user: str = "ann", **fields: Any) -> tuple[CloseInfo | None, list[Any]]:
        """Ask to resume, and return how the connection was closed, and the answers."""
        self.user = user
        try:
            await self.resume(**fields)
        except ConnectionLost:
            assert self.line.closed is not None
        return self.line.closed, self.line.pop_sent()[:1]


GONE = [control("gone", why="expired")]


async def test_only_who_has_the_token_is_told_and_once() -> None:
    page = Returning(identifying())
    await page.close_while_detached()
    assert await page.told(token="guessed") == (None, GONE)
    assert await page.told(gen=0) == (None, GONE)
    assert await page.told(user="bea") == (None, [control("gone", why="auth")])
    assert await page.told() == (CloseInfo(1008, "banned", was_clean=True), [])
    assert await page.told(gen=2) == (None, GONE)
    await page.server.close()


async def test_the_number_that_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wsrpc._core.session.sessions.MOST_CLOSED", 1)
    page = Returning(identifying(detached_timeout=30.0))
    await page.close_while_detached()
    oldest = page.session
    page.clock.advance(5.0)
    await page.close_while_detached()
    assert page.clock.next_deadline == 35.0, "the timer of the oldest is gone, too"
    assert (await page.told())[0] is not None
    assert page.clock.next_deadline is None
    page.session = oldest
    assert await page.told() == (None, GONE)
    await page.server.close()


# ---------------------------------------------------------------- no welcome has arrived

HELLO = hello("resume")
HELLO["wsrpc"] |= {"sid": "mine", "token": "secret"}
UNNAMED = {"sid": "mine", "token": "secret"}


def kinds(sent: list[Any]) -> list[Any]:
    return [each["wsrpc"]["t"] if "wsrpc" in each else each for each in sent]


async def heard(**options: Any) -> tuple[Visitor, list[int]]:
    """A client that has sent a call, and has got nothing."""
    page, ran = Visitor(Server(**options)), list[int]()
    page.server.on("run", ran.append)
    await page.connect(HELLO)
    page.line.feed({"i": 1, "a": ["run", 1]})
    await turns_until(lambda: ran)
    page.line.lose(CloseInfo(4412))
    page.session = UNNAMED
    return page, ran


async def test_a_session_resumes_before_its_welcome() -> None:
    page, ran = await heard()
    await page.resume(**UNNAMED)
    resumed, welcome, answer = page.line.pop_sent()
    assert kinds([resumed, welcome]) == ["resumed", "welcome"] and answer["i"] == 1
    assert resumed["wsrpc"]["rx"] == 1 and ran == [1]
    assert resumed["wsrpc"]["token"] == welcome["wsrpc"]["token"] != "secret"
    page.line.lose()
    page.session = welcome["wsrpc"]
    await page.resume(gen=2)
    assert kinds(page.line.pop_sent()) == ["resumed", answer]
    await page.server.close()


@pytest.mark.parametrize("is_lost", [True, False])
@pytest.mark.parametrize(
    ("user", "before", "after", "answer"),
    [
        ("ann", 2.0, 1.0, "resumed"),
        ("bob", 2.0, 1.0, "gone"),
        # A proxy has given this connection up, and repeats the handshake at another process, or has done so.
        ("ann", 2.0, 3.0, "gone"),
        ("ann", 0.5, 1.0, "gone"),
    ],
)
async def test_a_session_whose_hello_has_not_arrived_begins_by_its_resume(
    user: str, before: float, after: float, answer: str, is_lost: bool
) -> None:
    """If the key of the handshake shows that this process has its connection, on which it then reads nothing more."""
    if not is_lost and after == 3.0:
        answer = "resumed"  # it is open
    page, ran = Visitor(identifying()), list[int]()
    page.server.on("run", ran.append)
    peer = await page.connect(**{"sec-websocket-key": "mine"})
    silent = page.line
    page.clock.advance(before)
    if is_lost:
        silent.lose(CloseInfo(4412))
    page.clock.advance(after)
    page.user, page.session = user, UNNAMED
    await page.resume()
    assert kinds(page.line.pop_sent()) == [answer, "welcome"]
    page.line.feed({"i": 1, "a": ["run", 1]})
    await turns_until(lambda: ran)
    if not is_lost:
        silent.feed(HELLO)
        silent.feed({"i": 1, "a": ["run", 1]})
    await peer.wait_closed()
    page.line.lose(CloseInfo(4412))
    await page.resume(gen=2)
    assert kinds(page.line.pop_sent())[0] == answer and ran == [1]
    await page.server.close()


async def test_a_handshake_that_a_proxy_repeats_at_the_same_process_is_another_connection() -> None:
    page = Visitor()
    for _ in range(2):
        await page.connect(**{"sec-websocket-key": "mine"})
    given_up, silent = page.lines
    given_up.lose()
    page.clock.advance(5.0)
    silent.lose()
    page.session = UNNAMED
    await page.resume()
    assert kinds(page.line.pop_sent()) == ["resumed", "welcome"]
    await page.server.close()


@pytest.mark.parametrize("fields", [{"sid": "other"}, {"sid": "o.ther"}, {"sid": ""}, {"token": "guessed"}])
async def test_a_session_that_the_server_has_not_had_does_not_begin_by_its_resume(fields: dict[str, Any]) -> None:
    """Another process may have had it."""
    page, ran = await heard()
    await page.resume(**UNNAMED | fields)
    assert kinds(page.line.pop_sent()) == ["gone", "welcome"] and ran == [1]
    await page.server.close()


async def test_a_session_that_has_ended_does_not_resume() -> None:
    page, _ran = await heard()
    await page.resume(**UNNAMED)
    await page.server.peers[0].close()
    await page.resume(**UNNAMED | {"gen": 2})
    assert kinds(page.line.pop_sent())[0] == "gone"
    await page.server.close()


@pytest.mark.parametrize("sid", ["mine", "a.b", 65 * "x"])
async def test_a_name_that_is_used_or_not_valid(sid: str) -> None:
    page, ran = await heard()
    late = hello("resume")
    late["wsrpc"] |= {"sid": sid, "token": "secret"}
    await page.connect(late)
    page.line.feed({"i": 1, "a": ["run", 2]})
    await turns_until(lambda: page.line.closed)
    assert page.line.closed == CloseInfo(1007, "the name of the session is used, or not valid", was_clean=True)
    assert ran == [1]
    await page.server.close()


# ---------------------------------------------------------------- credentials that have expired


async def test_a_client_comes_back_with_fresh_credentials_and_its_session_goes_on() -> None:
    """Only the system's clock counted, which a test cannot advance."""
    server, tokens = Server(), list[str]()

    @server.on_handshake
    def check(handshake: Handshake) -> None:
        token = handshake.bearer_token
        assert token is not None
        tokens.append(token)
        handshake.expires = time.time() + 30.0
        handshake.state.update({"token": token, f"had {token}": True})

    async with story(server=server, clock=Clock(), auth=lambda: f"{len(tokens)}") as s:
        peer, received = s.peer, s.client.events("n", returns=int)
        s.clock.advance(29.0)
        await s.settled()
        assert s.client.state == "connected"
        s.clock.advance(1.0)
        await peer.emit("n", 1)
        assert await anext(received) == 1
        await turns_until(lambda: s.back)
        assert s.back[0].resumed and tokens == ["0", "1"] and server.peers == (peer,)
        assert dict(peer.state) == {"token": "1", "had 0": True, "had 1": True}


# ---------------------------------------------------------------- probes

PROBE, ALIVE = control("probe"), control("alive")
NOTE = {"a": ["note", 1]}


async def probing(*features: str, **options: Any) -> tuple[Visitor, Peer]:
    page = Visitor(Server(**options))
    page.server.on("note", lambda number: None)
    return page, await page.begin(*features)


@pytest.mark.parametrize("features", [("resume", "probe"), ("probe",)], ids=str)
@pytest.mark.parametrize("options", [{}, {"limits": Limits(replay_bytes=0)}], ids=str)
async def test_a_probe_is_answered_whether_or_not_the_session_can_resume(features: Any, options: Any) -> None:
    page, _ = await probing(*features, **options)
    assert "probe" in page.session["features"]
    page.line.feed(PROBE)
    page.line.expect(ALIVE)
    await page.server.close()


@pytest.mark.parametrize(
    ("first", "extensions"), [(NOTE, True), (hello("resume", "credit"), True), (hello("probe"), False)], ids=str
)
async def test_a_probe_that_was_not_agreed_on_is_ignored(first: Any, extensions: bool) -> None:
    page = Visitor(Server(extensions=extensions))
    page.server.on("note", lambda number: None)
    peer = await page.connect(first)
    page.line.pop_sent()
    page.line.feed(PROBE)
    page.line.expect()
    assert sum(peer.ignored.values()) == 1 + (not extensions), dict(peer.ignored)
    await page.server.close()


async def test_a_client_that_probes_and_does_not_read_gets_no_more_answers() -> None:
    page, peer = await probing("probe")
    page.line.feed(*[PROBE] * 3)
    page.line.expect(ALIVE, ALIVE, ALIVE)
    connection = current_of(peer).session.connection
    assert connection is not None
    connection.pause_sending()
    page.line.feed(*[PROBE] * 3)
    page.line.expect()
    connection.resume_sending()
    page.line.feed(PROBE)
    page.line.expect(ALIVE)
    await page.server.close()


async def test_probes_and_their_answers_are_not_counted() -> None:
    page, peer = await probing("resume", "probe")
    page.line.feed(PROBE, NOTE, PROBE)
    page.line.expect(ALIVE, ALIVE)
    await peer.emit("hello")
    page.clock.advance(1.0)
    page.line.expect({"a": ["hello"]}, control("ack", n=1, bytes=len(json.dumps(NOTE))))
    page.line.feed(control("ack", n=1, bytes=len('{"a":["hello"]}')))
    page.line.lose()
    assert peer.detached, "both sides have counted the same"
    await page.server.close()
