"""`PortConnections`: the connections of a port, and the answers to their opening handshakes.

A request is answered in the call that receives its last byte, unless something must be awaited: an async
`on_handshake`, the `LoopBudget`, or the factory of a service. The `websockets` library parses the request, checks that
it asks for a WebSocket, and creates the response. Plain requests are handled without the library.
"""

from __future__ import annotations

import asyncio
import contextvars
import re
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from typing import Any
from weakref import WeakKeyDictionary

from msgspec import Struct
from websockets.datastructures import Headers
from websockets.http11 import Request, Response
from websockets.server import ServerProtocol

from ..._base.logs import logger
from ..._base.request_headers import HeadersView, address, path_of, refusal_headers
from ..._base.scheduler import spawn_later
from ...errors import HandshakeRejected
from ...handshake import Handshake
from ...limits import Limits
from ..asyncio_privates import release_transport
from ..deadlines import Deadlines
from ..library_handshake import (
    LIBRARY_LOGGER,
    Head,
    latin_1_headers,
    library_answer,
    plain_answer,
    serialized,
    serialized_head,
    unread,
)
from ..loop_budget import LoopBudget, shared
from ..websocket import Underlying, WebSocketConnection, WebSocketTransport
from ..websocket_output import OpeningResult
from .health import Health
from .origins import readable_by

LARGEST = 4096
"""Bytes of the largest plain request. (Requests of browsers have 500 bytes, plus cookies.)"""

REQUEST = re.compile(rb"GET (/[!-~]*) HTTP/1\.1\r\n((?:[!#$%&'*+.^_`|~0-9A-Za-z-]+: [!-~]+(?: [!-~]+)*\r\n){1,64})\r\n")
FIELDS = re.compile(r"([^:]+): ([^\r]+)\r\n")


def plain_request(data: bytes) -> Request | None:
    """Return the request in ``data`` if it is plain: complete, short, ASCII, without a body. Otherwise return None.

    The result is the same as that of the library. The library reads line by line, through generators, which is slower.
    """
    found = REQUEST.fullmatch(data) if len(data) <= LARGEST else None
    if found is None:
        return None
    path, fields = found[1].decode("ascii"), found[2].decode("ascii")
    headers = Headers(FIELDS.findall(fields))
    has_body = headers.get_all("Content-Length") or headers.get_all("Transfer-Encoding")
    return None if has_body else Request(path, headers)


def is_get(request: Request) -> bool:
    """Return whether ``request`` is a GET of HTTP/1.1. (Before version 17, the library reads no other requests.)"""
    return getattr(request, "method", "GET") == "GET" and getattr(request, "protocol", "HTTP/1.1") == "HTTP/1.1"


HANDSHAKE = 0.000125
"""Approximate seconds that a handshake costs, from the request to the response and the peer.

Without TLS it is 0.08 ms on a machine of 2026. If this value is too large, most of many simultaneous handshakes wait
for another turn, which costs more.
"""


