"""The protocol class for uvicorn: what is taken over, what stays uvicorn's own, and how both end."""

from __future__ import annotations

import asyncio
import logging
import re
import socket
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from contextvars import ContextVar
from functools import partial
from importlib import metadata
from typing import Any

import pytest
from asgi_servers import OURS, uvicorn_serving
from fastapi import FastAPI, WebSocket, WebSocketException
from raw_websocket import BINARY, CLOSE, TEXT, ask, asking, build_frame, handshake, raw_client
from served import LIMITS, PEM, Endings, echo_server, tls
from starlette.applications import Starlette
from starlette.routing import Mount
from waiting import until

from wsrpc import Client, Handshake, HandshakeRejected, Limits, Server, current_peer, dial
from wsrpc.types import WebSocketTransport
from wsrpc_adapters.asgi import asgi, lifespan, serve_websocket
from wsrpc_adapters.uvicorn import WebSocketProtocol

REQUEST: ContextVar[str] = ContextVar("REQUEST", default="none")


def adds_header(app: Any) -> Any:
    """A middleware that adds a header to each answer, to those of WebSockets, too."""

    async def middleware(scope: Any, receive: Any, send: Any) -> None:
        async def adding(message: Any) -> None:
            if message["type"] in ("websocket.accept", "http.response.start"):
                message["headers"] = [*message.get("headers", []), (b"x-seen", b"yes")]
            await send(message)

        await app(scope, receive, adding)

    return middleware


def make_app(server: Server) -> FastAPI:
    """An HTTP route and a server side by side, with a middleware."""
    app = FastAPI(lifespan=lifespan(server))
    app.add_middleware(adds_header)
    server.on("whoami", lambda: [current_peer().state["user"], REQUEST.get()])

    @app.get("/hello")
    async def hello() -> str:
        return "hello"

    @app.websocket("/ws")
    async def ws(websocket: WebSocket, access_token: str = "") -> None:
        if access_token != "t1":
            raise WebSocketException(1008, "who are you?")
        REQUEST.set(f"of {access_token}")
        await serve_websocket(server, websocket, state={"user": "ada"})

    return app


def client(port: int, **options: Any) -> Client:
    url = f"ws://127.0.0.1:{port}/ws?access_token=t1"
    return Client(url, **{"reconnect": None, "limits": LIMITS} | options)


# ---------------------------------------------------------------- taken over


