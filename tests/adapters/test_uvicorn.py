"""The protocol class for uvicorn: what is taken over, what stays uvicorn's own, and how both end."""

from __future__ import annotations

import asyncio
import gc
import logging
import socket
import ssl
import subprocess
import sys
import warnings
import weakref
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import AsyncExitStack
from contextvars import ContextVar
from pathlib import Path
from typing import Annotated, Any

import pytest
from asgi_servers import Uvicorn, uvicorn_serving
from fastapi import Depends, FastAPI, WebSocket, WebSocketDisconnect, WebSocketException
from leftovers import turns_until
from raw_websocket import BINARY, CLOSE, CONT, PING, TEXT, ask, build_frame, handshake, raw_client
from served import LIMITS, Endings, Observed, echo_server
from uvicorn import Config

from wsrpc import Client, Handshake, HandshakeRejected, Limits, Peer, Server
from wsrpc.types import WebSocketTransport
from wsrpc_adapters.asgi import asgi, lifespan, serve_websocket
from wsrpc_adapters.uvicorn import WebSocketProtocol

with warnings.catch_warnings():  # of Starlette, because of the HTTP library that is installed
    warnings.simplefilter("ignore")
    from starlette.testclient import TestClient

OURS = "wsrpc_adapters.uvicorn:WebSocketProtocol"
UVICORN_S_OWN = "websockets-sansio"
CERTIFICATES = Path(__file__).parent.parent / "certificates"

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]

implementations = pytest.mark.parametrize("ws", [UVICORN_S_OWN, OURS], ids=["own", "wsrpc"])
REQUEST: ContextVar[str] = ContextVar("REQUEST", default="none")


def url_of(port: int, path: str = "/ws") -> str:
    return f"ws://127.0.0.1:{port}{path}"


async def current_user(websocket: WebSocket, access_token: str = "") -> str:
    if access_token != "t1":
        raise WebSocketException(1008, "who are you?")
    REQUEST.set(f"of {access_token}")
    return "ada"


