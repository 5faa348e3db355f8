"""Connections that a port has accepted: from their first byte to the answer, and then until each is over.

The `websockets` library parses the request, judges whether it asks for a WebSocket, and builds the answer. It would do
so in a task for each connection, which waits for the request, for the answer to be written and for the handler. Here a
request is answered in the call that brings its last byte, unless something has to be awaited: an async `on_handshake`,
a place in the turn, or the factory of a service.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Callable
from functools import partial
from http import HTTPStatus
from typing import Any
from weakref import WeakKeyDictionary

from websockets.datastructures import Headers
from websockets.extensions.permessage_deflate import enable_server_permessage_deflate
from websockets.http11 import Request, Response
from websockets.protocol import CONNECTING, Event
from websockets.server import ServerProtocol
from websockets.typing import Subprotocol

from .._base.headers import HeadersView, address, path_of, refusal_headers
from .._base.logs import logger
from .._base.scheduler import spawn_later
from ..errors import HandshakeRejected
from ..handshake import Handshake
from ..limits import Limits
from ..transport import ConnectionInfo
from .deadlines import deadlines_of
from .fairness import Turns
from .health import Health
from .plain_handshake import plain_answer, plain_request, skip_request
from .websocket import WebSocketConnection, WebSocketTransport, forget_parser

__all__ = ["HANDSHAKE", "AcceptedConnection", "Reception"]

HANDSHAKE = 0.000125
"""Approximate seconds that a handshake costs, from the request to the answer and the peer. (Without TLS, 0.08 ms on a
machine of 2026. A place that is larger than the work lets most of a crowd wait for another turn, which costs again.)"""

END_OF_REQUEST = b"\r\n\r\n"


class AcceptedConnection(WebSocketConnection):
    """Connection that a server has accepted. Until `opened`, it reads the request and nothing more."""

    __slots__ = ("_begun", "_early", "_line_end", "_opening", "_plain", "_reception", "is_head")

    protocol: ServerProtocol

    def __init__(self, *args: Any, limits: Limits, reception: Reception, **kwargs: Any) -> None:
        super().__init__(*args, limits=limits, **kwargs)
        self._reception = reception
        self.is_head = False
        """Whether the request is a HEAD, which asks for the server's health."""
        self._opening = True
        self._begun = False
        """Whether anything was read."""
        self._plain = False
        """Whether the request was read without the library."""
        self._line_end = b""
        """The last bytes that were read, which may be the beginning of `END_OF_REQUEST`."""
        self._early: bytes | None = None
        """What came behind the request; None until the end of the request."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        tcp: Any = transport  # asyncio's annotation says less than it passes
        self.made(tcp)
        self._reception.add(self)

    def opened(self, limits: Limits, info: ConnectionInfo) -> None:
        """Handle what came behind the request. Reading is resumed when the transport is started."""
        super().opened(limits, info)
        if self._plain:
            skip_request(self.protocol)
        self._opening = False
        early, self._early = self._early, None
        if early:
            self.data_received(early)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._reception.discard(self)
        # What refers to each other would wait for the garbage collector, see `WebSocketTransport`.
        del self.wsrpc
        if not self._opening:
            del self.data_received
        forget_parser(self.protocol)

    def data_received(self, data: bytes) -> None:
        if not self._opening:
            super().data_received(data)
            return
        data = self._take_request(data)
        if not data:
            return
        if not self._begun:
            self._begun = True
            self.request = plain_request(data)
            self._plain = self.request is not None
        if self._plain:
            self.wsrpc.count_read(len(data))
        else:
            super().data_received(data)
        if self.request is not None:
            self._reception.receive(self, self.request)

    def process_event(self, event: Event) -> None:
        if isinstance(event, Request):
            self.request = event
        else:
            super().process_event(event)

    def _take_request(self, data: bytes) -> bytes:
        """Return the part of ``data`` that belongs to the request."""
        if self._early is not None:
            self._keep(data)
            return b""
        if self._reception.health is not None and not self._line_end:
            as_get = self._reception.health.as_get(data)
            self.is_head = as_get is not None
            data = data if as_get is None else as_get
        before = self._line_end
        end = (before + data).find(END_OF_REQUEST)
        if end < 0:
            self._line_end = (before + data)[1 - len(END_OF_REQUEST) :]
            return data
        size = end + len(END_OF_REQUEST) - len(before)
        self._line_end = self._early = b""
        if size < len(data):
            self._keep(data[size:])
        return data[:size]

    def _keep(self, data: bytes) -> None:
        """Keep what came too early, and pause reading, so that it is one read at most."""
        assert self._early is not None
        self._early += data
        self.transport.pause_reading()


class Reception:
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
        self._turns = Turns(loop)
        self._deadlines = deadlines_of(loop, limits.open_timeout)
        self._stopped = False
        self._expected: WeakKeyDictionary[AcceptedConnection, asyncio.Task[Any]] = WeakKeyDictionary()
        """Connections whose TLS handshake goes on, each with the event loop's task that does it."""
        self._all: set[AcceptedConnection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        """The handshakes that wait for something."""
        self._waiting: asyncio.Future[None] | None = None

    # ------------------------------------------------------------ the connections

    def expect(self, connection: AcceptedConnection) -> None:
        """Note that the current task of the event loop does the TLS handshake of a connection."""
        # A loop that accepts without a task (uvloop, Windows) has none to cancel.
        if (accepting := asyncio.current_task()) is not None:
            self._expected[connection] = accepting

    def add(self, connection: AcceptedConnection) -> None:
        """Keep a connection, from now to its end."""
        self._all.add(connection)
        self._deadlines.add(connection.transport)
        if self._secure:
            self._expected.pop(connection, None)
        if self._stopped:  # asyncio makes the transport of a socket in a turn after it has accepted it
            connection.transport.abort()

    def discard(self, connection: AcceptedConnection) -> None:
        """Forget a connection that is over. Idempotent."""
        self._all.discard(connection)
        self._deadlines.discard(connection.transport)
        self._look()

    def _task_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._look()

    def _look(self) -> None:
        if self._waiting is not None and not self._waiting.done() and not self._all and not self._tasks:
            self._waiting.set_result(None)

    async def wait_over(self) -> None:
        """Wait until no connection is left. Cancelling is safe."""
        while self._all or self._tasks:
            if self._waiting is None or self._waiting.done():
                self._waiting = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._waiting)

    def stop(self) -> None:
        """End the handshakes that go on, and all that come; open connections stay. Idempotent."""
        self._stopped = True
        for accepting in self._expected.values():  # Python 3.12 and later would wait for them
            accepting.cancel()
        for connection in self._all:
            # A client that sends nothing would delay the end until the timeout of the handshake.
            if connection.state is CONNECTING:
                connection.transport.abort()

    # ------------------------------------------------------------ one handshake

    def receive(self, connection: AcceptedConnection, request: Request) -> None:
        """Answer a request, now or when there is a turn for it."""
        self._deadlines.discard(connection.transport)  # the client does not decide how long the answer takes
        if self.health is not None and self.health.asks(request):
            self._answer(connection, self.health.answer(head=connection.is_head))
        elif self._turns.take(HANDSHAKE):
            self._begin(connection, request)
        else:
            self._turns.wait(HANDSHAKE, partial(self._begin, connection, request))

    def _begin(self, connection: AcceptedConnection, request: Request) -> None:
        # What `on_handshake` sets in a context variable, the handlers of this connection see, and no other one.
        context = contextvars.copy_context()
        try:
            rest = context.run(self._judge, connection, request)
        except Exception:
            self._failed(connection)
        else:
            if rest is not None:
                task = spawn_later(self._finish(connection, rest), context)
                self._tasks.add(task)
                task.add_done_callback(self._task_done)

    async def _finish(self, connection: AcceptedConnection, rest: Awaitable[None]) -> None:
        try:
            await rest
        except Exception:
            self._failed(connection)

    def _failed(self, connection: AcceptedConnection) -> None:
        logger.error("accepting a connection failed", exc_info=True)
        connection.transport.abort()

    def _judge(self, connection: AcceptedConnection, request: Request) -> Awaitable[None] | None:
        """Answer a request. If something has to be awaited, return the rest of the work."""
        if self._path is not None and path_of(request.path) != path_of(self._path):
            found = connection.protocol.reject(404, f"nothing here, the WebSocket is at {self._path}\n")
            self._answer(connection, found)
            return None
        handshake = Handshake(
            request.path,
            HeadersView(request.headers),
            remote=address(connection.remote_address),
            local=address(connection.local_address),
            secure=self._secure,
            limits=self._limits,
            compression=self._compression,
        )
        try:
            waiting = self._admit(handshake)
        except HandshakeRejected as exc:
            self._answer(connection, _refusal(exc))
            return None
        if waiting is not None:
            return self._judge_later(connection, request, handshake, waiting)
        return self._open(connection, request, handshake)

    async def _judge_later(
        self, connection: AcceptedConnection, request: Request, handshake: Handshake, waiting: Awaitable[None]
    ) -> None:
        try:
            await waiting
        except HandshakeRejected as exc:
            self._answer(connection, _refusal(exc))
            return
        rest = self._open(connection, request, handshake)
        if rest is not None:
            await rest

    def _open(self, connection: AcceptedConnection, request: Request, handshake: Handshake) -> Awaitable[None] | None:
        """Let the library judge a request that nobody has refused, and answer it."""
        protocol = connection.protocol
        if handshake.compression:
            protocol.available_extensions = enable_server_permessage_deflate(None)
        if handshake.subprotocol is not None:
            protocol.available_subprotocols = [Subprotocol(handshake.subprotocol)]
        added = handshake.response_headers
        response = (None if added else plain_answer(protocol, request)) or protocol.accept(request)
        if response.status_code != HTTPStatus.SWITCHING_PROTOCOLS:
            self._answer(connection, response)
            return None
        if added:
            for name in added:
                if name in response.headers:
                    del response.headers[name]
            response.headers.update(added.pairs())
        if not self._answer(connection, response):
            return None
        connection.opened(handshake.limits, handshake.connection_info(connection))
        return self._accept(connection.wsrpc, handshake)

    def _answer(self, connection: AcceptedConnection, response: Response) -> bool:
        """Send the answer to a request; return whether there is anybody to get it."""
        protocol = connection.protocol
        if protocol.state is not CONNECTING or connection.transport.is_closing():
            return False
        if protocol.eof_sent:  # the client has left, and nothing more can be sent
            connection.transport.abort()
            return False
        protocol.send_response(response)
        connection.send_data()
        if response.status_code != HTTPStatus.SWITCHING_PROTOCOLS:
            connection.wsrpc.expect_end()
        return not connection.transport.is_closing()  # as it is if the client has dropped the connection


def _refusal(rejected: HandshakeRejected) -> Response:
    body = rejected.body.encode()
    own = [("content-length", str(len(body))), ("connection", "close")]
    headers = Headers([*refusal_headers(rejected.headers), *own])
    try:
        phrase = HTTPStatus(rejected.status).phrase
    except ValueError:
        phrase = "Refused"
    return Response(rejected.status, phrase, headers, body)
