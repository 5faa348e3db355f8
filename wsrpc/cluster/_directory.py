"""`Directory`: the nodes of a cluster, with their addresses, rooms and users. It has no clock and no network.

Each node is the only writer of its own entries. It numbers its changes, and publishes each change as a `Delta`. A node
that has missed a delta notices this at the next delta or beat, and requests a `Snapshot`. Nothing is merged: a snapshot
replaces everything that was known of its node.

Two nodes may claim the same address, for example when a client has moved and the first node has not noticed. A claim
has a counter, which is one above the highest counter that the node knows for the address. The higher claim wins. If the
counters are equal, the node with the higher name wins. So all nodes that know both claims agree, without clocks.

The higher claim may belong to a session without a connection, while the client is connected at the node with the lower
claim. So a node keeps its lower claim until it knows that the peer of the higher claim has a connection. Then the owner
of the directory calls `release`. A node that has just started does not know the claims of other nodes yet. So it raises
its own claims when it receives theirs.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from itertools import zip_longest
from typing import Annotated, Any, NamedTuple, Protocol

from msgspec import Meta, Struct, field

from .._server.joined_cluster import MOST, STORED, Counter, User, UserEntry
from .._server.presence import parts_of

NODE_TIMEOUT = 5.0
"""Seconds after the last message of a node, after which the node counts as ended."""
PART_BYTES = 256 * 1024
"""About the maximum bytes of the addresses, of the rooms, and of the users in one message, if the engine accepts that.
(NATS accepts messages of 1 MiB.)"""
NEW = 1.5
"""Seconds after its start in which a node may not know the claims of other nodes."""
REMEMBERED = 60.0
"""Seconds for which the counter of a released claim is kept."""

Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,64}\Z")]
"""A word of a subject; see `wsrpc.cluster.engine`. A broker would end the connection if the word had other characters.
"""


UserChange = tuple[str, User | None, UserEntry | None]
"""A room with presence, a user, and the entry of the user, or None if it was removed. The user None stands for the node
itself, at which the room has presence."""
UserEntries = dict[tuple[str, User | None], UserEntry]
"""The entries of a node, by room and user."""


class Claim(NamedTuple):
    """The right to an address. The highest one counts."""

    counter: int
    node: str


class Beat(Struct, tag_field="t", tag="beat"):
    """Sign of life of a node."""

    node: Name
    seq: Counter
    """The number of the node's latest change."""


class Delta(Struct, tag_field="t", tag="delta", omit_defaults=True):
    """Change of a node: what was added and removed."""

    node: Name
    seq: Counter
    """The number of this change. Each change has the next one."""
    claims: dict[str, Counter] = {}
    """Addresses, each with the counter of its claim."""
    released: list[str] = []
    rooms: list[str] = []
    """Rooms that now have a member at the node."""
    emptied: list[str] = field(name="left", default_factory=list[str])
    """Rooms that no longer have a member at the node."""
    present: list[UserChange] = []


class Snapshot(Struct, tag_field="t", tag="snapshot", omit_defaults=True):
    """All that a node has published, or a part of it."""

    node: Name
    seq: Counter
    part: Counter
    parts: Counter
    claims: dict[str, Counter] = {}
    rooms: list[str] = []
    present: list[UserChange] = []


class NodesListener(Protocol):
    """Is notified of other nodes."""

    def node_joined(self, node: str, /) -> None:
        """Handle a new node."""

    def node_ended(self, node: str, silent: bool, /) -> None:
        """Handle the end of a node and of its connections. ``silent``: it did not leave, but nothing comes of it."""

    def claimed_elsewhere(self, address: str, /) -> None:
        """Handle a claim of another node to an address."""

    def claim_contested(self, address: str, /) -> None:
        """Handle a higher claim of another node to an address of this node; see `Directory.higher_claim`."""

    def presence_changed(self, node: str, room: str, user: User, entry: UserEntry | None, /) -> None:
        """Handle the entry of a user at another node."""


class DirectoryListener(NodesListener, Protocol):
    """The owner of a `Directory`, which is notified of changes."""

    def changed(self) -> None:
        """Publish the changes of this node."""

    def needs_snapshot(self, node: str, /) -> None:
        """Request a snapshot of another node, some of whose changes are not known."""


