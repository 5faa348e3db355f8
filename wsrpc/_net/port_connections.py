"""Connections that a port has accepted: from their first byte to the answer, and then until each is over.

A request is answered in the call that brings its last byte, unless something has to be awaited: an async
`on_handshake`, a place in the turn, or the factory of a service. The `websockets` library parses the request, judges
whether it asks for a WebSocket, and builds the answer, unless the request is plain.
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

from websockets.datastructures import Headers
from websockets.http11 import Request, Response
from websockets.server import ServerProtocol

from .._base.logs import logger
from .._base.references import release_transport
from .._base.request_headers import HeadersView, address, path_of, refusal_headers
from .._base.scheduler import spawn_later
from ..errors import HandshakeRejected
from ..handshake import Handshake
from ..limits import Limits
from .deadlines import Deadlines
from .health import Health
from .library_handshake import (
    LIBRARY_LOGGER,
    Head,
    latin_1_headers,
    library_answer,
    plain_answer,
    serialized,
    serialized_head,
)
from .loop_budget import LoopBudget, shared
from .websocket import Underlying, WebSocketConnection, WebSocketTransport
from .websocket_output import OpeningResult

LARGEST = 4096
"""Bytes of the largest plain request. (Those of browsers are 500, and cookies may be more.)"""

REQUEST = re.compile(rb"GET (/[!-~]*) HTTP/1\.1\r\n((?:[!#$%&'*+.^_`|~0-9A-Za-z-]+: [!-~]+(?: [!-~]+)*\r\n){1,64})\r\n")
FIELDS = re.compile(r"([^:]+): ([^\r]+)\r\n")


def plain_request(data: bytes) -> Request | None:
    """Return the request in ``data``, as the library would, if it is plain: complete, short, ASCII, without a body.

    It leaves out the library's generators, which read line by line. Returns None for everything else.
    """
    found = REQUEST.fullmatch(data) if len(data) <= LARGEST else None
    if found is None:
        return None
    path, fields = found[1].decode("ascii"), found[2].decode("ascii")
    headers = Headers(FIELDS.findall(fields))
    has_body = headers.get_all("Content-Length") or headers.get_all("Transfer-Encoding")
    return None if has_body else Request(path, headers)


def is_get(request: Request) -> bool:
    """Return whether ``request`` is a GET of HTTP/1.1, as all are that the library reads before version 17."""
    return getattr(request, "method", "GET") == "GET" and getattr(request, "protocol", "HTTP/1.1") == "HTTP/1.1"


HANDSHAKE = 0.000125
"""Approximate seconds that a handshake costs, from the request to the answer and the peer. (Without TLS, 0.08 ms on a
machine of 2026. A place that is larger than the work lets most of a crowd wait for another turn, which costs again.)"""


class AcceptedConnection(asyncio.Protocol):
    """Connection that a server has accepted, until its request is answered. It reads the request and nothing more."""

    __slots__ = ("__weakref__", "_early", "_library", "_port", "head", "is_head", "tcp")

    tcp: asyncio.Transport

    def __init__(self, reception: PortConnections) -> None:
        self._port = reception
        self.is_head = False
        """Whether the request is a HEAD, which asks for the server's health."""
        self._library: ServerProtocol | None = None
        """Parses the request, if it is not plain."""
        self.head = Head()
        self._early = b""
        """What came behind the request."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        tcp: Any = transport  # asyncio's annotation says less than it passes
        self.tcp = tcp
        self._port.add(self)

    def pop_early(self) -> bytes:
        """Return what came behind the request."""
        early, self._early = self._early, b""
        return early

    def connection_lost(self, exc: Exception | None) -> None:
        self._port.remove(self.tcp)
        if self._library is not None:
            vars(self._library).clear()  # its parser refers to it
        release_transport(self.tcp)

    def data_received(self, data: bytes) -> None:
        first = not self.head.size
        if first and self._port.health is not None and (as_get := self._port.health.as_get(data)) is not None:
            data, self.is_head = as_get
        data, early = self.head.split(data)
        if early:  # keep it, and pause reading, so that it is one read at most
            self._early += early
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
                self.head.complete = True  # what else comes is kept back, as behind a request: it gets no other answer
                self._port.refuse(self.tcp, b"".join(self._library.data_to_send()))
        if request is not None:
            self._port.receive(self, request)


class PortConnections:
    """Answers the opening handshakes of one port, and knows its connections until each is over.

    Args:
        admit: called with each handshake, which it may change. It raises `HandshakeRejected` to refuse the connection,
            and returns an awaitable if it has to wait.
        accept: called with each connection that is open. It returns an awaitable if it has to wait.
        path: the only path that is not answered with 404; None accepts any path.
    """

    def __init__(
        self,
        admit: Callable[[Handshake], Awaitable[None] | None],
        accept: Callable[[WebSocketTransport, Handshake], Awaitable[None] | None],
        *,
        limits: Limits,
        path: str | None,
        compression: bool,
        health: Health | None,
        secure: bool,
    ) -> None:
        self._admit = admit
        self._accept = accept
        self._limits = limits
        self._path = path
        self._compression = compression
        self.health = health
        self._secure = secure
        loop = asyncio.get_running_loop()
        self._loop_budget = LoopBudget(loop)
        self._deadlines = shared(loop, Deadlines, limits.open_timeout)
        self._stopped = False
        self._closing = shared(loop, Deadlines, limits.close_timeout)
        """Those of refused connections."""
        self._expected: WeakKeyDictionary[AcceptedConnection, asyncio.Task[Any]] = WeakKeyDictionary()
        """Connections whose TLS handshake goes on, each with the event loop's task that does it."""
        self._opening: set[asyncio.Transport] = set()
        """The connections that have not been opened."""
        self._all: set[asyncio.Transport] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        """The handshakes that wait for something."""
        self._less = asyncio.Event()
        """Set when a connection or a handshake is over."""

    # ------------------------------------------------------------ the connections

    def expect(self, connection: AcceptedConnection) -> None:
        """Note that the current task of the event loop does the TLS handshake of a connection."""
        # A loop that accepts without a task (uvloop, Windows) has none to cancel.
        if (accepting := asyncio.current_task()) is not None:
            self._expected[connection] = accepting

    def add(self, connection: AcceptedConnection) -> None:
        """Keep a connection, from now to its end."""
        self._all.add(connection.tcp)
        self._opening.add(connection.tcp)
        self._deadlines.add(connection.tcp)
        if self._secure:
            self._expected.pop(connection, None)
        if self._stopped:  # asyncio makes the transport of a socket in a turn after it has accepted it
            connection.tcp.abort()

    def remove(self, tcp: asyncio.Transport, exc: Exception | None = None) -> None:
        """Forget a connection that is over. Idempotent."""
        self._all.discard(tcp)
        self._opening.discard(tcp)
        self._deadlines.remove(tcp)
        self._closing.remove(tcp)
        self._less.set()

    def _task_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._less.set()

    async def wait_over(self) -> None:
        """Wait until no connection is left. Cancelling is safe."""
        while self._all or self._tasks:
            self._less.clear()
            await self._less.wait()

    def stop(self) -> None:
        """End the handshakes that go on, and all that come; open connections stay. Idempotent."""
        self._stopped = True
        for accepting in self._expected.values():  # Python 3.12 and later would wait for them
            accepting.cancel()
        for tcp in self._opening:
            tcp.abort()  # a client that sends nothing would delay the end until the timeout of the handshake

    # ------------------------------------------------------------ one handshake

    def receive(self, connection: AcceptedConnection, request: Request) -> None:
        """Answer a request, now or when there is a turn for it."""
        self._deadlines.remove(connection.tcp)  # the client does not decide how long the answer takes
        if self.health is not None and self.health.asks(request):
            self.refuse(connection.tcp, serialized(self.health.answer(head=connection.is_head)))
        elif self._loop_budget.spend(HANDSHAKE):
            self._start(connection, request)
        else:
            self._loop_budget.wait(HANDSHAKE, partial(self._start, connection, request))

    def _start(self, connection: AcceptedConnection, request: Request) -> None:
        # What `on_handshake` sets in a context variable, the handlers of this connection see, and no other one.
        context = contextvars.copy_context()
        try:
            rest = context.run(self._answer, connection, request)
        except Exception as exc:
            self._failed(connection, exc)
        else:
            if rest is not None:
                task = spawn_later(self._finish(connection, rest), context)
                self._tasks.add(task)
                task.add_done_callback(self._task_done)

    async def _finish(self, connection: AcceptedConnection, rest: Awaitable[None]) -> None:
        try:
            await rest
        except Exception as exc:
            self._failed(connection, exc)

    def _failed(self, connection: AcceptedConnection, exc: Exception) -> None:
        if isinstance(exc, HandshakeRejected) and connection.tcp in self._opening:
            self.refuse(connection.tcp, serialized(_refusal(exc)))
        else:
            logger.error("accepting a connection failed", exc_info=exc)
            connection.tcp.abort()

    def _answer(self, connection: AcceptedConnection, request: Request) -> Awaitable[None] | None:
        """Answer a request. If something has to be awaited, return the rest of the work."""
        if self._path is not None and path_of(request.path) != path_of(self._path):
            raise HandshakeRejected(404, f"nothing here, the WebSocket is at {self._path}\n")
        handshake = Handshake(
            request.path,
            HeadersView(request.headers),
            remote=address(connection.tcp.get_extra_info("peername")),
            local=address(connection.tcp.get_extra_info("sockname")),
            secure=self._secure,
            certificate=connection.tcp.get_extra_info("peercert") if self._secure else None,
            limits=self._limits,
            compression=self._compression,
        )
        waiting = self._admit(handshake)
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
        """Answer a request that nobody has refused, and hand the connection over if it is a valid one."""
        added = handshake.response_headers
        plain = None if added or not is_get(request) else plain_answer(handshake)
        compression = None
        if plain is not None:
            answer = serialized_head(101, "Switching Protocols", plain)
        else:
            response, compression = library_answer(request, handshake)
            if response.status_code != HTTPStatus.SWITCHING_PROTOCOLS:
                self.refuse(connection.tcp, serialized(response))
                return None
            for name in added:
                if name in response.headers:
                    del response.headers[name]
            response.headers.update(added.pairs())
            answer = serialized(response)
        tcp = connection.tcp
        if not self._write(tcp, answer):
            return None
        self._opening.discard(tcp)
        info = handshake.connection_info(Underlying(tcp, request))
        opened = OpeningResult(
            client=False, info=info, compression=compression, read=connection.head.size, written=len(answer)
        )
        # Reading is resumed when the transport is started.
        opened_connection = WebSocketConnection(tcp, opened, handshake.limits, partial(self.remove, tcp))
        rest = self._accept(opened_connection, handshake)
        # Not before: until the transport is started, each message is kept. Those that were compressed to a read may
        # take a thousand times as much.
        if early := connection.pop_early():
            opened_connection.data_received(early)
        return rest

    def refuse(self, tcp: asyncio.Transport, answer: bytes) -> None:
        """Answer a request with something else than a WebSocket, and end the connection."""
        if not self._write(tcp, answer):
            return
        self._closing.add(tcp)
        if tcp.can_write_eof():
            with suppress(OSError, RuntimeError):  # the connection is broken already, which is reported elsewhere
                tcp.write_eof()
        else:  # TLS
            tcp.close()

    def _write(self, tcp: asyncio.Transport, answer: bytes) -> bool:
        """Write the answer to a request; return whether there is anybody to get it."""
        if not tcp.is_closing():
            tcp.write(answer)
        return not tcp.is_closing()  # as it is if the client has dropped the connection


def _refusal(rejected: HandshakeRejected) -> Response:
    body = rejected.body.encode()
    own = [("content-length", str(len(body))), ("connection", "close")]
    headers = Headers([*refusal_headers(rejected.headers), *own])
    try:
        phrase = HTTPStatus(rejected.status).phrase
    except ValueError:
        phrase = "Refused"
    return Response(rejected.status, phrase, headers, body)
