"""Listening on a port, with the `websockets` library."""

from __future__ import annotations

import asyncio
import logging
import socket as socket_module
import ssl as ssl_module
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from os import PathLike
from typing import Any
from weakref import WeakKeyDictionary

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.datastructures import Headers
from websockets.extensions.permessage_deflate import enable_server_permessage_deflate
from websockets.http11 import Request, Response
from websockets.protocol import State
from websockets.typing import Subprotocol

from .._base.headers import JoinedHeaders, address
from .._base.misuse import check_flag
from ..errors import HandshakeRejected
from ..handshake import Handshake
from ..limits import Limits
from ..transport import ConnectionInfo
from .fairness import Turns
from .health import Health
from .websocket import WebSocketConnection, WebSocketTransport, forget_parser, library_options

__all__ = ["Listener", "check_place", "listen"]

logger = logging.getLogger("wsrpc")

BACKLOG = 1024
"""Connections that the operating system accepts ahead of us. (With asyncio's 100, most of many clients that reconnect
at once would wait a second or more, until TCP tries again.)"""

ACCEPTED = 4 if sys.platform != "win32" else BACKLOG
"""Connections that asyncio accepts in one turn: as many as its ``backlog``. (The loop of Windows accepts one at a time,
and Windows cannot change the backlog of a listening port.)"""

HANDSHAKE = 0.0005
"""Approximate seconds that a handshake costs, from the request to the answer and the peer."""

END_OF_REQUEST = b"\r\n\r\n"


class AcceptedConnection(WebSocketConnection, ServerConnection):
    """Connection that a server has accepted. Until `opened`, it reads the request and nothing more."""

    __slots__ = ("_early", "_health", "_line_end", "_opening", "_patience", "asked", "is_head")

    asked: Handshake
    """What the client asked for, and what it is to get; there is none after the handshake."""

    def __init__(self, *args: Any, limits: Limits, health: Health | None = None, **kwargs: Any) -> None:
        super().__init__(*args, limits=limits, **kwargs)
        self._health = health
        self.is_head = False
        """Whether the request is a HEAD, which asks for the server's health."""
        self._opening = True
        self._line_end = b""
        """The last bytes that were read, which may be the beginning of `END_OF_REQUEST`."""
        self._early: bytes | None = None
        """What came behind the request; None until the end of the request."""
        self._patience: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._patience = self.loop.call_later(self._limits.open_timeout, self.transport.abort)

    def requested(self) -> None:
        """Stop the timer of the request: the client does not decide how long the answer takes."""
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    def opened(self, limits: Limits, info: ConnectionInfo) -> None:
        """Handle what came behind the request. Reading is resumed when the transport is started."""
        super().opened(limits, info)
        self._opening = False
        early, self._early = self._early, None
        if early:
            self.data_received(early)

    def connection_lost(self, exc: Exception | None) -> None:
        self.requested()
        super().connection_lost(exc)
        # What refers to each other would wait for the garbage collector, see `WebSocketTransport`.
        del self.wsrpc
        forget_parser(self.protocol)

    async def close(self, code: Any = 1000, reason: str = "") -> None:
        # The library closes each connection once more when its handler is done, by an exception that nobody sees.
        if hasattr(self, "wsrpc"):  # the connection is not lost
            await super().close(code, reason)

    def data_received(self, data: bytes) -> None:
        if self._opening:
            data = self._take_request(data)
            if not data:
                return
        super().data_received(data)

    def _take_request(self, data: bytes) -> bytes:
        """Return the part of ``data`` that belongs to the request."""
        if self._early is not None:
            self._keep(data)
            return b""
        if self._health is not None and not self._line_end:
            as_get = self._health.as_get(data)
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


Opening = WeakKeyDictionary[AcceptedConnection, asyncio.Task[Any] | None]
"""Connections that are not open yet, each with the event loop's task that accepts it and does its TLS handshake."""


