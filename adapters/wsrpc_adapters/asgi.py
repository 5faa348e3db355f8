"""Serving a `wsrpc.Server` in an ASGI application: Starlette, FastAPI, Litestar, Quart, Django Channels, or plain ASGI.

Mount ``asgi(server)`` where the framework accepts an ASGI application, or call `serve_websocket` in a WebSocket route.
You need only wsrpc and an ASGI server, for example uvicorn. If the ASGI server offers the extension `EXTENSION`, as
uvicorn does with `wsrpc_adapters.uvicorn`, it hands over the connection once the application has accepted it. Messages
then do not pass through ``receive()`` and ``send()``.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Any, Protocol
from urllib.parse import quote
from weakref import WeakSet

from wsrpc import Handshake, HandshakeRejected, Limits, Peer, Server
from wsrpc.adapting import (
    ChatRoutes,
    DocsRoutes,
    HttpResponse,
    HttpRoutes,
    accept_at_once,
    http_connections,
    is_carrier,
    leave,
    send_body,
    text_refusal,
)
from wsrpc.headers import Headers
from wsrpc.transport import Transport

from ._asgi_output import Event, Receive, Send
from ._asgi_transport import AsgiTransport

__all__ = [
    "EXTENSION",
    "Application",
    "Reserve",
    "TakeOver",
    "WebSocket",
    "asgi",
    "docs",
    "lifespan",
    "routes",
    "serve_websocket",
]

logger = logging.getLogger("wsrpc")

DEFAULT = Limits()
MOST_HEADERS = 128
"""Maximum number of headers of a request, as other hosts have it. uvicorn with httptools has none."""
warned_of_pings: WeakSet[Server] = WeakSet()
servers_in_use: WeakSet[Server] = WeakSet()
"""The servers of this process that an application has opened, or that have got a connection."""

EXTENSION = "wsrpc"
"""Name of the extension with which an ASGI server hands over a connection.

``scope["extensions"]["wsrpc"]`` is a dict with a `Reserve` function under the key ``"reserve"``, and under the key
``"certificate"`` the value of `Handshake.certificate`. A middleware that has to see each message must remove the key
``"reserve"``, or the extension from the scope.
"""

TakeOver = Callable[[Callable[[], None]], Transport | None]
"""Function ``take_over(lost)`` that returns the transport of the connection, or None if the connection is already
closed.

The connection is already closed if the client has left, or if a middleware has refused or closed the connection. The
application calls ``take_over`` once, after it has sent ``websocket.accept``. From then on, no message passes through
``receive()`` and ``send()``. ``lost()`` is called when the connection has ended, and the application then returns. If
the application returns earlier, the ASGI server ends the connection.

Raises:
    RuntimeError: the ASGI server has not received ``websocket.accept``, because a middleware holds it back.
"""
Reserve = Callable[[Handshake, object], TakeOver | None]
"""Function ``reserve(handshake, underlying)`` that reserves the connection and returns a `TakeOver` function.

