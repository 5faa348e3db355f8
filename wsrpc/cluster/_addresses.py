"""`Addresses`: the peers of one node that have an address, and the contest for an address with another node."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import NamedTuple

from .._base.closing import CloseCode
from .._base.scheduler import Tasks
from .._core.api.peer import Peer, core_of, current_of
from .._core.wire.nodes import ID, error_to_node
from .._keyed.keeper import principal_text
from .._server.joined_cluster import REPLACED
from .._server.rooms.rooms import Rooms
from ..errors import PeerNotFound, WsrpcError
from ._nodes.claims import Claim
from ._nodes.links import NodeLinks
from ._nodes.node import BEAT, Node

CONNECTED = "connected"
"""Request to the node with a higher claim to an address: whether its peer has a connection."""
CLOSE_PEER, HAS_ID = "close_peer", "has_id"
"""Requests for operators: to close the peer with an address, and whether the peer with an id is connected to a node."""
END_DETACHED = "end_detached"
"""Request to end the session with an address if it has no connection."""
CROSSING = BEAT + 0.5
"""Seconds for which the end of a client's last session may be on its way. It is repeated after a beat."""
CONFIRMED = 1.0
"""Seconds in which the other node has to answer. Otherwise both nodes keep the address, and this node asks again later.
"""


class Holder(NamedTuple):
    """The peer of this node that has an address."""

    peer: Peer
    since: float
    """The time at which its present or last connection arrived."""


