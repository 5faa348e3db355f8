"""`ClusterMembership`: connects one server with its cluster, from the opening of the server to its end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from types import MappingProxyType

from .._base.scheduler import LoopScheduler
from .._core.api.registration import Registrar, registry_of
from .._core.handlers.registry import Registry
from .._core.session.sessions import Sessions
from .._core.wire.codecs import JsonCodec
from .._core.wire.go_profile import GoCodec
from .._core.wire.settings import Settings
from .._server.joined_cluster import Spent
from .._server.rooms.rooms import Rooms
from ..errors import RemoteError
from ..stats import ClusterStats
from ._addresses import Addresses
from ._away.away_calls import AwayCalls
from ._away.store_check import StoreCheck
from ._nodes.engine_transport import EngineTransport
from ._nodes.links import NodeLinks
from ._nodes.node import Node
from ._peer_forwarder import PeerForwarder
from ._remote_rooms import RemoteRooms
from ._session_forwarder import SESSION, SessionForwarder
from .engine import RESPONSE_TIMEOUT, Engine

ADAPTER = "adapter"
"""Request for the handler of an adapter; see `wsrpc.adapting.ask_node`."""
NodeHandler = Callable[[bytes], Awaitable[bytes]]


class ClusterMembership:
    """A node, its sessions with other nodes, and what they serve for each other.

    Args:
        away: the calls that wait for peers.
        registry: the registry whose settings convert responses. It has the functions of `use_outgoing`, too.
        rooms: the rooms of the server. None for a program without a server.
        on_exit: a function that is called when this process leaves the cluster.
        sessions: the sessions of the server. None for a program without a server.
        node_handlers: the handlers of adapters for requests of other nodes, by name.
    """

    def __init__(
        self,
        engine: Engine,
        name: str,
        settings: Settings,
        registry: Registry,
        away: AwayCalls,
        rooms: Rooms | None = None,
        on_exit: Callable[[], None] = lambda: None,
        sessions: Sessions | None = None,
        node_handlers: Mapping[str, NodeHandler] = MappingProxyType({}),
    ) -> None:
        self.timeout = settings.limits.request_timeout
        """The default timeout of requests, in seconds."""
        self.registry = registry
        self.away = away
        self.abandon = on_exit
        self.scheduler = LoopScheduler()
        self.scheduler.renew()
        self.node = Node(engine, name, self._accepted)
        self.node.connections.unheard = away.link.process_missed
        self.directory = self.node.directory
        self._session_forwarder = SessionForwarder(self.node, Sessions(0.0, 0) if sessions is None else sessions)
        self.resume_elsewhere = self._session_forwarder.resume_elsewhere
        codec = JsonCodec() if isinstance(settings.codec, GoCodec) else settings.codec
        options = {"codec": codec, "dec_hook": registry.dec_hook}
        self.links = NodeLinks(self.node, settings.limits, options)
        self.addresses = Addresses(self.node, self.links, away, rooms)
        self.claim, self.release = self.addresses.claim, self.addresses.release
        self.end_detached = self.addresses.end_detached
        self.notify_spent = self.node.notify_spent
        self.greeted = away.deliverers.peer_connected
        self.store_check = StoreCheck(self.node, self.links, away, name, is_server=rooms is not None)
        self.rooms = RemoteRooms(self.node, self.links, registry, rooms)
        self.forwarder = PeerForwarder(self.addresses.find, registry.passing_on)
        self._node_handlers = node_handlers
        if rooms is not None and away.link.is_shared:
            away.link.spawn(away.deliverers.sweep())
            away.link.spawn(self.store_check.compare())
        self.links.serve(self._serve)

    @property
    def connected(self) -> bool:
        """Whether the engine can be reached."""
        return self.node.connected

    @property
    def size(self) -> int:
        """Number of known nodes, with this one."""
        return len(self.directory.nodes)

    def on_spent(self, function: Callable[[str, Sequence[Spent]], object]) -> None:
        """Do what `JoinedCluster.on_spent` says."""
        self.node.on_spent = function

    async def wait_connected(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(RESPONSE_TIMEOUT):
                await self.node.engine.reachable.wait()
                await self.node.check_fits()

    def _serve(self, side: Registrar) -> None:
        """Register the handlers for other nodes."""
        side.on(ADAPTER, self._adapter_asked)
        registry_of(side).fall_back_to(self.forwarder.handler)

    async def _adapter_asked(self, name: str, payload: bytes) -> bytes:
        if (handler := self._node_handlers.get(name)) is None:
            raise RemoteError(f"this node has no adapter {name!r}")
        return await handler(payload)

    # ------------------------------------------------------------ what the node reports

    def _accepted(self, transport: EngineTransport, headers: Mapping[str, str]) -> None:
        if SESSION in headers:
            self._session_forwarder.accepted(transport, headers[SESSION])
        else:
            self.links.accepted(transport, headers)

    # ------------------------------------------------------------ statistics, and the end

    def stats(self) -> ClusterStats:
        node, away = self.node, self.away.deliverers
        return ClusterStats(
            node=node.id,
            connected=node.connected,
            nodes=len(node.directory.nodes),
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

    async def close(self) -> None:
        self.abandon()
        await self.addresses.contests.cancel()
        await self.forwarder.close()
        await self.links.close()
        await self.node.close()
        await self.addresses.closing.wait()
