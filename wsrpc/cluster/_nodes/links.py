"""`NodeLinks`: one session with each other node, over the engine.

When messages were lost, or the engine was lost for a moment, a session resumes on another connection and resends the
lost messages; see `_core.session`. So higher layers need not handle lost messages. A session is over when the other
node has ended, or has received nothing for `NODE_TIMEOUT` seconds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cached_property, partial
from typing import Any
from urllib.parse import urlsplit

from ..._base.closing import CloseCode, CloseInfo, sendable
from ..._base.logs import logger
from ..._base.scheduler import Tasks
from ..._client.client import Client
from ..._client.reconnect_hooks import ReconnectInfo
from ..._client.reconnect_policy import Reconnect
from ..._core.api.peer import Peer, current_of
from ..._core.api.registration import registry_of
from ..._core.handlers.compiled import Handler
from ..._core.wire.nodes import LOST, NODE
from ..._server.server import Server, accept_of
from ...errors import ConnectionLost, WsrpcError
from ...handshake import Handshake
from ...limits import DEFAULT_LIMITS, Limits
from ..engine import RESPONSE_TIMEOUT
from .directory import NODE_TIMEOUT
from .engine_transport import EngineTransport
from .node import Node

MiB = 1024 * 1024
EXPECTED_ENDS = {CloseCode.NORMAL, CloseCode.SERVICE_RESTART}
"""Close codes of a session with a node that leaves the cluster. All messages of the node have arrived before."""
IN_SESSION = {"opening", "connected", "detached", "resuming"}
"""States of a client that has a session."""
AT_ONCE = Reconnect(initial=0.01, max=0.05, retry=lambda error: True)  # until the node has ended
NODE_ENDED = "node {} is gone: its process has ended, or cannot reach the engine"
"""Why a call to a peer of another node fails."""
MOST_BROKEN = 1000
"""Maximum number of nodes that are kept because a session with them broke. Most of these nodes never return."""


def link_limits(limits: Limits, largest: int) -> Limits:
    """Return the limits of a session between two nodes, which carries the calls to many peers.

    Args:
        limits: the limits of one peer. The session must be able to carry every message that these limits allow.
        largest: maximum bytes of a message.
    """
    return limits.replace(
        message_bytes=min(max(limits.message_bytes, DEFAULT_LIMITS.message_bytes), largest),
        sent_message_bytes=largest,
        depth=max(limits.depth, DEFAULT_LIMITS.depth) + 8,
        values=max(limits.values, DEFAULT_LIMITS.values) + 1024,
        rate=None,
        running=100_000,
        waiting=250_000,
        pending=100_000,
        channels=100_000,
        unread_bytes=256 * MiB,
        hard_cap_bytes=64 * MiB,
        replay_bytes=max(limits.replay_bytes, 4 * MiB),
        offline=16_384,
        request_timeout=None,  # each caller has a timeout
        handler_timeout=None,  # each peer has a time limit
        ping_interval=None,  # nodes have leases
    )


class NodeLinks:
    """The sessions with the other nodes, each as a `Peer`.

    Of two nodes, the node with the lower name dials.

    Args:
        limits: the limits of one peer.
        options: the options of `Server` and `Client` for the conversion of values.
    """

    def __init__(self, node: Node, limits: Limits, options: Mapping[str, Any]) -> None:
        self._node = node
        self._peer_limits = limits
        self._options = options
        self._handlers: dict[str, Callable[..., Any]] = {}
        self._fallback: Handler | None = None
        """Handles what these handlers do not."""
        self.gaps = 0
        """How many times messages of a node may have been lost."""
        self._server = Server(limits=limits, profile=NODE, detached_timeout=NODE_TIMEOUT, **options)
        self._clients: dict[str, Client] = {}
        self._peers: dict[str, Peer] = {}
        """The peers of nodes that have dialed, by node."""
        self._dialed: dict[str, asyncio.Event] = {}
        """Events for callers that wait until a node has dialed."""
        self.broken: dict[str, None] = {}
        """Nodes that may have missed messages, for example because a session broke. The oldest is first."""
        self._closed_for_good = False
        self._tasks = Tasks()
        self._server.on("close", self._closed)
        self.on(LOST, self._lost_received)

    def on(self, event: str, handler: Callable[..., Any]) -> None:
        """Handle an event or request of other nodes. Call this method before there are any."""
        self._handlers[event] = handler
        self._server.on(event, handler)

    def fall_back_to(self, handler: Handler) -> None:
        """Handle all other events and requests of other nodes. Call this method before there are any."""
        self._fallback = handler
        registry_of(self._server).fall_back_to(handler)

    @cached_property
    def _limits(self) -> Limits:
        """The limits of the sessions. They depend on the engine, so they are known after its first connection."""
        return link_limits(self._peer_limits, self._node.connections.largest)

    def peer(self, node: str) -> Peer | None:
        """Return the peer of another node. None if there is no session with the node."""
        client = self._clients.get(node)
        return self._peers.get(node) if client is None else client.peer

    def at_once(self, node: str) -> Peer:
        """Return the peer of another node if a message can be sent now, or can wait in the present session.

        Raises:
            ConnectionLost: ``"not_sent"``: there is no session with the node, or no room in the session.
        """
        if (peer := self.peer(node)) is not None:
            current = current_of(peer)
            # Messages can wait in a session for its next connection. They never wait for a new session.
            if self._node.connected or (
                current.session.state.lives and current.outbox.kept_bytes < self._limits.offline_bytes
            ):
                return peer
        raise ConnectionLost(1006, f"no connection to node {node}", "not_sent")

    async def reach(self, node: str) -> Peer:
        """Return the peer of another node. Wait until the node has dialed, if necessary. Cancelling is safe.

        Raises:
            ConnectionLost: ``"not_sent"``: the node has ended, or did not dial in time.
        """
        if (peer := self.peer(node)) is None and node != self._node.id:
            if node not in self._node.directory.nodes:
                raise ConnectionLost(1006, NODE_ENDED.format(node), "not_sent")
            dialed = self._dialed.get(node)
            if dialed is None:
                dialed = self._dialed[node] = asyncio.Event()
            with suppress(TimeoutError):
                async with asyncio.timeout(RESPONSE_TIMEOUT):
                    await dialed.wait()
            peer = self.peer(node)
        if peer is None:
            raise ConnectionLost(1006, f"no connection to node {node}", "not_sent")
        return peer

    async def ask_all(self, nodes: Sequence[str], event: str, asked: str, returns: Any) -> list[Any]:
        """Make a request to several nodes. Return the answers: None for a node that does not answer in time."""

        async def ask(node: str) -> Any:
            try:
                peer = await self.reach(node)
                return await peer.request(event, asked, returns=returns, timeout=RESPONSE_TIMEOUT)
            except WsrpcError:
                return None

        return await asyncio.gather(*map(ask, nodes))

    # ------------------------------------------------------------ what the node reports

    def node_joined(self, node: str) -> None:
        """Dial a new node if this node has the lower name."""
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
            for event, handler in self._handlers.items():
                client.on(event, handler)
            if self._fallback is not None:
                registry_of(client).fall_back_to(self._fallback)
            client.on("open", partial(self._report_lost, node))
            client.on("close", partial(self._client_closed, node))
            client.on_reconnect(partial(self._client_reconnected, node))
            self._tasks.spawn(self._connect(client))

    def node_ended(self, node: str, silent: bool) -> None:
        """End the session with a node that has ended. A ``silent`` node may still run."""
        self._wake(node)  # callers need not wait any longer
        client, peer = self._clients.pop(node, None), self._peers.pop(node, None)
        in_session = peer is not None or (client is not None and client.state in IN_SESSION)
        if silent and (in_session or node in self.broken):
            self.gaps += 1  # `Node` has logged it
        elif node in self.broken:
            self._lost(node)
        if silent and in_session:  # the node may return
            self._mark_broken(node)
        elif not silent:
            self.broken.pop(node, None)
        for end in (client, peer):
            if end is not None:
                self._tasks.spawn(end.close(*sendable(CloseCode.GOING_AWAY, NODE_ENDED.format(node))))

    def missed(self, node: str) -> None:
        """Record that a message could not be sent to a node. Notify the node when it has a connection."""
        self._mark_broken(node)
        peer = self.peer(node)
        if peer is not None and peer.connected:
            self._tasks.spawn(self._report_missed(node, peer))

    async def _report_missed(self, node: str, peer: Peer) -> None:
        with suppress(WsrpcError):  # the node is notified on the next connection
            await peer.emit(LOST)
            self.broken.pop(node, None)

    def accepted(self, transport: EngineTransport, headers: Mapping[str, str]) -> None:
        """Start or resume the session with a node that has dialed."""
        self._tasks.spawn(self._accept(transport, headers))

    async def close(self) -> None:
        """End all sessions. Callers that wait for a session get an error."""
        self._closed_for_good = True
        for node in tuple(self._dialed):
            self._wake(node)
        clients = [*self._clients.values()]
        self._clients.clear()
        await asyncio.gather(*(client.close() for client in clients), self._server.close())
        await self._tasks.cancel()

    # ------------------------------------------------------------ sessions

    async def _connect(self, client: Client) -> None:
        with suppress(ConnectionLost):  # closed meanwhile, because the node has ended
            await client.connect()

    async def _dial(self, url: str, *, headers: Mapping[str, str] | None = None, **_: Any) -> EngineTransport:
        return await self._node.connections.dial(urlsplit(url).netloc, headers or {})

    async def _accept(self, transport: EngineTransport, headers: Mapping[str, str]) -> None:
        handshake = Handshake("/", headers, secure=False, limits=self._limits, compression=False)
        with suppress(ConnectionLost):  # the connection has ended already
            peer = await accept_of(self._server)(transport, handshake)
            if isinstance(peer, Peer) and peer.connected:
                node = transport.node
                if self._peers.get(node, peer) is not peer:  # the node has given up the session before
                    self._mark_broken(node)
                self._report_lost(node, peer)
                self._peers[node] = peer
                self._wake(node)

    def _wake(self, node: str) -> None:
        """Wake the callers that wait until a node has dialed."""
        if (dialed := self._dialed.pop(node, None)) is not None:
            dialed.set()

    def _lost(self, node: str) -> None:
        """Record that messages of a node may be lost.

        A session with the node broke, and there is a new session, or the node has left. Later messages are not lost.
        """
        self.gaps += 1
        if self._node.directory.has_had_rooms:
            logger.warning("messages of node %s to rooms may be missing here", self._node.directory.shown(node))

    def _lost_received(self, peer: Peer) -> None:
        self._lost(peer.info.path.removeprefix("/"))

    def _report_lost(self, node: str, peer: Peer) -> None:
        """Notify a node of missing messages, before any other message of a new session."""
        if node in self.broken:
            with suppress(WsrpcError):  # the new session broke, too
                peer.emit_nowait(LOST)
                self.broken.pop(node, None)

    def _mark_broken(self, node: str) -> None:
        self.broken[node] = None
        if len(self.broken) > MOST_BROKEN:
            del self.broken[next(iter(self.broken))]

    def _closed(self, peer: Peer, info: CloseInfo) -> None:
        for node in [node for node, other in self._peers.items() if other is peer]:
            del self._peers[node]
            self._check_broken(node, info)
            for left in self._server.peers:  # another program may have dialed in the name of the node
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
