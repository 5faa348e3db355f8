"""`JoinedCluster`: what a server asks of the cluster that it has joined."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Annotated, Any, Protocol

from msgspec import Meta, Struct

from .._core.api.peer import Peer
from .._core.session.incoming_resume import IncomingResume
from .._core.wire.call_context import CallContext
from .._core.wire.control import Resume
from ..stats import ClusterStats
from .presence.user_entries import UserEntries
from .rooms.room_requests import Asked

REPLACED = "another connection has its address"
"""Reason of close code 4410."""


class HasAddress:
    """Object that stands for the peer with an address, in any process: a `ClusterPeer`."""

    __slots__ = ()

    address: str


class RoomMessage(Struct, array_like=True):
    """Message to the members of a room that are connected to other nodes."""

    room: str
    channel: str | None
    event: str | None
    """None for a raw message. ``args`` then has the raw message alone."""
    args: list[Any]
    skip: list[str] = []
    """Addresses of members that do not get the message."""
    skip_rooms: list[str] = []
    """Rooms whose members do not get the message."""
    context: CallContext | None = None
    key: str = ""
    """Of `KeepLatest`, whose function gets the values of the user. Empty if the sender knows none."""
    stored: bool = False
    """Whether nodes at which the room has ``keep=`` read the event from the store."""


STORED = "\0"
"""Before the name of a room in what a node tells others: the room has ``keep=`` there."""


MOST = 2**53
"""Maximum counter. (A program on the engine could invent a counter that no node can exceed or encode.)"""
Counter = Annotated[int, Meta(ge=0, le=MOST)]


LONGEST = 200
"""Maximum length of a text in `Spent`."""
Label = Annotated[str, Meta(max_length=LONGEST)]
Spent = tuple[Counter, Label, Label, Counter]
"""What a subject of `Quotas` has spent: its `SubjectKey`, what it has spent of (see `SharedRates`), and how much."""


class RoomsElsewhere(Asked, Protocol):
    """The rooms at the other nodes of the cluster that a server has joined. `RemoteRooms` implements this protocol."""

    def room_filled(self, room: str, /) -> None:
        """Record that a room has its first member at this server."""

    def room_emptied(self, room: str, /) -> None:
        """Record that a room has no more members at this server."""

    async def send_to_room(self, message: RoomMessage, /) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Send to the members of a room at other nodes. Return the nodes that got the message, and the missed nodes."""
        ...

    def send_to_room_nowait(self, message: RoomMessage, /) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Do what `send_to_room` does, without waiting."""
        ...

    async def members(self, room: str, /) -> tuple[list[str], int, tuple[str, ...]]:
        """Return the addresses of a room's members at other nodes, the number of members without an address, and the
        nodes that do not answer."""
        ...

    @property
    def presence(self) -> UserEntries:
        """The users in rooms, of all nodes."""
        ...


class JoinedCluster(Protocol):
    """The cluster that a server has joined, until the server ends. `ClusterMembership` implements this protocol."""

    @property
    def connected(self) -> bool:
        """Whether the engine can be reached."""
        ...

    async def wait_connected(self) -> None:
        """Wait until the engine can be reached, for as long as an engine may take to answer. Cancelling is safe."""

    def claim(self, address: str, peer: Peer, age: float, /) -> bool:
        """Claim an address for a peer of this server. Another peer with this address is closed with 4410.

        Return False if that one's connection is later than the connection of this peer, which has arrived ``age``
        seconds ago. Nothing is claimed then.
        """
        ...

    def peer_connected(self, address: str, /) -> None:
        """The peer of this server with an address has said what it supports."""

    def release(self, address: str, peer: Peer, /) -> None:
        """Give up a peer's claim. Idempotent."""

    async def end_detached(self, address: str, principal: str | None, /) -> bool:
        """End the session that has an address, at whatever node, if it is of this principal and has no connection.

        Args:
            principal: its `principal_text`.

        Raises:
            WsrpcError: the other node does not answer.
        """
        ...

    async def resume_elsewhere(self, asked: Resume, arrival: IncomingResume, /) -> str:
        """Resume a session of another process, or return the `GoneWhy`. Cancelling drops the connection.

        Raises:
            ConnectionLost: the connection has ended. If the session has resumed, its messages were passed on until now.
        """
        ...

    @property
    def rooms(self) -> RoomsElsewhere:
        """The rooms at other nodes."""
        ...

    @property
    def size(self) -> int:
        """Number of known nodes, with this one."""
        ...

    def notify_spent(self, spent: Sequence[Spent], /) -> None:
        """Tell the other nodes what subjects have spent here. The message may be lost."""

    def on_spent(self, function: Callable[[str, Sequence[Spent]], object], /) -> None:
        """Call a function with the name of another node, and what it tells. It must not raise."""

    def stats(self) -> ClusterStats:
        """Return the counters of this process."""
        ...

    def abandon(self) -> None:
        """Drop the connection to the cluster, because the event loop was closed."""

    async def close(self) -> None:
        """Leave the cluster. Cancelling stops the waiting."""


_join: Callable[[Any], Callable[..., JoinedCluster]] = attrgetter("_join")


def join_of(cluster: Any) -> Callable[..., JoinedCluster]:
    """Return the function by which a server joins a `Cluster`. (The class `Cluster` lies in a higher layer.)

    Raises:
        TypeError: ``cluster`` is not a `Cluster`.
    """
    if not callable(getattr(cluster, "_join", None)):
        raise TypeError(f"cluster= takes a wsrpc.cluster.Cluster, got {cluster!r}")
    return _join(cluster)
