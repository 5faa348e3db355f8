"""`NodeLinks`: a `NodeLink` with each other node, which has one session at a time, over the engine.

When messages were lost, or the engine was lost for a moment, a session resumes on another connection and resends the
lost messages; see `_core.session`. So higher layers need not handle lost messages. A session is over when the other
node has ended, or has received nothing for `NODE_TIMEOUT` seconds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from typing import Any
from urllib.parse import urlsplit

from ..._base.closing import CloseCode, CloseInfo, sendable
from ..._base.logs import logger
from ..._base.scheduler import Tasks
from ..._client.client import Client
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


class NodeLink:
    """The sessions with one node, one after another, until the node has ended.

    Args:
        client: dials the node. None if the node dials.
    """

    def __init__(self, client: Client | None) -> None:
        self.client = client
        self.peer = None if client is None else client.peer
        """The peer of the node. None before the node has dialed, and between two sessions."""
        self.dialed = asyncio.Event()
        """Set while there is a peer, and when callers need not wait for one any longer."""

    @property
    def in_session(self) -> bool:
        return self.peer is not None and current_of(self.peer).session.state.lives

    def end(self) -> Client | Peer | None:
        """Return what is to be closed. Callers that wait for the node to dial get an error."""
        end, self.peer = self.client or self.peer, None
        self.dialed.set()
        return end


def _node_of(peer: Peer) -> str:
    return peer.info.path.removeprefix("/")


class NodeLinks:
    """The links to the other nodes.

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
        self._links: dict[str, NodeLink] = {}
        """Of the known nodes, by name."""
        self.broken: dict[str, None] = {}
        """Nodes that may have missed messages, for example because a session broke. The oldest is first."""
        self._closed_for_good = False
        self._tasks = Tasks()
        self.on("close", self._closed)
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
        link = self._links.get(node)
        return None if link is None else link.peer

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
        link = self._links.get(node)
        if link is None:
            raise ConnectionLost(1006, NODE_ENDED.format(node), "not_sent")
        if link.peer is None:
            with suppress(TimeoutError):
                async with asyncio.timeout(RESPONSE_TIMEOUT):
                    await link.dialed.wait()
        if link.peer is None:
            raise ConnectionLost(1006, f"no connection to node {node}", "not_sent")
        return link.peer

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
        if self._closed_for_good:
            return
        client = self._client_for(node) if self._node.id < node else None
        self._links[node] = NodeLink(client)
        if client is not None:
            self._tasks.spawn(self._connect(client))

    def _client_for(self, node: str) -> Client:
        client = Client(
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
        client.on("open", self._report_lost)
        client.on_reconnect(lambda _: self._report_lost(client.peer))
        return client

    def node_ended(self, node: str, silent: bool) -> None:
        """End the session with a node that has ended. A ``silent`` node may still run."""
        link = self._links.pop(node, None)
        in_session = link is not None and link.in_session
        if silent and (in_session or node in self.broken):
            self.gaps += 1  # `Node` has logged it
        elif node in self.broken:
            self._lost(node)
        if silent and in_session:  # the node may return
            self._mark_broken(node)
        elif not silent:
            self.broken.pop(node, None)
        if link is not None and (end := link.end()) is not None:
            self._tasks.spawn(end.close(*sendable(CloseCode.GOING_AWAY, NODE_ENDED.format(node))))

    def missed(self, node: str) -> None:
        """Record that a message could not be sent to a node. Notify the node when it has a connection."""
        self._mark_broken(node)
        if (peer := self.peer(node)) is not None and peer.connected:
            self._report_lost(peer)

    def accepted(self, transport: EngineTransport, headers: Mapping[str, str]) -> None:
        """Start or resume the session with a node that has dialed."""
        self._tasks.spawn(self._accept(transport, headers))

    async def close(self) -> None:
        """End all sessions. Callers that wait for a session get an error."""
        self._closed_for_good = True
        ends = [link.end() for link in self._links.values()]
        self._links.clear()
        await asyncio.gather(*(end.close() for end in ends if isinstance(end, Client)), self._server.close())
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
            link = self._links.get(transport.node)
            if link is not None and link.client is None and isinstance(peer, Peer) and peer.connected:
                if link.peer is not None and link.peer is not peer:  # the node has given up the session before
                    self._mark_broken(transport.node)
                self._report_lost(peer)
                link.peer = peer
                link.dialed.set()

    def _lost(self, node: str) -> None:
        """Record that messages of a node may be lost.

        A session with the node broke, and there is a new session, or the node has left. Later messages are not lost.
        """
        self.gaps += 1
        if self._node.directory.has_had_rooms:
            logger.warning("messages of node %s to rooms may be missing here", self._node.directory.shown(node))

    def _lost_received(self, peer: Peer) -> None:
        self._lost(_node_of(peer))

    def _report_lost(self, peer: Peer) -> None:
        if (node := _node_of(peer)) in self.broken:
            del self.broken[node]  # now, so that it is notified once
            self._tasks.spawn(self._emit_lost(peer, node))

    async def _emit_lost(self, peer: Peer, node: str) -> None:
        """Notify a node that it may have missed messages."""
        try:
            await peer.emit(LOST)
        except WsrpcError:  # the connection broke, too: the node is notified on the next one
            self._mark_broken(node)

    def _mark_broken(self, node: str) -> None:
        self.broken[node] = None
        if len(self.broken) > MOST_BROKEN:
            del self.broken[next(iter(self.broken))]

    def _closed(self, peer: Peer, info: CloseInfo) -> None:
        current_of(peer).drop_waiting(info)  # what has waited for a session that is over must not come much later
        node = _node_of(peer)
        link = self._links.get(node)
        if link is None or link.peer is not peer:
            return
        if info.code not in EXPECTED_ENDS:
            self._mark_broken(node)
        if link.client is None:
            # Another program may have dialed in the name of the node.
            others = (other for other in self._server.peers if other.connected and _node_of(other) == node)
            link.peer = next(others, None)
            if link.peer is None:
                link.dialed.clear()