class AcceptedConnection(asyncio.Protocol):
    """Protocol of an accepted connection until its request is answered. It reads only the request."""

    __slots__ = ("__weakref__", "_library", "_port", "early", "head", "is_head", "tcp")

    tcp: asyncio.Transport

    def __init__(self, reception: PortConnections) -> None:
        self._port = reception
        self.is_head = False
        """Whether the request is a HEAD request. Such a request is a health check."""
        self._library: ServerProtocol | None = None
        """Parses the request if it is not plain."""
        self.head = Head()
        self.early = b""
        """Bytes that arrived after the request."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        tcp: Any = transport  # asyncio's annotation is too general
        self.tcp = tcp
        self._port.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._port.remove(self.tcp)
        if self._library is not None:
            vars(self._library).clear()  # its parser refers to it
        release_transport(self.tcp)

    def data_received(self, data: bytes) -> None:
        first = not self.head.size
        health = self._port.options.health
        if first and health is not None and (as_get := health.as_get(data)) is not None:
            data, self.is_head = as_get
        data, early = self.head.split(data)
        if early:  # keep these bytes, and pause reading, so that at most one read is kept
            self.early += early
            self.tcp.pause_reading()
        if not data:
            return
        request = plain_request(data) if first else None
        if request is None:
            if self._library is None:
                self._library = ServerProtocol(logger=LIBRARY_LOGGER)
            self._library.receive_data(data)
            request = next((event for event in self._library.events_received() if isinstance(event, Request)), None)
            if request is not None:
                request.headers = latin_1_headers(request.headers)
            if self._library.handshake_exc is not None:
                self.head.complete = True  # later bytes are kept, and not parsed: there is only one response
                self._port.refuse(self.tcp, unread(self._library, self.tcp))
        if request is not None:
            self._port.receive(self, request)


class PortOptions(Struct, frozen=True, kw_only=True):
    """Options of a port.

    Attributes:
        admit: a function that is called with each handshake, which it may change. It raises `HandshakeRejected` to
            refuse the connection, and returns an awaitable if it has to wait.
        leave: a function that is called with a handshake that was admitted, if its connection does not open.
        accept: a function that is called with each open connection. It returns an awaitable if it has to wait.
        path: the only path that is not answered with 404. None accepts any path.
        health: answers health checks.
    """

    admit: Callable[[Handshake], Awaitable[None] | None]
    leave: Callable[[Handshake], object]
    accept: Callable[[WebSocketTransport, Handshake], Awaitable[None] | None]
    limits: Limits
    path: str | None
    compression: bool
    health: Health | None
    secure: bool


class PortConnections:
    """The connections of one port, each until its end. Answers the opening handshakes."""

    def __init__(self, options: PortOptions) -> None:
        self.options = options
        loop = asyncio.get_running_loop()
        self._loop_budget = LoopBudget(loop)
        self._deadlines = shared(loop, Deadlines, options.limits.open_timeout)
        self._stopped = False
        self._closing = shared(loop, Deadlines, options.limits.close_timeout)
        """Time limits for the ends of refused connections."""
        self._expected: WeakKeyDictionary[AcceptedConnection, asyncio.Task[Any]] = WeakKeyDictionary()
        """Connections during their TLS handshake. The value is the event loop's task that does the handshake."""
        self._opening: set[asyncio.Transport] = set()
        """The connections whose request has not been answered."""
        self._all: set[asyncio.Transport] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        """Tasks of handshakes that wait for something."""
        self._less = asyncio.Event()
        """Set when a connection or a handshake is over."""

    # ------------------------------------------------------------ the connections

    def expect(self, connection: AcceptedConnection) -> None:
        """Record that the event loop's current task does the TLS handshake of a connection."""
        # Event loops that accept without a task (uvloop, Windows) have no task to cancel.
        if (accepting := asyncio.current_task()) is not None:
            self._expected[connection] = accepting

    def add(self, connection: AcceptedConnection) -> None:
        """Add a connection. It stays until its end."""
        self._all.add(connection.tcp)
        self._opening.add(connection.tcp)
        self._deadlines.add(connection.tcp)
        if self.options.secure:
            self._expected.pop(connection, None)
        if self._stopped:  # asyncio creates the transport of an accepted socket in a later turn
            connection.tcp.abort()

    def remove(self, tcp: asyncio.Transport, exc: Exception | None = None) -> None:
        """Remove a connection that is over. Idempotent."""
        self._all.discard(tcp)
        self._opening.discard(tcp)
        self._deadlines.remove(tcp)
        self._closing.remove(tcp)
        self._less.set()

    def _task_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._less.set()

    async def wait_over(self) -> None:
        """Wait until all connections are over. Cancelling is safe."""
        while self._all or self._tasks:
            self._less.clear()
            await self._less.wait()

    def stop(self) -> None:
        """End all present and future handshakes. Open connections stay open. Idempotent."""
        self._stopped = True
        for accepting in self._expected.values():  # Python 3.12 and later would wait for them
            accepting.cancel()
        for tcp in self._opening:
            tcp.abort()  # otherwise a client that sends nothing would delay the end until its timeout

    # ------------------------------------------------------------ one handshake

    def receive(self, connection: AcceptedConnection, request: Request) -> None:
        """Answer a request, now or when the `LoopBudget` allows it."""
        self._deadlines.remove(connection.tcp)  # from now on the server is responsible for the time
        health = self.options.health
        if health is not None and health.asks(request):
            self.refuse(connection.tcp, serialized(health.answer(head=connection.is_head)))
        elif self._loop_budget.spend(HANDSHAKE):
            self._start(connection, request)
        else:
            self._loop_budget.wait(HANDSHAKE, partial(self._start, connection, request))

    def _start(self, connection: AcceptedConnection, request: Request) -> None:
        # Context variables that `on_handshake` sets are visible to the handlers of this connection only.
        context = contextvars.copy_context()
        try:
            rest = context.run(self._answer, connection, request)
        except Exception as exc:
            self._failed(connection, request, exc)
        else:
            if rest is not None:
                task = spawn_later(self._finish(connection, request, rest), context)
                self._tasks.add(task)
                task.add_done_callback(self._task_done)

    async def _finish(self, connection: AcceptedConnection, request: Request, rest: Awaitable[None]) -> None:
        try:
            await rest
        except Exception as exc:
            self._failed(connection, request, exc)

    def _failed(self, connection: AcceptedConnection, request: Request, exc: Exception) -> None:
        if isinstance(exc, HandshakeRejected) and connection.tcp in self._opening:
            self.refuse(connection.tcp, serialized(_refusal(exc, request)))
        else:
            logger.error("accepting a connection failed", exc_info=exc)
            connection.tcp.abort()

    def _answer(self, connection: AcceptedConnection, request: Request) -> Awaitable[None] | None:
        """Answer a request. If something must be awaited, return an awaitable that does the rest."""
        options = self.options
        if options.path is not None and path_of(request.path) != path_of(options.path):
            raise HandshakeRejected(404, f"nothing here, the WebSocket is at {options.path}\n")
        if getattr(request, "method", "GET") == "OPTIONS":
            self.refuse(connection.tcp, serialized(_preflight_answer(request)))
            return None
        handshake = Handshake(
            request.path,
            HeadersView(request.headers),
            remote=address(connection.tcp.get_extra_info("peername")),
            local=address(connection.tcp.get_extra_info("sockname")),
            secure=options.secure,
            certificate=connection.tcp.get_extra_info("peercert") if options.secure else None,
            limits=options.limits,
            compression=options.compression,
        )
        waiting = options.admit(handshake)
        if waiting is not None:
            return self._answer_later(connection, request, handshake, waiting)
        return self._open(connection, request, handshake)

    async def _answer_later(
        self, connection: AcceptedConnection, request: Request, handshake: Handshake, waiting: Awaitable[None]
    ) -> None:
        await waiting
        rest = self._open(connection, request, handshake)
        if rest is not None:
            await rest

    def _open(self, connection: AcceptedConnection, request: Request, handshake: Handshake) -> Awaitable[None] | None:
        """Answer an admitted request. If the request is valid, pass the connection to ``accept``."""
        added = handshake.response_headers
        plain = None if added or not is_get(request) else plain_answer(handshake)
        compression = None
        if plain is not None:
            answer = serialized_head(101, "Switching Protocols", plain)
        else:
            response, compression = library_answer(request, handshake)
            if response.status_code != HTTPStatus.SWITCHING_PROTOCOLS:
                self.options.leave(handshake)
                self.refuse(connection.tcp, serialized(response))
                return None
            for name in added:
                if name in response.headers:
                    del response.headers[name]
            response.headers.update(added.pairs())
            answer = serialized(response)
        tcp = connection.tcp
        if not self._write(tcp, answer):
            self.options.leave(handshake)
            return None
        self._opening.discard(tcp)
        info = handshake.connection_info(Underlying(tcp, request))
        opened = OpeningResult(
            client=False, info=info, compression=compression, read=connection.head.size, written=len(answer)
        )
        # Reading is resumed when the transport is started.
        opened_connection = WebSocketConnection(tcp, opened, handshake.limits, partial(self.remove, tcp))
        rest = self.options.accept(opened_connection, handshake)
        # Not before: until the transport is started, messages are kept in memory, where compressed messages may take a
        # thousand times as many bytes as on the network.
        if connection.early:
            opened_connection.data_received(connection.early)
        return rest

    def refuse(self, tcp: asyncio.Transport, answer: bytes) -> None:
        """Write a response that opens no WebSocket, and end the connection."""
        if not self._write(tcp, answer):
            return
        self._closing.add(tcp)
        if tcp.can_write_eof():
            with suppress(OSError, RuntimeError):  # the connection is broken already, which is reported elsewhere
                tcp.write_eof()
        else:  # TLS
            tcp.close()

    def _write(self, tcp: asyncio.Transport, answer: bytes) -> bool:
        """Write the response to a request. Return whether the connection is still open."""
        if not tcp.is_closing():
            tcp.write(answer)
        return not tcp.is_closing()  # as it is if the client has dropped the connection


def _preflight_answer(request: Request) -> Response:
    """Let a page of another origin ask over HTTP why it is refused. Its own origin is checked then."""
    headers = HeadersView(request.headers)
    allowed = [("access-control-allow-headers", headers.get("access-control-request-headers", ""))]
    pairs = [*readable_by(headers.get("origin", "")), *allowed, ("connection", "close")]
    return Response(204, "No Content", Headers(pairs))


def _refusal(rejected: HandshakeRejected, request: Request) -> Response:
    body = rejected.body.encode()
    own = [("content-length", str(len(body))), ("connection", "close")]
    own += readable_by(HeadersView(request.headers).get("origin", ""))
    headers = Headers([*refusal_headers(rejected.headers), *own])
    try:
        phrase = HTTPStatus(rejected.status).phrase
    except ValueError:
        phrase = "Refused"
    return Response(rejected.status, phrase, headers, body)
