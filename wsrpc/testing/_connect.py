"""Clients, servers and peers that are connected in memory: `connect`, `pair`, and a `Line` that tests cut."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

from .._base.scheduler import LoopScheduler
from .._client.client import Client
from .._client.client import core_of as client_core
from .._client.client_core import ClientCore
from .._core.api.peer import Peer, core_of
from .._core.handlers.lifecycle import Closers
from .._core.wire.codecs import Codec
from .._core.wire.settings import make_settings
from .._net.dialing.dial_request import DialRequest
from .._net.memory_transport import MemoryTransport, memory_transports, transports_for
from .._net.upgrade import ClientUpgrade
from .._server.server import Server, accept_of, settings_of
from ..adapting import connect_in_memory
from ..errors import ConnectionLost
from ..handshake import Handshake
from ..headers import any_case
from ..limits import Limits


class Line:
    """In-memory network between clients and ``server``. Pass ``line.dial`` to clients. `cut` drops all connections::

        line = Line(server)
        async with Client("ws://server/", dial=line.dial, reconnect=Reconnect(initial=0.001)) as client:
            line.cut()
            await client.wait_connected()  # the client has dialed again, and its session has resumed

    Messages and handshakes are the same as on a real connection.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
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
        compression: bool = False,
        **_: object,
    ) -> MemoryTransport:
        """Connect to the server; see `wsrpc.dial`.

        The host of the URL, and other options such as ``ssl``, have no effect.

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
            await accept_of(self._server)(transport, asked)
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


@asynccontextmanager
async def pair(
    *,
    codec: Codec | None = None,
    limits: Limits | None = None,
    extensions: bool = True,
) -> AsyncGenerator[tuple[Peer, Peer]]:
    """Connect two peers in memory: ``async with pair() as (dialing, accepting)``.

    The peers are closed at the end of the block. Register handlers inside the block, before you send anything. With
    ``extensions=False``, the peers do not use wsrpc's extensions of the ws-wrapper protocol.
    """
    settings = make_settings(limits, codec, extensions=extensions)
    scheduler = LoopScheduler()
    left = Peer(settings, dialer=True, loop=scheduler)
    right = Peer(settings, dialer=False, loop=scheduler)
    ends = memory_transports(limits=settings.limits)
    left.bind(ends[0])
    right.bind(ends[1])
    try:
        yield left, right
    finally:
        await left.close()
        for peer in (left, right):
            await core_of(peer).join(settings.limits.close_timeout, Closers())


@asynccontextmanager
async def connect(
    server: Server,
    *,
    path: str | None = None,
    headers: Mapping[str, str] | None = None,
    client: Client | None = None,
    state: Mapping[Any, Any] | None = None,
    principal: object = None,
    certificate: Mapping[str, Any] | None = None,
) -> AsyncGenerator[Client]:
    """Connect a client to ``server`` in memory: ``async with connect(server) as client``.

    The client is closed at the end of the block.


    The server's `on_handshake` function and origin check receive the request that the client would send over a socket.
    The request includes the client's options ``auth=``, ``headers=``, ``subprotocols=`` and ``compression=``. If one of
    these options is a function, it is called to get the value.

    Args:
        path: the path of the request, with its query. The default is the path of the client's URL, or ``"/"``.
        headers: additional headers of the request. They replace the client's headers of the same name.
        client: a client with your own options or handlers. After a drop, a client that has a URL reconnects to that URL
            over the network, and another one is closed. Without this argument, register handlers on the client that
            ``async with`` returns.
        state: the initial `Handshake.state`, which becomes `Peer.state`.
        principal: the initial `Handshake.principal`, which becomes `Peer.principal`.
        certificate: the client's certificate, which becomes `Handshake.certificate`.

    Raises:
        HandshakeRejected: `on_handshake` or the origin check refused the connection. The status is 503 if the server is
            closed.
        TypeError, ValueError: an option of the client is not valid, or ``path`` does not begin with a slash.
    """
    if client is None:
        client = Client(codec=settings_of(server).codec)
    core = client_core(client)
    asked = await _request(server, core, path, headers)
    asked.state.update(state or {})
    asked.principal = principal
    asked.certificate = certificate
    await server.handshake(asked)
    async with connect_in_memory(server, asked, client):
        yield client


async def _request(
    server: Server, client: ClientCore, path: str | None, headers: Mapping[str, str] | None
) -> Handshake:
    """Return the request that ``client`` would send to ``server``."""
    if path is not None and not path.startswith("/"):
        raise ValueError(f"a path begins with a slash, got {path!r}")
    dialer = client.plan.dialer
    urls, own = await dialer.ask()
    sent = {**any_case(own), **any_case(headers)}
    url = urls[0] if urls else "ws://localhost/"
    if path is not None:
        host = urlsplit(url)
        url = f"{host.scheme}://{host.netloc}{path}"
    request = DialRequest(url, headers=sent, subprotocols=dialer.subprotocols)
    return handshake_of(request, server, client.limits, dialer.compression)
