"""`ClusterMembership`: connects one server with its cluster, from the opening of the server to its end."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable, Generator, Mapping, Sequence
from contextlib import aclosing, contextmanager, suppress
from typing import Any

from .._base.closing import CloseCode
from .._base.logs import logger
from .._base.scheduler import LoopScheduler, Tasks
from .._core.api.peer import Peer, core_of
from .._core.api.registration import Registrar, registry_of
from .._core.handlers.registry import Registry
from .._core.session.sessions import Sessions
from .._core.wire.codecs import JsonCodec
from .._core.wire.go_profile import GoCodec
from .._core.wire.nodes import error_to_node
from .._core.wire.settings import Settings
from .._server.joined_cluster import RoomMessage, User, UserEntry
from .._server.operations import Row, ServerOperations
from .._server.room_requests import Asking, RoomAnswer
from .._server.rooms import Rooms
from ..errors import ConnectionLost, PeerNotFound, QueueFull, UnknownEvent, WsrpcError
from ..stats import ClusterStats
from ._away_calls import AwayCalls
from ._directory import Claim
from ._engine_transport import EngineTransport
from ._links import NodeLinks
from ._node import BEAT, Node
from ._peer_forwarder import ID, PeerForwarder
from ._session_forwarder import SESSION, SessionForwarder
from .engine import RESPONSE_TIMEOUT, Engine

ROOM, MEMBERS = "room", "members"
"""Messages between nodes about rooms: an event, and a request for members."""
ASK = "ask"
"""Request for a stream of the answers of a room's members. A node without a server, or of version 0.2, rejects it."""
CONNECTED = "connected"
"""Request to the node with a higher claim to an address: whether its peer has a connection."""
CLOSE_PEER, ROWS, HAS_ID = "close_peer", "rows", "has_id"
"""Requests for operators: to close the peer with an address, for the `Row` objects of a node, and whether the peer with
an id is connected to a node. A node of version 0.2 rejects these requests."""
CROSSING = BEAT + 0.5
"""Seconds for which the end of a client's last session may be on its way. It is repeated after a beat."""
CONFIRMED = 1.0
"""Seconds in which the other node has to answer. Otherwise both nodes keep the address, and this node asks again later.
"""


