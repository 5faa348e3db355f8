"""`ClusterMembership`: connects one server with its cluster, from the opening of the server to its end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from types import MappingProxyType

from .._base.scheduler import LoopScheduler
from .._core.api.peer import Peer
from .._core.handlers.registry import Registry
from .._core.session.incoming_resume import IncomingResume
from .._core.session.sessions import Sessions
from .._core.wire.codecs import JsonCodec
from .._core.wire.control import Resume
from .._core.wire.go_profile import GoCodec
from .._core.wire.settings import Settings
from .._keyed.runs import Runs
from .._server.joined_cluster import Spent
from .._server.peers import Peers
from .._server.rooms.rooms import Rooms
from ..errors import RemoteError
from ..stats import ClusterStats
from ._addresses import Addresses
from ._away.away_calls import AwayCalls
from ._away.deliverer import Deliver
from ._away.store_check import StoreCheck
from ._nodes.engine_transport import EngineTransport
from ._nodes.links import NodeLinks
from ._nodes.node import Charge, Node
from ._peer_forwarder import PeerForwarder
from ._remote_rooms import RemoteRooms
from ._session_forwarder import SESSION, SessionForwarder
from .engine import RESPONSE_TIMEOUT, Engine

ADAPTER = "adapter"
"""Request for the handler of an adapter; see `wsrpc.adapting.ask_node`."""
NodeHandler = Callable[[bytes], Awaitable[bytes]]


class ClusterMembership:
    """A node, its sessions with other nodes, and what they serve for each other.

    The parts get what they use in their constructors. What happens in one of them, and concerns others, it reports to
    this object, which is the `NodeListener`.

    Args:
        registry: the registry whose settings convert responses. It has the functions of `use_outgoing`, too.
        runs: the runs of keyed calls, whose store has the calls that wait for peers.
        deliver: makes a call that has waited for a peer.
        rooms: the rooms of the server. None for a program without a server.
        on_exit: a function that is called when this process leaves the cluster.
        peers: the peers of the server. None for a program without a server.
        node_handlers: the handlers of adapters for requests of other nodes, by name.
    """

    def __init__(
        self,
        engine: Engine,
        name: str,
        settings: Settings,
        registry: Registry,
        runs: Runs,
        deliver: Deliver,
        rooms: Rooms | None = None,
        on_exit: Callable[[], None] = lambda: None,
        peers: Peers | None = None,
        node_handlers: Mapping[str, NodeHandler] = MappingProxyType({}),
    ) -> None:
        self.timeout = settings.limits.request_timeout
        """The default timeout of requests, in seconds."""
        self.registry = registry
        self._on_exit = on_exit
        self.scheduler = LoopScheduler()
        self.scheduler.renew()
        self.node = Node(engine, name, self, peers=lambda: None if peers is None else peers.announced)
        self.directory = self.node.directory
        self._session_forwarder = SessionForwarder(self.node, Sessions(0.0, 0) if peers is None else peers.sessions)
        codec = JsonCodec() if isinstance(settings.codec, GoCodec) else settings.codec
        options = {"codec": codec, "dec_hook": registry.dec_hook}
        self.links = NodeLinks(self.node, settings.limits, options)
        self.addresses = Addresses(self.node, self.links, rooms)
        self.away = AwayCalls(runs, settings.codec, self.addresses, self.links, deliver)
        self.store_check = StoreCheck(self.node, self.links, self.away, name, is_server=rooms is not None)
        self.rooms = RemoteRooms(self.node, self.links, registry, rooms)
        self.forwarder = PeerForwarder(self.addresses.find, registry.passing_on)
        self._node_handlers = node_handlers
        if rooms is not None and runs.link.is_shared:
            runs.link.spawn(self.away.deliverers.sweep())
            runs.link.spawn(self.store_check.compare())
        self.links.on(ADAPTER, self._adapter_asked)
        self.links.fall_back_to(self.forwarder.handler)

    # ------------------------------------------------------------ what the server asks for, as `JoinedCluster`

    @property
    def connected(self) -> bool:
        """Whether the engine can be reached."""
        return self.node.connected

    @property
    def size(self) -> int:
        """Number of known nodes, with this one."""
        return len(self.directory.nodes)

    def claim(self, address: str, peer: Peer, age: float) -> bool:
        return self.addresses.claim(address, peer, age)

    def peer_connected(self, address: str) -> None:
        self.addresses.peer_connected(address)

    def release(self, address: str, peer: Peer) -> None:
        self.addresses.release(address, peer)

    async def end_detached(self, address: str, principal: str | None) -> bool:
        return await self.addresses.end_detached(address, principal)

    async def resume_elsewhere(self, asked: Resume, arrival: IncomingResume) -> str:
        return await self._session_forwarder.resume_elsewhere(asked, arrival)

    def notify_spent(self, spent: Sequence[Spent]) -> None:
        self.node.notify_spent(spent)

    def on_spent(self, function: Charge) -> None:
        self.node.charge = function

    async def wait_connected(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(RESPONSE_TIMEOUT):
                await self.node.engine.reachable.wait()
                await self.node.check_fits()

    async def _adapter_asked(self, name: str, payload: bytes) -> bytes:
        if (handler := self._node_handlers.get(name)) is None:
            raise RemoteError(f"this node has no adapter {name!r}")
        return await handler(payload)

    # ------------------------------------------------------------ what happens in the parts

    def accepted(self, transport: EngineTransport, headers: Mapping[str, str]) -> None:
        if SESSION in headers:
            self._session_forwarder.accepted(transport, headers[SESSION])
        else:
            self.links.accepted(transport, headers)

    def node_joined(self, node: str) -> None:
        self.links.node_joined(node)
        self.rooms.node_joined(node)

    def node_ended(self, node: str, silent: bool) -> None:
        self.links.node_ended(node, silent)

    def node_unreachable(self) -> None:
        self.away.link.process_missed()

    # ------------------------------------------------------------ statistics, and the end

    def stats(self) -> ClusterStats:
        node, away = self.node, self.away.deliverers
        return ClusterStats(
            node=node.id,
            connected=node.connected,
            nodes=len(node.directory.nodes),
            servers=len(node.directory.servers),
            addresses=len(node.directory.claims),
            messages_in=node.messages_in,
            messages_out=node.engine.published,
            unsent_bytes=node.engine.unsent,
            engines_lost=node.engine.losses,
            gaps=self.links.gaps,
            connections=node.connections.dialed,
            forwarded=self._session_forwarder.forwarded,
            passed_on=self.forwarder.passed_on,
            delivered=away.counts["delivered"],
            expired=away.counts["expired"],
            failed=away.counts["failed"],
            waiting=away.waiting,
            oldest_waiting=away.oldest,
            lost_events=self.forwarder.lost,
            ignored=dict(node.ignored),
        )

    def abandon(self) -> None:
        self._on_exit()

    async def close(self) -> None:
        self._on_exit()
        await self.addresses.contests.cancel()
        await self.forwarder.close()
        await self.links.close()
        await self.node.close()
        await self.addresses.closing.wait()
