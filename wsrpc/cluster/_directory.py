"""`Directory`: which nodes there are, and which addresses and rooms each of them has. It has no clock and no network.

Each node is the only writer of its own entries. It numbers its changes and publishes them as a `Delta`; a node that has
missed one finds that out by the next delta or beat, and asks for a `Snapshot`. Nothing is merged: what a node says of
itself replaces what was known of it.

Two nodes may claim one address, as when a client has moved and the first node has not noticed. A claim carries a
counter, one above the highest that its node has seen for the address. The higher claim wins, and where two are equal,
the node with the higher name. So all nodes that know of both agree, whatever their clocks say.

A higher claim may be a session's that has no connection any more, while the client is connected at the node with the
lower claim. So a node keeps its claim until the owner of this directory has found out that the higher one has a
connection, and calls `release`. A node that has just started does not know yet what others have claimed, so it raises
its own claims when it hears of theirs.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, NamedTuple, Protocol

from msgspec import Meta, Struct, field

LEASE = 5.0
"""Seconds after the last word of a node, after which it is gone."""
PART = 1000
"""Addresses and rooms in one message, at most."""
NEW = 1.5
"""Seconds for which a node has just started: the others may not have said yet what they have."""
REMEMBERED = 60.0
"""Seconds for which the counter of a claim is remembered after the claim is gone."""
IN_TRANSIT = 2.0
"""Seconds for which a message is under way, at most: an engine that takes longer counts as lost."""
MOST_EMITTED = 100_000
"""Rooms of which is remembered when something was emitted to them, at most. No process emits to as many in a moment."""


MOST = 2**53
"""No counter is larger. One that a program on the engine made up could not be exceeded, and not be encoded."""

Counter = Annotated[int, Meta(ge=0, le=MOST)]
Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,64}\Z")]
"""A word of a subject of the engine; see `wsrpc.cluster.engine`. A broker would end the connection for another one."""


class Claim(NamedTuple):
    """The right to an address. The highest one counts."""

    counter: int
    node: str


class Beat(Struct, tag_field="t", tag="beat"):
    """A node is there."""

    node: Name
    seq: Counter
    """The number of its latest change."""


class Delta(Struct, tag_field="t", tag="delta", omit_defaults=True):
    """Changes of a node: what it has from now on, and what it has no more."""

    node: Name
    seq: Counter
    """The number of this change. Each change has the next one."""
    claims: dict[str, Counter] = {}
    """Addresses, each with the counter of its claim."""
    released: list[str] = []
    rooms: list[str] = []
    """Rooms that have a member there now."""
    emptied: list[str] = field(name="left", default_factory=list[str])
    """Rooms that have none there any more."""


class Snapshot(Struct, tag_field="t", tag="snapshot", omit_defaults=True):
    """All that a node has, or a part of it."""

    node: Name
    seq: Counter
    part: Counter
    parts: Counter
    claims: dict[str, Counter] = {}
    rooms: list[str] = []


class DirectoryListener(Protocol):
    """What is told of changes."""

    def node_joined(self, node: str, /) -> None: ...

    def node_ended(self, node: str, silent: bool, /) -> None:
        """A node is gone. ``silent``: it has not said so, but was not heard of for `LEASE` seconds."""

    def claim_contested(self, address: str, /) -> None:
        """Another node has a higher claim to an address of this one. See `Directory.higher_claim`."""

    def changed(self) -> None:
        """There is something to publish."""

    def needs_snapshot(self, node: str, /) -> None:
        """Something of that node is not known here."""

    def rooms_missed(self, node: str, rooms: list[str], /) -> None:
        """These rooms have members at that node, which may have missed what was emitted here lately."""


class RemoteNode:
    """What is known of another node."""

    __slots__ = ("claims", "current_at", "name", "parts", "rooms", "seen_at", "seq")

    def __init__(self, name: str, now: float) -> None:
        self.name = name
        self.seen_at = now
        self.current_at = float("-inf")
        """When something came that showed that all was known here that the node had published."""
        self.seq: int | None = None
        """The number of the latest change that is known here. None before anything is known."""
        self.claims: dict[str, int] = {}
        self.rooms: set[str] = set()
        self.parts: dict[int, Snapshot] = {}
        """Parts of a snapshot that have come so far."""

    def add_part(self, last: Snapshot) -> list[Snapshot]:
        """Return all parts of a snapshot if ``last`` is the one that was missing, else none."""
        if any(part.seq != last.seq or part.parts != last.parts for part in self.parts.values()):
            self.parts.clear()  # those of another one
        self.parts[last.part] = last
        if len(self.parts) < last.parts:
            return []
        parts = [*self.parts.values()]
        self.parts.clear()
        return parts


class Directory:
    """What one node, ``me``, knows of all.

    Times are of any clock that does not go back. Addresses and rooms of this node are changed by `claim`, `release`,
    `room_filled` and `room_emptied`; what `pop_deltas` then returns must be published. What others publish goes into
    `beat_received`, `delta_received` and `snapshot_received`.
    """

    def __init__(self, me: str, listener: DirectoryListener) -> None:
        self.me = me
        self.seq = 0
        self._listener = listener
        self._started_at: float | None = None
        """When this node began to hear others."""
        self._claims: dict[str, int] = {}
        """Addresses of this node, each with the counter of its claim."""
        self._rooms: set[str] = set()
        """Rooms with members at this node."""
        self._changed: dict[str, int | None] = {}
        """Claims that were not published yet; None for one that was released."""
        self._changed_rooms: dict[str, bool] = {}
        self._remotes: dict[str, RemoteNode] = {}
        self._owners: dict[str, RemoteNode] = {}
        """Of the addresses of other nodes: the one with the highest claim."""
        self._rooms_at: dict[str, set[str]] = {}
        """The other nodes at which a room has members."""
        self._released: dict[str, tuple[int, float]] = {}
        """Counters of claims that are gone, and since when, the oldest first."""
        self._emitted: dict[str, float] = {}
        """When this node last emitted to each room, the oldest first."""

    # ------------------------------------------------------------ questions

    @property
    def nodes(self) -> tuple[str, ...]:
        """All nodes, this one first."""
        return (self.me, *self._remotes)

    @property
    def addresses(self) -> int:
        """How many addresses there are, in all. One that two nodes claim counts twice, until one gives way."""
        return len(self._claims) + len(self._owners)

    @property
    def complete(self) -> bool:
        """Whether all is known that the known nodes have."""
        return all(remote.seq is not None for remote in self._remotes.values())

    def locate(self, address: str) -> str | None:
        """Return the node that has an address, or None."""
        if address in self._claims:
            return self.me
        owner = self._owners.get(address)
        return None if owner is None else owner.name

    def claim_of(self, address: str) -> int | None:
        """Return the counter of this node's claim to an address."""
        return self._claims.get(address)

    def higher_claim(self, address: str) -> Claim | None:
        """Return the claim of another node to an address of this one, if it is higher."""
        owner = self._owners.get(address)
        if owner is None or address not in self._claims:
            return None
        theirs = Claim(owner.claims[address], owner.name)
        return theirs if theirs > Claim(self._claims[address], self.me) else None

    def nodes_of(self, room: str) -> tuple[str, ...]:
        """Return the other nodes at which a room has members."""
        return tuple(self._rooms_at.get(room, ()))

    # ------------------------------------------------------------ what this node has

    def claim(self, address: str) -> Claim:
        """Claim an address for this node."""
        counter = 1 + max(
            self._claims.get(address, 0),
            self._released.get(address, (0, 0.0))[0],
            *(remote.claims.get(address, 0) for remote in self._remotes.values()),
            0,
        )
        self._claims[address] = self._changed[address] = counter = min(counter, MOST)
        self._listener.changed()
        return Claim(counter, self.me)

    def release(self, address: str, now: float) -> None:
        """Give an address up. Idempotent."""
        counter = self._claims.pop(address, None)
        if counter is not None:
            self._changed[address] = None
            self._remember(address, counter, now)
            self._listener.changed()

    def room_filled(self, room: str) -> None:
        """Note that a room has a member at this node. Idempotent."""
        if room not in self._rooms:
            self._rooms.add(room)
            self._changed_rooms[room] = True
            self._listener.changed()

    def room_emptied(self, room: str) -> None:
        """Note that a room has no member at this node any more. Idempotent."""
        if room in self._rooms:
            self._rooms.discard(room)
            self._changed_rooms[room] = False
            self._listener.changed()

    def record_emitted(self, room: str, now: float) -> None:
        """Note that this node emits to a room. Other nodes may have members of which it has not heard so far."""
        self._emitted.pop(room, None)
        self._emitted[room] = now
        if len(self._emitted) > MOST_EMITTED:
            del self._emitted[next(iter(self._emitted))]

    def record_notified(self, node: str, now: float) -> None:
        """Note that a node was told that it may have missed whatever was emitted so far."""
        if node in self._remotes:
            self._remotes[node].current_at = now + IN_TRANSIT

    def beat(self) -> Beat:
        """Return what to publish now and then, after `pop_deltas`."""
        return Beat(self.me, self.seq)

    def pop_deltas(self) -> Iterator[Delta]:
        """Return the changes since the last call."""
        changed, self._changed = list(self._changed.items()), {}
        rooms, self._changed_rooms = list(self._changed_rooms.items()), {}
        for begin in range(0, max(len(changed), len(rooms)), PART):
            self.seq += 1
            delta = Delta(self.me, self.seq)
            some, some_rooms = changed[begin : begin + PART], rooms[begin : begin + PART]
            delta.claims = {address: counter for address, counter in some if counter is not None}
            delta.released = [address for address, counter in some if counter is None]
            delta.rooms = [room for room, entered in some_rooms if entered]
            delta.emptied = [room for room, entered in some_rooms if not entered]
            yield delta

    def snapshot(self) -> Iterator[Snapshot]:
        """Return all that this node has and has published, after `pop_deltas`."""
        claims, rooms = list(self._claims.items()), sorted(self._rooms)
        parts = max(1, -(-max(len(claims), len(rooms)) // PART))
        for part in range(parts):
            begin, end = part * PART, (part + 1) * PART
            yield Snapshot(self.me, self.seq, part, parts, dict(claims[begin:end]), rooms[begin:end])

    # ------------------------------------------------------------ what others say

    def beat_received(self, beat: Beat, now: float) -> None:
        """Note that a node is there."""
        remote = self._node_seen(beat.node, now)
        if remote is None:
            return
        if remote.seq is None and beat.seq == 0:
            remote.seq = 0
        elif remote.seq is not None and remote.seq > beat.seq:  # somebody else has spoken for it
            remote.seq = None
        if remote.seq is None or remote.seq < beat.seq:
            self._listener.needs_snapshot(beat.node)
        else:
            remote.current_at = now

    def delta_received(self, delta: Delta, now: float) -> None:
        """Apply a change of another node, unless one before it is missing."""
        remote = self._node_seen(delta.node, now)
        if remote is None:
            return
        before = 0 if remote.seq is None else remote.seq
        if delta.seq > before + 1 or (remote.seq is None and delta.seq != 1):
            self._listener.needs_snapshot(delta.node)
        elif delta.seq == before + 1:
            self._apply(remote, delta, now)

    def snapshot_received(self, snapshot: Snapshot, now: float) -> None:
        """Replace what is known of a node, once all parts have come."""
        remote = self._node_seen(snapshot.node, now)
        if remote is None or (remote.seq is not None and snapshot.seq <= remote.seq):
            return
        parts = remote.add_part(snapshot)
        if not parts:
            return
        claims = {address: counter for part in parts for address, counter in part.claims.items()}
        rooms = {room for part in parts for room in part.rooms}
        released, left = remote.claims.keys() - claims.keys(), remote.rooms - rooms
        self._apply(remote, Delta(remote.name, snapshot.seq, claims, [*released], [*rooms], [*left]), now)

    def tick(self, now: float, *, deaf: bool = False) -> None:
        """Drop the nodes that were not heard of for `LEASE` seconds, and forget what is old.

        Args:
            deaf: this node hears nobody now, so that no lease runs.
        """
        if deaf:
            for remote in self._remotes.values():
                remote.seen_at = now
        elif self._started_at is None:
            self._started_at = now
        for remote in [remote for remote in self._remotes.values() if remote.seen_at + LEASE <= now]:
            self.drop(remote.name, now, silent=True)
        while self._released and (oldest := next(iter(self._released.items())))[1][1] + REMEMBERED <= now:
            del self._released[oldest[0]]

    def drop(self, node: str, now: float, *, silent: bool = False) -> None:
        """Forget another node and all that it has: it has said that it leaves, or was ``silent``. Idempotent."""
        remote = self._remotes.pop(node, None)
        if remote is None:
            return
        self._apply(remote, Delta(node, 0, released=[*remote.claims], emptied=[*remote.rooms]), now)
        self._listener.node_ended(node, silent)

    # ------------------------------------------------------------ entries of others

    def _node_seen(self, node: str, now: float) -> RemoteNode | None:
        if node == self.me:
            return None
        remote = self._remotes.get(node)
        if remote is None:
            remote = self._remotes[node] = RemoteNode(node, now)
            self._listener.node_joined(node)
        remote.seen_at = now
        return remote

    def _apply(self, remote: RemoteNode, delta: Delta, now: float) -> None:
        first = remote.seq is None
        remote.seq = delta.seq
        for address in delta.released:
            self._drop_claim(remote, address, now)
        for address, counter in delta.claims.items():
            self._add_claim(remote, address, counter, now, first=first)
        for room in delta.emptied:
            self._drop_room(remote, room)
        since = remote.current_at - IN_TRANSIT
        missed = [room for room in delta.rooms if room not in remote.rooms and self._emitted.get(room, since) > since]
        for room in delta.rooms:
            self._add_room(remote, room)
        remote.current_at = now
        if missed:
            self._listener.rooms_missed(remote.name, missed)

    def _add_claim(self, remote: RemoteNode, address: str, counter: int, now: float, *, first: bool) -> None:
        """Note a claim of another node, of which nothing was known until now if it is among the ``first``."""
        remote.claims[address] = counter
        self._released.pop(address, None)
        owner = self._owners.get(address)
        if owner is None or Claim(owner.claims[address], owner.name) < Claim(counter, remote.name):
            self._owners[address] = remote
        if self.higher_claim(address) is not None:
            if first and (self._started_at is None or now < self._started_at + NEW):
                self.claim(address)
            else:
                self._listener.claim_contested(address)

    def _drop_claim(self, remote: RemoteNode, address: str, now: float) -> None:
        counter = remote.claims.pop(address, None)
        if counter is None:
            return
        self._remember(address, counter, now)
        if self._owners.get(address) is remote:
            others = [other for other in self._remotes.values() if address in other.claims]
            if others:
                self._owners[address] = max(others, key=lambda other: Claim(other.claims[address], other.name))
            else:
                del self._owners[address]

    def _remember(self, address: str, counter: int, now: float) -> None:
        before = self._released.pop(address, (0, 0.0))[0]
        self._released[address] = (max(before, counter), now)

    def _add_room(self, remote: RemoteNode, room: str) -> None:
        remote.rooms.add(room)
        self._rooms_at.setdefault(room, set()).add(remote.name)

    def _drop_room(self, remote: RemoteNode, room: str) -> None:
        remote.rooms.discard(room)
        nodes = self._rooms_at.get(room)
        if nodes is not None:
            nodes.discard(remote.name)
            if not nodes:
                del self._rooms_at[room]