class ClusterMembership:
    """A node, its sessions with other nodes, and the addresses of the peers at this node.

    Args:
        away: the calls that wait for peers.
        registry: the registry whose settings convert responses. It has the functions of `use_outgoing`, too.
        rooms: the rooms of the server. None for a program without a server.
        on_exit: a function that is called when this process leaves the cluster.
        sessions: the sessions of the server. None for a program without a server.
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
    ) -> None:
        self.timeout = settings.limits.request_timeout
        """The default timeout of requests, in seconds."""
        self.converter = registry.converter
        self.outgoing: Sequence[Any] = registry.outgoing
        self.away = away
        self.claimed_elsewhere = away.peer_arrived
        self._rooms = rooms
        self.abandon = on_exit
        self.addresses: dict[str, Peer] = {}
        """The peers of this node that have an address."""
        self.scheduler = LoopScheduler()
        self.scheduler.renew()
        self._operations = None if rooms is None else ServerOperations(rooms.server)
        self.forwarder = PeerForwarder(self.find)
        self.asking: set[Asking] = set()
        self._closing = Tasks()
        self._contested: set[str] = set()
        """Addresses of peers of this node to which another node has a higher claim."""
        self._contests = Tasks()
        self._gaps = 0
        self._engines_lost = 0
        self.node = Node(engine, name, self)
        self.directory = self.node.directory
        self.room_filled, self.room_emptied = self.directory.room_filled, self.directory.room_emptied
        self._session_forwarder = SessionForwarder(self.node, Sessions(0.0, 0) if sessions is None else sessions)
        self.resume_elsewhere = self._session_forwarder.resume_elsewhere
        codec = JsonCodec() if isinstance(settings.codec, GoCodec) else settings.codec
        options = {"codec": codec, "dec_hook": registry.dec_hook}
        self.links = NodeLinks(self.node, settings.limits, options, serve=self._serve, lost=self._session_lost)

    @property
    def connected(self) -> bool:
        """Whether the engine can be reached."""
        return self.node.connected

    async def wait_connected(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(RESPONSE_TIMEOUT):
                await self.node.engine.reachable.wait()

    # ------------------------------------------------------------ the addresses of this node

    def claim(self, address: str, peer: Peer) -> None:
        before = self.addresses.get(address)
        self.addresses[address] = peer
        self.directory.claim(address)
        self.away.peer_connected(address)
        if before is not None and before is not peer:
            self._close_replaced(address, before)

    def release(self, address: str, peer: Peer) -> None:
        if self.addresses.get(address) is peer:
            del self.addresses[address]
            self.directory.release(address, self.node.now)

    def find(self, named: str) -> Peer | None:
        """Return the peer of this node with an address. `ID` and a `Peer.id` stand for the peer with the id."""
        peer = self.addresses.get(named)
        if peer is None and self._rooms is not None and named.startswith(ID):
            peer = self._rooms.server.peer(named.removeprefix(ID))
        return peer

    async def _close_peer(self, address: str, code: int | None, reason: str) -> None:
        """Handle a request of another node to close a peer of this node."""
        if (peer := self.find(address)) is None:
            raise error_to_node(PeerNotFound(address))
        await peer.close(code, reason)

    def claim_contested(self, address: str, /) -> None:
        if address not in self._contested:
            self._contested.add(address)
            self._contests.spawn(self._resolve_contest(address))

    async def _resolve_contest(self, address: str) -> None:
        """Keep an address until the peer with the higher claim has a connection, or the higher claim is released.

        A connection that was just made keeps it for a moment.

        The higher claim may belong to a session that the client no longer uses, while its connection is at this node.
        """
        try:
            while (by := self.directory.higher_claim(address)) is not None:
                is_new = self._is_new(address)
                is_connected = await self._is_connected(address, by)
                if is_connected and self.directory.higher_claim(address) == by and not is_new:
                    self._give_up(address)
                else:
                    await asyncio.sleep(BEAT)
        finally:
            self._contested.discard(address)

    def _is_new(self, address: str) -> bool:
        """Whether the connection was just made: the last session of its client may be about to end at another node."""
        mine = self.addresses[address]
        return mine.connected and core_of(mine).host.uptime() < CROSSING

    async def _is_connected(self, address: str, by: Claim) -> bool:
        try:
            async with asyncio.timeout(CONFIRMED):
                peer = await self.links.reach(by.node)
                mine = self.addresses.get(address)
                if mine is None:  # the peer has ended meanwhile
                    return False
                age = core_of(mine).host.uptime() if mine.connected else None
                # The age holds for this moment, so the question does not wait for another connection.
                return await peer.request(CONNECTED, address, by.counter, age, offline="fail", returns=bool)
        except (TimeoutError, WsrpcError):
            return False

    def _asked_whether_connected(self, address: str, counter: int, age: float | None) -> bool:
        """Handle a request of a node with a lower claim to an address.

        Args:
            age: seconds since the connection of the peer at the other node was made, or None if it has none. If it is
                older than the last one of this node's peer, its client may have lost it without notice, and come here.
        """
        peer = self.addresses.get(address)
        if peer is None or self.directory.claim_of(address) != counter:
            return False
        if age is not None and not peer.connected and age < core_of(peer).host.uptime():
            self._give_up(address)
            return False
        return peer.connected

    def _give_up(self, address: str) -> None:
        """Release an address in favor of the peer of another node."""
        peer = self.addresses.pop(address)
        self.directory.release(address, self.node.now)
        self._close_replaced(address, peer)

    def _close_replaced(self, address: str, peer: Peer) -> None:
        core_of(peer).log(logging.INFO, "closing the connection with 4410: another one has the address %r now", address)
        self._closing.spawn(peer.close(CloseCode.REPLACED, "another connection has its address"))

    # ------------------------------------------------------------ rooms

    async def send_to_room(self, message: RoomMessage) -> tuple[tuple[str, ...], tuple[str, ...]]:
        nodes, missed = self.directory.nodes_of(message.room, stored=message.stored), list[str]()
        for node in nodes:
            with self._recording_missed(message, node, missed):
                if self.connected:
                    await (await self.links.reach(node)).emit(ROOM, message)
                else:
                    self.links.at_once(node).emit_nowait(ROOM, message)
        return tuple(node for node in nodes if node not in missed), tuple(missed)

    def send_to_room_nowait(self, message: RoomMessage) -> tuple[tuple[str, ...], tuple[str, ...]]:
        nodes, missed = self.directory.nodes_of(message.room, stored=message.stored), list[str]()
        for node in nodes:
            with self._recording_missed(message, node, missed):
                self.links.at_once(node).emit_nowait(ROOM, message)
        return tuple(node for node in nodes if node not in missed), tuple(missed)

    @contextmanager
    def _recording_missed(self, message: RoomMessage, node: str, missed: list[str]) -> Generator[None]:
        try:
            yield
        except WsrpcError as exc:
            missed.append(node)
            logger.warning("an event for room %r was not sent to node %s: %s", message.room, node, exc)
            if isinstance(exc, (ConnectionLost, QueueFull)):
                self.links.missed(node)

    async def members(self, room: str) -> tuple[list[str], int, tuple[str, ...]]:
        nodes = self.directory.nodes_of(room)
        answers = await asyncio.gather(*(self._members_at(node, room) for node in nodes))
        found = [answer for answer in answers if answer is not None]
        addresses = [address for here, _ in found for address in here]
        missing = tuple(node for node, answer in zip(nodes, answers, strict=True) if answer is None)
        return addresses, sum(others for _, others in found), missing

    async def _members_at(self, node: str, room: str) -> tuple[list[str], int] | None:
        if not self.connected:
            return None
        try:
            peer = await self.links.reach(node)
            return await peer.request(MEMBERS, room, returns=tuple[list[str], int], timeout=RESPONSE_TIMEOUT)
        except WsrpcError:
            return None

    def ask(self, asking: Asking, /) -> None:
        for node in self.directory.nodes[1:]:
            asking.ask(node, self._ask, node, asking)

    async def _ask(self, node: str, asking: Asking) -> None:
        """Pass on the answers of the members at another node. If the session with it breaks, ask again."""
        with suppress(UnknownEvent):
            while node in self.directory.nodes:
                with suppress(ConnectionLost):
                    peer = await self.links.reach(node)
                    async with peer.stream(ASK, asking.request, asking.remaining, returns=RoomAnswer) as answers:
                        async for answer in answers:
                            asking.answers.put_nowait(answer.read())
                await asyncio.sleep(BEAT)

    def _serve(self, side: Registrar) -> None:
        """Register the handlers for other nodes."""
        if self._rooms is not None:
            side.on(ROOM, self._rooms.deliver)
            side.on(MEMBERS, self._rooms.members_of)
            side.on(ASK, self._rooms.answers)
        side.on(ROWS, self.own_rows)
        side.on(HAS_ID, self.has_id)
        side.on(CONNECTED, self._asked_whether_connected)
        side.on(CLOSE_PEER, self._close_peer)
        registry_of(side).fall_back_to(self.forwarder.handler)

    # ------------------------------------------------------------ called by the node

    def engine_lost(self, reason: str, /) -> None:
        self.away.ended_at = float("inf")  # other processes may end unnoticed
        self._engines_lost += 1

    def node_joined(self, node: str, /) -> None:
        self.links.node_joined(node)
        for asking in self.asking:
            asking.ask(node, self._ask, node, asking)

    def node_ended(self, node: str, silent: bool, /) -> None:
        self.away.ended_at = time.monotonic()
        self.links.node_ended(node, silent)
        if self._rooms is not None:
            self._rooms.presences.node_ended(node)

    def presence_changed(self, node: str, room: str, user: User, entry: UserEntry | None, /) -> None:
        if self._rooms is not None:
            self._rooms.presences.changed(node, room, user, entry)

    def accepted(self, transport: EngineTransport, headers: Mapping[str, str], /) -> None:
        if SESSION in headers:
            self._session_forwarder.accepted(transport, headers[SESSION])
        else:
            self.links.accepted(transport, headers)

    def _session_lost(self, node: str) -> None:
        self._gaps += 1
        logger.warning("messages of node %s to rooms may be missing here", node)

    # ------------------------------------------------------------ for operators, and the end

    async def own_rows(self, what: str) -> AsyncGenerator[Row]:
        """Yield the rows of this node; see `Operations`."""
        if self._operations is not None:
            async with aclosing(self._operations.rows(what)) as rows:
                async for row in rows:
                    yield row

    def has_id(self, id: str) -> bool:
        """Return whether a peer with this `Peer.id` is connected to this node."""
        return self.find(f"{ID}{id}") is not None

    def stats(self) -> ClusterStats:
        node = self.node
        return ClusterStats(
            node=node.id,
            connected=node.connected,
            nodes=len(node.directory.nodes),
            addresses=node.directory.addresses,
            messages_in=node.messages_in,
            messages_out=node.engine.published,
            unsent_bytes=node.engine.unsent,
            engines_lost=self._engines_lost,
            gaps=self._gaps,
            connections=node.dialed,
            forwarded=self._session_forwarder.forwarded,
            lost_events=self.forwarder.lost,
            ignored=dict(node.ignored),
        )

    async def close(self) -> None:
        self.abandon()
        await self._contests.cancel()
        await self.forwarder.close()
        await self.links.close()
        await self.node.close()
        await self._closing.wait()