class AddsHeader:
    """A middleware that adds a header to each answer, to those of WebSockets, too."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def adding(message: Any) -> None:
            if message["type"] in ("websocket.accept", "http.response.start"):
                message["headers"] = [*message.get("headers", []), (b"x-seen", b"yes")]
            await send(message)

        await self.app(scope, receive, adding)


def make_app(server: Server) -> FastAPI:
    """HTTP routes, a plain WebSocket route and a server side by side, with a dependency and a middleware."""
    app = FastAPI(lifespan=lifespan(server))
    app.add_middleware(AddsHeader)

    @server.on("whoami")
    def whoami(peer: Peer) -> list[str]:
        return [peer.state["user"], REQUEST.get()]

    @app.get("/hello")
    async def hello() -> str:
        return "hello"

    @app.websocket("/ws")
    async def ws(websocket: WebSocket, user: Annotated[str, Depends(current_user)]) -> None:
        await serve_websocket(server, websocket, state={"user": user})

    @app.websocket("/plain")
    async def plain(websocket: WebSocket) -> None:
        await websocket.accept()
        try:
            while True:
                await websocket.send_text(await websocket.receive_text())
        except WebSocketDisconnect:
            pass

    return app


async def get(port: int, path: str) -> bytes:
    return await ask(port, f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())


# ---------------------------------------------------------------- taken over


@pytest.mark.parametrize("http", ["auto", "h11"])  # auto is httptools where it is installed
async def test_a_server_beside_routes_of_fastapi(http: str) -> None:
    server = echo_server()
    async with uvicorn_serving(make_app(server), OURS, http=http) as port:
        async with Client(url_of(port) + "?access_token=t1", reconnect=None, limits=LIMITS) as client:
            [peer] = server.peers
            assert isinstance(peer.transport, WebSocketTransport)
            assert await client.request("whoami") == ["ada", "of t1"]
            assert client.peer.info.underlying.response.headers["x-seen"] == "yes"
            assert isinstance(peer.info.underlying, WebSocket) and peer.info.path == "/ws"
            async with raw_client(port, "/plain") as raw:
                await raw.send(raw.frame(TEXT, b"plain"))
                assert (await raw.next_of(TEXT)).payload == b"plain"
            answer = await get(port, "/hello")
            assert answer.startswith(b"HTTP/1.1 200") and b"x-seen: yes" in answer
        with pytest.raises(HandshakeRejected, match="403"):
            await Client(url_of(port), reconnect=None, limits=LIMITS).connect()


async def test_over_tls() -> None:
    server = echo_server()
    files = {"ssl_certfile": str(CERTIFICATES / "server.pem"), "ssl_keyfile": str(CERTIFICATES / "server.key")}
    async with uvicorn_serving(asgi(server), OURS, **files) as port:
        trusting = ssl.create_default_context(cafile=str(CERTIFICATES / "ca.pem"))
        async with Client(f"wss://localhost:{port}/", ssl=trusting, reconnect=None, limits=LIMITS) as client:
            large = "x" * 1_000_000
            assert await client.request("echo", large) == large
            assert isinstance(server.peers[0].transport, WebSocketTransport)


async def test_small_messages_are_sent_at_once_whatever_socket_uvicorn_listens_on() -> None:
    sockets: list[socket.socket] = []

    class Remembers(WebSocketProtocol):
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            sockets.append(transport.get_extra_info("socket"))

    async with uvicorn_serving(asgi(echo_server()), Remembers) as port:
        async with Client(url_of(port, "/"), reconnect=None, limits=LIMITS) as client:
            assert await client.request("echo", 1) == 1
            [sock] = sockets
            assert sock.proto == 0, "asyncio would have set the option itself"
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


async def test_behind_a_proxy_the_scope_says_who_it_is() -> None:
    server = echo_server()
    async with uvicorn_serving(asgi(server), OURS) as port:
        headers = {"X-Forwarded-For": "203.0.113.7", "X-Forwarded-Proto": "https"}
        async with Client(url_of(port), headers=headers, reconnect=None, limits=LIMITS):
            remote = server.peers[0].info.remote
            assert remote is not None and remote[0] == "203.0.113.7"


async def test_the_path_has_uvicorn_s_root_path() -> None:
    server = echo_server()
    async with uvicorn_serving(make_app(server), OURS, root_path="/api") as port:
        async with Client(url_of(port) + "?access_token=t1", reconnect=None, limits=LIMITS):
            assert server.peers[0].info.path == "/api/ws"


@implementations
async def test_open_websockets_count_where_uvicorn_limits_concurrency(ws: str) -> None:
    """It then refuses HTTP requests, the request itself included in the count, and no WebSockets."""
    async with uvicorn_serving(make_app(echo_server()), ws, limit_concurrency=2) as port:
        assert (await get(port, "/hello")).startswith(b"HTTP/1.1 200")
        async with raw_client(port, "/ws?access_token=t1"), raw_client(port, "/ws?access_token=t1"):
            assert (await get(port, "/hello")).startswith(b"HTTP/1.1 503")


@pytest.mark.parametrize("compression", [False, True])
async def test_the_server_decides_about_compression_of_its_own_connections(compression: bool) -> None:
    server = echo_server(compression=compression)
    async with uvicorn_serving(make_app(server), OURS) as port:
        offer = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits"
        head = handshake("/ws?access_token=t1", offer)
        assert (b"permessage-deflate" in await answer_to(port, head)) is compression
        assert b"permessage-deflate" in await answer_to(port, handshake("/plain", offer))
        url = url_of(port) + "?access_token=t1"
        async with Client(url, compression=True, reconnect=None, limits=LIMITS) as client:
            assert await client.request("echo", "x" * 10_000) == "x" * 10_000


async def answer_to(port: int, request: bytes) -> bytes:
    """The head of the answer; the connection is dropped."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request)
        return await reader.readuntil(b"\r\n\r\n")
    finally:
        writer.close()
        await writer.wait_closed()


