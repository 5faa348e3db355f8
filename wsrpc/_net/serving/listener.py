"""`listen`: opens a port. `Listener`: the open port."""

from __future__ import annotations

import asyncio
import socket as socket_module
import ssl as ssl_module
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from ..._base.misuse import check_flag
from ..._base.request_headers import visible_target
from ...handshake import Handshake
from ...limits import Limits
from ..dialing.urls import check_unix_sockets
from ..websocket import WebSocketTransport
from .health import Health
from .port_connections import AcceptedConnection, PortConnections, PortOptions

BACKLOG = 1024
"""Connections that the operating system accepts in advance. (With asyncio's default of 100, most of many clients that
reconnect at once would wait a second or more, until TCP tries again.)"""

ACCEPTED_PER_TURN = 4 if sys.platform != "win32" else BACKLOG
"""The ``backlog`` of asyncio, which is also the number of connections that asyncio accepts in one turn. (On Windows,
asyncio accepts one connection at a time, and the backlog of a listening port cannot be changed.)"""


class Listener:
    """Port that accepts connections. ``url`` and ``port`` keep their values after the end."""

    def __init__(self, server: asyncio.Server, reception: PortConnections, path: str | None, *, secure: bool) -> None:
        self._server = server
        self._connections = reception
        scheme = "wss" if secure else "ws"
        listening = next(iter(server.sockets))
        if listening.family in (socket_module.AF_INET, socket_module.AF_INET6):
            host, port = str(listening.getsockname()[0]), int(listening.getsockname()[1])
            # This address reaches a port that listens on all addresses.
            host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
            host = f"[{host}]" if ":" in host else host
        else:
            host, port = "localhost", 0
        self.port: int = port
        """The TCP port; 0 for a Unix socket."""
        self.url = f"{scheme}://{host}{f':{port}' if port else ''}{visible_target(path or '/')}"
        """URL for a client on this machine, for instance ``ws://127.0.0.1:41327/ws``."""

    def stop(self) -> None:
        """Accept no further connections, and end present handshakes. Open connections stay open. Idempotent."""
        self._stop_accepting()
        self._connections.stop()

    def _stop_accepting(self) -> None:
        """Stop accepting now, and close the port in the next turn of the event loop.

        If a socket is accepted while the port closes, asyncio creates no transport for the socket, and never closes it.
        """
        with suppress(NotImplementedError):  # on Windows, where the loop accepts differently
            for listening in self._server.sockets:
                self._server.get_loop().remove_reader(listening)
        self._server.get_loop().call_soon(self._server.close)

    async def wait_closed(self) -> None:
        """Drop the connections that are not open, and wait until all connections are over. Cancelling is safe."""
        await self._server.wait_closed()
        await self._connections.wait_over()


def _do_nothing(handshake: Handshake) -> None:
    pass


def check_place(
    host: str | None,
    path: str | None,
    ssl: ssl_module.SSLContext | None,
    sock: object,
    unix: object,
    reuse_port: bool,
) -> None:
    """Refuse arguments of `Server.listen` that have no effect, or prevent each connection, before anything is opened.

    Raises:
        TypeError, ValueError: an argument is not valid. The error message says what is expected.
    """
    check_flag("reuse_port", reuse_port)
    if host is not None and ("/" in host or "[" in host or host.count(":") == 1):  # IPv6 has two colons or more
        raise ValueError(f"host= is a name or an address, without the port, which is port=; got {host!r}")
    if path is not None and not path.startswith("/"):
        raise ValueError(f"a path begins with a slash, got {path!r}")
    if path is not None and "?" in path:
        raise ValueError(f"path= is a path without a query, got {path!r}")
    if ssl is not None and ssl.protocol == ssl_module.PROTOCOL_TLS_CLIENT:  # every TLS handshake would fail
        raise ValueError(
            "ssl= is a context for clients: a server's is made with ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)"
        )
    if sock is not None and unix is not None:
        raise ValueError("give sock= or unix=, not both")
    if reuse_port and (sock is not None or unix is not None):
        raise ValueError("reuse_port= goes with host and port, not with sock= or unix=")


async def listen(
    accept: Callable[[WebSocketTransport, Handshake], Awaitable[None] | None],
    host: str | None,
    port: int | None,
    *,
    limits: Limits,
    path: str | None = None,
    admit: Callable[[Handshake], Awaitable[None] | None] = _do_nothing,
    leave: Callable[[Handshake], object] = _do_nothing,
    compression: bool = False,
    health: Health | None = None,
    reuse_port: bool = False,
    ssl: ssl_module.SSLContext | None = None,
    sock: socket_module.socket | None = None,
    unix: str | None = None,
) -> Listener:
    """Listen on a port, and call ``accept`` with each open connection.

    `PortOptions` describes ``admit``, ``leave``, ``path`` and ``health``.
    """
    reception = PortConnections(
        PortOptions(
            admit=admit,
            leave=leave,
            accept=accept,
            limits=limits,
            path=path,
            compression=compression,
            health=health,
            secure=ssl is not None,
        )
    )

    def create() -> AcceptedConnection:
        connection = AcceptedConnection(reception)
        if ssl is not None:
            reception.expect(connection)
        return connection

    loop = asyncio.get_running_loop()
    options: dict[str, Any] = {"ssl": ssl, "backlog": ACCEPTED_PER_TURN}
    if ssl is not None:
        options["ssl_handshake_timeout"] = limits.open_timeout
    if unix is not None:
        check_unix_sockets(loop)
        server = await loop.create_unix_server(create, unix, **options)
    elif sock is not None:
        server = await loop.create_server(create, sock=sock, **options)
    else:
        options |= {"host": host, "port": port, "reuse_port": reuse_port or None}
        server = await loop.create_server(create, **options)
    if ACCEPTED_PER_TURN < BACKLOG:
        for listening in server.sockets:
            if listening.fileno() >= 0:  # an event loop may have other sockets than the operating system
                _lengthen_backlog(listening)
    return Listener(server, reception, path, secure=ssl is not None)


def _lengthen_backlog(listening: socket_module.socket) -> None:
    """Let the operating system accept more connections in advance than asyncio accepts in one turn."""
    with socket_module.fromfd(listening.fileno(), listening.family, listening.type) as same:
        same.listen(BACKLOG)
