"""Serving wsrpc in an aiohttp application.

aiohttp does the HTTP: routes, middlewares, TLS, cookies, proxies, the answer to the opening handshake. Then the default
transport takes over the connection (see ``wsrpc.adapting``). So speed, limits and closing are the same as with
`Server.listen`. The default transport also sees what aiohttp's own WebSocket hides: pings, half-received messages, and
the number of unsent bytes.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

from wsrpc import Handshake, HandshakeRejected, Peer, Server
from wsrpc.adapting import (
    ChatRoutes,
    DocsRoutes,
    HttpResponse,
    HttpRoutes,
    ServerUpgrade,
    accept_at_once,
    address,
    http_connections,
    is_carrier,
    joined_headers,
    leave,
    send_body,
    text_refusal,
)
from wsrpc.types import WebSocketTransport

try:
    import aiohttp
    from aiohttp import web
    from multidict import CIMultiDict
except ImportError as exc:
    raise ImportError("wsrpc_adapters.aiohttp needs aiohttp: pip install python-wsrpc[aiohttp]") from exc

__all__ = ["aiohttp_handler", "docs", "routes", "serve"]

LINGER = 2.0
"""Seconds for which a client may send the rest of a body that nobody reads, so that it reads the response."""
LARGEST_WHOLE_BODY = 64 * 1024
"""Maximum bytes of a body that aiohttp sends with the headers. It keeps them for as long as nobody reads them."""
LEFT_CHECK_INTERVAL = 2.0
"""Seconds between two checks whether the client of a response has left, which aiohttp does not report."""


def aiohttp_handler(server: Server) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """Return a handler that serves ``server``: ``app.router.add_route("*", "/ws", aiohttp_handler(server))``.

    With ``add_get`` in place of ``add_route``, it serves WebSockets only, and no connections over HTTP.

    To finish active requests and close the server when the application shuts down, use
    ``app.on_shutdown.append(lambda app: server.close(drain_timeout=20))``.
    """

    async def handler(request: web.Request) -> web.StreamResponse:
        return await serve(server, request)

    return handler


HTTP_ROUTES = web.AppKey("http_routes", HttpRoutes)
"""Key of the routes in the application that `routes` returns. `wsrpc types --openapi` describes them."""


def routes(
    server: Server,
    *,
    calls: Iterable[str] = (),
    runs: Iterable[str] = (),
    rooms: Iterable[str] = (),
    state: Mapping[str, Any] | None = None,
) -> web.Application:
    """Return an application with URLs for calls, runs and rooms of ``server``: ``app.add_subapp("/api", routes(...))``.

    The options and exceptions are those of `wsrpc_adapters.asgi.routes`. See the guide "Call it with curl, from any
    language".
    """
    found, app = HttpRoutes(server, calls, runs, rooms), web.Application()
    app[HTTP_ROUTES] = found
    add_routes(app, "", found, state)
    return app


def docs(
    server: Server,
    *,
    websocket: str = "/ws",
    allow: Callable[[Peer], bool | Awaitable[bool]] | None = None,
    routes: web.Application | None = None,
    title: str = "API",
    state: Mapping[str, Any] | None = None,
) -> web.Application:
    """Return an application with a page on which people call events.

    The options and exceptions are those of `wsrpc_adapters.asgi.docs`.
    """
    app = web.Application()
    found = DocsRoutes(server, websocket, allow, None if routes is None else routes[HTTP_ROUTES], title)
    add_routes(app, "", found, state)
    return app


def add_routes(
    app: web.Application, path: str, found: HttpRoutes | ChatRoutes | DocsRoutes, state: Mapping[str, Any] | None
) -> None:
    """Add URLs below a path, and the path itself."""

    async def handler(request: web.Request) -> web.StreamResponse:
        asked = AiohttpRequest(request, state or {})
        return await _answer(await found.respond(asked, request.match_info.get("path", "")), asked, request)

    app.router.add_route("*", path + r"/{path:[\s\S]*}", handler)
    app.router.add_route("*", path, handler)


async def serve(server: Server, request: web.Request, *, state: Mapping[str, Any] | None = None) -> web.StreamResponse:
    """Serve one connection inside your own handler, which must return the response that this function returns.

    This function returns when the connection has ended, or immediately if the connection is refused. Cancelling drops
    the connection.

    Args:
        state: values, such as ``{"user": user}``, that are added to `Handshake.state`, which becomes `Peer.state`.
    """
    carrier = AiohttpRequest(request, state or {})
    if is_carrier(carrier):
        return await _answer(await http_connections(server).respond(carrier), carrier, request)
    handshake = carrier.handshake(server)
    early = _hold_early(request)
    try:
        await server.handshake(handshake)
    except HandshakeRejected as exc:
        return await _answer_last(_whole(text_refusal(exc)), request)
    over = asyncio.Event()
    transport, response = await _upgrade(request, handshake, early, over.set)
    if transport is None:
        leave(server, handshake)
        return response
    try:
        rest = accept_at_once(server, transport, handshake)
        if rest is not None:
            await rest
        del rest, handshake  # these objects are not kept
        await over.wait()  # only for the end of the connection: the session may resume on another one
    finally:
        transport.abort()
    return response


class AiohttpRequest:
    """A request of HTTP."""

    def __init__(self, request: web.Request, state: Mapping[str, Any]) -> None:
        self.method = request.method
        self._request = request
        self._state = state

    def header(self, name: str) -> str:
        return joined_headers(self._request.headers).get(name, "")

    def handshake(self, server: Server) -> Handshake:
        request = self._request
        handshake = Handshake(
            request.rel_url.raw_path_qs,  # what aiohttp routes, if the target is a whole URL or has a #fragment
            joined_headers(request.headers),
            remote=_address_of(request, "peername"),
            local=_address_of(request, "sockname"),
            secure=request.secure,
            certificate=None if request.transport is None else request.transport.get_extra_info("peercert"),
            limits=server.limits,
            compression=server.compression,
        )
        handshake.state.update(self._state)
        return handshake

    def body(self) -> AsyncIterator[bytes]:
        return self._request.content.iter_any()

    async def left(self) -> None:
        while self._request.transport is not None:  # noqa: ASYNC110  # aiohttp has no event for it
            await asyncio.sleep(LEFT_CHECK_INTERVAL)


def _whole(response: HttpResponse) -> web.Response:
    return web.Response(status=response.status, body=response.body, headers=CIMultiDict(response.headers))


async def _answer(response: HttpResponse, asked: AiohttpRequest, request: web.Request) -> web.StreamResponse:
    """Send a response, until the end of its stream."""
    if response.stream is None and len(response.body) <= LARGEST_WHOLE_BODY:
        whole = _whole(response)
        return await _answer_last(whole, request) if "content-encoding" in request.headers else whole

    answered = web.StreamResponse(status=response.status, headers=CIMultiDict(response.headers))
    answered.content_length = len(response.body) if response.stream is None else None
    if request.version < aiohttp.HttpVersion11:
        answered.force_close()  # nothing else shows where the response ends, and aiohttp would keep the connection
    is_complete = False
    try:
        is_complete = await send_body(response, asked, partial(answered.prepare, request), answered.write)
    finally:
        if not is_complete and (connection := request.transport) is not None:
            connection.abort()  # else the client would get a response that seems complete
    return answered


async def _answer_last(response: web.Response, request: web.Request) -> web.Response:
    """Return the last response of a connection: otherwise, aiohttp would parse data that follows as another request.

    It would also read the rest of a body, and log a traceback if it cannot decode it.
    """
    response.force_close()
    if "content-encoding" in request.headers:
        with suppress(OSError, web.RequestPayloadError):
            await response.prepare(request)
            await response.write_eof()
            async with asyncio.timeout(LINGER):
                await request.release()
        request.protocol.force_close()
    return response


async def _upgrade(
    request: web.Request, handshake: Handshake, early: _Early, lost: Callable[[], object]
) -> tuple[WebSocketTransport | None, web.StreamResponse]:
    """Open the WebSocket that ``request`` asks for.

    Returns:
        The transport, or None if ``request`` does not ask for a WebSocket, or if the client has left.
        The response that the handler must return. It contains the reason if ``request`` does not ask for a WebSocket.
    """
    if request.method != "GET" or request.version < (1, 1) or ("upgrade" in request.headers and request.body_exists):
        refusal = web.Response(status=400, text="a WebSocket is opened by a GET of HTTP/1.1 without a body\n")
        return None, await _answer_last(refusal, request)
    upgrade = ServerUpgrade(handshake)
    headers = CIMultiDict(upgrade.headers.pairs())
    if upgrade.status != 101:
        refusal = web.Response(status=upgrade.status, body=upgrade.body.encode(), headers=headers)
        return None, await _answer_last(refusal, request)
    response = web.StreamResponse(status=101, headers=headers)
    response.force_close()  # there is no other request on this connection
    try:
        writer = await response.prepare(request)
        if writer is not None:
            await writer.drain()  # wait until the client has read earlier responses
    except ConnectionResetError:  # the client has left, and aiohttp would log a traceback
        return None, response
    connection = request.transport
    if connection is None:  # the client has left while earlier responses were read
        return None, response
    protocol = request.protocol

    def ended(exc: Exception | None) -> None:
        protocol.connection_lost(exc)
        lost()

    return upgrade.take_over(connection, bytes(early.data), ended), response


class _Early:
    """Parser in place of aiohttp's own. It keeps the data that follows the opening handshake.

    After the first piece of data, reading is paused until the default transport starts. (aiohttp 3.14 would read and
    keep all data that arrives.)
    """

    def __init__(self, tcp: asyncio.BaseTransport | None) -> None:
        self.data = bytearray()
        self._tcp: Any = tcp

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        self.data += data
        if self._tcp is not None:
            self._tcp.pause_reading()
        return False, b""

    def feed_eof(self) -> None:
        """Do nothing, because the default transport is notified of the end of the input, too."""


def _hold_early(request: web.Request) -> _Early:
    """Keep aiohttp from parsing the data that follows ``request``."""
    early = _Early(request.transport)
    request.protocol.set_parser(early)  # type: ignore[arg-type]
    return early


def _address_of(request: web.Request, name: str) -> tuple[str, int] | None:
    return None if request.transport is None else address(request.transport.get_extra_info(name))