The application calls this function once, before it sends ``websocket.accept``. ``handshake`` determines the
compression, the limits and ``Transport.info``. ``underlying`` becomes `ConnectionInfo.underlying`. The function returns
None if this connection cannot be handed over. The application then uses ``receive()`` and ``send()``.
"""

IS_A_WEBSOCKET = HttpResponse(
    426,
    [("content-type", "text/plain; charset=utf-8"), ("upgrade", "websocket"), ("connection", "upgrade")],
    b"this is a WebSocket\n",
)


class WebSocket(Protocol):
    """WebSocket object that Starlette, FastAPI and Litestar pass to a route."""

    @property
    def scope(self) -> Any: ...

    @property
    def receive(self) -> Any: ...

    @property
    def send(self) -> Any: ...


def asgi(server: Server, *, state: Mapping[str, Any] | None = None) -> Application:
    """Return an ASGI application that serves WebSockets with ``server``.

    Args:
        state: values that the surrounding application provides for each connection. They are added to
            `Handshake.state`, which becomes `Peer.state`.
    """
    return Application(server, state or {})


def routes(
    server: Server,
    *,
    calls: Iterable[str] = (),
    runs: Iterable[str] = (),
    rooms: Iterable[str] = (),
    state: Mapping[str, Any] | None = None,
) -> Application:
    """Return an ASGI application with URLs for calls, runs and rooms of ``server``, for programs that speak HTTP only.

    See the guide "Call it with curl, from any language".

    Args:
        calls: the events that can be requested: ``"event"``, or ``"channel:event"`` on a named channel.
        runs: the events whose runs have URLs. Their handlers have ``keep=``. A reader continues after the header
            ``Last-Event-ID``, or else ``?after=``.
        rooms: the names of the rooms that can be read, or patterns such as ``"public-*"``. `Server.on_join` and
            ``allow=`` decide who may.
        state: as for `asgi`.

    Raises:
        TypeError: an option is not a list of names.
    """
    return RoutesApplication(server, state or {}, HttpRoutes(server, calls, runs, rooms))


def docs(
    server: Server,
    *,
    websocket: str = "/ws",
    allow: Callable[[Peer], bool | Awaitable[bool]] | None = None,
    routes: Application | None = None,
    title: str = "API",
    state: Mapping[str, Any] | None = None,
) -> Application:
    """Return an ASGI application with a page on which people call events.

    The page connects to the server with the cookies of its reader, or with a token that the reader enters. It contains
    nothing of the server itself. Beside it are ``asyncapi.json``, and ``openapi.json`` of ``routes``, for programs.

    Args:
        websocket: the URL of the server, relative to the URL of the page, such as ``"../ws"``, or absolute.
        allow: as for `Server.offer_description`, which this function calls, unless you have called it before.
        routes: what `routes` has returned.
        title: the title of the page and of the documents.
        state: as for `asgi`.

    Raises:
        TypeError: ``allow`` does not take one argument.
        ValueError: ``allow`` is given, but the description is offered already; or as `Server.offer_description`.
    """
    found = DocsRoutes(server, websocket, allow, getattr(routes, "http_routes", None), title)
    return RoutesApplication(server, state or {}, found)


def lifespan(server: Server) -> Callable[[Any], AbstractAsyncContextManager[None]]:
    """Return a lifespan that opens and closes ``server`` when the application starts and stops.

    For Starlette and FastAPI, use ``FastAPI(lifespan=lifespan(server))``. For Litestar, use
    ``Litestar(lifespan=[lifespan(server)])``. In your own lifespan, use ``async with lifespan(server)(app): yield``. If
    the application starts again, for example for each `TestClient` of a test, the server is opened again; see
    `Server.open`.

    Raises:
        TypeError: ``server`` is not a `Server` (but, for example, an application).
    """
    value: Any = server
    if not isinstance(value, Server):
        kind = type(value).__name__
        raise TypeError(f"lifespan() takes a wsrpc Server, as in FastAPI(lifespan=lifespan(server)); got a {kind}")

    @asynccontextmanager
    async def serving(app: object) -> AsyncGenerator[None]:
        servers_in_use.add(server)
        await server.open()
        try:
            yield
        finally:
            await server.close()

    return serving


async def serve_websocket(server: Server, websocket: WebSocket, *, state: Mapping[str, Any] | None = None) -> None:
    """Serve one connection inside a route of a framework, and return when the connection has ended.

    ``websocket`` is the WebSocket object of the framework. Do not accept the WebSocket: wsrpc accepts it when
    ``server`` has accepted the handshake. Cancelling drops the connection.

    Args:
        state: as for `asgi`.

    Raises:
        RuntimeError: the route has already accepted the WebSocket.
        TypeError: ``websocket`` is not a WebSocket.
    """
    try:
        scope, receive, send = websocket.scope, websocket.receive, websocket.send
    except AttributeError:
        raise TypeError(
            "serve_websocket takes a WebSocket with scope, receive and send, as Starlette, FastAPI and Litestar have "
            f"it, got {websocket!r}; elsewhere: await asgi(server, state=...)(scope, receive, send)"
        ) from None
    # Only the framework's object knows what was received before.
    seen = getattr(websocket, "client_state", None) or getattr(websocket, "connection_state", None)
    if str(getattr(seen, "name", seen or "init")).lower() not in ("connecting", "init"):
        raise RuntimeError(ALREADY_ACCEPTED)
    await serve(server, scope, receive, send, state or {}, websocket)


ALREADY_ACCEPTED = (
    "this WebSocket is already accepted: remove `websocket.accept()`; wsrpc accepts it itself, once the server's "
    "on_handshake has let it in"
)


class Application:
    """ASGI application that `asgi` returns.

    It serves WebSockets. If you run it without a framework, it also handles the lifespan events.
    """

    def __init__(self, server: Server, state: Mapping[str, Any]) -> None:
        self._server = server
        self._state = state

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        kind = scope["type"]
        if kind == "websocket":
            await serve(self._server, scope, receive, send, self._state, scope)
        elif kind == "lifespan":
            await self._live(receive, send)
        elif is_carrier(request := AsgiRequest(scope, receive, self._state)):
            servers_in_use.add(self._server)
            await answer(await http_connections(self._server).respond(request), request, send)
        else:
            await answer(IS_A_WEBSOCKET, request, send)

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()  # lifespan.startup
        async with lifespan(self._server)(self):
            await send({"type": "lifespan.startup.complete"})
            await receive()  # lifespan.shutdown
        await send({"type": "lifespan.shutdown.complete"})

    def __repr__(self) -> str:
        return f"asgi({self._server!r})"


async def serve(
    server: Server, scope: Mapping[str, Any], receive: Receive, send: Send, state: Mapping[str, Any], underlying: Any
) -> None:
    """Serve one connection, from its handshake to its end."""
    # A separate function, so that the objects of the handshake are freed while the connection is open.
    running = await start(server, scope, receive, send, state, underlying)
    if running is not None:
        await running


async def start(
    server: Server, scope: Mapping[str, Any], receive: Receive, send: Send, state: Mapping[str, Any], underlying: Any
) -> Awaitable[None] | None:
    """Accept or refuse one connection. Return an awaitable that serves the connection, or None if it was refused."""
    event = await receive()
    if event["type"] == "websocket.disconnect":
        return None
    if event["type"] != "websocket.connect":
        raise RuntimeError(ALREADY_ACCEPTED)
    servers_in_use.add(server)
    try:
        handshake = handshake_of(scope, server)
        handshake.state.update(state)
        await server.handshake(handshake)
    except HandshakeRejected as exc:
        with suppress(OSError):  # the client has left
            await refuse(exc, scope, with_os_errors(send))
        return None
    reserve: Reserve | None = offered(scope).get("reserve")
    take_over = None if reserve is None else reserve(handshake, underlying)
    headers = encoded(handshake.response_headers.pairs())
    try:
        accepted = {"type": "websocket.accept", "subprotocol": handshake.answered_subprotocol, "headers": headers}
        await with_os_errors(send)(accepted)
    except OSError:
        leave(server, handshake)
        return None  # the client has left
    if take_over is not None:
        return serve_handed_over(server, handshake, take_over, receive)
    check_pings(server, handshake.limits)
    transport = AsgiTransport(receive, send, handshake.connection_info(underlying), handshake.limits)
    return transport.run(accept_at_once(server, transport, handshake))


class RoutesApplication(Application):
    """ASGI application that `routes` returns."""

    def __init__(self, server: Server, state: Mapping[str, Any], found: HttpRoutes | ChatRoutes | DocsRoutes) -> None:
        super().__init__(server, state)
        self.http_routes = found
        """`wsrpc types --openapi` describes them."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close"})
        elif scope["type"] == "http":
            servers_in_use.add(self._server)
            request = AsgiRequest(scope, receive, self._state)
            # Newer frameworks leave the path as it is, and older ones remove the prefix of a mounted application.
            path: str = scope["path"].removeprefix(scope.get("root_path", ""))
            # `Route("/api{path:path}", …)` passes the whole path, and says which part is ours.
            if (ours := scope.get("path_params", {}).get("path")) is not None and path.endswith(ours):
                path = ours
            path = path.removeprefix("/")
            await answer(await self.http_routes.respond(request, path), request, send)
        else:
            await super().__call__(scope, receive, send)

    def __repr__(self) -> str:
        return f"routes({self._server!r})"