async def test_the_size_of_messages_is_the_server_s() -> None:
    server = echo_server(limits=Limits(message=100_000, close_timeout=2.0))
    async with uvicorn_serving(make_app(server), OURS, ws_max_size=1000) as port:
        async with Client(url_of(port) + "?access_token=t1", reconnect=None, limits=LIMITS) as client:
            assert await client.request("echo", "x" * 50_000) == "x" * 50_000
        for path, size in [("/ws?access_token=t1", 100_001), ("/plain", 1001)]:
            async with raw_client(port, path) as raw:
                await raw.send(raw.frame(TEXT, b"x" * size))
                assert (await raw.next_of(CLOSE)).code == 1009


async def test_the_access_log_is_as_with_uvicorn_s_own(caplog: pytest.LogCaptureFixture) -> None:
    logs: list[list[str]] = []
    for ws in (UVICORN_S_OWN, OURS):
        server = echo_server()

        @server.on_handshake
        def gate(given: Handshake) -> None:
            if "refused" in given.query:
                given.reject(404, "no such room")

        caplog.clear()
        with caplog.at_level(logging.INFO, "uvicorn.error"):
            async with uvicorn_serving(make_app(server), ws) as port:
                async with Client(url_of(port) + "?access_token=t1", reconnect=None, limits=LIMITS):
                    pass
                for query in ("", "?access_token=t1&refused=1"):  # by the dependency, by on_handshake
                    with pytest.raises(HandshakeRejected):
                        await Client(url_of(port) + query, reconnect=None, limits=LIMITS).connect()
        lines = [record.getMessage() for record in caplog.records if '"WebSocket' in record.getMessage()]
        logs.append([line.partition(" - ")[2] for line in lines])  # without the client's port
    assert logs[0] == logs[1] and [line.split()[-1] for line in logs[0]] == ["[accepted]", "403", "404"]


# ---------------------------------------------------------------- uvicorn's own connections


def record(said: list[Any], app: Any) -> Any:
    """An application around ``app`` that keeps what it receives."""

    async def recording(scope: Scope, receive: Receive, send: Send) -> None:
        async def receiving() -> Any:
            message = await receive()
            said.append(message)
            return message

        await app(scope, receiving if scope["type"] == "websocket" else receive, send)

    return recording


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    assert (await receive())["type"] == "websocket.connect"
    await send({"type": "websocket.accept", "subprotocol": (scope["subprotocols"] or [None])[0]})
    while (message := await receive())["type"] == "websocket.receive":
        if message.get("text") == "leave":
            await send({"type": "websocket.close", "code": 4000, "reason": "left"})
        elif message.get("text") == "raise":
            raise ValueError("as told")
        elif message.get("text") == "return":
            return
        else:
            await send({"type": "websocket.send", **{key: message[key] for key in ("text", "bytes") if key in message}})


async def never_accepts(scope: Scope, receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "websocket.close"})


async def denies(scope: Scope, receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "websocket.http.response.start", "status": 418, "headers": [(b"x-why", b"tea")]})
    await send({"type": "websocket.http.response.body", "body": b"short and stout"})


async def only_returns(scope: Scope, receive: Receive, send: Send) -> None:
    await receive()


async def only_raises(scope: Scope, receive: Receive, send: Send) -> None:
    await receive()
    raise ValueError("as told")


