"""Connections that HTTP requests carry: when a client uses them, and what a server refuses."""

from __future__ import annotations

import asyncio
import itertools
import re
import sys
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any

import aiohttp
import pytest
from asgi_servers import uvicorn_serving
from client_driver import leap
from hosts import HTTP_HOSTS, Aiohttp, Host
from leftovers import timers_due
from raw_websocket import head_of
from recorder import Recorder
from served import AT_ONCE, Endings
from waiting import until

from wsrpc import (
    Client,
    ConnectFailed,
    ConnectionLost,
    Handshake,
    HandshakeRejected,
    Limits,
    Quotas,
    Reconnect,
    ReconnectInfo,
    Server,
    dial,
)
from wsrpc._core.session import client_session, sessions
from wsrpc._http import chosen_transport, http_dial, http_frames
from wsrpc._http.http_dial import dial_http
from wsrpc._http.http_frames import CLOSE, LARGEST_FRAME, NOTHING, PING, PONG, TEXT, frame
from wsrpc._http_server import connections, http_connection, requests
from wsrpc.cluster import Cluster, MemoryEngine
from wsrpc_adapters import aiohttp as aiohttp_adapter
from wsrpc_adapters.asgi import asgi

LIMITS = Limits(close_timeout=2.0)


class Gate:
    """An ASGI application in front of another one, which does to WebSockets what a proxy may do."""

    def __init__(self, server: Server) -> None:
        self._app = asgi(server)
        self.websockets = "refused"
        self.holds_back = False
        """Whether responses that go on are held back."""
        self.carried_by: list[str] = []
        """How each connection was to be carried."""
        self.requests: list[str] = []
        """The method of each request."""
        self.bodies: list[int] = []
        """The length of the body of each POST of a connection."""
        self.admitted = asyncio.Semaphore(sys.maxsize)
        """As many POSTs are passed on."""
        self.answers_http = True
        self.late = asyncio.Event()
        """Set when the server may get what a WebSocket has carried that has ended."""
        self.heard = asyncio.Event()
        """Set when the server has got all that a WebSocket has carried."""
        self.refused = asyncio.Event()
        """Set when a request of HTTP was not answered."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.requests.append(scope.get("method", scope["type"]))
        if mode := dict(scope["headers"]).get(b"wsrpc-transport"):
            if b"wsrpc-connection" not in dict(scope["headers"]):
                self.carried_by.append(mode.decode())
            if self.holds_back and mode == b"stream":
                while (await receive())["type"] != "http.disconnect":
                    pass
                return
        if scope["type"] == "http" and not self.answers_http:
            await send({"type": "http.response.start", "status": 404})
            await send({"type": "http.response.body"})
            self.refused.set()
            return
        if scope.get("method") == "POST" and mode is None:
            self.bodies.append(int(dict(scope["headers"])[b"content-length"]))
            await self.admitted.acquire()
        if scope["type"] == "websocket" and self.websockets == "swallowed":
            await self.refused.wait()
        elif scope["type"] == "websocket" and self.websockets.isdigit():
            status = int(self.websockets)
            await send({"type": "websocket.http.response.start", "status": status, "headers": []})
            await send({"type": "websocket.http.response.body", "body": b"who are you?"})
            return
        elif scope["type"] == "websocket" and self.websockets == "lost on the way back":

            async def refuse(event: Any) -> None:
                if event["type"] == "websocket.accept":
                    await send({"type": "websocket.close"})

            await self._app(scope, receive, refuse)
            return
        elif scope["type"] == "websocket" and self.websockets in ("heard", "heard late", "unheard"):
            await self._hear(scope, receive, send)
            return
        elif scope["type"] == "websocket" and self.websockets != "passed on":
            await self._block(receive, send)
            return
        await self._app(scope, receive, send)

    async def _block(self, receive: Any, send: Any) -> None:
        await receive()
        if self.websockets == "refused":
            await send({"type": "websocket.close"})
            return
        await send({"type": "websocket.accept"})
        while (await receive())["type"] != "websocket.disconnect":
            pass

    async def _hear(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass on what the client sends, or only after its end, or never, and nothing of the server."""
        events: asyncio.Queue[Any] = asyncio.Queue()
        late, unheard = self.websockets == "heard late", self.websockets == "unheard"

        async def pass_up() -> None:
            event = {"type": ""}
            while event["type"] != "websocket.disconnect":
                event = await receive()
                if unheard and event["type"] == "websocket.disconnect":
                    await self.late.wait()
                if not unheard or event["type"] != "websocket.receive":
                    events.put_nowait(event)
                if late and event["type"] == "websocket.connect":
                    await send({"type": "websocket.accept"})

        async def send_accept(message: Any) -> None:
            if message["type"] == "websocket.accept" and not late:
                await send(message)

        passing = asyncio.create_task(pass_up())
        if late:
            await passing
            await self.late.wait()
        await self._app(scope, events.get, send_accept)
        await passing
        self.heard.set()


