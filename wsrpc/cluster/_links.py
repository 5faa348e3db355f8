"""`NodeLinks`: one session with each other node, over the engine.

A session goes on over another connection when messages were lost, or when the engine was away for a moment, and sends
again what has not arrived: see `_core.session`. So nothing above this module needs to know of lost messages. It is
over when the other node is gone, or nothing has reached it for `LEASE` seconds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cached_property, partial
from typing import Any
from urllib.parse import urlsplit

from .._base.closing import CloseCode, CloseInfo, sendable
from .._base.scheduler import Tasks
from .._client.client import Client
from .._client.reconnect_hooks import ReconnectInfo
from .._client.reconnect_policy import Reconnect
from .._core.api.peer import Peer, current_of
from .._core.api.registration import Registrar
from .._core.wire.nodes import NODE
from .._server.server import Server, accept_of
from ..errors import ConnectionLost, WsrpcError
from ..handshake import Handshake
from ..limits import Limits
from ._directory import LEASE
from ._engine_transport import EngineTransport
from ._node import Node
from .engine import PATIENCE

MiB = 1024 * 1024
DEFAULT = Limits()
EXPECTED_ENDS = {CloseCode.NORMAL, CloseCode.SERVICE_RESTART}
"""Ends of the session with a node that leaves the cluster. All that it has sent has come before."""
IN_SESSION = {"opening", "connected", "detached", "resuming"}
"""States of a client in which it has a session."""
AT_ONCE = Reconnect(initial=0.01, max=0.05)
LOST = "lost"
"""Event of a new session: what its sender has sent on earlier ones may be missing."""
MOST_BROKEN = 1000
"""Nodes that are remembered because a session with them has broken, at most. Most of them never come back."""


def link_limits(limits: Limits, largest: int) -> Limits:
    """Return the limits of the session between two nodes, which carries the calls to many peers.

    Args:
        limits: those of one peer, to which it keeps by itself. What passes there has to pass here, with what nodes add.
        largest: bytes that a message may have.
    """
    return limits.replace(
        message_bytes=min(max(limits.message_bytes, DEFAULT.message_bytes), largest),
        sent_message_bytes=largest,
        depth=max(limits.depth, DEFAULT.depth) + 8,
        values=max(limits.values, DEFAULT.values) + 1024,
        rate=None,
        running=100_000,
        waiting=250_000,
        pending=100_000,
        channels=100_000,
        unread_bytes=256 * MiB,
        hard_cap_bytes=64 * MiB,
        replay_bytes=max(limits.replay_bytes, 4 * MiB),
        offline=16_384,
        request_timeout=None,  # each caller has its own
        handler_timeout=None,  # and each peer
        ping_interval=None,  # nodes have leases
    )


class NodeLinks:
    """The other nodes, as peers.

    Of two nodes, the one with the lower name dials.

    Args:
        limits: of one peer.
        options: those of `Server` and `Client` that say how values are converted.
        serve: registers what other nodes may call.
        lost: is called with a node, messages of which may be lost: it is silent; or a session with it has broken, and
            there is another one. All that is missing was sent before that.
    """

    def __init__(
        self,
        node: Node,
        limits: Limits,
        options: Mapping[str, Any],
        *,
        serve: Callable[[Registrar], None],
        lost: Callable[[str], None],
    ) -> None:
        self._node = node
        self._peer_limits = limits
        self._options = options
        self._serve = serve
        self._lost = lost
        self._server = Server(limits=limits, profile=NODE, detached_timeout=LEASE, **options)
        self._register(self._server)
        self._clients: dict[str, Client] = {}
        self._peers: dict[str, Peer] = {}
        """Peers of the nodes that have dialed."""
        self._dialed: dict[str, asyncio.Event] = {}
        """For callers that wait until a node has dialed."""
        self.broken: dict[str, None] = {}
        """Nodes that may miss what was sent to them, the oldest first: the last session has broken, for instance."""
        self._closed_for_good = False
        self._tasks = Tasks()
        self._server.on("close", self._closed)

    @cached_property
    def _limits(self) -> Limits:
        """Limits of the sessions. They are not known before the engine is, which says how large a message may be."""
        return link_limits(self._peer_limits, self._node.largest)

    def peer(self, node: str) -> Peer | None:
        """Return another node, or None if there is no session with it."""
        client = self._clients.get(node)
        return self._peers.get(node) if client is None else client.peer

    @property
    def peers(self) -> list[Peer]:
        """The other nodes with which there is a session."""
        return [peer for peer in map(self.peer, self._node.directory.nodes[1:]) if peer is not None]

    def at_once(self, node: str) -> Peer:
        """Return another node to which a message can be sent now. Without the engine, it waits in the present session.

        Raises:
            ConnectionLost: ``"not_sent"``, there is no session with it, or no room in that session.
        """
        peer = self.peer(node)
        if peer is None or not (self._node.connected or self._can_wait(peer)):
            raise ConnectionLost(1006, f"no connection to node {node}", "not_sent")
        return peer

    def _can_wait(self, peer: Peer) -> bool:
        """Return whether messages can wait in a session until there is a connection. They never wait for a new one."""
        current = current_of(peer)
        return current.session.state.lives and current.outbox.kept < self._limits.offline_bytes

    async def reach(self, node: str) -> Peer:
        """Return another node, which may have to dial first. Cancelling is safe.

        Raises:
            ConnectionLost: ``"not_sent"``, it is gone, or did not dial in time.
        """
        if (peer := self.peer(node)) is None:
            if node not in self._node.directory.nodes:
                raise ConnectionLost(1006, f"node {node} is gone", "not_sent")
            dialed = self._dialed.get(node)
            if dialed is None:
                dialed = self._dialed[node] = asyncio.Event()
            with suppress(TimeoutError):
                async with asyncio.timeout(PATIENCE):
                    await dialed.wait()
            peer = self.peer(node)
        if peer is None:
            raise ConnectionLost(1006, f"no connection to node {node}", "not_sent")
        return peer

    # ------------------------------------------------------------ what the node reports

    def node_joined(self, node: str) -> None:
        """Dial another node, if that is for this one to do."""
        if self._node.id < node and not self._closed_for_good:
            client = self._clients[node] = Client(
                f"ws://{node}/",
                dial=self._dial,
                limits=self._limits,
                reconnect=AT_ONCE,
                connect_timeout=None,
                profile=NODE,
                **self._options,
            )
            self._register(client)
            client.on("open", partial(self._report_lost, node))
            client.on("close", partial(self._client_closed, node))
            client.on_reconnect(partial(self._client_reconnected, node))
            self._tasks.spawn(self._connect(client))

    def node_ended(self, node: str, silent: bool) -> None:
        """End the session with a node, which is gone, or ``silent``: then it may be there and not know."""
        self._wake(node)  # who waits for it need not wait any longer
        client, peer = self._clients.pop(node, None), self._peers.pop(node, None)
        in_session = peer is not None or (client is not None and client.state in IN_SESSION)
        if node in self.broken or (silent and in_session):
            self._lost(node)
        if silent and in_session:  # it may come back
            self._mark_broken(node)
        elif not silent:
            self.broken.pop(node, None)
        for end in (client, peer):
            if end is not None:
                self._tasks.spawn(end.close(*sendable(CloseCode.GOING_AWAY, f"node {node} is gone")))

    def missed(self, node: str) -> None:
        """Note that something could not be sent to a node. It is told when there is a connection with room."""
        self._mark_broken(node)
        peer = self.peer(node)
        if peer is not None and peer.connected:
            self._tasks.spawn(self._report_missed(node, peer))

    async def _report_missed(self, node: str, peer: Peer) -> None:
        with suppress(WsrpcError):  # the next connection says so
            await peer.emit(LOST)
            self._record_notified(node)

    def accepted(self, transport: EngineTransport, headers: Mapping[str, str]) -> None:
        """Begin a session with a node that has dialed, or go on with it."""
        self._tasks.spawn(self._accept(transport, headers))

    async def close(self) -> None:
        """End all sessions. Who waits for one is told."""
        self._closed_for_good = True
        for node in tuple(self._dialed):
            self._wake(node)
        clients = [*self._clients.values()]
        self._clients.clear()
        await asyncio.gather(*(client.close() for client in clients), self._server.close())
        await self._tasks.cancel()

    # ------------------------------------------------------------ sessions

    async def _connect(self, client: Client) -> None:
        with suppress(ConnectionLost):  # closed meanwhile: the node is gone
            await client.connect()

    async def _dial(self, url: str, *, headers: Mapping[str, str] | None = None, **_: Any) -> EngineTransport:
        return await self._node.dial(urlsplit(url).netloc, headers or {})

    async def _accept(self, transport: EngineTransport, headers: Mapping[str, str]) -> None:
        handshake = Handshake("/", headers, secure=False, limits=self._limits, compression=False)
        with suppress(ConnectionLost):  # it has ended already
            peer = await accept_of(self._server)(transport, handshake, None)
            if isinstance(peer, Peer) and peer.connected:
                self._session_started(transport.node, peer)

    def _session_started(self, node: str, peer: Peer) -> None:
        """Use the session with a node that has dialed, which may be a new one."""
        if self._peers.get(node, peer) is not peer:  # that node has given up the one before, which is detached here
            self._mark_broken(node)
        self._report_lost(node, peer)
        self._peers[node] = peer
        self._wake(node)

    def _wake(self, node: str) -> None:
        """Let callers that wait until a node has dialed look again."""
        if (dialed := self._dialed.pop(node, None)) is not None:
            dialed.set()

    def _register(self, side: Registrar) -> None:
        side.on(LOST, self._lost_received)
        self._serve(side)

    def _lost_received(self, peer: Peer) -> None:
        self._lost(peer.info.path.removeprefix("/"))

    def _report_lost(self, node: str, peer: Peer) -> None:
        """Say what is missing before anything else is said on a new session."""
        if node in self.broken:
            with suppress(WsrpcError):  # this one has broken, too
                peer.emit_nowait(LOST)
                self._record_notified(node)

    def _record_notified(self, node: str) -> None:
        self.broken.pop(node, None)
        self._node.directory.record_notified(node, self._node.now)

    def _mark_broken(self, node: str) -> None:
        self.broken[node] = None
        if len(self.broken) > MOST_BROKEN:
            del self.broken[next(iter(self.broken))]

    def _closed(self, peer: Peer, info: CloseInfo) -> None:
        for node in [node for node, other in self._peers.items() if other is peer]:
            del self._peers[node]
            self._check_broken(node, info)
            for left in self._server.peers:  # somebody else may have dialed in the name of that node
                if left.connected and left.info.path == f"/{node}":
                    self._peers[node] = left

    def _client_reconnected(self, node: str, _: ReconnectInfo) -> None:
        if (client := self._clients.get(node)) is not None:
            self._report_lost(node, client.peer)

    def _client_closed(self, node: str, peer: Peer, info: CloseInfo) -> None:
        current_of(peer).drop_waiting(info)  # what has waited for a session that is over must not come much later
        if node in self._clients:
            self._check_broken(node, info)

    def _check_broken(self, node: str, info: CloseInfo) -> None:
        if info.code not in EXPECTED_ENDS:
            self._mark_broken(node)
