"""Probes of web pages, which cannot ping: which a server answers, and how often."""

from __future__ import annotations

import json
from typing import Any

import pytest
from core_driver import start, turns
from leftovers import nothing_left as nothing_left
from stream_driver import control, hello

from wsrpc import Handshake, Limits, Peer, Server
from wsrpc._core.api.peer import current_of
from wsrpc._server.server import accept_of
from wsrpc.testing import Clock, ScriptedTransport

pytestmark = pytest.mark.usefixtures("nothing_left")

PROBE, ALIVE = control("probe"), control("alive")
NOTE = {"a": ["note", 1]}
SIZE = len(json.dumps(NOTE))


class Page:
    """A web page that offers `resume` and `probe`, played by the test, and its server, whose clock stands still."""

    def __init__(self, **options: Any) -> None:
        self.server = Server(**options)
        self.server.on("note", lambda number: None)
        self.clock = Clock()
        self.line: ScriptedTransport
        self.session: dict[str, Any] = {}

    async def connect(self, first: dict[str, Any], *headers: tuple[str, str]) -> tuple[Peer, dict[str, Any]]:
        """Connect, and return the peer and the answer to the first message."""
        self.line = ScriptedTransport()
        accepting = start(accept_of(self.server)(self.line, Handshake("/", dict(headers)), self.clock))
        await turns()
        self.line.feed(first)
        peer = await accepting
        assert isinstance(peer, Peer)
        [answer] = self.line.pop_sent()
        return peer, answer["wsrpc"]

    async def begin(self, *features: str) -> Peer:
        """Begin a session, in which both sides count from now on if it can resume."""
        peer, self.session = await self.connect(hello(*features))
        if "sid" in self.session:
            self.line.feed(control("ack", n=0, bytes=0))
        return peer


@pytest.mark.parametrize(
    ("features", "options"),
    [
        (("resume", "probe"), {}),
        (("batches", "credit", "probe"), {}),
        (("probe",), {}),
        (("resume", "probe"), {"limits": Limits(replay_bytes=0)}),
    ],
    ids=str,
)
async def test_a_probe_is_answered_whether_or_not_the_session_can_resume(
    features: tuple[str, ...], options: dict[str, Any]
) -> None:
    page = Page(**options)
    await page.begin(*features)
    assert "probe" in page.session["features"]
    page.line.feed(PROBE)
    page.line.expect(ALIVE)
    await page.server.close()


@pytest.mark.parametrize(
    ("features", "options"), [(None, {}), (("resume", "credit"), {}), (("probe",), {"extensions": False})], ids=str
)
async def test_a_probe_that_was_not_agreed_on_is_ignored(
    features: tuple[str, ...] | None, options: dict[str, Any]
) -> None:
    page = Page(**options)
    first = NOTE if features is None else hello(*features)
    page.line = ScriptedTransport()
    peer = await accept_of(page.server)(page.line, Handshake("/", {}), page.clock)
    assert isinstance(peer, Peer)
    page.line.feed(first)
    page.line.pop_sent()
    page.line.feed(PROBE)
    page.line.expect()
    hellos = 1 if options else 0
    assert sum(peer.ignored.values()) == 1 + hellos, dict(peer.ignored)
    await page.server.close()


async def test_a_client_that_probes_and_does_not_read_gets_no_more_answers() -> None:
    page = Page()
    peer = await page.begin("probe")
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
    page = Page()
    peer = await page.begin("resume", "probe")
    page.line.feed(PROBE, NOTE, PROBE)
    page.line.expect(ALIVE, ALIVE)
    await peer.emit("hello")
    page.clock.advance(1.0)
    sent = page.line.pop_sent()
    assert sent == [{"a": ["hello"]}, control("ack", n=1, bytes=SIZE)]
    page.line.feed(control("ack", n=1, bytes=len('{"a":["hello"]}')))
    page.line.lose()
    assert peer.detached, "both sides have counted the same"
    await page.server.close()
