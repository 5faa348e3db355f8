"""A line in memory between clients and a server, which tests cut."""

from __future__ import annotations

import asyncio
import ssl as ssl_module
from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

from .._base.names import StrPath
from .._server.server import Server, accept_of
from .._transports.dial_request import DialRequest
from .._transports.upgrade import ClientUpgrade
from ..errors import ConnectionLost
from ..handshake import Handshake
from ..limits import Limits
from ._clock import Clock
from ._memory import MemoryTransport, transports_for


class Line:
    """In-memory network between clients and ``server``. Pass ``line.dial`` to clients. `cut` drops all connections::

        line = Line(server)
        async with Client("ws://server/", dial=line.dial, reconnect=Reconnect(initial=0.001)) as client:
            line.cut()
            await client.wait_connected()  # the client has dialed again, and its session has resumed

    Messages and handshakes are the same as on a real connection.

    Args:
        clock: a clock that controls the deadlines of the server's peers, such as ``Server(detached=)``.
    """

    def __init__(self, server: Server, *, clock: Clock | None = None) -> None:
        self._server = server
        self._clock = clock
        self._accepting: set[asyncio.Task[object]] = set()
        self.down = False
        """If true, no client can connect, and `dial` raises ConnectionRefusedError. You can set it."""
        self.connections: list[tuple[MemoryTransport, MemoryTransport]] = []
        """Both ends of each connection that was made, including ended connections. The client's end comes first."""

    async def dial(
        self,
        url: str,
        *,
        limits: Limits | None = None,
        headers: Mapping[str, str] | None = None,
        subprotocols: Sequence[str] | None = None,
        ssl: ssl_module.SSLContext | None = None,
        proxy: str | bool | None = True,
        compression: bool = False,
        unix: StrPath | None = None,
    ) -> MemoryTransport:
        """Connect to the server; see `wsrpc.dial`.

        The host of the URL, ``ssl``, ``proxy`` and ``unix`` have no effect.

        Raises:
            HandshakeRejected: the server refused the connection.
            ConnectionRefusedError: the line is `down`.
        """
        if self.down:
            raise ConnectionRefusedError("the line is down")
        asked = handshake_of(
            DialRequest(url, headers=headers, subprotocols=subprotocols), self._server, limits or Limits(), compression
        )
        await self._server.handshake(asked)
        ours, theirs = transports_for(asked.connection_info(), limits or Limits(), asked.limits)
        self.connections.append((ours, theirs))
        task: asyncio.Task[object] = asyncio.get_running_loop().create_task(self._accept(theirs, asked))
        self._accepting.add(task)
        task.add_done_callback(self._accepting.discard)
        return ours

    async def _accept(self, transport: MemoryTransport, asked: Handshake) -> None:
        try:
            await accept_of(self._server)(transport, asked, self._clock)
        except ConnectionLost:
            return  # it was refused, or cut

    def cut(self, *, half_open: bool = False) -> None:
        """End all connections without a Close frame. Messages in transit are lost.

        Args:
            half_open: whether only the clients notice the end, for example after a change of their network address.
        """
        for ours, _ in self.connections:
            if half_open:
                ours.vanish()
            else:
                ours.abort()


def handshake_of(request: DialRequest, server: Server, limits: Limits, compression: bool) -> Handshake:
    """Return the handshake that ``server`` would get for ``request`` over a socket."""
    upgrade = ClientUpgrade(request, limits=limits, compression=compression)
    parts = urlsplit(request.url)
    names = {name.lower(): value for name, value in upgrade.headers.items()}
    return Handshake(
        parts._replace(scheme="", netloc="", path=parts.path or "/", fragment="").geturl(),
        {"host": parts.netloc, **names},
        secure=parts.scheme == "wss",
        limits=server.limits,
        compression=server.compression,
    )