class AsgiRequest:
    """A request of HTTP."""

    def __init__(self, scope: Mapping[str, Any], receive: Receive, state: Mapping[str, Any]) -> None:
        self.method: str = scope["method"]
        self._scope = scope
        self._receive = receive
        self._state = state
        self._headers: dict[bytes, bytes] = {name.lower(): value for name, value in scope["headers"]}

    def header(self, name: str) -> str:
        return self._headers.get(name.encode(), b"").decode("latin-1")

    def handshake(self, server: Server) -> Handshake:
        handshake = handshake_of(self._scope, server)
        handshake.state.update(self._state)
        return handshake

    async def body(self) -> AsyncGenerator[bytes]:
        while True:
            event = await self._receive()
            if event["type"] == "http.disconnect":
                raise ConnectionResetError("the client has left")
            yield event.get("body", b"")
            if not event.get("more_body"):
                return

    async def left(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass


def with_os_errors(send: Send) -> Send:
    """Return a function that does what ``send`` does, and raises `OSError` whenever the client has left.

    uvicorn writes to a connection that is closed, and uvloop's transport then raises `RuntimeError`.
    """

    async def sending(event: Event) -> None:
        try:
            await send(event)
        except RuntimeError as exc:
            if "closed" not in str(exc):
                raise
            raise ConnectionResetError("the client has left") from None

    return sending


async def answer(response: HttpResponse, request: AsgiRequest, send: Send) -> None:
    """Send a response, until the end of its stream."""
    send = with_os_errors(send)
    headers = encoded(response.headers)
    if response.stream is None and response.status != 204:
        headers.append((b"content-length", str(len(response.body)).encode()))

    async def start() -> None:
        await send({"type": "http.response.start", "status": response.status, "headers": headers})

    async def write(data: bytes) -> None:
        await send({"type": "http.response.body", "body": data, "more_body": True})

    if await send_body(response, request, start, write):
        with suppress(OSError):  # the client has left
            await send({"type": "http.response.body", "body": b""})


def check_pings(server: Server, limits: Limits) -> None:
    """Warn once for each server with limits for pings: an ASGI application can neither send nor receive pings."""
    pings = limits.ping_interval, limits.ping_timeout
    if server not in warned_of_pings and pings != (DEFAULT.ping_interval, DEFAULT.ping_timeout):
        warned_of_pings.add(server)
        logger.warning(
            "Limits(ping_interval=%s, ping_timeout=%s) has no effect: this ASGI server sends pings by its own settings "
            "(uvicorn: --ws-ping-interval, --ws-ping-timeout, or use --ws wsrpc_adapters.uvicorn:WebSocketProtocol)",
            *pings,
        )


async def serve_handed_over(server: Server, handshake: Handshake, take_over: TakeOver, receive: Receive) -> None:
    """Serve a connection that the ASGI server hands over, until its end."""
    over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def lost() -> None:
        if not over.done():  # the application was cancelled
            over.set_result(None)

    transport = take_over(lost)
    if transport is None:
        leave(server, handshake)
        # The connection is closed, but the ASGI server has not noticed. It would log an error if the application
        # returned now.
        while (await receive())["type"] != "websocket.disconnect":
            pass
        return
    try:
        rest = accept_at_once(server, transport, handshake)
        if rest is not None:
            await rest
        del rest, handshake, take_over  # these objects are not kept
        await over
    finally:
        transport.abort()


def offered(scope: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the dict that the ASGI server offers as `EXTENSION`."""
    extensions: Mapping[str, Mapping[str, Any]] = scope.get("extensions") or {}
    return extensions.get(EXTENSION, {})


def handshake_of(scope: Mapping[str, Any], server: Server) -> Handshake:
    """Return the handshake of a connection, from its scope.

    Raises:
        HandshakeRejected: it has too many headers.
    """
    if len(scope["headers"]) > MOST_HEADERS:
        raise HandshakeRejected(431, f"more than {MOST_HEADERS} headers\n")
    headers = [(name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in scope["headers"]]
    cookies = [value for name, value in headers if name == "cookie"]
    if len(cookies) > 1:  # HTTP/2 splits the header
        headers = [*(pair for pair in headers if pair[0] != "cookie"), ("cookie", "; ".join(cookies))]
    path = (scope.get("raw_path") or quote(scope["path"]).encode()).decode("utf-8", "surrogateescape")
    query = scope.get("query_string", b"").decode("utf-8", "surrogateescape")
    return Handshake(
        f"{path.partition('?')[0]}?{query}",
        Headers(headers),
        remote=address(scope.get("client")),
        local=address(scope.get("server")),
        secure=scope.get("scheme") in ("wss", "https"),
        certificate=offered(scope).get("certificate"),
        subprotocols=scope.get("subprotocols"),
        limits=server.limits,
        compression=server.compression,
    )


def address(name: Any) -> tuple[str, int] | None:
    """Return host and port, or None for a Unix socket."""
    return (name[0], name[1]) if name and name[1] is not None else None


def encoded(headers: list[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]


async def refuse(rejected: HandshakeRejected, scope: Mapping[str, Any], send: Send) -> None:
    """Answer with the refusal if the ASGI server supports that, otherwise with the server's own 403."""
    if "websocket.http.response" not in (scope.get("extensions") or {}):
        await send({"type": "websocket.close"})
        return
    status, headers, body, *_ = text_refusal(rejected)
    await send({"type": "websocket.http.response.start", "status": status, "headers": encoded(headers)})
    await send({"type": "websocket.http.response.body", "body": body})