class Listener:
    """A port that accepts connections. ``url`` and ``port`` say where; they stay after the end."""

    def __init__(self, server: Server, opening: Opening, path: str | None, *, secure: bool) -> None:
        self._server = server
        self._opening = opening
        scheme = "wss" if secure else "ws"
        listening = next(iter(server.sockets))
        if listening.family in (socket_module.AF_INET, socket_module.AF_INET6):
            host, port = str(listening.getsockname()[0]), int(listening.getsockname()[1])
            # A port at all addresses is reached at this one.
            host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
            host = f"[{host}]" if ":" in host else host
        else:
            host, port = "localhost", 0
        self.port: int = port
        """The TCP port; 0 for a Unix socket."""
        self.url = f"{scheme}://{host}{f':{port}' if port else ''}{path or '/'}"
        """URL for a client on this machine, for instance ``ws://127.0.0.1:41327/ws``."""

    def stop(self) -> None:
        """Accept no further connections, and end the handshakes that go on; open connections stay. Idempotent."""
        self._stop_accepting()
        self._server.close(close_connections=False)
        self._end_handshakes()
        # asyncio makes the transport of a socket in the turn after it has accepted it.
        self._server.get_loop().call_soon(self._end_handshakes)

    def _stop_accepting(self) -> None:
        """Accept nothing in this turn; the library's task closes the port in the next one.

        asyncio makes no transport of a socket that is accepted while its port is being closed, and nothing closes it.
        """
        with suppress(NotImplementedError):  # on Windows, where the loop accepts differently
            for listening in self._server.sockets:
                self._server.get_loop().remove_reader(listening)

    def _end_handshakes(self) -> None:
        for connection, accepting in list(self._opening.items()):
            # A client that sends nothing would delay the end until the timeout of the handshake.
            if not hasattr(connection, "transport"):
                # Still in its TLS handshake, for which Python 3.12 and later wait.
                if accepting is not None:
                    accepting.cancel()
            elif connection.state is State.CONNECTING:
                connection.wsrpc.abort()

    async def wait_closed(self) -> None:
        """Drop what is left and wait until every connection is over. Cancelling is safe."""
        await self._server.wait_closed()


def _admit(handshake: Handshake) -> None:
    """Accept every connection."""


def check_place(host: Any, port: Any, path: Any, ssl: Any, sock: Any, unix: Any, reuse_port: Any) -> None:
    """Refuse arguments of `Server.listen` with which a server cannot listen, before anything is opened.

    Raises:
        TypeError, ValueError: say what is expected and what was given.
    """
    check_flag("reuse_port", reuse_port)
    if host is not None and not isinstance(host, str):
        raise TypeError(f"host= is a name or an address such as '127.0.0.1', or None for all; got {host!r}")
    if port is not None and (not isinstance(port, int) or isinstance(port, bool)):
        raise TypeError(f"port= is a number from 0 (a free one) to 65535, got {port!r}")
    if port is not None and not 0 <= port <= 65535:
        raise ValueError(f"port= is a number from 0 (a free one) to 65535, got {port!r}")
    if path is not None and not isinstance(path, str):
        raise TypeError(f"path= is text that begins with a slash, or None for any path; got {path!r}")
    if path is not None and not path.startswith("/"):
        raise ValueError(f"a path begins with a slash, got {path!r}")
    if ssl is not None and not isinstance(ssl, ssl_module.SSLContext):
        raise TypeError(f"ssl= is an ssl.SSLContext with the server's certificate, or None; got {ssl!r}")
    if ssl is not None and ssl.protocol == ssl_module.PROTOCOL_TLS_CLIENT:  # every TLS handshake would fail
        raise ValueError(
            "ssl= is a context for clients: a server's is made with ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)"
        )
    if sock is not None and not isinstance(sock, socket_module.socket):
        raise TypeError(f"sock= is a socket.socket that is bound, got {sock!r}")
    if unix is not None and not isinstance(unix, (str, PathLike)):
        raise TypeError(f"unix= is the path of a Unix socket, got {unix!r}")
    if sock is not None and unix is not None:
        raise ValueError("give sock= or unix=, not both")
    if reuse_port and (sock is not None or unix is not None):
        raise ValueError("reuse_port= goes with host and port, not with sock= or unix=")


