"""`Directory`: the nodes of a cluster, with their addresses, rooms and users. It has no clock and no network.

Each node is the only writer of its own entries. It numbers its changes, and publishes each change as a `Delta`. A node
that has missed a delta notices this at the next delta or beat, and requests a `Snapshot`. Nothing is merged: a snapshot
replaces everything that was known of its node.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import zip_longest
from typing import Annotated, Any, Protocol

from msgspec import Meta, Struct, field

from ..._log.kept import FORMAT
from ..._server.joined_cluster import STORED, Counter
from ..._server.presence.user_entries import User, UserEntries, UserEntry, parts_of
from .claims import Claims

NODE_TIMEOUT = 5.0
"""Seconds after the last message of a node, after which the node counts as ended."""
PART_BYTES = 256 * 1024
"""About the maximum bytes of the addresses, of the rooms, and of the users in one message, if the engine accepts that.
(NATS accepts messages of 1 MiB.)"""

Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,64}\Z")]
"""A word of a subject; see `wsrpc.cluster.engine`. A broker would end the connection if the word had other characters.
"""


Process = Annotated[str, Meta(pattern=r"^[!-~]{0,100}\Z")]
"""The process of a node for people, such as ``web1:4242``."""


UserChange = tuple[str, User | None, UserEntry | None]
"""A room with presence, a user, and the entry of the user, or None if it was removed. The user None stands for the node
itself, at which the room has presence."""


class Beat(Struct, tag_field="t", tag="beat"):
    """Sign of life of a node."""

    node: Name
    seq: Counter
    """The number of the node's latest change."""
    process: Process = ""
    format: int = 0
    """`FORMAT` of its version. 0 for earlier ones."""
    nodes: Counter = 0
    """How many nodes it knows, with itself and the receiver."""
    peers: Counter | None = None
    """How many peers its server has. None: it has no server, or one that accepts no connections."""


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
    format: int = 0


class Snapshot(Struct, tag_field="t", tag="snapshot", omit_defaults=True):
    """All that a node has published, or a part of it."""

    node: Name
    seq: Counter
    part: Counter
    parts: Counter
    claims: dict[str, Counter] = {}
    rooms: list[str] = []
    present: list[UserChange] = []
    process: Process = ""
    format: int = 0


class RemoteNode:
    """Another node, with its known rooms."""

    __slots__ = ("name", "nodes", "parts", "peers", "rooms", "seen_at", "seq")

    def __init__(self, name: str, now: float) -> None:
        self.name = name
        self.seen_at = now
        self.nodes = 0
        """How many nodes it knew at its latest beat."""
        self.peers: int | None = None
        """As in its latest beat."""
        self.seq: int | None = None
        """The number of the latest known change. None if nothing is known."""
        self.rooms: set[str] = set()
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


class DirectoryListener(Protocol):
    """The owner of a `Directory`: a node."""

    def changed(self) -> None:
        """This node has changes, which are to be published."""

    def needs_snapshot(self, node: str, /) -> None:
        """Some changes of another node are not known: request a snapshot."""

    def node_joined(self, node: str, /) -> None:
        """There is a new node."""

    def node_ended(self, node: str, silent: bool, /) -> None:
        """A node has ended with its connections. ``silent``: it did not leave, but nothing comes of it."""