@asynccontextmanager
async def gated(**options: Any) -> AsyncGenerator[tuple[Server, Gate, str]]:
    """A server behind a `Gate`, with a stream that goes on when it is told to, and the URL."""
    server = Server(limits=LIMITS, **options)
    server.on("double", lambda number: 2 * number)
    gate = Gate(server)
    async with uvicorn_serving(gate) as port:
        yield server, gate, f"ws://127.0.0.1:{port}/ws"


@asynccontextmanager
async def connected(
    websockets: str = "refused", *, reconnect: Reconnect | None = AT_ONCE, connections: int = 9, **options: Any
) -> AsyncGenerator[tuple[Server, Gate, Client, list[ReconnectInfo]]]:
    """A client of a gated server, which has gone on or not, and how often it has come back."""
    async with gated(quotas=Quotas(by="address", connections=connections)) as (server, gate, url):
        gate.websockets = websockets
        client, infos = Client(url, limits=LIMITS, reconnect=reconnect, **options), list[ReconnectInfo]()
        client.on_reconnect(infos.append)
        async with client:
            yield server, gate, client, infos


def aborts(client: Client) -> None:
    """Let the connection of a client drop."""
    assert client.peer.transport is not None
    client.peer.transport.abort()


async def count_to(end: int) -> AsyncGenerator[int]:
    for number in range(end):
        yield number


# ---------------------------------------------------------------- the choice


async def test_a_client_uses_http_where_websocket_fails_and_remembers_that(caplog: pytest.LogCaptureFixture) -> None:
    async with connected() as (_, gate, client, infos):
        assert client.transport == "http"
        assert "is reached over HTTP, because WebSocket has failed: HandshakeRejected" in caplog.text
        assert await client.request("double", 21) == 42
        aborts(client)
        await until(lambda: infos)
        assert infos[0].resumed and await client.request("double", 4) == 8
        assert gate.requests.count("websocket") == 1
    assert client.transport is None


@pytest.mark.asyncio_loop
async def test_a_client_remembers_that_responses_are_held_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """After each drop, it waited again for a response that goes on."""
    monkeypatch.setattr(http_dial, "HELD_BACK_TIMEOUT", 0.05)
    async with gated() as (_server, gate, url):
        gate.holds_back = True
        client = Client(url, reconnect=AT_ONCE, limits=LIMITS)
        for _ in range(4):
            async with client:
                assert await client.request("double", 21) == 42
            leap(monkeypatch, 0.4 * chosen_transport.LONGEST_BLOCKED_TIME)
        assert gate.carried_by == ["stream", "poll", "poll", "poll", "stream", "poll"], "and tries again after a while"