PLAIN: dict[str, tuple[Any, list[bytes]]] = {
    "text and binary": (echo, [build_frame(TEXT, b"a", masked=True), build_frame(BINARY, b"\x00", masked=True)]),
    "fragments": (
        echo,
        [
            build_frame(TEXT, b"a", masked=True, fin=False) + build_frame(PING, b"p", masked=True),
            build_frame(CONT, b"b", masked=True),
        ],
    ),
    "close": (echo, [build_frame(TEXT, b"a", masked=True) + build_frame(CLOSE, b"\x0f\xa1bye", masked=True)]),
    "too large": (echo, [build_frame(TEXT, b"x" * 2000, masked=True)]),
    "not UTF-8": (echo, [build_frame(TEXT, b"\xff", masked=True)]),
    "not masked": (echo, [build_frame(TEXT, b"a", masked=False)]),
    "closes": (echo, [build_frame(TEXT, b"leave", masked=True), build_frame(CLOSE, b"\x0f\xa0", masked=True)]),
    "raises": (echo, [build_frame(TEXT, b"raise", masked=True)]),
    "returns": (echo, [build_frame(TEXT, b"return", masked=True)]),
    "never accepts": (never_accepts, []),
    "denies": (denies, []),
    "only returns": (only_returns, []),
    "only raises": (only_raises, []),
}
"""An application, and what a client sends to it, piece by piece."""


@pytest.mark.parametrize("case", PLAIN)
async def test_other_websockets_are_as_with_uvicorn_s_own(case: str, caplog: pytest.LogCaptureFixture) -> None:
    """What the client gets, what the application is told, and what is logged, with both."""
    app, pieces = PLAIN[case]
    seen = []
    for ws in (UVICORN_S_OWN, OURS):
        told: list[Any] = []
        caplog.clear()
        with caplog.at_level(logging.INFO):
            async with uvicorn_serving(record(told, app), ws, ws_max_size=1000, lifespan="off") as port:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                key = "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=="
                lines = ["GET /a?b=c HTTP/1.1", "Host: x", "Upgrade: websocket", "Connection: Upgrade", key]
                lines += ["Sec-WebSocket-Version: 13", "Sec-WebSocket-Protocol: p, q"]
                lines += ["Sec-WebSocket-Extensions: permessage-deflate"]
                writer.write("\r\n".join([*lines, "", ""]).encode())
                head = await reader.readuntil(b"\r\n\r\n")
                own_port = writer.get_extra_info("sockname")[1]
                for piece in pieces:
                    writer.write(piece)
                    if piece is not pieces[-1]:
                        await reader.read(1)  # it was seen
                if case in ("text and binary", "fragments"):
                    writer.write_eof()
                async with asyncio.timeout(8):
                    rest = await reader.read()
                writer.close()
        headers = sorted(line for line in head.split(b"\r\n") if not line.lower().startswith(b"date:"))
        logged = [record.getMessage().replace(str(own_port), "PORT") for record in caplog.records]
        logged = [line for line in logged if "WebSocket" in line or "ASGI" in line]
        if case == "denies" and ws == UVICORN_S_OWN:
            logged.remove("ASGI callable returned without completing handshake.")  # which it does after any refusal
        seen.append((headers, rest, told, logged))
    assert seen[0] == seen[1]
    assert seen[0][3]


@implementations
async def test_what_is_sent_before_the_answer_waits_for_it(ws: str) -> None:
    """RFC 6455 forbids it. With the request it is lost in uvicorn's HTTP; behind it, it is kept on either path."""
    answered, asked = asyncio.Event(), asyncio.Event()

    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        asked.set()
        await answered.wait()
        await echo(scope, receive, send)

    async with uvicorn_serving(slow, ws, lifespan="off") as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(handshake("/"))
        await asked.wait()
        writer.write(build_frame(TEXT, b"early", masked=True))
        await some_turns()
        answered.set()
        await reader.readuntil(b"\r\n\r\n")
        assert await reader.readexactly(7) == build_frame(TEXT, b"early", masked=False)
        writer.write(build_frame(TEXT, b"later", masked=True))
        assert await reader.readexactly(7) == build_frame(TEXT, b"later", masked=False)
        writer.close()
        await writer.wait_closed()


