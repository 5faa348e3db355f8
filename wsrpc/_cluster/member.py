"""`Member`: one process's part in a cluster, from the opening of its server to the end."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import partial
from typing import Any

from .._api.peer import Peer, core_of
from .._api.registration import Registrar, registry_of
from .._base.closing import CloseCode
from .._base.logs import logger
from .._base.scheduler import LoopScheduler, Tasks
from .._protocol.codecs import JsonCodec
from .._protocol.go import GoCodec
from .._server.membership import Host, RoomMessage
from ..engine import PATIENCE, Engine
from ..errors import ConnectionLost, EngineLost, QueueFull, WsrpcError
from ..stats import ClusterStats
from .directory import Claim
from .links import NodeLinks, link_limits
from .node import BEAT, Node
from .relay import Relay
from .transport import EngineTransport

__all__ = ["Member"]

ROOM, MEMBERS = "room", "members"
"""What nodes say to each other of rooms: an event and a request."""
CONNECTED = "connected"
"""Request of a node: whether the peer behind a higher claim to an address of its own has a connection."""
CONFIRMED = 1.0
"""Seconds in which the other node has to say so. Else both keep the address, and this one asks again later."""


class Member:
    """A node, its sessions with the other nodes, and the addresses of the peers that are connected here.

    Args:
        told_gap: the user's functions that are called with each room in which messages may be missing.
        left: is called when this process leaves the cluster.
    """

    def __init__(
        self,
        engine: Engine,
        name: str,
        host: Host,
        told_gap: Iterable[Callable[[Any], object]],
        left: Callable[[], None] = lambda: None,
    ) -> None:
        self._host = host
        self._left = left
        self._told_gap = told_gap
        self.addresses: dict[str, Peer] = {}
        """The peers of this node that have an address."""
        self.scheduler = LoopScheduler()
        self.scheduler.renew()
        self.relay = Relay(self.addresses.get)
        self._links: NodeLinks | None = None
        """None until the engine was reached for the first time, which says how large a message may be."""
        self._closing = Tasks()
        self._contested: set[str] = set()
        """Addresses of peers of this node to which another node has a higher claim."""
        self._settling = Tasks()
        self._filled: set[str] = set()
        """Rooms that got their first member while the engine was away: other nodes did not know of it."""
        self._telling = Tasks()
        """The `on_gap` functions that are coroutine functions and have not ended."""
        self._gaps = 0
        self._engines_lost = 0
        self._node = Node(engine, name, self)

    # ------------------------------------------------------------ the cluster as it is known here

    @property
    def connected(self) -> bool:
        """Whether the engine can be reached."""
        return self._node.connected

    @property
    def largest(self) -> int:
        """Bytes that a message to another node may have."""
        return self._node.largest

    async def wait_ready(self) -> None:
        """Wait until the engine is reached, and the other nodes had time to say what they have. Cancelling is safe."""
        await self._node.wait_known()

    @property
    def nodes(self) -> tuple[str, ...]:
        """All nodes, this one first."""
        return self._node.directory.nodes

    @property
    def timeout(self) -> float | None:
        """Seconds for the answer to a request without ``timeout=``."""
        return self._host.settings.limits.timeout

    def converter(self, returns: Any) -> Callable[[Any], Any]:
        """Return the function that converts an answer to the type ``returns``."""
        return self._host.registry.converter(returns)

    def locate(self, address: str) -> str | None:
        """Return the node of the peer with an address, or None."""
        return self._node.directory.locate(address)

    @property
    def links(self) -> tuple[Peer, ...]:
        """The other nodes with which there is a session, as the peers that they are here."""
        return tuple(peer for peer in map(self.link, self.nodes[1:]) if peer is not None)

    def link(self, node: str) -> Peer | None:
        """Return another node, as the peer that it is here. None if there is no session with it."""
        return None if self._links is None else self._links.peer(node)

    def peer_of(self, node: str) -> Peer:
        """Return another node, as the peer that it is here.

        Raises:
            ConnectionLost: ``"not_sent"``, there is no session with it.
        """
        peer = None
        if self._links is not None:  # without the engine, messages wait in a session, and never for a new one
            peer = self._links.peer(node) if self.connected else self._links.keeping(node)
        if peer is None:
            raise ConnectionLost(1006, f"no connection to node {node}", "not_sent")
        return peer

    async def reach(self, node: str) -> Peer:
        """Return another node, as the peer that it is here. It may have to dial first. Cancelling is safe.

        Raises:
            ConnectionLost: ``"not_sent"``, it did not dial in time.
        """
        if self._links is None:
            raise EngineLost("not connected")
        return await self._links.reach(node)

    # ------------------------------------------------------------ the addresses of this node

    def claim(self, address: str, peer: Peer) -> None:
        before = self.addresses.get(address)
        self.addresses[address] = peer
        self._node.directory.claim(address)
        self._node.changed()
        if before is not None and before is not peer:
            self._close_replaced(address, before)

    def release(self, address: str, peer: Peer) -> None:
        if self.addresses.get(address) is peer:
            del self.addresses[address]
            self._node.directory.release(address, self._node.now)
            self._node.changed()

    def claim_contested(self, address: str, /) -> None:
        if address not in self._contested:
            self._contested.add(address)
            self._settling.spawn(self._settle(address))

    async def _settle(self, address: str) -> None:
        """Keep an address until the peer behind the higher claim is known to have a connection, or the claim is gone.

        The higher claim may be a session's that its client has left, and this node have the client's connection.
        """
        directory = self._node.directory
        try:
            while (by := directory.higher_claim(address)) is not None:
                if await self._is_connected(address, by) and directory.higher_claim(address) == by:
                    self._give_up(address)
                else:
                    await asyncio.sleep(BEAT)
        finally:
            self._contested.discard(address)

    async def _is_connected(self, address: str, by: Claim) -> bool:
        try:
            async with asyncio.timeout(CONFIRMED):
                peer = await self.reach(by.node)
                mine = self.addresses.get(address)
                if mine is None:  # it has left meanwhile
                    return False
                return await peer.request(CONNECTED, address, by.counter, mine.connected, returns=bool)
        except (TimeoutError, WsrpcError):
            return False

    def _asked_whether_connected(self, address: str, counter: int, elsewhere: bool) -> bool:
        """Answer a node with a lower claim to an address.

        Args:
            elsewhere: whether the peer of that node has a connection.
        """
        peer = self.addresses.get(address)
        if peer is None or self._node.directory.claim_of(address) != counter:
            return False
        if elsewhere and not peer.connected:
            self._give_up(address)
            return False
        return peer.connected

    def _give_up(self, address: str) -> None:
        """Leave an address to the peer of another node."""
        peer = self.addresses.pop(address)
        self._node.directory.release(address, self._node.now)
        self._node.changed()
        self._close_replaced(address, peer)

    def _close_replaced(self, address: str, peer: Peer) -> None:
        core_of(peer).log(logging.INFO, "closing the connection with 4410: another one has the address %r now", address)
        self._closing.spawn(peer.close(CloseCode.REPLACED, "another connection has its address"))

    # ------------------------------------------------------------ rooms

    def nodes_of(self, room: str) -> tuple[str, ...]:
        """Return the other nodes at which a room has members."""
        return self._node.directory.nodes_of(room)

    def room_filled(self, room: str) -> None:
        self._node.directory.enter(room)
        self._node.changed()
        if self._links is not None and not self.connected:
            self._filled.add(room)

    def room_emptied(self, room: str) -> None:
        self._node.directory.leave(room)
        self._node.changed()
        self._filled.discard(room)

    async def send_to_room(self, message: RoomMessage) -> tuple[tuple[str, ...], tuple[str, ...]]:
        nodes, sent = self.nodes_of(message.room), list[str]()
        for node in nodes:
            try:
                if self.connected:
                    await (await self.reach(node)).emit(ROOM, message)
                else:
                    self.peer_of(node).emit_nowait(ROOM, message)
                sent.append(node)
            except WsrpcError as exc:
                self._missed(message, node, exc)
        return tuple(sent), tuple(node for node in nodes if node not in sent)

    def send_to_room_nowait(self, message: RoomMessage) -> tuple[tuple[str, ...], tuple[str, ...]]:
        nodes, sent = self.nodes_of(message.room), list[str]()
        for node in nodes:
            try:
                self.peer_of(node).emit_nowait(ROOM, message)
                sent.append(node)
            except WsrpcError as exc:
                self._missed(message, node, exc)
        return tuple(sent), tuple(node for node in nodes if node not in sent)

    def _missed(self, message: RoomMessage, node: str, exc: WsrpcError) -> None:
        logger.warning("an event for room %r was not sent to node %s: %s", message.room, node, exc)
        if self._links is not None and isinstance(exc, (ConnectionLost, QueueFull)):
            self._links.missed(node)

    async def members(self, room: str) -> tuple[list[str], int, tuple[str, ...]]:
        nodes = self.nodes_of(room)
        answers = await asyncio.gather(*(self._members_at(node, room) for node in nodes))
        found = [answer for answer in answers if answer is not None]
        addresses = [address for here, _ in found for address in here]
        missing = tuple(node for node, answer in zip(nodes, answers, strict=True) if answer is None)
        return addresses, sum(others for _, others in found), missing

    async def _members_at(self, node: str, room: str) -> tuple[list[str], int] | None:
        if not self.connected:
            return None
        try:
            peer = await self.reach(node)
            return await peer.request(MEMBERS, room, returns=tuple[list[str], int], timeout=PATIENCE)
        except WsrpcError:
            return None

    def _serve(self, side: Registrar) -> None:
        """Register what other nodes may call."""
        side.on(ROOM, self._host.deliver)
        side.on(MEMBERS, self._host.members)
        side.on(CONNECTED, self._asked_whether_connected)
        registry_of(side).fall_back_to(self.relay.handler)

    # ------------------------------------------------------------ what the node reports

    def engine_back(self) -> None:
        if self._links is None:
            settings = self._host.settings
            codec = settings.codec
            options: dict[str, Any] = {
                "codec": JsonCodec() if isinstance(codec, GoCodec) else codec,
                "dec_hook": self._host.registry.dec_hook,
                "lax": self._host.registry.lax,
            }
            limits = link_limits(settings.limits, self._node.largest)
            self._links = NodeLinks(self._node, limits, options, serve=self._serve, lost=self._session_lost)
            for node in self.nodes[1:]:  # they were heard of while this node subscribed
                self._links.node_came(node)
        elif self._filled:
            self._settling.spawn(self._tell_filled())

    async def _tell_filled(self) -> None:
        """Tell of the rooms that other nodes could not know of, when they do."""
        await asyncio.sleep(BEAT)
        if self.connected:  # else this is called again
            filled, self._filled = self._filled, set()
            for tell in self._told_gap:
                self._host.gap(partial(self._tell_gap, tell, filled))

    def engine_lost(self, reason: str, /) -> None:
        self._engines_lost += 1

    def node_came(self, node: str, /) -> None:
        if self._links is not None:
            self._links.node_came(node)

    def node_left(self, node: str, silent: bool, /) -> None:
        if self._links is not None:
            self._links.node_left(node, silent)

    def accepted(self, transport: EngineTransport, headers: Mapping[str, str], /) -> None:
        if self._links is not None:
            self._links.accepted(transport, headers)

    def _session_lost(self, node: str) -> None:
        self._gaps += 1
        logger.warning("messages of node %s to rooms may be missing here", node)
        for tell in self._told_gap:
            self._host.gap(partial(self._tell_gap, tell, None))

    def _tell_gap(self, tell: Callable[[Any], object], names: set[str] | None, room: Any) -> None:
        """Call an `on_gap` function for a room, if ``names`` has it or is None."""
        if names is not None and room.name not in names:
            return
        result = tell(room)
        if inspect.isawaitable(result):
            self._telling.spawn(_finish_gap(result, room))

    # ------------------------------------------------------------ for operators, and the end

    def stats(self) -> ClusterStats:
        node = self._node
        return ClusterStats(
            node=node.id,
            connected=node.connected,
            nodes=len(node.directory.nodes),
            addresses=node.directory.addresses,
            messages_in=node.messages_in,
            messages_out=node.messages_out,
            unsent=node.unsent,
            engines_lost=self._engines_lost,
            gaps=self._gaps,
            connections=node.dialed,
            lost_events=self.relay.lost,
            ignored=dict(node.ignored),
        )

    async def close(self) -> None:
        self._left()
        await self._settling.cancel()
        await self.relay.close()
        if self._links is not None:
            await self._links.close()
        await self._node.close()
        await self._closing.wait()
        await self._telling.cancel()


async def _finish_gap(result: Awaitable[object], room: Any) -> None:
    try:
        await result
    except Exception:
        logger.exception("on_gap failed for %r", room)