@pytest.mark.parametrize("answers_http", [True, False])
async def test_a_request_for_a_websocket_that_a_proxy_swallows(
    answers_http: bool, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """HTTP was tried after ``open_timeout``. If that fails, the WebSocket may still open."""
    monkeypatch.setattr(chosen_transport, "SECOND_DIAL_DELAY", 0.05)
    async with gated() as (_server, gate, url):
        gate.websockets, gate.answers_http = "swallowed", answers_http
        async with Client(url, limits=LIMITS) as client:
            if answers_http:
                assert client.transport == "http"
                assert "because WebSocket has failed: no answer within 0.05 s" in caplog.text
                gate.refused.set()
            else:
                assert client.transport == "websocket" and gate.requests[-2:] == ["websocket", "POST"]


async def test_a_server_that_is_slow_to_accept_is_not_a_proxy_that_holds_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each message of the server was a request."""
    monkeypatch.setattr(http_dial, "HELD_BACK_TIMEOUT", 0.05)
    async with gated() as (server, gate, url):
        asked_again = asyncio.Event()

        async def decide(handshake: Handshake) -> None:
            if len(gate.carried_by) == 2:
                asked_again.set()
                await asyncio.Event().wait()
            await asked_again.wait()

        server.on_handshake(decide)
        async with Client(url, transports=["http"], limits=LIMITS) as client:
            for number in range(3):
                assert await client.request("double", number) == 2 * number
            assert gate.carried_by == ["stream", "poll"] and len(server.peers) == 1


@pytest.mark.asyncio_loop
@pytest.mark.parametrize("before", ["refused", "mute"])
async def test_a_change_of_transport_is_a_resume(before: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chosen_transport, "BLOCKED_TIME", 1.1)  # a connection that lasted a second is replaced at once
    if before == "mute":
        monkeypatch.setattr(chosen_transport, "SILENT_TIMEOUT", 0.05)
    async with connected(before) as (server, gate, client, infos):
        go_on = asyncio.Event()

        @server.on("count")
        async def count() -> AsyncGenerator[int]:
            for number in range(1000):
                if number == 500:
                    await go_on.wait()
                yield number

        await until(lambda: client.transport == "http")
        assert await client.request("double", 4) == 8  # the server has accepted the transport, and infos tells it
        infos.clear()
        monkeypatch.setattr(chosen_transport, "SILENT_TIMEOUT", 60.0)
        stream, got = client.stream("count", returns=int), list[int]()
        while len(got) < 500:
            got.append(await anext(stream))
        gate.websockets = "passed on"
        await until(lambda: client.transport == "websocket")
        go_on.set()
        assert [*got, *[number async for number in stream]] == [*range(1000)]
        leap(monkeypatch, chosen_transport.UNUSED_TIMEOUT)
        await asyncio.sleep(0)
        assert await client.request("double", 21) == 42
        assert [info.resumed for info in infos] == [True]


@pytest.mark.parametrize(
    ("websockets", "passes", "carried_by"),
    [
        *((websockets, 30.0, "websocket") for websockets in ("502", "swallowed", "mute")),
        *((websockets, 0.0, "http") for websockets in ("swallowed", "mute")),
        ("refused", 30.0, "http"),
    ],
)
async def test_a_client_that_had_a_websocket(
    websockets: str, passes: float, carried_by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It tried HTTP beside each slow attempt, as did all clients of an office, on the link that they share."""
    schedule = Reconnect(initial=0.01, max=0.1)
    async with connected("passed on", reconnect=schedule, connections=1) as (_, gate, client, _):
        assert await client.request("double", 21) == 42
        monkeypatch.setattr(chosen_transport, "PASSING_TIME", passes)
        for module, name in (
            (chosen_transport, "SECOND_DIAL_DELAY"),
            (chosen_transport, "SILENT_TIMEOUT"),
            (client_session, "ANSWER_TIMEOUT"),
        ):
            monkeypatch.setattr(module, name, 0.5 if name == "ANSWER_TIMEOUT" else 0.05)
        gate.websockets = websockets
        aborts(client)
        await until(lambda: gate.requests.count("websocket") > 1)
        if carried_by == "websocket":
            await timers_due(0.2)
            gate.websockets = "passed on"
            gate.refused.set()
        assert await asyncio.wait_for(client.request("double", 4), 60) == 8
        await until(lambda: client.transport == carried_by)
        assert ("POST" in gate.requests) is (carried_by == "http")
        gate.refused.set()


@pytest.mark.parametrize("websockets", ["heard", "unheard"])
async def test_what_was_sent_on_a_mute_websocket_moves_to_http(
    websockets: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Calls that were made at once failed after 40 s, with an unknown outcome."""
    monkeypatch.setattr(chosen_transport, "SILENT_TIMEOUT", 0.05)
    monkeypatch.setattr(sessions, "WAS_OPEN", 0.05)
    async with connected(websockets) as (server, gate, client, infos):
        ran: list[int | str] = []

        @server.on("add")
        def add(number: int) -> int:
            ran.append(number)
            return number + 1

        server.on("note", ran.append)
        server.on("count", count_to)
        await client.emit("note", "first")
        calls = [client.request("add", number) for number in range(20)]
        assert await asyncio.gather(*calls) == [*range(1, 21)]
        assert client.transport == "http" and [info.resumed for info in infos] == [True]
        for drops in (True, False):
            assert [number async for number in client.stream("count", 5)] == [0, 1, 2, 3, 4]
            if drops:
                aborts(client)
        assert [info.resumed for info in infos] == [True, True]
        gate.late.set()
        await gate.heard.wait()
    assert ran == ["first", *range(20)]


@pytest.mark.parametrize("websockets", ["mute", "heard late"])
async def test_what_a_mute_websocket_has_not_carried_yet_is_not_sent_again(
    websockets: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process, or the same one later, may get it, so the outcome is unknown."""
    monkeypatch.setattr(chosen_transport, "SILENT_TIMEOUT", 0.05)
    async with connected(websockets) as (server, gate, client, _):
        ran: list[int] = []
        server.on("run", ran.append)
        with pytest.raises(ConnectionLost) as caught:
            await client.request("run", 1)
        assert caught.value.outcome == "unknown"
        await client.request("run", 2)
        assert client.transport == "http"
        gate.late.set()
        if websockets == "heard late":
            await gate.heard.wait()
    assert sorted(ran) == [1, 2][websockets == "mute" :]


async def test_a_session_does_not_move_without_what_preceded_its_welcome(monkeypatch: pytest.MonkeyPatch) -> None:
    """What an `open` handler had sent was lost, and nobody was told: it is not counted, so it is not sent again."""
    monkeypatch.setattr(chosen_transport, "SILENT_TIMEOUT", 0.05)
    async with gated() as (server, gate, url):
        gate.websockets, greetings = "heard", list[str]()
        server.on("open", lambda peer: peer.emit_nowait("greeting", "hello"))
        client = Client(url, limits=LIMITS, reconnect=AT_ONCE)
        client.on("greeting", greetings.append)
        async with client:
            with pytest.raises(ConnectionLost) as caught:
                await client.request("double", 1)
            assert caught.value.outcome == "unknown"
            assert await client.request("double", 2) == 4 and client.transport == "http"
            assert greetings == ["hello"]


async def test_a_server_without_extensions_takes_no_session_over_http() -> None:
    """It greets nobody, so its clients tried HTTP, and gave up WebSockets that worked, with the calls on them."""
    async with gated(extensions=False) as (_, _, url):
        with pytest.raises(HandshakeRejected, match="404"):
            await dial_http(url, limits=LIMITS, headers={"Wsrpc-Resume": "1"})
        (await dial_http(url, limits=LIMITS)).abort()


async def test_a_websocket_on_which_nothing_arrives_does_not_take_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """It took over as soon as it was open."""
    monkeypatch.setattr(chosen_transport, "BLOCKED_TIME", 0.05)
    monkeypatch.setattr(chosen_transport, "LONGEST_BLOCKED_TIME", 0.05)
    monkeypatch.setattr(chosen_transport, "UNUSED_TIMEOUT", 0.2)
    async with connected() as (_, gate, client, infos):
        gate.websockets = "mute"
        await until(lambda: gate.requests.count("websocket") > 3)
        assert await client.request("double", 4) == 8
        assert client.transport == "http" and not infos
        monkeypatch.setattr(chosen_transport, "UNUSED_TIMEOUT", 60.0)
        gate.websockets = "passed on"
        await until(lambda: client.transport == "websocket")
        assert await client.request("double", 5) == 10
        assert [info.resumed for info in infos] == [True]


async def test_a_connection_that_replaces_another_one_has_the_present_credentials(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It was given to the next user of the client, and was opened with credentials that had expired."""
    monkeypatch.setattr(chosen_transport, "BLOCKED_TIME", 1.1)
    token = "new"
    async with connected(auth=lambda: token) as (server, gate, client, _):

        @server.on_handshake
        def identify(handshake: Handshake) -> None:
            handshake.principal = handshake.bearer_token

        gate.websockets = "passed on"
        await until(lambda: client.transport == "websocket")
        assert gate.requests.count("websocket") == 2
        await client.close()
        token = "bob"
        async with client:
            assert [peer.principal for peer in server.peers if peer.connected] == ["bob"]


@pytest.mark.parametrize("options", [{"reconnect": None}, {"extensions": False}])
async def test_a_session_that_does_not_resume_keeps_its_transport(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its calls would be lost."""
    monkeypatch.setattr(chosen_transport, "BLOCKED_TIME", 0.05)
    async with connected(**options) as (server, gate, client, _):
        release = asyncio.Event()
        server.on("wait", release.wait)
        calls = [asyncio.create_task(client.request("wait")), asyncio.create_task(client.request("double", 1))]
        assert await calls[1] == 2
        gate.websockets = "passed on"
        await timers_due(0.4)
        release.set()
        assert await calls[0] is True
        assert client.transport == "http" and gate.requests.count("websocket") == 1


async def test_transports_restricts_the_choice() -> None:
    async with gated() as (_server, gate, url):
        with pytest.raises(HandshakeRejected):
            await Client(url, transports=["websocket"], reconnect=None).connect()
        assert not gate.carried_by
        gate.websockets = "passed on"
        for transports in (["http"], ["http", "websocket"]):
            async with Client(url, transports=transports, limits=LIMITS) as client:  # type: ignore[arg-type]
                await timers_due(0.1)
                assert client.transport == "http" and gate.requests.count("websocket") == 1
        async with Client(url) as client:
            assert client.transport == "websocket"
        gate.requests.clear()
    with pytest.raises(ConnectFailed) as caught:
        await Client(url, reconnect=None).connect()
    assert "refused" in str(caught.value).lower()


@pytest.mark.parametrize("transports", ["websocket", [], ["sse"], 5])
def test_transports_that_are_not_valid(transports: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=r"transports= is a list of|not iterable"):
        Client("ws://localhost", transports=transports)
    with pytest.raises(TypeError, match="not both"):
        Client("ws://localhost", transports=["http"], dial=dial)


async def test_what_has_got_the_request_is_not_asked_again_over_http() -> None:
    async with gated() as (_server, gate, url):
        gate.websockets = "401"
        with pytest.raises(HandshakeRejected) as caught:
            await Client(url, reconnect=None).connect()
        assert (caught.value.status, caught.value.body, gate.carried_by) == (401, "who are you?", [])


@pytest.mark.parametrize("websockets", ["swallowed", "refused"])
async def test_a_refusal_over_http_is_that_of_the_server(websockets: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client waited for the WebSocket, and then dialed again and again."""
    monkeypatch.setattr(chosen_transport, "SECOND_DIAL_DELAY", 0.05)
    async with gated() as (server, gate, url):
        gate.websockets = websockets
        server.on_handshake(lambda handshake: handshake.reject(401, "who are you?"))
        with pytest.raises(HandshakeRejected) as caught:
            await Client(url, limits=Limits(open_timeout=1000.0)).connect()
        assert (caught.value.status, caught.value.body) == (401, "who are you?")
        gate.refused.set()


async def test_a_token_for_one_connection_is_not_sent_twice() -> None:
    """The server had got it with the WebSocket, and refused it over HTTP."""
    used = set[str | None]()
    async with gated() as (server, gate, url):
        gate.websockets = "lost on the way back"

        @server.on_handshake
        def log_in(handshake: Handshake) -> None:
            if handshake.bearer_token in used:
                handshake.reject(401)
            used.add(handshake.bearer_token)

        tokens = map(str, itertools.count())
        async with Client(url, auth=lambda: next(tokens), reconnect=None, limits=LIMITS) as client:
            assert (client.transport, used) == ("http", {"0", "1"})


# ---------------------------------------------------------------- slow networks


@pytest.mark.parametrize(
    ("quick", "least", "most"), [(1000.0, 200_000, 300_000), (-1.0, LARGEST_FRAME, 2 * LARGEST_FRAME)]
)
async def test_bodies_grow_while_they_go_through_quickly(
    quick: float, least: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bodies of 256 KiB took longer than `Limits.stall_timeout` on a slow network."""
    monkeypatch.setattr(http_frames, "QUICK_POST", quick)
    async with gated() as (server, gate, url):
        server.on("size", len)
        async with Client(url, transports=["http"], limits=LIMITS) as client:
            assert await client.request("size", "x" * 900_000) == 900_000
    assert max(gate.bodies[:2]) <= 2 * LARGEST_FRAME and least <= max(gate.bodies) <= most


async def test_senders_fill_the_next_body_while_one_is_on_its_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """They waited at 64 KiB, with those on their way, so that each round trip carried no more."""
    monkeypatch.setattr(http_frames, "QUICK_POST", 1000.0)
    async with gated() as (_server, gate, url):
        transport = await dial_http(url, limits=LIMITS)
        recorder = Recorder.of(transport)
        gate.admitted = asyncio.Semaphore(0)
        for posts in range(len(gate.bodies), 8):
            while not recorder.paused:
                transport.send(b'{"a":["news","' + 8000 * b"x" + b'"]}')
            gate.admitted.release()
            await until(lambda posts=posts: len(gate.bodies) > posts)  # type: ignore[misc]
        assert 200_000 <= gate.bodies[-1] <= 300_000 and transport.unsent <= 600_000
        gate.admitted = asyncio.Semaphore(sys.maxsize)
        transport.abort()


@pytest.mark.asyncio_loop
async def test_a_close_waits_while_bytes_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    """It dropped the connection after ``close_timeout``."""
    monkeypatch.setattr(http_frames, "QUICK_POST", -1.0)
    async with gated() as (server, gate, url):
        endings = Endings(server)
        transport = await dial_http(url, limits=LIMITS)
        Recorder.of(transport)
        gate.admitted = asyncio.Semaphore(0)
        transport.send(b'{"a":["double","' + 400_000 * b"x" + b'"]}')
        closing = asyncio.ensure_future(transport.close(3000, "bye"))
        for posts in range(1, 6):
            gate.admitted.release()
            await until(lambda posts=posts: len(gate.bodies) > posts)  # type: ignore[misc]
            leap(monkeypatch, LIMITS.close_timeout)
            await asyncio.sleep(0)
            assert not closing.done()
        for _ in range(100):
            gate.admitted.release()
        await closing
        info = await endings.next()
        assert (info.code, info.was_clean) == (3000, True)


@pytest.mark.asyncio_loop
async def test_a_client_that_polls_and_is_paused_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    async with gated() as (server, gate, url):
        transport = await dial_http(url, limits=LIMITS, polls=True)
        recorder = Recorder(lambda message: transport.pause_receiving())
        transport.start(recorder)
        (peer,) = server.peers
        await peer.emit("news")
        await until(lambda: recorder.messages)
        for posts in range(1, 5):
            leap(monkeypatch, http_dial.SIGN_OF_LIFE_INTERVAL)
            await until(lambda posts=posts: len(gate.bodies) == posts)  # type: ignore[misc]
        assert 4 * http_dial.SIGN_OF_LIFE_INTERVAL > http_connection.ABSENT and server.peers == (peer,)
        await peer.emit("more news")
        transport.resume_receiving()
        await until(lambda: "more news" in recorder.texts[-1])
        await transport.close()


async def test_an_aiohttp_server_that_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """It waited for ``close_timeout``, because it answered no more requests."""
    monkeypatch.setattr(aiohttp_adapter, "LEFT_CHECK_INTERVAL", 0.02)
    monkeypatch.setattr(http_dial, "LAST_POST_TIMEOUT", 0.05)
    server = Server(limits=Limits(close_timeout=1000.0))
    server.on("double", lambda number: 2 * number)
    async with AsyncExitStack() as left:
        async with Aiohttp().serving(server) as url:
            client = await left.enter_async_context(Client(url, transports=["http"], reconnect=None))
            assert await client.request("double", 21) == 42


# ---------------------------------------------------------------- other nodes


class CountingEngine(MemoryEngine):
    """An engine that counts the bytes it delivers."""

    bytes = 0

    def deliver(self, subject: str, payload: Any) -> None:
        self.bytes += len(payload)
        super().deliver(subject, payload)


async def test_other_nodes_pass_on_what_belongs_to_a_connection(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also for the first connection of a server that nobody has opened, or its first request: a new worker answered
    that there is no such connection. A body for no connection is not passed on.

    A node does not wait for itself. If the client of a response leaves, nothing is logged.
    """
    monkeypatch.setattr("wsrpc.cluster._nodes.links.RESPONSE_TIMEOUT", 60.0)
    engine = CountingEngine()
    *servers, new = [Server(limits=IMPOLITE, cluster=Cluster(engine)) for _ in range(3)]
    async with (
        uvicorn_serving(asgi(servers[0]), lifespan="off") as first,
        uvicorn_serving(asgi(servers[1]), lifespan="off") as second,
        uvicorn_serving(asgi(new), lifespan="off") as third,
        aiohttp.ClientSession() as session,
    ):
        here, there = (f"http://127.0.0.1:{port}/ws" for port in (first, second))
        id = await opened(session, here)
        await opened(session, there)
        await until(lambda: all(len(server.cluster.nodes) == 2 for server in servers))
        guessed = id[:-3] + "xxx"
        for authorization, guess, status in (("", guessed, 404), ("other", id, 403), ("", id, 204)):
            before, body = engine.bytes, HELLO + frame(TEXT, b'{"a":["x","' + 20_000 * b"x" + b'"]}')
            headers = request(guess, Authorization=authorization)
            assert await status_of(session, "POST", there, headers, body) == status
            assert (engine.bytes - before > len(body)) is (status == 204)
        lines = [b"POST /ws HTTP/1.1", b"Host: a", b"Content-Length: 20000", b"Wsrpc-Connection: " + guessed.encode()]
        answer = await head_of(second, b"\r\n".join([*lines, b"", b""]))
        assert answer.split()[1] == b"404"  # the body of nobody is not even read
        assert await status_of(session, "POST", here, request(guessed), HELLO) == 404
        assert await status_of(session, "POST", there, poll(guessed)) == 404
        assert await status_of(session, "POST", there, poll(id, Authorization="other")) == 403
        before, waiting = engine.bytes, asyncio.create_task(status_of(session, "POST", there, poll(id)))
        await until(lambda: engine.bytes > before)
        assert len(servers[0].peers) == 1
        waiting.cancel()
        await until(lambda: not servers[0].peers)
        id = await opened(session, here)
        assert await status_of(session, "POST", f"http://127.0.0.1:{third}/ws", request(id), HELLO) == 204
        await new.close()
        assert await status_of(session, "POST", f"http://127.0.0.1:{third}/ws", request(id, 2), HELLO) == 404
        assert not new.healthy
        assert "Exception in ASGI application" not in caplog.text
    for server in servers:
        await server.close()


# ---------------------------------------------------------------- requests that are not those of a client

IMPOLITE = Limits(close_timeout=0.05)
"""These clients do not answer a Close frame."""
STREAM, POLL, SHORT = ({"wsrpc-transport": how} for how in ("stream", "poll", "short"))
HELLO = frame(TEXT, b'{"t":"hello","v":1,"features":[]}')


@asynccontextmanager
async def requesting(**options: Any) -> AsyncGenerator[tuple[Server, str, aiohttp.ClientSession]]:
    server = Server(limits=IMPOLITE, **options)
    server.on("double", lambda number: 2 * number)
    async with uvicorn_serving(asgi(server)) as port, aiohttp.ClientSession() as session:
        yield server, f"http://127.0.0.1:{port}/ws", session


async def opened(session: aiohttp.ClientSession, url: str, **headers: str) -> str:
    """Open a connection that is polled, and return its id."""
    async with session.post(url, headers={**POLL, **headers}) as response:
        assert response.status == 200
        return (await response.read())[5:].decode()


def request(id: str, number: object = 1, **headers: str) -> dict[str, str]:
    return {"wsrpc-connection": id, "wsrpc-number": str(number), **headers}


def poll(id: str, more: int = 0, **headers: str) -> dict[str, str]:
    """Return the headers of a request for the next response. So many bytes have arrived since the connection opened."""
    return {**POLL, **request(id, 5 + len(id) + more, **headers)}


async def status_of(
    session: aiohttp.ClientSession, method: str, url: str, headers: dict[str, str], body: Any = None
) -> int:
    async with session.request(method, url, headers=headers, data=body) as response:
        await response.read()
        return response.status


PAGE = "https://page.example"
FOREIGN = {"origin": "https://evil.example"}

REFUSED: dict[str, tuple[str, dict[str, str], Any, int, bool]] = {
    "a form": ("POST", {}, {"a": "b"}, 426, True),
    "a page of another site opens": ("POST", {**STREAM, **FOREIGN}, None, 403, True),
    "a page of another site sends": ("POST", {"wsrpc-connection": "", "wsrpc-number": "1", **FOREIGN}, b"x", 403, True),
    "a guessed id": ("POST", request("A" * 32), b"x", 404, True),
    "another user's id": ("POST", request("", Authorization="Bearer other"), b"x", 403, True),
    "another user polls": ("POST", {**POLL, **request("", Authorization="Bearer other")}, None, 403, True),
    "more has arrived than was sent": ("POST", {**POLL, **request("", 1000)}, None, 409, False),
    "no number of bytes": ("POST", {**POLL, **request("", "-1")}, None, 409, False),
    "more digits than Python reads": ("POST", {**POLL, **request("", "9" * 5000)}, None, 409, False),
    "another response that goes on": ("POST", {**STREAM, **request("", 0)}, None, 400, True),
    "a request is missing": ("POST", request("", 2), b"", 409, False),
    "no number": ("POST", request("", ""), b"", 409, False),
    "too large": ("POST", request(""), bytes(requests.LARGEST_BODY + 1), 413, False),
    "another method": ("PUT", request(""), b"", 405, True),
    "another way to carry": ("POST", {"wsrpc-transport": "sse"}, None, 400, True),
    "a GET that opens": ("GET", STREAM, None, 405, True),
    "too many headers": ("POST", {**STREAM, **{f"x-{number}": "" for number in range(129)}}, None, 431, True),
}
"""Method, headers, body, the status, and whether the connection stays. An empty id is that of the connection."""


@pytest.mark.parametrize("case", REFUSED)
async def test_what_a_server_refuses(case: str) -> None:
    method, headers, body, status, stays = REFUSED[case]
    async with requesting(origins=[PAGE]) as (server, url, session):
        endings = Endings(server)
        mine = {"Authorization": "Bearer mine", "origin": PAGE}
        id = await opened(session, url, **mine)
        if headers.get("wsrpc-connection") == "":
            headers = {**mine, **headers, "wsrpc-connection": id}
        assert await status_of(session, method, url, headers, body) == status
        if stays:
            assert await status_of(session, "POST", url, request(id, **mine), HELLO) == 204
            assert len(server.peers) == 1
        else:
            assert (await endings.next()).code == 1006
            assert await status_of(session, "POST", url, request(id, **mine), HELLO) == 404


BELONGS = [("", "", 204), (PAGE, "", 403), (PAGE, PAGE, 204), (PAGE, FOREIGN["origin"], 403), ("", PAGE, 403)]
"""The origin of the opening request and of a later one."""


@pytest.mark.parametrize(("opened_by", "origin", "status"), BELONGS)
async def test_a_connection_belongs_to_the_page_that_has_opened_it(opened_by: str, origin: str, status: int) -> None:
    """A page could send what no origin had opened."""
    async with requesting(origins=[PAGE]) as (_server, url, session):
        id = await opened(session, url, **({"Origin": opened_by} if opened_by else {}))
        own = {"Origin": origin} if origin else {}
        assert await status_of(session, "POST", url, request(id, **own), HELLO + frame(PING)) == status
        assert await status_of(session, "POST", url, {**poll(id), **own}) == (200 if status == 204 else 403)


async def test_a_repeated_request_has_no_effect() -> None:
    async with requesting() as (_server, url, session):
        id = await opened(session, url)
        call = frame(TEXT, b'{"i":1,"a":["double",21]}')
        for number, status in ((1, 204), (1, 204), (2, 204), (2, 204), (2, 204)):
            assert await status_of(session, "POST", url, request(id, number), call) == status
        async with session.post(url, headers=poll(id)) as response:
            data = await response.read()
        assert data.count(b'"i":1') == 2


@pytest.mark.parametrize("host", HTTP_HOSTS, ids=repr)
async def test_requests_of_http_1_0(host: Host) -> None:
    """nginx sends them. Where hypercorn runs the server, each response ended the connection."""
    server = Server(limits=IMPOLITE)
    server.on("double", lambda number: 2 * number)
    async with host.serving(server) as url, aiohttp.ClientSession(version=aiohttp.HttpVersion10) as session:
        url = url.replace("ws", "http", 1)
        id, more = await opened(session, url), 0
        for number in (1, 2):
            call = frame(TEXT, b'{"i":%d,"a":["double",21]}' % number)
            assert await status_of(session, "POST", url, request(id, number), call) == 204
            async with session.post(url, headers=poll(id, more)) as response:
                assert response.status == 200
                more += len(await response.read())


async def test_only_the_last_response_carries_what_a_server_sends() -> None:
    """A client may have ended another one, which a proxy has not told."""
    async with requesting() as (_server, url, session):
        id = await opened(session, url)
        async with session.post(url, headers=poll(id)) as first, session.post(url, headers=poll(id)) as second:
            assert (await first.read(), await second.read()) == (b"", frame(NOTHING))
        async with session.post(url, headers=poll(id, 5)) as waiting:
            await status_of(session, "POST", url, request(id), frame(PING, b"1"))
            assert await waiting.read() == frame(PONG, b"1")


@pytest.mark.parametrize("host", HTTP_HOSTS, ids=repr)
@pytest.mark.parametrize(
    ("origin", "arrived", "reason"),
    [
        (PAGE, "all", None),
        (PAGE, "nothing", None),
        (PAGE, "less than is kept", "a response was lost"),
        (PAGE, "not asked", "the client polls no more"),
        ("", "not asked", "the (client has left|response has ended)"),
    ],
)
async def test_a_page_gives_the_connection_of_a_response_back(
    host: Host, origin: str, arrived: str, reason: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A browser has six connections to a host. The responses of six tabs held them, so that no POST left."""
    if arrived == "less than is kept":
        monkeypatch.setattr(http_connection, "TAIL", 8)
    if arrived == "not asked":
        monkeypatch.setattr(http_connection, "GIVEN_UP", 0.1)
    server = Server(limits=IMPOLITE, origins=[PAGE])
    server.on("double", lambda number: 2 * number)
    headers = {"Origin": origin} if origin else {}
    async with host.serving(server) as url, aiohttp.ClientSession() as session:
        url, endings = url.replace("ws", "http", 1), Endings(server)
        async with session.post(url, headers={**STREAM, **headers}) as response:
            opening = await response.content.readany()
        if arrived != "not asked":
            id = opening[5:].decode()
            missing = 0 if arrived == "all" else len(opening)
            call = frame(TEXT, b'{"i":1,"a":["double",21]}')
            assert await status_of(session, "POST", url, request(id, **headers), call) == 204
            async with session.post(url, headers={**poll(id, -missing, **headers), **SHORT}) as response:
                assert response.status == (409 if reason else 200)
                assert bool(reason) or (await response.read()).startswith(opening if missing else b"\0")
        if reason is not None:
            assert re.fullmatch(reason, (await endings.next()).reason)


async def test_a_request_that_does_not_end_and_a_client_that_polls_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "BODY_TIMEOUT", 0.1)
    monkeypatch.setattr(http_connection, "ABSENT", 0.1)
    async with requesting() as (server, url, session):
        endings = Endings(server)

        async def slowly() -> AsyncGenerator[bytes]:
            for _ in range(100):
                yield b"\0"
                await asyncio.sleep(0.02)

        id = await opened(session, url)
        async with session.post(url, headers=poll(id)) as waiting:
            with suppress(aiohttp.ClientError):  # the connection was ended while the client wrote
                assert await status_of(session, "POST", url, request(id), slowly()) == 408
            assert (await endings.next()).reason == "a request of the client takes too long"
            await waiting.read()
        await opened(session, url)
        assert (await endings.next()).reason == "the client polls no more"


async def test_a_server_that_does_not_name_the_connection_first() -> None:
    """A client kept all messages until its timeout."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n" + frame(TEXT, b"{}"))
        await reader.read()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(ConnectFailed, match="not that of a wsrpc server"):
            await Client(f"ws://127.0.0.1:{port}/ws", transports=["http"], reconnect=None).connect()


async def test_violations_close_the_connection() -> None:
    async with requesting() as (server, url, session):
        endings = Endings(server)
        for body, code in (
            (b"\0\0\1\0\0", 1002),  # a frame that is too long
            (b"\x11\0\0\0\0", 1002),  # no kind of frame
            (frame(CLOSE, b"\0\0"), 1002),
            (frame(CLOSE, (3000).to_bytes(2, "big") + b"bye"), 3000),
        ):
            id = await opened(session, url)
            assert await status_of(session, "POST", url, request(id), body) == 204
            async with session.post(url, headers=poll(id)) as response:
                answer = await response.read()
            assert int.from_bytes(answer[5:7], "big") == code
            await status_of(session, "POST", url, request(id, 2), frame(CLOSE, answer[5:7]))
            info = await endings.next()
            assert info.code == code


async def test_pages_of_allowed_origins_may_send_these_requests() -> None:
    def identify(handshake: Handshake) -> None:
        handshake.principal = handshake.bearer_token

    async with requesting(origins=[PAGE]) as (server, url, session):
        server.on_handshake(identify)
        asked = {"Origin": PAGE, "Access-Control-Request-Headers": "authorization,wsrpc-transport"}
        async with session.options(url, headers=asked) as response:
            assert response.status == 204
            assert response.headers["Access-Control-Allow-Origin"] == PAGE
            assert response.headers["Access-Control-Allow-Headers"] == connections.ALLOWED
        async with session.post(url, headers={**POLL, "Origin": PAGE, "Authorization": "Bearer ann"}) as response:
            assert response.headers["Access-Control-Allow-Origin"] == PAGE
            assert response.headers["Cache-Control"] == "no-store, no-transform"
        assert server.peers[0].principal == "ann"
