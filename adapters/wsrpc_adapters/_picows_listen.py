"""Listening with picows."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
import ssl as ssl_module
import time
from contextlib import suppress
from contextvars import ContextVar
from http import HTTPStatus
from typing import Any
from weakref import WeakSet

import picows
from multidict import CIMultiDict
from picows import WSListener, WSUpgradeRequest, WSUpgradeResponse, WSUpgradeResponseWithListener

from wsrpc import ConnectionLost, Handshake, HandshakeRejected, Server
from wsrpc._base.request_headers import path_of, refusal_headers, visible_target
from wsrpc._net.websocket import FrameTransport
from wsrpc.adapting import address, joined_headers
from wsrpc.types import Listening, WebSocketTransport

from ._picows_dial import LOG, READ_BUFFER
from ._picows_transport import PicowsReader

logger = logging.getLogger("wsrpc")

BACKLOG = 1024
"""Connections that may wait in the operating system until they are accepted."""

OUT_OF_RESOURCES = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)

ACCEPTED: ContextVar[tuple[socket.socket, Any] | None] = ContextVar("wsrpc_picows_accepted", default=None)
"""The accepted socket for which the present context runs, and the remote address of this socket."""


def listen(
    server: Server,
    host: str | None = "127.0.0.1",
    port: int = 0,
    *,
    path: str | None = None,
    ssl: ssl_module.SSLContext | None = None,
) -> Listening:
    """Listen with picows, like `Server.listen`: ``async with listen(server, ...) as listener``.

    The listener has the properties ``url`` and ``port``. At the end of the block, the server and its other listeners
    are closed.

    Args:
        host: the address to listen on. None for all addresses.
        port: the port to listen on. 0 picks a free port.
        path: the only path that is accepted. None accepts any path.
        ssl: the TLS context. None for no TLS.

    Raises:
        TypeError: the server's `Server.on_handshake` function is async, and picows cannot wait for it.
        ValueError: the path does not begin with a slash.
    """
    if path is not None and not path.startswith("/"):
        raise ValueError(f"a path begins with a slash, got {path!r}")

    async def open_port() -> _PicowsPort:
        listener = _PicowsPort(server, path, secure=ssl is not None)
        await listener.open(host, port, ssl)
        return listener

    _check(server)
    return server.listening(open_port)


def _check(server: Server) -> None:
    if server.handshakes_wait:
        raise TypeError(
            "picows cannot wait for an async on_handshake: make it a plain function, or use server.listen() instead"
        )


class _ListeningSocket(socket.socket):
    """A listening socket that sets `ACCEPTED` to each accepted socket, because picows shows a request without a socket.

    The event loop accepts in one context, and handles the connection in a copy of this context. Some event loops accept
    without this object (on Windows, and uvloop with TLS). `Handshake.remote` is then None.
    """

    def __init__(self, family: int) -> None:
        super().__init__(family, socket.SOCK_STREAM)
        self.opening: WeakSet[socket.socket] = WeakSet()
        """Accepted sockets whose opening handshake is not over."""
        self._log_again_at = 0.0

    def accept(self) -> tuple[socket.socket, Any]:
        try:
            accepted, name = super().accept()
        except OSError as exc:
            if exc.errno not in OUT_OF_RESOURCES:
                raise
            # aiofastnet does not handle these errors. `BlockingIOError` means for the event loop that no connection
            # waits. The event loop tries again later.
            now = time.monotonic()
            if now >= self._log_again_at:
                self._log_again_at = now + 1.0
                logger.error("cannot accept connections: %s", exc)
            raise BlockingIOError(*exc.args) from exc
        ACCEPTED.set((accepted, name))
        self.opening.add(accepted)
        return accepted, name


class _PicowsPort:
    """A port on which picows listens, at each address of one host name."""

    def __init__(self, server: Server, path: str | None, *, secure: bool) -> None:
        self._server = server
        self._path = path
        self._secure = secure
        self._sockets: list[_ListeningSocket] = []
        self._servers: list[asyncio.Server] = []
        self._transports: set[WebSocketTransport] = set()
        self._accepting: set[asyncio.Task[None]] = set()
        self.port = 0
        self.url = ""

    async def open(self, host: str | None, port: int, ssl: ssl_module.SSLContext | None) -> None:
        _check(self._server)
        limits = self._server.limits
        library: Any = picows  # the annotations of picows are incomplete
        options: dict[str, Any] = {"ssl": ssl, "backlog": BACKLOG}
        if ssl is not None:
            options |= {"ssl_handshake_timeout": limits.open_timeout, "use_aiofastnet": False}  # see `dial`
        try:
            await self._bind(host, port)
            for listening in self._sockets:
                self._servers.append(
                    await library.ws_create_server(
                        self._meet,
                        sock=listening,
                        websocket_handshake_timeout=limits.open_timeout,
                        logger_name=LOG,
                        enable_auto_pong=False,
                        max_frame_size=limits.message_bytes,
                        read_buffer_init_size=READ_BUFFER,
                        **options,
                    )
                )
        except BaseException:
            self.stop()
            raise
        host, self.port = self._sockets[0].getsockname()[:2]
        # A client cannot dial "all addresses", so the URL has the address of this machine.
        shown = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(str(host), str(host))
        shown = f"[{shown}]" if ":" in shown else shown
        self.url = f"{'wss' if self._secure else 'ws'}://{shown}:{self.port}{visible_target(self._path or '/')}"

    async def _bind(self, host: str | None, port: int) -> None:
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, name in dict.fromkeys((family, name) for family, _, _, _, name in found):
            listening = _ListeningSocket(family)
            self._sockets.append(listening)
            if os.name == "posix":
                listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            listening.bind(name)

    # ------------------------------------------------------------ the opening handshake

    def _meet(self, request: WSUpgradeRequest) -> WSListener | WSUpgradeResponseWithListener:
        target = request.path.decode("utf-8", "surrogateescape")
        if self._path is not None and path_of(target) != path_of(self._path):
            return _refusal(HandshakeRejected(404, f"nothing here, the WebSocket is at {self._path}\n"))
        headers = joined_headers(request.headers)
        accepted = ACCEPTED.get()
        limits = self._server.limits
        handshake = Handshake(
            target,
            headers,
            remote=None if accepted is None else address(accepted[1]),
            local=None if accepted is None else address(accepted[0].getsockname()),
            secure=self._secure,
            limits=limits,
        )
        try:
            self._server.handshake_nowait(handshake)
            if handshake.limits.message_bytes > limits.message_bytes:
                raise ValueError("over picows on_handshake can only lower limits.message_bytes, not raise the server's")
            response = _acceptance(handshake)
        except HandshakeRejected as exc:
            return _refusal(exc)
        except Exception as exc:
            logger.error("the handshake failed, for %s", handshake.path, exc_info=exc)
            return _refusal(HandshakeRejected(500, "internal error\n"))
        if any(token.strip().lower() == "upgrade" for token in headers.get("connection", "").split(",")):
            # picows accepts no other value; Firefox sends "keep-alive, Upgrade".
            request.headers["Connection"] = "Upgrade"

        def opened(transport: FrameTransport, ws: Any) -> None:
            self._transports.add(transport)
            if accepted is not None:
                for listening in self._sockets:
                    listening.opening.discard(accepted[0])
            tcp = ws.underlying_transport
            handshake.remote = handshake.remote or address(tcp.get_extra_info("peername"))
            transport.info = handshake.connection_info(ws, address(tcp.get_extra_info("sockname")))
            task = asyncio.get_running_loop().create_task(self._accept(transport, handshake))
            self._accepting.add(task)
            task.add_done_callback(self._accepting.discard)

        def lost(exc: Exception | None) -> None:
            self._transports.discard(reader.transport)

        reader = PicowsReader(handshake.limits, client=False, opened=opened, lost=lost)
        return WSUpgradeResponseWithListener(response, reader)

    async def _accept(self, transport: WebSocketTransport, handshake: Handshake) -> None:
        try:
            with suppress(ConnectionLost):  # the server is closing, and has closed the connection
                await self._server.accept(transport, handshake)
        except Exception as exc:
            logger.error("accepting a connection failed", exc_info=exc)
            transport.abort()

    # ------------------------------------------------------------ the end

    def stop(self) -> None:
        """Accept no further connections. Open connections stay open. Idempotent."""
        for server in self._servers:
            server.close()
        for listening in self._sockets:
            listening.close()
            # A client that sends nothing would delay the end until the timeout of the handshake.
            for accepted in list(listening.opening):
                with suppress(OSError):
                    accepted.shutdown(socket.SHUT_RDWR)

    async def wait_closed(self) -> None:
        """Drop the remaining connections, and wait until each has ended. Cancelling is safe."""
        for transport in list(self._transports):
            transport.abort()
        while waiting := [*(asyncio.ensure_future(each.close()) for each in self._transports), *self._accepting]:
            await asyncio.wait(waiting)
        for server in self._servers:
            await server.wait_closed()


def _acceptance(handshake: Handshake) -> WSUpgradeResponse:
    given = CIMultiDict(handshake.response_headers.pairs())
    if handshake.answered_subprotocol is not None:
        given["Sec-WebSocket-Protocol"] = handshake.answered_subprotocol
    response: WSUpgradeResponse = WSUpgradeResponse.create_101_response(given)
    return response


class _UnknownStatus(int):
    """An HTTP status that `HTTPStatus` does not have."""

    phrase = "Refused"

    @property
    def value(self) -> int:
        return int(self)


def _refusal(rejected: HandshakeRejected) -> WSUpgradeResponseWithListener:
    headers = CIMultiDict(refusal_headers(rejected.headers))
    response: Any = WSUpgradeResponse.create_error_response(400, rejected.body.encode(), headers)
    try:
        response.status = HTTPStatus(rejected.status)
    except ValueError:
        response.status = _UnknownStatus(rejected.status)
    return WSUpgradeResponseWithListener(response, None)