@pytest.mark.parametrize("http", ["httptools", "h11"])
async def test_a_server_beside_routes_of_fastapi(http: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "uvicorn.error")
    server = echo_server()
    async with uvicorn_serving(make_app(server), OURS, http=http, root_path="/api", ws_max_size=1000) as port:
        async with client(port, headers={"X-Forwarded-For": "203.0.113.7", "X-Forwarded-Proto": "https"}) as ada:
            [peer] = server.peers
            assert isinstance(peer.transport, WebSocketTransport)
            assert await ada.request("whoami") == ["ada", "of t1"]
            assert await ada.request("echo", "x" * 2000) == "x" * 2000, "the size of messages is the server's"
            assert ada.peer.info.underlying.response.headers["x-seen"] == "yes"
            assert isinstance(peer.info.underlying, WebSocket) and peer.info.path == "/api/ws"
            assert peer.info.remote is not None and peer.info.remote[0] == "203.0.113.7"
            answer = await ask(port, b"GET /hello HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
            assert answer.startswith(b"HTTP/1.1 200") and b"x-seen: yes" in answer
        with pytest.raises(HandshakeRejected, match="403"):
            await dial(f"ws://127.0.0.1:{port}/ws", limits=LIMITS)
    said = [record.getMessage().split()[-1] for record in caplog.records if '"WebSocket ' in record.getMessage()]
    assert said == ["[accepted]", "403"], "the access log is uvicorn's"


async def test_over_tls_where_small_messages_are_sent_at_once_whatever_socket_uvicorn_listens_on() -> None:
    sockets: list[socket.socket] = []

    class Remembers(WebSocketProtocol):
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            sockets.append(transport.get_extra_info("socket"))

    server, files = echo_server(), {key: str(PEM) for key in ("ssl_certfile", "ssl_keyfile")}
    async with uvicorn_serving(asgi(server), Remembers, **files) as port:
        async with Client(f"wss://localhost:{port}/", ssl=tls()[1], reconnect=None, limits=LIMITS) as client:
            assert await client.request("echo", "x" * 1_000_000) == "x" * 1_000_000
            assert isinstance(server.peers[0].transport, WebSocketTransport)
            assert sockets[0].proto == 0, "asyncio would have set the option itself"
            assert sockets[0].getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


# ---------------------------------------------------------------- uvicorn's own connections


async def echo(scope: Any, receive: Any, send: Any) -> None:
    assert (await receive())["type"] == "websocket.connect"
    await send({"type": "websocket.accept", "subprotocol": (scope["subprotocols"] or [None])[0]})
    while (message := await receive())["type"] == "websocket.receive":
        if message.get("text") == "leave":
            await send({"type": "websocket.close", "code": 4000, "reason": "left"})
        elif message.get("text") == "raise":
            raise ValueError("as told")
        else:
            await send({"type": "websocket.send", **{key: message[key] for key in ("text", "bytes") if key in message}})


def plays(*messages: Any) -> Any:
    """An application that sends these messages to each client that connects."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        for message in messages:
            await send(message)

    return app


ACCEPTS = {"type": "websocket.accept"}
CLOSES = [{"type": "websocket.close", "code": 4003, "reason": "not you"}]
DENIES = [
    {"type": "websocket.http.response.start", "status": 418, "headers": [(b"x-why", b"tea")]},
    {"type": "websocket.http.response.body", "body": b"short and stout"},
]


frame = partial(build_frame, masked=True)

PLAIN: dict[str, tuple[Any, list[bytes]]] = {
    "text and binary": (echo, [frame(TEXT, b"a"), frame(BINARY, b"\x00")]),
    "close": (echo, [frame(TEXT, b"a") + frame(CLOSE, b"\x0f\xa1bye")]),
    "too large": (echo, [frame(TEXT, b"x" * 2000)]),
    "closes": (echo, [frame(TEXT, b"leave"), frame(CLOSE, b"\x0f\xa0")]),
    "raises": (echo, [frame(TEXT, b"raise")]),
    "never accepts": (plays(*CLOSES), []),
    "denies": (plays(*DENIES), []),
    "only returns": (plays(), []),
}
"""An application, and what a client sends to it, piece by piece."""


class ShutDownBefore(WebSocketProtocol):
    """uvicorn shuts down just before it hears that a connection is over.

    asyncio says so one turn after the connection was closed. uvicorn's own protocol can raise in this turn.
    """

    def connection_lost(self, exc: Exception | None) -> None:
        try:
            self.shutdown()
        except Exception:
            logging.exception("WebSocket shutdown")
        super().connection_lost(exc)


@pytest.mark.parametrize("case", PLAIN)
async def test_other_websockets_are_as_with_uvicorn_s_own(case: str, caplog: pytest.LogCaptureFixture) -> None:
    """What the client gets, what the application is told, and what is logged, with both."""
    caplog.set_level(logging.INFO)
    app, pieces = PLAIN[case]
    offers = "Sec-WebSocket-Protocol: p, q", "Sec-WebSocket-Extensions: permessage-deflate"
    request = re.sub(rb"Key: .*==", b"Key: AAAAAAAAAAAAAAAAAAAAAA==", handshake("/a?b=c", *offers))
    seen: list[Any] = []
    for ws in ("websockets-sansio", WebSocketProtocol, ShutDownBefore):
        told: list[Any] = []

        async def recording(scope: Any, receive: Any, send: Any, told: list[Any] = told) -> None:
            async def receiving() -> Any:
                told.append(await receive())
                return told[-1]

            await app(scope, receiving, send)

        caplog.clear()
        async with uvicorn_serving(recording, ws, ws_max_size=1000, lifespan="off") as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            own_port = str(writer.get_extra_info("sockname")[1])
            for piece in pieces:
                writer.write(piece)
                if piece is not pieces[-1]:
                    await reader.read(1)  # it was seen
            if case == "text and binary":
                writer.write_eof()
            rest = await reader.read()
            writer.close()
        headers = sorted(line for line in head.split(b"\r\n") if not line.lower().startswith(b"date:"))
        logged = [record.getMessage().replace(own_port, "PORT") for record in caplog.records]
        logged = [line for line in logged if "WebSocket" in line or "ASGI" in line]
        if case == "denies" and not seen:
            logged.remove("ASGI callable returned without completing handshake.")  # which it does after any refusal
        seen.append((headers, rest, told, logged))
    assert seen[0] == seen[1] == seen[2] and seen[0][3]


# ---------------------------------------------------------------- the extension, as its contract says


def reserved(scope: Any, headers: dict[str, str] | None = None) -> Any:
    given = headers or {name.decode(): value.decode() for name, value in scope["headers"]}
    return scope["extensions"]["wsrpc"]["reserve"](Handshake("/", given), scope)


async def test_the_application_s_own_send_and_receive_once_it_has_taken_over() -> None:
    told: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        take_over = reserved(scope)
        await send(ACCEPTS)
        waiting = asyncio.ensure_future(receive())
        await asyncio.sleep(0)
        transport = take_over(lambda: None)
        with pytest.raises(RuntimeError, match=r"taken this connection over.*'websocket\.send'"):
            await send({"type": "websocket.send", "text": "no"})
        transport.send(b"yes")
        transport.flush()
        told.set_result((await waiting)["type"])
        with pytest.raises(OSError):  # as on all connections of uvicorn that have ended
            await send({"type": "websocket.close"})

    async with uvicorn_serving(app, OURS, lifespan="off") as port:
        async with raw_client(port) as raw:
            assert (await raw.next_frame()).payload == b"yes"
        assert await told == "websocket.disconnect"


@pytest.mark.parametrize("case", ["reserved", "accepted", "another request", "unread", "left", "none of these"])
async def test_when_a_connection_cannot_be_reserved_or_taken_over(case: str) -> None:
    answer: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
    asked = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        asked.set()
        if case == "reserved":
            reserved(scope)
        elif case == "accepted":
            await send(ACCEPTS)
        elif case == "unread":  # asyncio would tell only uvicorn's HTTP to go on with what it has answered before
            transport = scope["extensions"]["wsrpc"]["reserve"].__self__.transport
            transport.write(bytes(20_000_000))
        take_over = reserved(scope, {"upgrade": "h2c"} if case == "another request" else None)
        if case == "unread":
            transport.abort()
        if case == "left":
            await send(ACCEPTS)
            await receive()
            take_over = take_over(lambda: None)
        answer.set_result(take_over is None)

    async with uvicorn_serving(app, OURS, lifespan="off") as port:
        with socket.create_connection(("127.0.0.1", port)) as sock:
            sock.send(handshake("/"))
            await asked.wait()
            if case != "left":
                await answer
        assert await answer is (case != "none of these")


GREETING = {"type": "websocket.send", "text": "x" * 100}


@pytest.mark.parametrize(
    ("others", "status", "first", "compression"),
    [
        pytest.param([ACCEPTS, GREETING], 101, (TEXT, b"x" * 100), True, id="says something"),
        pytest.param([ACCEPTS, GREETING], 101, (TEXT, b"x" * 100), False, id="says something, not compressed"),
        # It is how a browser gets to know why; of a refused handshake it learns nothing.
        pytest.param([ACCEPTS, *CLOSES], 101, (CLOSE, b"\x0f\xa3not you"), False, id="closes"),
        pytest.param(DENIES, 418, None, False, id="refuses with a body"),
        pytest.param([], 500, None, False, id="keeps the answer back"),
    ],
)
async def test_a_middleware_around_accept(
    others: list[Any], status: int, first: object, compression: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """It is obeyed, and the client can read what it sends: uvicorn would compress, and the answer may not say so."""
    server = echo_server(compression=compression)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        async def sending(message: Any) -> None:
            for each in others if message["type"] == "websocket.accept" else [message]:
                await send(each)

        await asgi(server)(scope, receive, sending)

    async with uvicorn_serving(app, OURS, lifespan="off") as port:
        async with asking(port, handshake("/", "Sec-WebSocket-Extensions: permessage-deflate")) as (head, raw):
            assert int(head.split()[1]) == status
            if status == 101:
                seen = await raw.next_frame()
                assert (seen.opcode, seen.payload) == first
            if GREETING in others:
                assert (b"permessage-deflate" in head) is compression
                await raw.send(raw.frame(TEXT, b'{"i":1,"a":["echo",1]}'))
                await until(lambda: server.stats().messages_in)
            elif status == 101:
                await raw.send(raw.close_frame(4003))
                assert await raw.read_to_end() == b""  # soon: uvicorn has seen the answer
    assert server.stats().accepted == (GREETING in others)
    assert ("scope['extensions'].pop('wsrpc', None)" in caplog.text) is (status == 500)


# ---------------------------------------------------------------- the end


@pytest.mark.parametrize("who", ["client", "raw"])
async def test_uvicorn_s_shutdown_closes_with_1012(who: str) -> None:
    """It waits for the answer, for at most the shorter of both times: here uvicorn's own patience."""
    server = echo_server(limits=Limits(close_timeout=60.0))
    endings, options = Endings(server), {} if who == "client" else {"timeout_graceful_shutdown": 0}
    async with AsyncExitStack() as left:
        async with uvicorn_serving(asgi(server), OURS, **options) as port:
            await left.enter_async_context(client(port) if who == "client" else raw_client(port))
            await until(lambda: server.peers)
        info = await endings.next()
        assert info.code == 1012 and (info.was_clean is (who == "client") or options)


UNREADABLE: dict[str, tuple[int, bytes]] = {
    "body": (400, handshake("/", "Content-Length: 4") + b"body"),
    "body that does not come": (400, handshake("/", "Content-Length: 4")),
    "chunks": (400, handshake("/", "Transfer-Encoding: chunked") + b"0\r\n\r\n"),
    "long header": (431, handshake("/", "Cookie: " + "x" * 9000)),
    "many headers": (431, handshake("/", *(f"X-{n}: 1" for n in range(200)))),
    "long path": (414, handshake("/" + "x" * 9000)),
}
"""Requests that `websockets` does not read, and the status that answers them. Before version 17.0, 431 replaces 414."""


@pytest.mark.parametrize("case", UNREADABLE)
async def test_an_unreadable_request_is_answered_and_uvicorn_ends(case: str, caplog: pytest.LogCaptureFixture) -> None:
    """It got no answer, and uvicorn's shutdown raised an exception, before the other connections were closed."""
    status, request = UNREADABLE[case]
    if status == 414 and int(metadata.version("websockets").split(".")[0]) < 17:
        status = 431
    server, state = echo_server(), list[bool]()
    endings = Endings(server)

    @asynccontextmanager
    async def live(app: object) -> AsyncGenerator[None]:
        async with lifespan(server)(app):
            yield
        state.append(server.healthy)

    async with AsyncExitStack() as left:
        async with uvicorn_serving(Starlette(routes=[Mount("/", asgi(server))], lifespan=live), OURS) as port:
            await left.enter_async_context(client(port))
            head, _ = await left.enter_async_context(asking(port, request))
            assert int(head.split()[1]) == status
        assert (await endings.next()).code == 1012 and state == [False]
    warnings = [text for text in caplog.messages if "whose URL or headers, such as cookies or a token, are too" in text]
    assert len(warnings) == (status != 400)
