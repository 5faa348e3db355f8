"""Sessions of one server that resume through another one of its cluster."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from typing import Any, cast
from urllib.parse import urlsplit

import pytest
from cluster_servers import Servers, servers
from core_driver import turns
from leftovers import nothing_left as nothing_left
from leftovers import turns_until
from raw_websocket import CLOSE, PING, PONG, TEXT, raw_client

from wsrpc import Client, CloseInfo, Handshake, Limits, Peer, Reconnect, ReconnectInfo
from wsrpc._core.api.peer import current_of
from wsrpc._core.session.session import VERSION
from wsrpc._core.wire.control import Gone, Resume, announce, write_control
from wsrpc._server.peers import served_peer
from wsrpc.cluster import _directory, _engine_transport, _membership, _node, _session_forwarder
from wsrpc.cluster._cluster import membership_of
from wsrpc.errors import ConnectionLost, QueueFull, SessionLost

pytestmark = pytest.mark.usefixtures("nothing_left")

LIMITS = Limits(close_timeout=2.0, ping_interval=None)
ROOMY = LIMITS.replace(replay_bytes=2**26, stall_timeout=60.0)


class World:
    """Two servers, and a client that began at the first one, and dials where the test says."""

    def __init__(self, made: Servers, urls: list[str], limits: Limits) -> None:
        self.made = made
        self.urls = urls
        self.at = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.settings: dict[str, Any] = {}
        """What the second server sets in a handshake."""
        self.codes: list[int] = []
        """How connections and attempts have ended."""
        self.backs: list[ReconnectInfo] = []
        self.closed: list[CloseInfo] = []
        self.client = Client(self._url, limits=limits, reconnect=Reconnect(initial=0.01, max=0.01, retry=self._again))
        self.client.on_reconnect(self.backs.append)
        self.client.on("close", lambda peer, info: self.closed.append(info))
        self.peer: Peer
        made[1].on_handshake(self._decide)

    async def _url(self) -> str:
        await self.gate.wait()
        return f"{self.urls[self.at]}?who=ada&user=ada"

    def _again(self, exc: BaseException) -> bool:
        if isinstance(exc, ConnectionLost):
            self.codes.append(exc.code)
        return not {1008, 1013} & {*self.codes}

    def _decide(self, handshake: Handshake) -> None:
        for name, value in {"principal": "ada", "address": "ada", **self.settings}.items():
            setattr(handshake, name, value)

    @property
    def transport(self) -> Any:
        """The client's."""
        return self.client.peer.transport

    @property
    def forwarded(self) -> int:
        """How many connections the second server passes on."""
        stats = self.made[1].cluster.stats()
        return 0 if stats is None else stats.forwarded

    def engine_connection(self) -> Any:
        """The connection of the first server to the engine."""
        node = membership_of(self.made[0].cluster).node
        [connection] = (one for one in self.made.memory.connections if one.has_subscribed(f"shop.{node.id}"))
        return connection

    async def drop(self) -> None:
        """Drop the connection. The client waits until the gate opens, and dials the second server."""
        self.gate.clear()
        self.at = 1
        self.transport.abort()
        await turns_until(lambda: self.peer.detached)

    async def forward(self) -> None:
        """Let the session go on through the second server."""
        await self.drop()
        self.gate.set()
        await turns_until(lambda: self.forwarded and self.client.connected)
        assert self.made[0].peers == (self.peer,) and self.backs[-1].resumed and self.made[1].peers == ()

    async def call(self) -> asyncio.Task[Any]:
        """A call that does not end by itself."""
        call = asyncio.create_task(self.client.request("wait", timeout=None))
        await turns_until(lambda: self.peer.active)
        return call

    async def loses(self, call: asyncio.Task[Any], reason: str = "") -> None:
        """Let the client come back. It gets a new session."""
        self.gate.set()
        with pytest.raises(SessionLost, match=reason or None) as caught:
            await call
        assert caught.value.outcome == "unknown" and await self.client.request("echo", 2) == 2

    async def goes_on(self) -> None:
        """Let the client come back. The session goes on."""
        self.gate.set()
        assert await self.client.request("echo", 2) == 2 and self.backs[-1].resumed