class Addresses:
    """The peers of this node that have an address.

    If another node has a higher claim to an address, one of the two nodes closes its peer.

    Args:
        rooms: the rooms of the server, which knows the peers by their ids. None for a program without a server.
    """

    def __init__(self, node: Node, links: NodeLinks, rooms: Rooms | None) -> None:
        self.contests = Tasks()
        self.closing = Tasks()
        """The closing of the peers that have lost their addresses."""
        self._node = node
        self._claims = node.directory.claims
        self._links = links
        self._rooms = rooms
        self.peer_connected: Callable[[str], object] = lambda address: None
        """A function that is called when the peer with an address has connected to any node, or has said what it
        supports. `Deliverers` sets it."""
        self.peer_left: Callable[[str], object] = lambda address: None
        """A function that is called when the session of a peer with this node has ended. `Deliverers` sets it."""
        self._holders: dict[str, Holder] = {}
        self._contested: set[str] = set()
        """Addresses of peers of this node to which another node has a higher claim."""
        self._claims.claimed_elsewhere = self._claimed_elsewhere
        links.on(CONNECTED, self._asked_whether_connected)
        links.on(CLOSE_PEER, self._close_peer)
        links.on(HAS_ID, self.has_id)
        links.on(END_DETACHED, self._end_detached)

    def claim(self, address: str, peer: Peer, age: float) -> bool:
        """Claim an address for a peer of this node; see `JoinedCluster.claim`."""
        before, holder = self._holders.get(address), Holder(peer, self._node.now - age)
        replaces = before is not None and before.peer is not peer
        if before is not None and replaces and holder.since < before.since:
            _log_replaced(address, peer)
            return False
        self._holders[address] = holder
        self._claims.claim(address)
        self.peer_connected(address)
        if before is not None and replaces:
            self._close_replaced(address, before.peer)
        return True

    def release(self, address: str, peer: Peer) -> None:
        """Give up a peer's claim. Idempotent."""
        if self._peer(address) is peer:
            del self._holders[address]
            self._claims.release(address, self._node.now)
            self.peer_left(address)

    def find(self, named: str) -> Peer | None:
        """Return the peer of this node with an address. `ID` and a `Peer.id` stand for the peer with the id."""
        peer = self._peer(named)
        if peer is None and self._rooms is not None and named.startswith(ID):
            peer = self._rooms.server.peer(named.removeprefix(ID))
        return peer

    def _peer(self, address: str) -> Peer | None:
        holder = self._holders.get(address)
        return None if holder is None else holder.peer

    def elsewhere(self, address: str) -> str | None:
        """Return the other node that has an address. None if it cannot be reached, or there is none."""
        node = self._claims.locate(address)
        return node if self._node.connected and node != self._node.id else None

    def session_of(self, address: str) -> object:
        """Return what stands for the session of a peer that is connected here, and has said what it supports.

        For a peer elsewhere, return the name of the other node. None for any other peer.
        """
        if (here := self.find(address)) is None:
            return self.elsewhere(address)
        return here if current_of(here).writer.terms.known and not here.detached else None

    def has_id(self, id: str) -> bool:
        """Return whether a peer with this `Peer.id` is connected to this node."""
        return self.find(f"{ID}{id}") is not None

    async def _close_peer(self, address: str, code: int | None, reason: str) -> None:
        """Handle a request of another node to close a peer of this node."""
        if (peer := self.find(address)) is None:
            raise error_to_node(PeerNotFound(address))
        await peer.close(code, reason)

    async def end_detached(self, address: str, principal: str | None) -> bool:
        """Do what `JoinedCluster.end_detached` says."""
        node = self._claims.locate(address)
        if node is None or node == self._node.id:
            return await self._end_detached(address, principal)
        peer = await self._links.reach(node)
        return await peer.request(END_DETACHED, address, principal, offline="fail", returns=bool)

    async def _end_detached(self, address: str, principal: str | None) -> bool:
        peer = self._peer(address)
        if peer is None or peer.connected or principal_text(peer.principal) != principal:
            return False
        await current_of(peer).close(CloseCode.REPLACED, REPLACED)
        return True

    # ------------------------------------------------------------ contests

    def _claimed_elsewhere(self, address: str) -> None:
        """Another node has claimed an address. If the claim is higher, resolve the contest."""
        self.peer_connected(address)
        if address not in self._contested and self._claims.higher(address) is not None:
            self._contested.add(address)
            self.contests.spawn(self._resolve_contest(address))

    async def _resolve_contest(self, address: str) -> None:
        """Keep an address until the peer with the higher claim has a connection, or the higher claim is released.

        A connection that was just made keeps it for a moment: the last session of its client may be about to end at the
        other node.

        The higher claim may belong to a session that the client no longer uses, while its connection is at this node.
        """
        try:
            while (by := self._claims.higher(address)) is not None:
                mine = self._holders[address]
                is_new = mine.peer.connected and self._node.now - mine.since < CROSSING
                is_connected = await self._is_connected(address, by)
                if is_connected and self._claims.higher(address) == by and not is_new:
                    self._give_up(address)
                else:
                    await asyncio.sleep(BEAT)
        finally:
            self._contested.discard(address)

    async def _is_connected(self, address: str, by: Claim) -> bool:
        """Return whether the peer with another claim has a connection, as far as its node answers."""
        try:
            async with asyncio.timeout(CONFIRMED):
                peer = await self._links.reach(by.node)
                mine = self._holders.get(address)
                if mine is None:  # the peer has ended meanwhile
                    return False
                age = self._node.now - mine.since if mine.peer.connected else None
                # The age holds for this moment, so the question does not wait for another connection.
                return await peer.request(CONNECTED, address, by.counter, age, offline="fail", returns=bool)
        except (TimeoutError, WsrpcError):
            return False

    def _asked_whether_connected(self, address: str, counter: int, age: float | None) -> bool:
        """Handle a request of a node with another claim to an address.

        Args:
            age: seconds since the connection of the peer at the other node arrived, or None if it has none. If it is
                older than the last one of this node's peer, its client may have lost it without notice, and come here.
                It is older than ``age`` says if the request was on its way for long.
        """
        mine = self._holders.get(address)
        if mine is None or self._claims.of(self._node.id).get(address) != counter:
            return False
        if age is None or age >= self._node.now - mine.since:
            return mine.peer.connected
        if mine.peer.connected and self._claims.higher(address) is None:
            self.contests.spawn(self._yield_to_later(address))
        else:
            self._give_up(address)
        return False

    async def _yield_to_later(self, address: str) -> None:
        """Give up an address if the connection at another node, which has a lower claim, really is later.

        Then the connection at this node has waited for a service before it claimed the address, and its client may have
        left. The other node says so only if the connection is later even if this request was on its way for long.
        """
        by = self._claims.highest_elsewhere(address)
        if by is not None and await self._is_connected(address, by) and self._claims.highest_elsewhere(address) == by:
            self._give_up(address)

    def _give_up(self, address: str) -> None:
        """Release an address in favor of the peer of another node."""
        if (peer := self._peer(address)) is not None:
            self.release(address, peer)
            self._close_replaced(address, peer)

    def _close_replaced(self, address: str, peer: Peer) -> None:
        _log_replaced(address, peer)
        self.closing.spawn(_close(peer))


async def _close(peer: Peer) -> None:
    # Has the peer as its argument: it may lose its session, and nobody else may refer to it, before the task begins.
    await current_of(peer).close(CloseCode.REPLACED, REPLACED)


def _log_replaced(address: str, peer: Peer) -> None:
    core_of(peer).log(logging.INFO, "closing the connection with 4410: another one has the address %r now", address)
