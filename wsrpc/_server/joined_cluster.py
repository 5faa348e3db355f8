"""What a server asks of the cluster that it is part of."""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from typing import Any, Protocol

from msgspec import Struct

from .._core.api.peer import Peer
from ..stats import ClusterStats


class HasAddress:
    """Somebody who has an address, in whichever process: a `ClusterPeer`."""

    __slots__ = ()

    address: str


class RoomMessage(Struct, array_like=True):
    """What is emitted to a room, on its way to the members at other nodes."""

    room: str
    channel: str | None
    event: str | None
    """None for a raw message, which is the only one of ``args``."""
    args: list[Any]
    skip: list[str] = []
    """Addresses of members that do not get it."""
    skip_rooms: list[str] = []
    """Rooms whose members do not get it."""


class JoinedCluster(Protocol):
    """A server's part in its cluster, from its opening to its end. Implemented by `ClusterMembership`."""

    @property
    def connected(self) -> bool:
        """Whether the engine can be reached."""
        ...

    async def wait_connected(self) -> None:
        """Wait until the engine can be reached, for as long as an engine may take to answer. Cancelling is safe."""

    def claim(self, address: str, peer: Peer, /) -> None:
        """Claim an address for a peer of this server. A peer that has it now is closed with 4410."""

    def release(self, address: str, peer: Peer, /) -> None:
        """Give up a peer's claim. Idempotent."""

    def room_filled(self, room: str, /) -> None:
        """A room has its first member at this server."""

    def room_emptied(self, room: str, /) -> None:
        """A room has no member at this server any more."""

    async def send_to_room(self, message: RoomMessage, /) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Send to the members of a room at other nodes. Return the nodes to which it was sent, and those missed."""
        ...

    def send_to_room_nowait(self, message: RoomMessage, /) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Do what `send_to_room` does, without waiting."""
        ...

    async def members(self, room: str, /) -> tuple[list[str], int, tuple[str, ...]]:
        """Return the members of a room at other nodes: addresses, how many have none, and the nodes that do not
        answer."""
        ...

    def stats(self) -> ClusterStats:
        """Return the numbers of this part."""
        ...

    def abandon(self) -> None:
        """Be no part of the cluster any more, because the event loop was closed."""

    async def close(self) -> None:
        """Leave the cluster. Cancelling stops the waiting."""


_join: Callable[[Any], Callable[..., JoinedCluster]] = attrgetter("_join")


def join_of(cluster: Any) -> Callable[..., JoinedCluster]:
    """Return the function by which a server joins a `Cluster`, whose class lies in a higher layer.

    Raises:
        TypeError: ``cluster`` is not a `Cluster`.
    """
    if not callable(getattr(cluster, "_join", None)):
        raise TypeError(f"cluster= takes a wsrpc.cluster.Cluster, got {cluster!r}")
    return _join(cluster)