@asynccontextmanager
async def world(limits: Limits = LIMITS) -> AsyncGenerator[World]:
    async with servers(2, limits=limits) as made, made[0].listen() as first, made[1].listen() as second:
        for server in made.all:
            server.on("echo", lambda value: value)
            server.on("wait", asyncio.Event().wait)
        w = World(made, [first.url, second.url], limits)
        async with w.client:
            assert await w.client.request("echo", 1) == 1
            (w.peer,) = made[0].peers
            yield w
        await turns_until(lambda: not w.forwarded)


async def test_the_peer_has_what_the_other_server_has_decided_about_the_connection() -> None:
    async with world(LIMITS.replace(unread_timeout=math.inf)) as w:  # infinity travels, too
        w.settings |= {"address": "eve", "expires": time.time() + 0.5}
        await w.forward()
        info = w.peer.info
        assert info.remote == w.transport.info.local and info.headers["wsrpc-resume"] == "1"
        assert info.query["who"] == "ada" and w.peer.address == "eve"
        w.settings["expires"] = time.time() + 3600
        await turns_until(lambda: len(w.backs) == 2)
        assert w.codes == [1006, 4411] and all(back.resumed for back in w.backs)
        await w.goes_on()


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "another principal": ({"principal": "eve"}, "another principal"),
    "no principal": ({"principal": None}, "another principal"),
    "other limits": ({"limits": LIMITS.replace(running=7)}, "other limits"),
    "a principal that JSON cannot carry": ({"principal": ("ada",)}, "another server process"),
    "a target that JSON cannot carry": ({"target": "/\udcff"}, "another server process"),
    "more than the engine can carry": ({"target": "/" + "x" * 2**21}, "another server process"),
    "a wrong token": ({}, "no such session any more"),
    "a session that has ended": ({}, "no such session any more"),
    "a process that has ended": ({}, "another server process"),
}
"""What the second server decides, and why the client gets a new session there."""


@pytest.mark.parametrize("case", REFUSED)
async def test_a_client_that_is_refused_gets_a_new_session_where_it_is(case: str) -> None:
    settings, reason = REFUSED[case]
    async with world() as w:
        call = await w.call()
        # With the address of the first one, the new peer would sooner or later replace it.
        w.settings |= {"address": None, **settings}
        await w.drop()
        if case == "a session that has ended":
            await w.peer.close()
        elif case == "a process that has ended":
            await w.made[0].close()
        elif case == "a wrong token":
            cast("Any", current_of(w.client.peer).session)._token = "x" * 43
        await w.loses(call, reason)
        assert len(w.made[1].peers) == 1 and not w.forwarded
        ends = case in ("other limits", "a session that has ended", "a process that has ended")
        assert w.made[0].peers == (() if ends else (w.peer,)), "attempts of others do not affect the session"


@pytest.mark.parametrize("code", [4001, 1008])
@pytest.mark.parametrize("away", [True, False])
async def test_the_code_with_which_the_server_closes_reaches_the_client(code: int, away: bool) -> None:
    async with world() as w:
        await w.forward()
        if away:
            await w.drop()
        await w.peer.close(code, "enough")
        w.gate.set()
        await turns_until(lambda: w.closed)
        assert code in w.codes and (w.closed[0].code, w.closed[0].reason) == (code, "enough")
        if code != 1008:  # after which a client does not dial again
            await turns_until(lambda: w.made[1].peers)


@pytest.mark.parametrize("code", [4001, 4411])
async def test_a_client_that_its_server_closes_is_connected_until_it_has_read_that(code: int) -> None:
    """On a slow network, the other server sent for longer than the session was kept, which was lost then."""
    async with world(LIMITS.replace(close_timeout=60.0)) as w:
        await w.forward()
        w.transport.pause_receiving()
        if code == 4411:
            cast("Any", served_peer(w.peer)).expire_at(time.time())
        closing = asyncio.create_task(w.peer.wait_closed() if code == 4411 else w.peer.close(code, "enough"))
        connections = membership_of(w.made[1].cluster).node.connections
        await turns_until(lambda: connections._of_clients.isdisjoint(connections._transports))
        await turns(10)
        assert not closing.done() and w.made[0].peers == (w.peer,) and w.forwarded == 1
        w.transport.resume_receiving()
        await closing
        await turns_until(lambda: len(w.backs) == 2)
        assert w.codes == [1006, code] and w.backs[-1].resumed == (code == 4411)