class RemoteNode:
    """Another node, with its known addresses, rooms and users."""

    __slots__ = ("claims", "name", "parts", "present", "returned", "rooms", "seen_at", "seq")

    def __init__(self, name: str, now: float, *, returned: bool) -> None:
        self.name = name
        self.returned = returned
        """Whether the node was removed because it was silent, and nothing was known of it since then."""
        self.seen_at = now
        self.seq: int | None = None
        """The number of the latest known change. None if nothing is known."""
        self.claims: dict[str, int] = {}
        self.rooms: set[str] = set()
        self.present: UserEntries = {}
        self.parts: dict[int, Snapshot] = {}
        """The parts of a snapshot that have arrived."""

    def add_part(self, last: Snapshot) -> list[Snapshot]:
        """Add a part of a snapshot. Return all parts if no part is missing, otherwise an empty list."""
        if any(part.seq != last.seq or part.parts != last.parts for part in self.parts.values()):
            self.parts.clear()  # parts of another snapshot
        self.parts[last.part] = last
        if len(self.parts) < last.parts:
            return []
        parts = [*self.parts.values()]
        self.parts.clear()
        return parts


class Directory:
    """All nodes, as the node ``me`` knows them.

    All times are from one monotonic clock. What this node has is changed by `claim`, `release`, `room_filled`,
    `room_emptied` and `publish_presence`; what `pop_deltas` then returns must be published. What others publish goes
    into `beat_received`, `delta_received` and `snapshot_received`.
    """

    def __init__(self, me: str, listener: DirectoryListener) -> None:
        self.me = me
        self.seq = 0
        self.part_bytes = PART_BYTES
        self._listener = listener
        self._started_at: float | None = None
        """The time at which this node started to receive messages of other nodes."""
        self._claims: dict[str, int] = {}
        """Addresses of this node, each with the counter of its claim."""
        self._rooms: set[str] = set()
        """Rooms with members at this node."""
        self._changed: dict[str, int | None] = {}
        """Claims that were not published yet. The counter is None for a released claim."""
        self._changed_rooms: dict[str, bool] = {}
        self._present: UserEntries = {}
        self._changed_present: dict[tuple[str, User | None], UserEntry | None] = {}
        """Users that have changed since they were published, each with the entry that was published."""
        self._remotes: dict[str, RemoteNode] = {}
        self._silent = deque[str](maxlen=1000)
        """The last nodes that were removed because they were silent. They may return, but most of them never do."""
        self._released: dict[str, tuple[int, float]] = {}
        """Released claims: the counter, and the time of the release, the oldest first."""

    # ------------------------------------------------------------ questions

    @property
    def nodes(self) -> tuple[str, ...]:
        """All nodes, this node first."""
        return (self.me, *self._remotes)

    @property
    def addresses(self) -> int:
        """Number of addresses of all nodes. An address that two nodes claim counts twice."""
        return len(self._claims) + sum(len(remote.claims) for remote in self._remotes.values())

    @property
    def complete(self) -> bool:
        """Whether something is known of every known node."""
        return all(remote.seq is not None for remote in self._remotes.values())

    def locate(self, address: str) -> str | None:
        """Return the node that has an address, or None."""
        if address in self._claims:
            return self.me
        highest = self._highest_claim(address)
        return None if highest is None else highest.node

    def claim_of(self, address: str) -> int | None:
        """Return the counter of this node's claim to an address."""
        return self._claims.get(address)

    def higher_claim(self, address: str) -> Claim | None:
        """Return another node's claim to an address of this node if that claim is higher, otherwise None."""
        if address not in self._claims:
            return None
        theirs = self._highest_claim(address)
        return theirs if theirs is not None and theirs > Claim(self._claims[address], self.me) else None

    def _highest_claim(self, address: str) -> Claim | None:
        """Return the highest claim of another node to an address."""
        claiming = (remote for remote in self._remotes.values() if address in remote.claims)
        return max((Claim(remote.claims[address], remote.name) for remote in claiming), default=None)

    def nodes_of(self, room: str, *, stored: bool = False) -> tuple[str, ...]:
        """Return the other nodes at which a room has members; if ``stored``, only those without ``keep=``."""
        names = (room,) if stored else (room, STORED + room)
        return tuple(remote.name for remote in self._remotes.values() if not remote.rooms.isdisjoint(names))

    def presence_nodes(self, room: str) -> list[str]:
        """Return the nodes at which a room has presence, this node first."""
        return [self.me, *(remote.name for remote in self._remotes.values() if (room, None) in remote.present)]

    def presence(self, room: str) -> Iterator[tuple[str, User, UserEntry]]:
        """Return the entries of a room at other nodes, each with the node and the user."""
        for remote in self._remotes.values():
            for (name, user), entry in remote.present.items():
                if name == room and user is not None:
                    yield remote.name, user, entry

    def has_returned(self, node: str) -> bool:
        """Return whether what arrives of a node was published before the node was removed because it was silent."""
        return node in self._remotes and self._remotes[node].returned

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
        """Release this node's claim to an address. Idempotent."""
        counter = self._claims.pop(address, None)
        if counter is not None:
            self._changed[address] = None
            self._remember(address, counter, now)
            self._listener.changed()

    def room_filled(self, room: str) -> None:
        """Record that a room has a member at this node. Idempotent."""
        if room not in self._rooms:
            self._rooms.add(room)
            self._changed_rooms[room] = True
            self._listener.changed()

    def room_emptied(self, room: str) -> None:
        """Record that a room has no more members at this node. Idempotent."""
        if room in self._rooms:
            self._rooms.discard(room)
            self._changed_rooms[room] = False
            self._listener.changed()

    def publish_presence(self, room: str, user: User | None, entry: UserEntry | None) -> None:
        """Set or remove the entry of a user at this node. The user None stands for the node, at which the room is."""
        self._changed_present.setdefault((room, user), self._present.get((room, user)))
        _set_entry(self._present, room, user, entry)
        self._listener.changed()

    def beat(self) -> Beat:
        """Return the message to publish regularly, after `pop_deltas`."""
        return Beat(self.me, self.seq)

    def pop_deltas(self) -> Iterator[Delta]:
        """Remove and return the changes since the last call."""
        changed, self._changed = list(self._changed.items()), {}
        rooms, self._changed_rooms = list(self._changed_rooms.items()), {}
        published, self._changed_present = self._changed_present, {}
        changes = [
            (*key, self._present.get(key)) for key, before in published.items() if self._present.get(key) != before
        ]
        for some, some_rooms, users in self._parts(changed, rooms, changes):
            self.seq += 1
            delta = Delta(self.me, self.seq, present=users)
            delta.claims = {address: counter for address, counter in some if counter is not None}
            delta.released = [address for address, counter in some if counter is None]
            delta.rooms = [room for room, entered in some_rooms if entered]
            delta.emptied = [room for room, entered in some_rooms if not entered]
            yield delta

    def _parts(self, *lists: Iterable[Any]) -> list[tuple[list[Any], ...]]:
        """Split lists into parts, of which a message takes one of each list."""
        return [*zip_longest(*(parts_of(items, self.part_bytes) for items in lists), fillvalue=[])]

    def snapshot(self) -> Iterator[Snapshot]:
        """Return all that this node has published. Call this method after `pop_deltas`."""
        users: list[UserChange] = [(*key, entry) for key, entry in self._present.items()]
        parts = self._parts(self._claims.items(), sorted(self._rooms), users) or [([], [], [])]
        for part, (claims, rooms, present) in enumerate(parts):
            yield Snapshot(self.me, self.seq, part, len(parts), dict(claims), rooms, present)

    # ------------------------------------------------------------ messages of other nodes

    def beat_received(self, beat: Beat, now: float) -> None:
        """Handle a beat. Request a snapshot if changes of the node are missing."""
        remote = self._node_seen(beat.node, now)
        if remote is None:
            return
        if remote.seq is None and beat.seq == 0:
            remote.seq = 0
        elif remote.seq is not None and remote.seq > beat.seq:  # another program has sent messages in its name
            remote.seq = None
        if remote.seq is None or remote.seq < beat.seq:
            self._listener.needs_snapshot(beat.node)

    def delta_received(self, delta: Delta, now: float) -> None:
        """Apply a change of another node. Request a snapshot if an earlier change is missing."""
        remote = self._node_seen(delta.node, now)
        if remote is None:
            return
        before = 0 if remote.seq is None else remote.seq
        if delta.seq > before + 1 or (remote.seq is None and delta.seq != 1):
            self._listener.needs_snapshot(delta.node)
        elif delta.seq == before + 1:
            self._apply(remote, delta, now)

    def snapshot_received(self, snapshot: Snapshot, now: float) -> None:
        """Replace all that is known of a node when all parts of its snapshot have arrived."""
        remote = self._node_seen(snapshot.node, now)
        if remote is None or (remote.seq is not None and snapshot.seq <= remote.seq):
            return
        parts = remote.add_part(snapshot)
        if not parts:
            return
        claims = {address: counter for part in parts for address, counter in part.claims.items()}
        rooms = {room for part in parts for room in part.rooms}
        released, left = remote.claims.keys() - claims.keys(), remote.rooms - rooms
        present = {(room, user): entry for part in parts for room, user, entry in part.present}
        changes: list[UserChange] = [(*key, None) for key in remote.present if key not in present]
        changes += [(*key, entry) for key, entry in present.items() if entry != remote.present.get(key)]
        self._apply(remote, Delta(remote.name, snapshot.seq, claims, [*released], [*rooms], [*left], changes), now)

    def tick(self, now: float, *, deaf: bool = False) -> None:
        """Remove the nodes that have sent nothing for `NODE_TIMEOUT` seconds, and released claims that are old.

        Args:
            deaf: whether this node receives no messages at present, so that no node is removed.
        """
        if deaf:
            for remote in self._remotes.values():
                remote.seen_at = now
        elif self._started_at is None:
            self._started_at = now
        for remote in [remote for remote in self._remotes.values() if remote.seen_at + NODE_TIMEOUT <= now]:
            self.drop(remote.name, now, silent=True)
        while self._released and (oldest := next(iter(self._released.items())))[1][1] + REMEMBERED <= now:
            del self._released[oldest[0]]

    def drop(self, node: str, now: float, *, silent: bool = False) -> None:
        """Remove another node with its addresses and rooms, because it left or was ``silent``. Idempotent."""
        remote = self._remotes.pop(node, None)
        if remote is None:
            return
        self._apply(remote, Delta(node, 0, released=[*remote.claims]), now)
        if silent:
            self._silent.append(node)
        self._listener.node_ended(node, silent)

    # ------------------------------------------------------------ entries of other nodes

    def _node_seen(self, node: str, now: float) -> RemoteNode | None:
        if node == self.me:
            return None
        remote = self._remotes.get(node)
        if remote is None:
            remote = self._remotes[node] = RemoteNode(node, now, returned=node in self._silent)
            self._listener.node_joined(node)
        remote.seen_at = now
        return remote

    def _apply(self, remote: RemoteNode, delta: Delta, now: float) -> None:
        first = remote.seq is None
        remote.seq = delta.seq
        for address in delta.released:
            if (counter := remote.claims.pop(address, None)) is not None:
                self._remember(address, counter, now)
        for address, counter in delta.claims.items():
            self._add_claim(remote, address, counter, now, first=first)
        remote.rooms.difference_update(delta.emptied)
        remote.rooms.update(delta.rooms)
        for room, user, entry in delta.present:
            _set_entry(remote.present, room, user, entry)
            if user is not None:
                self._listener.presence_changed(remote.name, room, user, entry)
        remote.returned = False

    def _add_claim(self, remote: RemoteNode, address: str, counter: int, now: float, *, first: bool) -> None:
        """Add a claim of another node. ``first``: nothing of that node was known before."""
        remote.claims[address] = counter
        self._released.pop(address, None)
        self._listener.claimed_elsewhere(address)
        if self.higher_claim(address) is not None:
            if first and (self._started_at is None or now < self._started_at + NEW):
                self.claim(address)
            else:
                self._listener.claim_contested(address)

    def _remember(self, address: str, counter: int, now: float) -> None:
        before = self._released.pop(address, (0, 0.0))[0]
        self._released[address] = (max(before, counter), now)


def _set_entry(entries: UserEntries, room: str, user: User | None, entry: UserEntry | None) -> None:
    if entry is None:
        entries.pop((room, user), None)
    else:
        entries[room, user] = entry