async def test_what_is_sent_before_the_answer_is_taken_over() -> None:
    server = echo_server()
    answered, asked = asyncio.Event(), asyncio.Event()

    @server.on_handshake
    async def gate(given: Handshake) -> None:
        asked.set()
        await answered.wait()

    first, second = (
        build_frame(TEXT, b'{"i":%d,"a":["echo",%d]}' % (number, number), masked=True) for number in (1, 2)
    )
    async with uvicorn_serving(asgi(server), OURS) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(handshake("/"))
        await asked.wait()
        writer.write(first + second[:5])
        await some_turns()
        writer.write(second[5:10])  # not read: one read is kept
        await some_turns()
        answered.set()
        await reader.readuntil(b"\r\n\r\n")
        assert b'{"i":1,"d":1}' in await reader.readuntil(b"}")
        writer.write(second[10:])
        assert b'{"i":2,"d":2}' in await reader.readuntil(b"}")
        writer.close()
        await writer.wait_closed()


async def some_turns() -> None:
    """Let the event loop read what was written to a connection within this process."""
    for _ in range(4):
        await asyncio.sleep(0)


# ---------------------------------------------------------------- the extension, as its contract says


class TakesOver:
    """An application that takes its connection over, and then does what the test says."""

    def __init__(self, then: Callable[[Any, Receive, Send], Awaitable[None]]) -> None:
        self.then = then
        self.lost = asyncio.Event()
        self.transport: Any = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        take_over = scope["extensions"]["wsrpc"]["reserve"](Handshake("/", request_headers(scope)), scope)
        await send({"type": "websocket.accept"})
        self.transport = take_over(self.lost.set)
        await self.then(self, receive, send)


def request_headers(scope: Scope) -> dict[str, str]:
    return {name.decode(): value.decode() for name, value in scope["headers"]}


async def test_an_application_that_takes_over_and_returns() -> None:
    async def returns(app: Any, receive: Receive, send: Send) -> None:
        app.transport.send(b"all")
        app.transport.flush()

    app = TakesOver(returns)
    async with uvicorn_serving(app, OURS, lifespan="off") as port:
        async with raw_client(port) as raw:
            assert await raw.read_to_end() == build_frame(TEXT, b"all", masked=False)
        await app.lost.wait()


async def test_an_application_that_takes_over_and_raises(caplog: pytest.LogCaptureFixture) -> None:
    async def raises(app: Any, receive: Receive, send: Send) -> None:
        raise ValueError("as told")

    app = TakesOver(raises)
    async with uvicorn_serving(app, OURS, lifespan="off") as port:
        async with raw_client(port) as raw:
            assert await raw.read_to_end() == b""
        await app.lost.wait()
    assert "Exception in ASGI application" in caplog.text and "as told" in caplog.text


async def test_the_application_s_own_send_and_receive_once_it_has_taken_over() -> None:
    told: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    async def goes_on(app: Any, receive: Receive, send: Send) -> None:
        with pytest.raises(RuntimeError, match=r"taken this connection over.*'websocket\.send'"):
            await send({"type": "websocket.send", "text": "no"})
        app.transport.send(b"yes")
        app.transport.flush()
        told.set_result((await receive())["type"])
        with pytest.raises(OSError):  # as on all connections of uvicorn that have ended
            await send({"type": "websocket.close"})

    async with uvicorn_serving(TakesOver(goes_on), OURS, lifespan="off") as port:
        async with raw_client(port) as raw:
            assert (await raw.next_frame()).payload == b"yes"
        assert await told == "websocket.disconnect"


async def test_a_client_that_leaves_before_it_is_taken_over() -> None:
    gone: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    accepted, left = asyncio.Event(), asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        take_over = scope["extensions"]["wsrpc"]["reserve"](Handshake("/", request_headers(scope)), scope)
        await send({"type": "websocket.accept"})
        accepted.set()
        await left.wait()
        await receive()
        gone.set_result(take_over(lambda: None))

    async with uvicorn_serving(app, OURS, lifespan="off") as port:
        async with raw_client(port):
            await accepted.wait()
        left.set()
        assert await gone is None