@pytest.mark.parametrize("drain", [0.0, 5.0])
async def test_when_the_server_closes_that_passes_the_messages_on_the_session_resumes_elsewhere(drain: float) -> None:
    async with world() as w:
        await w.forward()
        call = asyncio.create_task(w.client.request("echo", "x" * 3_000_000))
        w.at = 0
        await w.made[1].close(drain)
        assert await call == "x" * 3_000_000
        assert w.peer.connected and w.backs[-1].resumed and w.codes == [1006, 1006]


async def test_while_the_other_process_cannot_be_reached_the_client_asks_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_session_forwarder, "ANSWERED", 0.1)
    async with world() as w:
        await w.forward()
        call = asyncio.create_task(w.client.request("echo", 2))
        await w.made.engine_goes()
        await turns_until(lambda: w.codes.count(1012) > 2)
        w.made.memory.down = False
        assert await call == 2 and w.backs[-1].resumed and {*w.codes} == {1006, 1012}


async def test_pings_are_answered_while_the_other_process_is_asked() -> None:
    """A client with a short `Limits.ping_timeout` gave up such a connection, and waited before the next attempt."""
    async with world() as w:
        await w.made.engine_goes()
        port = urlsplit(w.urls[1]).port
        assert port is not None
        session = f"{membership_of(w.made[0].cluster).node.id}.unknown"
        asked = write_control(Resume(VERSION, [], announce(LIMITS), session, "token", gen=1, rx=0, bytes=0))
        async with raw_client(port, "/?who=ada&user=ada", "Wsrpc-Resume: 1") as raw:
            await raw.send(raw.frame(TEXT, asked))
            await turns_until(lambda: membership_of(w.made[1].cluster)._session_forwarder._asking)
            await raw.send(raw.frame(PING, "there?"))
            answer = await raw.next_frame()
            assert (answer.opcode, answer.payload) == (PONG, b"there?")
        w.made.memory.down = False


@pytest.mark.parametrize("says_so", [True, False], ids=["it says so", "it closes"])
async def test_a_client_that_leaves_meanwhile_does_not_take_its_address_from_its_next_connection(says_so: bool) -> None:
    """Its next connection was closed with 4410, after which a client does not dial again."""
    async with world() as w:
        w.settings |= {"address": "eve"}
        await w.made.engine_goes()
        port = urlsplit(w.urls[1]).port
        assert port is not None
        session = f"{membership_of(w.made[0].cluster).node.id}.unknown"
        asked = write_control(Resume(VERSION, [], announce(LIMITS), session, "token", gen=1, rx=0, bytes=0))
        async with raw_client(port, "/?who=ada&user=ada", "Wsrpc-Resume: 1") as raw:
            await raw.send(raw.frame(TEXT, asked))
            await turns_until(lambda: membership_of(w.made[1].cluster)._session_forwarder._asking)
            gone = raw.frame(TEXT, write_control(Gone("closed"))) + raw.frame(PING, "")
            await raw.send(gone if says_so else raw.frame(CLOSE, b"\x03\xe8"))
            assert (await raw.next_frame()).opcode == (PONG if says_so else CLOSE)
            async with raw_client(port, "/?who=ada&user=ada"):
                await turns_until(lambda: w.made[1].peers)
                (peer,) = w.made[1].peers
                w.made.memory.down = False
                await turns_until(lambda: not membership_of(w.made[1].cluster)._session_forwarder._asking)
                await turns(20)
                assert w.made[1].peers == (peer,) and peer.connected


async def test_after_the_process_was_killed_the_client_gets_a_new_session_before_the_lease_is_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_directory, "NODE_TIMEOUT", 3600.0)
    async with world() as w:
        call = await w.call()
        connection = w.engine_connection()
        w.made.memory.connections.discard(connection)  # nobody says so
        await w.drop()
        await w.loses(call)
        assert {*w.codes} <= {1006} and w.made[1].cluster.nodes == (membership_of(w.made[1].cluster).node.id,)
        connection.end("killed")


async def test_a_process_that_connects_to_its_engine_again_keeps_its_sessions() -> None:
    """The engine says for a moment that nobody hears it."""
    async with world() as w:
        connection = w.engine_connection()
        await w.drop()
        connection.end("too slow")
        await w.goes_on()