async def listen(
    accept: Callable[[WebSocketTransport, Handshake], Awaitable[None]],
    host: str | None,
    port: int | None,
    *,
    limits: Limits,
    path: str | None = None,
    admit: Callable[[Handshake], Awaitable[None] | None] = _admit,
    compression: bool = False,
    health: Health | None = None,
    reuse_port: bool = False,
    ssl: ssl_module.SSLContext | None = None,
    sock: socket_module.socket | None = None,
    unix: str | None = None,
) -> Listener:
    """Listen, and call ``accept`` with each connection once it is open.

    With ``path``, requests for other paths are answered with 404. ``admit`` is called with each handshake, which it may
    change; it raises `HandshakeRejected` to refuse the connection. ``health`` answers requests for a path of its own.
    """

    loop = asyncio.get_running_loop()
    opening_turns = Turns(loop)

    async def process_request(connection: ServerConnection, request: Request) -> Response | None:
        assert isinstance(connection, AcceptedConnection)
        connection.requested()
        if health is not None and health.asks(request):
            return health.answer(head=connection.is_head)
        if not opening_turns.take(HANDSHAKE):
            turn = loop.create_future()
            opening_turns.wait(HANDSHAKE, partial(_let_go_on, turn))
            await turn
        if path is not None and request.path.partition("?")[0] != path:
            return connection.respond(404, f"nothing here, the WebSocket is at {path}\n")
        handshake = connection.asked = Handshake(
            request.path,
            JoinedHeaders(request.headers),
            remote=address(connection.remote_address),
            local=address(connection.local_address),
            secure=ssl is not None,
            limits=limits,
            compression=compression,
        )
        try:
            waiting = admit(handshake)
            if waiting is not None:
                await waiting
        except HandshakeRejected as exc:
            return _refusal(exc)
        if handshake.compression:
            connection.protocol.available_extensions = enable_server_permessage_deflate(None)
        if handshake.subprotocol is not None:
            connection.protocol.available_subprotocols = [Subprotocol(handshake.subprotocol)]
        return None

    def process_response(connection: ServerConnection, request: Request, response: Response) -> Awaitable[None] | None:
        if connection.protocol.eof_sent:
            return _drop(connection)
        if response.status_code == HTTPStatus.SWITCHING_PROTOCOLS:
            assert isinstance(connection, AcceptedConnection)
            for name, value in connection.asked.response_headers.items():
                if name in response.headers:
                    del response.headers[name]
                response.headers[name] = value
        return None

    async def handle(connection: ServerConnection) -> None:
        assert isinstance(connection, AcceptedConnection)
        opening.pop(connection, None)
        connection.opened(connection.asked.limits, connection.asked.connection_info(connection))
        await accept(connection.wsrpc, connection.asked)
        del connection.asked  # the peer has got what it needs of it
        connection.response = None  # it is not used again, and takes a kilobyte
        await connection.wait_closed()

    opening = Opening()

    def create(*args: Any, **kwargs: Any) -> AcceptedConnection:
        connection = AcceptedConnection(*args, limits=limits, health=health, **kwargs)
        # A loop that accepts without a task (uvloop, Windows) has none to cancel.
        opening[connection] = asyncio.current_task()
        return connection

    options: dict[str, Any] = {
        **library_options(limits),
        "create_connection": create,
        "process_request": process_request,
        "process_response": process_response,
        "server_header": None,
        "open_timeout": None,  # `on_handshake` has a timeout of its own
        "ssl": ssl,
        "backlog": ACCEPTED,
    }
    if ssl is not None:
        options["ssl_handshake_timeout"] = limits.open_timeout
    if unix is not None:
        options |= {"unix": True, "path": unix}
    elif sock is not None:
        _send_at_once(sock)
        options["sock"] = sock
    else:
        options |= {"host": host, "port": port, "reuse_port": reuse_port or None}
    server = await serve(handle, **options)
    if ACCEPTED < BACKLOG:
        for listening in server.sockets:
            _lengthen_backlog(listening)
    return Listener(server, opening, path, secure=ssl is not None)


def _let_go_on(waiting: asyncio.Future[None]) -> None:
    if not waiting.done():
        waiting.set_result(None)


def _send_at_once(given: socket_module.socket) -> None:
    """Turn off Nagle's algorithm for the connections of a user's socket: they inherit that.

    asyncio does so only where ``proto`` says TCP, and that of `socket.create_server` is 0. With Nagle's algorithm a
    message that is sent right after another one waits until that is acknowledged, for up to 40 ms.
    """
    if given.family in (socket_module.AF_INET, socket_module.AF_INET6):
        given.setsockopt(socket_module.IPPROTO_TCP, socket_module.TCP_NODELAY, 1)


def _lengthen_backlog(listening: socket_module.socket) -> None:
    """Let the operating system accept more connections ahead of us than asyncio is to accept in one turn."""
    with socket_module.fromfd(listening.fileno(), listening.family, listening.type) as same:
        same.listen(BACKLOG)


async def _drop(connection: ServerConnection) -> None:
    """Drop a connection whose client has left. The library would fail to answer, with a traceback in the log."""
    connection.transport.abort()
    await connection.wait_closed()


def _refusal(rejected: HandshakeRejected) -> Response:
    body = rejected.body.encode()
    headers = Headers()
    given = {"content-type": "text/plain; charset=utf-8"}
    given |= {name.lower(): value for name, value in rejected.headers.items()}
    given |= {"content-length": str(len(body)), "connection": "close"}
    for name, value in given.items():
        headers[name] = value
    try:
        phrase = HTTPStatus(rejected.status).phrase
    except ValueError:
        phrase = "Refused"
    return Response(rejected.status, phrase, headers, body)