async def test_a_client_that_leaves_while_it_is_accepted_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    """asyncio closes a connection in one turn of the loop, and tells uvicorn in the next."""
    server, over = echo_server(), asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        async def sending(message: Any) -> None:
            transports[0].close()  # as at the end of the stream
            await send(message)

        transports.append(scope["extensions"]["wsrpc"]["reserve"].__self__.transport)
        await asgi(server)(scope, receive, sending)
        over.set()

    transports: list[asyncio.Transport] = []
    async with uvicorn_serving(app, OURS, lifespan="off") as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(handshake("/"))
        assert await reader.read() == b""
        writer.close()
        await over.wait()
    assert server.stats().accepted == 0
    assert "ASGI callable" not in caplog.text


class AroundAccept:
    """A middleware that does something of its own around ``websocket.accept``."""

    def __init__(self, app: Any, accept: Callable[[Any, Send], Awaitable[None]]) -> None:
        self.app = app
        self.accept = accept
        self.over = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def sending(message: Any) -> None:
            if message["type"] == "websocket.accept":
                await self.accept(message, send)
            else:
                await send(message)

        try:
            await self.app(scope, receive, sending)
        finally:
            self.over.set()


async def accepts_and_greets(accept: Any, send: Send) -> None:
    await send(accept)
    await send({"type": "websocket.send", "text": "x" * 100})


async def accepts_and_closes(accept: Any, send: Send) -> None:
    await send(accept)
    await send({"type": "websocket.close", "code": 4003, "reason": "not you"})


async def closes_instead(accept: Any, send: Send) -> None:
    await send({"type": "websocket.close"})


async def denies_instead(accept: Any, send: Send) -> None:
    await send({"type": "websocket.http.response.start", "status": 418, "headers": []})
    await send({"type": "websocket.http.response.body", "body": b"short and stout"})


async def keeps_back(accept: Any, send: Send) -> None:
    pass


@pytest.mark.parametrize("compression", [False, True])
async def test_what_a_middleware_sends_before_the_connection_is_taken_over_can_be_read(compression: bool) -> None:
    """uvicorn would compress it, and the answer no longer says so."""
    server = echo_server(compression=compression)
    async with uvicorn_serving(AroundAccept(asgi(server), accepts_and_greets), OURS, lifespan="off") as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(handshake("/", "Sec-WebSocket-Extensions: permessage-deflate"))
        assert (b"permessage-deflate" in await reader.readuntil(b"\r\n\r\n")) is compression
        assert await reader.readexactly(102) == build_frame(TEXT, b"x" * 100, masked=False)
        writer.write(build_frame(TEXT, b'{"i":1,"a":["echo",1]}', masked=True))
        async with asyncio.timeout(8):
            while not server.stats().messages_in:
                await reader.read(1)
        writer.close()
        await writer.wait_closed()


async def test_a_middleware_that_accepts_and_closes_is_obeyed() -> None:
    """It is how a browser gets to know why; of a refused handshake it learns nothing."""
    server = echo_server()
    app = AroundAccept(asgi(server), accepts_and_closes)
    async with uvicorn_serving(app, OURS, lifespan="off") as port:
        async with raw_client(port) as raw:
            close = await raw.next_of(CLOSE)
            assert (close.code, close.payload[2:]) == (4003, b"not you")
            await raw.send(raw.close_frame(4003))
            assert await raw.read_to_end() == b""  # soon: uvicorn has seen the answer
        await app.over.wait()
    assert server.stats().accepted == 0


@pytest.mark.parametrize(("instead", "status"), [(closes_instead, b"403"), (denies_instead, b"418")])
async def test_a_middleware_that_refuses_what_the_server_has_let_in(instead: Any, status: bytes) -> None:
    server = echo_server()
    app = AroundAccept(asgi(server), instead)
    async with uvicorn_serving(app, OURS, lifespan="off") as port:
        assert (await answer_to(port, handshake("/"))).startswith(b"HTTP/1.1 " + status)
        await app.over.wait()
    assert server.stats().accepted == 0