@pytest.mark.parametrize("end", ["the process of its session has lost the engine", "its own process was paused"])
async def test_an_idle_client_notices_that_the_way_to_its_session_has_ended(
    end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It believed to be connected until it sent something. By then, its session was over."""
    monkeypatch.setattr(_engine_transport, "MARKS", 0)  # nothing is said any more of what was sent before
    async with world() as w:
        await w.forward()
        transports = membership_of(w.made[1].cluster).node.connections._transports
        await turns_until(lambda: not any(each._mark_scheduled for each in transports.values()))
        back = len(w.backs)
        if end == "its own process was paused":
            membership_of(w.made[1].cluster).node._due -= 3
        else:
            w.engine_connection().end("too slow")
        await turns_until(lambda: len(w.backs) > back)
        await w.goes_on()


async def test_while_the_engine_is_away_a_client_gets_a_new_session_after_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_session_forwarder, "AWAY", 0.2)
    async with world() as w:
        call = await w.call()
        await w.made.engine_goes()
        await w.drop()
        await w.loses(call)
        w.made.memory.down = False
        await turns_until(lambda: not w.made[0].peers)  # the client with its address is at the other process now


async def test_a_process_that_has_just_started_waits_until_it_knows_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_membership, "RESPONSE_TIMEOUT", 0.05)  # for which `open` waits
    async with world() as w:
        await w.drop()
        w.made.memory.down = True  # for the one that is to come
        third = await w.made.add(limits=LIMITS)
        third.on_handshake(lambda handshake: setattr(handshake, "principal", "ada"))
        async with third.listen() as listener:
            w.urls[1] = listener.url
            coming = asyncio.create_task(w.goes_on())
            await turns_until(lambda: membership_of(third.cluster)._session_forwarder._asking)
            w.made.memory.down = False
            await coming
            w.at = 0


async def test_an_engine_that_loses_messages_loses_no_session(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_session_forwarder, "ANSWERED", 0.2)
    monkeypatch.setattr(_node, "BEAT", 0.15)
    monkeypatch.setattr(_node, "TICK", 0.05)
    async with world() as w:
        await w.drop()
        w.made.memory.loss = 0.05
        w.gate.set()
        for number in range(40):
            assert await w.client.request("echo", number, timeout=None) == number
        w.made.memory.loss = 0.0
        assert all(back.resumed for back in w.backs) and w.made[0].peers == (w.peer,)


async def test_the_clients_for_which_a_process_asks_at_the_same_time_are_bounded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_session_forwarder, "MOST_ASKING", 0)
    async with world() as w:
        await w.drop()
        w.gate.set()
        await turns_until(lambda: 1013 in w.codes)
        assert w.peer.detached


async def test_a_request_that_makes_no_sense_changes_nothing() -> None:
    async with world() as w:
        node = membership_of(w.made[1].cluster).node
        before = node.connections.dialed
        for text in ("", "{", '{"asked":{"t":"resume"}}'):
            with suppress(ConnectionRefusedError):
                transport = await node.connections.dial(w.made[0].cluster.nodes[0], {_session_forwarder.SESSION: text})
                await turns_until(lambda transport=transport: transport._over.done())  # type: ignore[misc]
        assert node.connections.dialed == before + 3 and await w.client.request("echo", 2) == 2


@pytest.mark.parametrize("through", [0, 1])
async def test_what_waits_for_a_slow_reader_is_bounded(through: int) -> None:
    """The server learns that the client does not read as if it were connected to it."""
    size, count = 256 * 1024, 200
    async with world(ROOMY) as w:
        if through:
            await w.forward()
        transport, got, sent = w.transport, list[int](), 0
        w.client.on("block", lambda number, block: got.append(number))
        transport.pause_receiving()

        async def emit() -> None:
            nonlocal sent
            for number in range(count):
                await w.peer.emit("block", number, "x" * size)
                sent += 1

        emitting = asyncio.create_task(emit())
        stalled = -1
        while sent != stalled:
            stalled = sent
            await asyncio.sleep(0.3)
        assert sent < count / 2, "the buffers of TCP take some, and the replay buffer would take all of it"
        transport.resume_receiving()
        await emitting
        await turns_until(lambda: len(got) == count)
        assert got == [*range(count)] and not w.closed
        # The hard cap holds, too.
        transport.pause_receiving()

        async def emit_now() -> None:
            for number in range(count):
                w.peer.emit_nowait("block", number, "x" * size)
                await asyncio.sleep(0)

        with pytest.raises(QueueFull):
            await emit_now()
        transport.resume_receiving()
        assert await w.client.request("echo", 2) == 2
