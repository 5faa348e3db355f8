"""`NodeLinks`: one session with each other node, over the engine.

A session goes on over another connection when messages were lost, or when the engine was away for a moment, and sends
again what has not arrived: see `_peer.resumption`. So nothing above this module needs to know of lost messages. It is
over when the other node is gone, or nothing has reached it for `LEASE` seconds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

from .._client.backoff import Reconnect
from .._client.client import Client
from .._handlers.registration import Registrar
from .._peer.peer import Peer
from .._protocol.codecs import MsgpackCodec
from .._server.server import Server, accept_of
from ..errors import ConnectionLost
from ..handshake import Handshake
from ..limits import Limits
from .directory import LEASE
from .node import Node
from .transport import EngineTransport

__all__ = ["NodeLinks", "link_limits"]

AT_ONCE = Reconnect(initial=0.01, max=0.05)


def link_limits(largest: int) -> Limits:
    """Return the limits of a connection between nodes, over an engine whose messages have at most ``largest`` bytes."""
    return Limits(
        message=min(Limits().message, largest - 1024),
        running=100_000,
        timeout=None,  # each caller has its own
        ping_interval=None,  # nodes have leases
        detached=LEASE,
        offline=4096,
    )


class NodeLinks:
    """The other nodes, as peers.

    Of two nodes, the one with the lower name dials.

    Args:
        serve: registers what other nodes may call.
    """

    def __init__(self, node: Node, limits: Limits, serve: Callable[[Registrar], None]) -> None:
        self._node = node
        self._limits = limits
        self._serve = serve
        self._server = Server(limits=limits, codec=MsgpackCodec())
        serve(self._server)
        self._clients: dict[str, Client] = {}
        self._peers: dict[str, Peer] = {}
        """Peers of the nodes that have dialed."""
        self._tasks: set[asyncio.Task[Any]] = set()
        self._server.on("close", self._closed)

    def peer(self, node: str) -> Peer | None:
        """Return another node, or None if there is no session with it."""
        client = self._clients.get(node)
        return self._peers.get(node) if client is None else client.peer

    # ------------------------------------------------------------ what the node reports

    def node_came(self, node: str) -> None:
        """Dial another node, if that is for this one to do."""
        if self._node.id < node:
            client = self._clients[node] = Client(
                f"ws://{node}/",
                dial=self._dial,
                limits=self._limits,
                reconnect=AT_ONCE,
                connect_timeout=None,
                codec=MsgpackCodec(),
            )
            self._serve(client)
            self._spawn(self._connect(client))

    def node_left(self, node: str) -> None:
        """End the session with a node, which is gone."""
        client = self._clients.pop(node, None)
        if client is not None:
            self._spawn(client.close())
        peer = self._peers.pop(node, None)
        if peer is not None:
            self._spawn(peer.close())

    def accepted(self, transport: EngineTransport, headers: Mapping[str, str]) -> None:
        """Begin a session with a node that has dialed, or go on with it."""
        self._spawn(self._accept(transport, headers))

    async def close(self) -> None:
        """End all sessions."""
        clients = [*self._clients.values()]
        self._clients.clear()
        await asyncio.gather(*(client.close() for client in clients), self._server.close())
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # ------------------------------------------------------------ sessions

    async def _connect(self, client: Client) -> None:
        with suppress(ConnectionLost):  # closed meanwhile: the node is gone
            await client.connect()

    async def _dial(self, url: str, *, headers: Mapping[str, str] | None = None, **_: Any) -> EngineTransport:
        return await self._node.dial(urlsplit(url).netloc, headers or {})

    async def _accept(self, transport: EngineTransport, headers: Mapping[str, str]) -> None:
        handshake = Handshake("/", headers, secure=False, limits=self._server.limits, compression=False)
        with suppress(ConnectionLost):  # it has ended already
            peer = await accept_of(self._server)(transport, handshake, None)
            if isinstance(peer, Peer) and peer.connected:
                self._peers[transport.node] = peer

    def _closed(self, peer: Peer) -> None:
        for node in [node for node, other in self._peers.items() if other is peer]:
            del self._peers[node]

    def _spawn(self, coroutine: Coroutine[Any, Any, object]) -> None:
        task: asyncio.Task[Any] = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