class Directory:
    """All nodes, as the node ``me`` knows them.

    All times are from one monotonic clock. What this node has is changed by `Claims.claim`, `Claims.release`,
    `room_filled`, `room_emptied` and `UserEntries.set`; what `pop_deltas` then returns must be published. What others
    publish goes into `beat_received`, `delta_received` and `snapshot_received`.

    Args:
        process: the process of this node, for people.
        peers: returns `Beat.peers` of this node.

    Attributes:
        claims: the addresses of all nodes.
        presence: the users in rooms, of all nodes.
        processes: the known processes of nodes, for people.
    """

    def __init__(
        self,
        me: str,
        listener: DirectoryListener,
        process: str = "",
        peers: Callable[[], int | None] = lambda: None,
    ) -> None:
        self.me = me
        self._peers = peers
        self.processes = {me: process}
        self.seq = 0
        self.part_bytes = PART_BYTES
        self.claims = Claims(me, listener.changed)
        self.presence = UserEntries(me, self._presence_changing)
        self._listener = listener
        self._rooms: set[str] = set()
        """Rooms with members at this node."""
        self.has_had_rooms = False
        """Whether a room has had a member at this node."""
        self._changed_rooms: dict[str, bool] = {}
        self._changed_present: dict[tuple[str, User | None], UserEntry | None] = {}
        """Users that have changed since they were published, each with the entry that was published."""
        self._remotes: dict[str, RemoteNode] = {}

    # ------------------------------------------------------------ questions

    @property
    def nodes(self) -> tuple[str, ...]:
        """All nodes, this node first."""
        return (self.me, *self._remotes)

    @property
    def servers(self) -> dict[str, int]:
        """The nodes whose servers accept connections, this one first, each with the number of its peers."""
        found = {self.me: self._peers(), **{remote.name: remote.peers for remote in self._remotes.values()}}
        return {node: peers for node, peers in found.items() if peers is not None}

    def shown(self, node: str) -> str:
        """Return the name of a node for a log, with its process if that is known."""
        return f"{node} ({process})" if (process := self.processes.get(node)) else node

    @property
    def complete(self) -> bool:
        """Whether something is known of every node, as far as the other nodes know how many there are."""
        remotes = self._remotes.values()
        return all(remote.seq is not None and remote.nodes <= len(remotes) + 1 for remote in remotes)

    def nodes_of(self, room: str, *, keep: bool = True) -> tuple[str, ...]:
        """Return the other nodes at which a room has members, with or without those where it has ``keep=``."""
        names = (room, STORED + room) if keep else (room,)
        return tuple(remote.name for remote in self._remotes.values() if not remote.rooms.isdisjoint(names))

    # ------------------------------------------------------------ what this node has

    def room_filled(self, room: str) -> None:
        """Record that a room has a member at this node. Idempotent."""
        if room not in self._rooms:
            self._rooms.add(room)
            self.has_had_rooms = True
            self._changed_rooms[room] = True
            self._listener.changed()

    def room_emptied(self, room: str) -> None:
        """Record that a room has no more members at this node. Idempotent."""
        if room in self._rooms:
            self._rooms.discard(room)
            self._changed_rooms[room] = False
            self._listener.changed()

    def _presence_changing(self, room: str, user: User | None) -> None:
        self._changed_present.setdefault((room, user), self._own_entry(room, user))
        self._listener.changed()

    def _own_entry(self, room: str, user: User | None) -> UserEntry | None:
        return self.presence.entries(room, user).get(self.me)

    def beat(self, to: str = "") -> Beat:
        """Return the message to publish regularly, after `pop_deltas`, or to send to the node ``to``."""
        nodes = len(self._remotes) + 1 + (bool(to) and to not in self._remotes)
        return Beat(self.me, self.seq, self.processes[self.me], FORMAT, nodes, self._peers())

    def pop_deltas(self) -> Iterator[Delta]:
        """Remove and return the changes since the last call."""
        rooms, self._changed_rooms = list(self._changed_rooms.items()), {}
        published, self._changed_present = self._changed_present, {}
        entries = ((*key, self._own_entry(*key), before) for key, before in published.items())
        changes = [(room, user, entry) for room, user, entry, before in entries if entry != before]
        for some, some_rooms, users in self._parts(self.claims.pop_changes(), rooms, changes):
            self.seq += 1
            delta = Delta(self.me, self.seq, present=users, format=FORMAT)
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
        users: list[UserChange] = [(*key, entry) for key, entry in self.presence.entries_of(self.me).items()]
        parts = self._parts(self.claims.of(self.me).items(), sorted(self._rooms), users) or [([], [], [])]
        for part, (claims, rooms, present) in enumerate(parts):
            process = self.processes[self.me]
            yield Snapshot(self.me, self.seq, part, len(parts), dict(claims), rooms, present, process, FORMAT)

    # ------------------------------------------------------------ messages of other nodes

    def beat_received(self, beat: Beat, now: float) -> None:
        """Handle a beat. Request a snapshot if changes of the node are missing."""
        remote = self._node_seen(beat.node, now, beat.process)
        if remote is None:
            return
        remote.nodes, remote.peers = beat.nodes, beat.peers
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
        remote = self._node_seen(snapshot.node, now, snapshot.process)
        if remote is None or (remote.seq is not None and snapshot.seq <= remote.seq):
            return
        parts = remote.add_part(snapshot)
        if not parts:
            return
        claims = {address: counter for part in parts for address, counter in part.claims.items()}
        rooms = {room for part in parts for room in part.rooms}
        released, left = self.claims.of(remote.name).keys() - claims.keys(), remote.rooms - rooms
        present = {(room, user): entry for part in parts for room, user, entry in part.present}
        before = self.presence.entries_of(remote.name)
        changes: list[UserChange] = [(*key, None) for key in before if key not in present]
        # If the node is back, all its entries count again, whatever was made of them meanwhile.
        is_new = remote.seq is None
        changes += [(*key, entry) for key, entry in present.items() if is_new or entry != before.get(key)]
        self._apply(remote, Delta(remote.name, snapshot.seq, claims, [*released], [*rooms], [*left], changes), now)

    def tick(self, now: float, *, receives: bool = True) -> None:
        """Remove the nodes that have sent nothing for `NODE_TIMEOUT` seconds, and released claims that are old.

        Args:
            receives: whether this node receives messages at present. If not, no node is removed.
        """
        if not receives:
            self.presence.deaf_at = now
            for remote in self._remotes.values():
                remote.seen_at = now
        for remote in [remote for remote in self._remotes.values() if remote.seen_at + NODE_TIMEOUT <= now]:
            self.drop(remote.name, now, silent=True)
        self.claims.tick(now, receives=receives)

    def drop(self, node: str, now: float, *, silent: bool = False) -> None:
        """Remove another node with its addresses and rooms, because it left or was ``silent``. Idempotent."""
        remote = self._remotes.pop(node, None)
        if remote is None:
            return
        self.claims.drop(node, now)
        self.presence.drop(node)
        self._listener.node_ended(node, silent)
        self.processes.pop(node, None)

    # ------------------------------------------------------------ entries of other nodes

    def _node_seen(self, node: str, now: float, process: str = "") -> RemoteNode | None:
        if node == self.me:
            return None
        if process:
            self.processes[node] = process
        remote = self._remotes.get(node)
        if remote is None:
            remote = self._remotes[node] = RemoteNode(node, now)
            self._listener.node_joined(node)
        remote.seen_at = now
        return remote

    def _apply(self, remote: RemoteNode, delta: Delta, now: float) -> None:
        first = remote.seq is None
        remote.seq = delta.seq
        self.claims.apply(remote.name, delta.claims, delta.released, now, first=first)
        remote.rooms.difference_update(delta.emptied)
        remote.rooms.update(delta.rooms)
        for room, user, entry in delta.present:
            self.presence.set(remote.name, room, user, entry)