async def test_a_middleware_that_keeps_the_answer_back_is_told_what_to_do(caplog: pytest.LogCaptureFixture) -> None:
    app = AroundAccept(asgi(echo_server()), keeps_back)
    async with uvicorn_serving(app, OURS, lifespan="off") as port:
        assert (await answer_to(port, handshake("/"))).startswith(b"HTTP/1.1 500")
    assert "scope['extensions'].pop('wsrpc', None)" in caplog.text


async def refuses(case: str, scope: Scope, receive: Receive, send: Send) -> bool:
    """Whether a reservation is refused in this state of the connection."""
    reserve, given = scope["extensions"]["wsrpc"]["reserve"], Handshake("/", request_headers(scope))
    if case == "reserved":
        reserve(given, scope)
    elif case == "accepted":
        await send({"type": "websocket.accept"})
    elif case == "another request":
        given = Handshake("/", {"upgrade": "h2c"})
    return reserve(given, scope) is None


@pytest.mark.parametrize("case", ["reserved", "accepted", "another request", "none of these"])
async def test_when_a_connection_cannot_be_reserved(case: str) -> None:
    answer: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        answer.set_result(await refuses(case, scope, receive, send))

    async with uvicorn_serving(app, OURS, lifespan="off") as port:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(handshake("/"))
        assert await answer is (case != "none of these")
        writer.close()
        await writer.wait_closed()


class WithoutExtension:
    """A middleware that wants to see each message."""

    def __init__(self, app: Any) -> None:
        self.app = app
        self.seen: list[str] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["extensions"].pop("wsrpc")

        async def seeing() -> Any:
            message = await receive()
            self.seen.append(message["type"])
            return message

        await self.app(scope, seeing, send)


async def test_a_middleware_that_removes_the_extension_sees_each_message() -> None:
    server = echo_server()
    app = WithoutExtension(asgi(server))
    async with uvicorn_serving(app, OURS, lifespan="off") as port:
        async with Client(url_of(port), reconnect=None, limits=LIMITS) as client:
            assert await client.request("echo", 1) == 1
            assert not isinstance(server.peers[0].transport, WebSocketTransport)
    assert app.seen[0] == "websocket.connect" and app.seen[-1] == "websocket.disconnect"
    assert "websocket.receive" in app.seen


async def test_a_client_that_has_not_read_earlier_answers_is_served_without_taking_over() -> None:
    """uvicorn's HTTP has stopped writing on that connection, and asyncio would tell only the old protocol to go on."""
    server, served = echo_server(), asyncio.Event()
    server.on("open", lambda peer: served.set())
    body = b"x" * 20_000_000

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await asgi(server)(scope, receive, send)
            return
        headers = [(b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async with uvicorn_serving(app, OURS, lifespan="off") as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**16)
        writer.write(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")
        writer.write(handshake("/"))
        await reader.readexactly(len(body))
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101")
        await served.wait()
        assert not isinstance(server.peers[0].transport, WebSocketTransport)
        writer.write(build_frame(TEXT, b'{"i":1,"a":["echo",1]}', masked=True))
        assert b'{"i":1,"d":1}' in await reader.readuntil(b"}")
        writer.close()
        await writer.wait_closed()


# ---------------------------------------------------------------- the end


async def test_uvicorn_s_shutdown_closes_with_1012_and_waits_for_the_answer() -> None:
    server = echo_server()
    endings = Endings(server)
    async with uvicorn_serving(make_app(server), OURS) as port:
        seen = Observed(url_of(port) + "?access_token=t1")
        await seen.client.connect()
    ended, info = await seen.ended, await endings.next()
    assert (ended.code, info.code, info.was_clean) == (1012, 1012, True)
    await seen.client.close()


async def test_uvicorn_s_shutdown_drops_who_does_not_answer_after_close_timeout() -> None:
    server = echo_server(limits=Limits(close_timeout=0.05))
    endings = Endings(server)
    async with AsyncExitStack() as left:
        async with uvicorn_serving(asgi(server), OURS) as port:
            await left.enter_async_context(raw_client(port))
            await turns_until(lambda: server.peers)
        info = await endings.next()
        assert (info.code, info.was_clean) == (1012, False)


async def test_uvicorn_s_own_patience_ends_before_close_timeout() -> None:
    server = echo_server(limits=Limits(close_timeout=60.0))
    endings = Endings(server)
    async with AsyncExitStack() as left:
        async with uvicorn_serving(asgi(server), OURS, timeout_graceful_shutdown=0) as port:
            await left.enter_async_context(raw_client(port))
            await turns_until(lambda: server.peers)
        assert (await endings.next()).code == 1012


async def test_shutdown_in_the_handshake_is_uvicorn_s() -> None:
    server, asked = Server(limits=LIMITS), asyncio.Event()

    @server.on_handshake
    async def gate(given: Handshake) -> None:
        asked.set()
        await asyncio.Event().wait()

    async with uvicorn_serving(asgi(server), OURS, timeout_graceful_shutdown=0) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(handshake("/"))
        await asked.wait()
    assert (await reader.read()).startswith(b"HTTP/1.1 500")
    writer.close()
    await writer.wait_closed()
    assert server.peers == ()


async def test_an_application_that_is_cancelled_drops_the_connection() -> None:
    server, running = echo_server(), asyncio.Queue[Any]()
    endings = Endings(server)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        running.put_nowait(asyncio.current_task())
        await asgi(server)(scope, receive, send)

    async with uvicorn_serving(app, OURS, lifespan="off") as port:
        async with raw_client(port) as raw:
            await turns_until(lambda: server.peers)
            (await running.get()).cancel()
            assert await raw.read_to_end() == b""
        assert (await endings.next()).code == 1006


async def test_uvicorn_counts_the_connection_until_its_end() -> None:
    server = echo_server()
    config = Config(asgi(server), ws=OURS, port=0, log_config=None)
    web = Uvicorn(config)
    serving = asyncio.create_task(web.serve())
    await turns_until(lambda: web.started)
    port = web.servers[0].sockets[0].getsockname()[1]
    async with Client(url_of(port), reconnect=None, limits=LIMITS) as client:
        await client.request("echo", 1)
        assert len(web.server_state.connections) == len(web.server_state.tasks) == 1
    await turns_until(lambda: not web.server_state.connections and not web.server_state.tasks)
    web.should_exit = True
    await serving


async def test_an_ended_connection_does_not_wait_for_the_garbage_collector() -> None:
    seen: list[weakref.ref[Any]] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(weakref.ref(scope["extensions"]["wsrpc"]["reserve"].__self__))
        await echo(scope, receive, send)

    async with uvicorn_serving(app, OURS, lifespan="off") as port:
        gc.disable()
        try:
            async with raw_client(port) as raw:
                await raw.send(raw.close_frame(1000))
                await raw.read_to_end()
            await turns_until(lambda: seen[0]() is None)
        finally:
            gc.enable()


# ---------------------------------------------------------------- programs, and what surrounds them


def test_a_test_client_has_no_extension_and_needs_none() -> None:
    server = echo_server()
    with TestClient(make_app(server)) as client, client.websocket_connect("/ws?access_token=t1") as websocket:
        websocket.send_json({"i": 1, "a": ["whoami"]})
        assert websocket.receive_json() == {"i": 1, "d": ["ada", "of t1"]}


@pytest.mark.parametrize("module", ["uvicorn", "uvicorn.protocols.websockets.websockets_sansio_impl"])
def test_without_uvicorn_or_with_an_old_one_the_error_says_what_to_install(module: str) -> None:
    program = f"import sys; sys.modules[{module!r}] = None; import wsrpc_adapters.uvicorn"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "uvicorn 0.53 or later: pip install 'python-wsrpc[uvicorn]'" in ran.stderr
