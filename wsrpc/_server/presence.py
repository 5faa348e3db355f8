"""`RoomPresence`: the users in a room, in all processes. `Presences`: the rooms of a server that have presence.

Each process reports to the others only about the connections that it serves itself: one `UserEntry` for each user in a
room. The state of a user is the best one that a process reports. A user who is away for the grace time is offline. The
process with the connections of the user measures this time; for the users of a process that has ended, each process
does.

Each process tells its own members what has changed. The functions of `Server.on_presence` are called in one process,
which all processes choose in the same way; see `KnownUser.reporter`.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import suppress
from itertools import islice
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from .._base.logs import logger
from .._base.names import LONGEST_ADDRESS, can_be_sent
from .._base.rooms import CHANNEL, Present
from .._base.scheduler import LoopScheduler, Scheduler, Tasks, Timer
from .._core.api.peer import Peer
from .._core.wire.codecs import Codec, json_text
from .._core.wire.counting import json_nests_deeper
from .._core.wire.messages import event_on
from ..errors import BadArguments, MessageTooBig
from .broadcast import BroadcastGroup, EventBroadcast
from .followers import Followers, Spawn
from .joined_cluster import MOST, PresenceDirectory, User, UserEntry
from .peers import ServedPeer

T = TypeVar("T")

BATCHED = 0.05
"""Seconds for which changes are collected."""
BATCH = 1000
"""Maximum number of changes that are handled in one turn of the event loop."""
PART_BYTES = 32 * 1024
"""About the maximum bytes of one event ``presence``."""
LONGEST_ABOUT = 512
"""Maximum bytes of what a connection says about itself, as JSON."""
DEEPEST_ABOUT = 16
"""Maximum depth of its arrays and objects. All members drop an event that has a value nested deeper than they accept.
"""
MOST_ABOUT = 8
"""Maximum number of connections of one user at one process that others see the ``about`` of."""

NEVER: tuple[int, str] = (0, "")
"""`KnownUser.removed` if no entry was removed."""

_encode = msgspec.msgpack.Encoder(enc_hook=str.__str__).encode  # names may be of a subclass of str


def user_of(peer: Peer) -> User:
    """Return the user of a peer."""
    principal = peer.principal
    if isinstance(principal, str) and can_be_sent(principal) and len(principal.encode()) <= LONGEST_ADDRESS:
        return str.__str__(principal)
    if isinstance(principal, int) and not isinstance(principal, bool) and -(2**63) <= principal < 2**64:
        return int(principal)
    return peer.id


def checked_about(about: object, codec: Codec) -> Any:
    """Return what a connection says about itself, as clients and other processes get it.

    Raises:
        BadArguments: it cannot be encoded, or it is too large.
    """
    try:
        text = json_text(codec, about).encode()
        plain = msgspec.json.decode(text)
        _encode(plain)
    except (TypeError, ValueError, OverflowError, RecursionError) as exc:
        raise BadArguments(f"`about` cannot be sent: {exc}") from None
    if json_nests_deeper(text, DEEPEST_ABOUT):
        raise BadArguments(f"`about` is nested more than {DEEPEST_ABOUT} deep")
    if len(text) > LONGEST_ABOUT:
        raise BadArguments(f"`about` takes {len(text)} bytes, and at most {LONGEST_ABOUT} are allowed")
    return plain


def parts_of(items: Iterable[T], most_bytes: int) -> Iterator[list[T]]:
    """Split items into parts, each of which fits in a message."""
    part: list[T] = []
    size = 0
    for item in items:
        bytes_of_one = len(_encode(item))
        if part and (len(part) == BATCH or size + bytes_of_one > most_bytes):
            yield part
            part, size = [], 0
        part.append(item)
        size += bytes_of_one
    if part:
        yield part


class Connection(Struct):
    """A connection of a user in a room. ``about``: what it says about itself, or None."""

    connected: bool
    about: Any = None


class KnownUser:
    """What is known of one user in one room.

    Attributes:
        connections: the members of this process that are connections of the user.
        entries: the entry of each node at which the user is online or away.
        removed: the order of the latest entry that was removed since the last batch, and its node.
        returned: nodes that were silent, and whose entry has come back since the last batch.
    """

    __slots__ = ("connections", "entries", "removed", "returned", "user")

    def __init__(self, user: User) -> None:
        self.user = user
        self.connections: dict[ServedPeer, Connection] = {}
        self.entries: dict[str, UserEntry] = {}
        self.removed = NEVER
        self.returned: set[str] = set()

    def present(self) -> Present:
        """Return the state of the user."""
        entries = [self.entries[node] for node in sorted(self.entries)]
        online = any(entry.online for entry in entries)
        about = tuple(each for entry in entries if entry.online == online for each in entry.about)
        return Present(self.user, "online" if online else "away" if entries else "offline", about)

    def next_order(self) -> int:
        """Return the order of a new entry: it is later than all that are known."""
        return min(MOST, 1 + max((entry.order for entry in self.entries.values()), default=self.removed[0]))

    def entry_here(self, before: UserEntry | None) -> UserEntry:
        """Return the entry that the connections make. Without a connection, the user is away as of ``before``."""
        online = any(each.connected for each in self.connections.values())
        shown = (each.about for each in self.connections.values() if each.connected == online)
        about = tuple(islice((each for each in shown if each is not None), MOST_ABOUT))
        if before is not None and not self.connections:
            about = before.about
        if before is not None and (before.online, before.about) == (online, about):
            return before
        named = all(served.peer.id != self.user for served in islice(self.connections, 1))
        return UserEntry(self.next_order(), online, about, named)

    def is_contested(self, node: str, me: str) -> bool:
        """Return whether a node has perhaps reported that the user is away, not knowing that it is online here."""
        entry, mine = self.entries.get(node), self.entries.get(me)
        if entry is None or mine is None:
            return False
        return mine.online and not entry.online and entry.order <= mine.order

    def reporter(self, before: Present, now: Present, nodes: Collection[str]) -> str:
        """Return the node that calls the functions of `Server.on_presence` for a change. ``nodes`` are all nodes.

        The first node with a connection reports that a user is online, also again, after what another node has perhaps
        reported. The node of the latest entry reports other changes. Entries that two nodes have made at the same time
        have the same order, and the names decide. A node that was silent does not know that the others have reported
        its users as away, so one of the others reports.
        """
        nodes = set(nodes) - self.returned
        if now.state == "online" and (before.state != "online" or before == now) and not self.returned:
            return min((entry.order, node) for node, entry in self.entries.items() if entry.online)[1]
        latest = [(entry.order, node) for node, entry in self.entries.items()]
        return max((each for each in (*latest, self.removed) if each[1] in nodes), default=NEVER)[1] or min(nodes)


class RoomPresence:
    """The users in one room, in all processes.

    Args:
        grace: seconds for which a user is away before the user is offline.
        group: the members of the room here.
        presences: the rooms with presence of the server.
    """

    def __init__(self, name: str, grace: float, group: BroadcastGroup, presences: Presences) -> None:
        self.name = name
        self.grace = grace
        self.group = group
        self.known: dict[User, KnownUser] = {}
        self._presences = presences
        self._me = ""
        """The name of this node. Empty without a cluster."""
        self._user_of: dict[ServedPeer, KnownUser] = {}
        """The members of this process, each with its user."""
        self._away: dict[tuple[str, User], float] = {}
        """Entries that end at a time, the first one first: those of this node that are away, and those of nodes that
        have ended."""
        self._expiry: Timer | None = None
        self.recent_changes: dict[User, tuple[float, Present]] = {}
        """Users that have changed, each with the time of the first change and the state before. The oldest is first."""
        self._changed_elsewhere: set[User] = set()
        """Those of them whose state another node has changed, even if it is the state before again."""
        self._batch: Timer | None = None
        self._feed = PresenceFeed(group, presences.spawn, self)
        self._unreported: dict[User, Present] = {}
        """Changes for which the functions of `Server.on_presence` are called."""

    def present(self) -> dict[User, Present]:
        """Return the users that are online or away."""
        return {user: known.present() for user, known in self.known.items() if known.entries}

    def reported(self, user: User) -> Present:
        """Return the state of a user as of the last batch. Later changes are reported with the next one."""
        if user in self.recent_changes:
            return self.recent_changes[user][1]
        return self.known[user].present() if user in self.known else Present(user, "offline")

    # ------------------------------------------------------------ the members of this process

    def enter(self, served: ServedPeer, about: object = None) -> None:
        """Add a connection, which is a new member of the room, or change what it says about itself."""
        is_new = served not in self._user_of
        if is_new:
            user = user_of(served.peer)
            known = self._user_of[served] = self.known.setdefault(user, KnownUser(user))
            known.connections[served] = Connection(served.current.session.state.sends)
            self._feed.new.add(served.peer)
            self._start_batch()
        known = self._user_of[served]
        if about is not None:
            known.connections[served].about = about
        self._update(known, is_new=is_new)

    def leave(self, served: ServedPeer, *, ended: bool) -> None:
        """Remove a connection. ``ended``: its session has ended. Otherwise it has left the room. Idempotent."""
        known = self._user_of.pop(served, None)
        if known is not None:
            self._feed.drop(served.peer)
            del known.connections[served]
            self._update(known, stays=ended and known.user != served.peer.id)
            self._drop_unused(known)

    def connection_changed(self, served: ServedPeer, connected: bool) -> None:
        """Record that the session of a member has lost its connection, or has resumed on another one."""
        known = self._user_of.get(served)
        if known is not None:
            known.connections[served].connected = connected
            self._update(known)

    def _update(self, known: KnownUser, *, is_new: bool = False, stays: bool = False) -> None:
        """Compute the entry of a user here. ``stays``: a user without a connection is away at first."""
        before = known.entries.get(self._me)
        entry = known.entry_here(before) if known.connections or stays else None
        if entry is before or (before is None and entry is not None and not entry.online and not is_new):
            return  # nothing has changed, or the grace time is over
        self._set(self._me, known.user, entry)
        if entry is not None and not entry.online:
            self._start_grace(self._me, known.user)
        self._publish(known.user)

    def _drop_unused(self, known: KnownUser) -> None:
        if not (known.entries or known.connections or known.user in self.recent_changes):
            self.known.pop(known.user, None)

    def _publish(self, user: User) -> None:
        directory, known = self._presences.directory, self.known.get(user)
        if directory is not None:
            directory.publish_presence(self.name, user, None if known is None else known.entries.get(self._me))

    # ------------------------------------------------------------ all processes

    def cluster_joined(self, directory: PresenceDirectory) -> None:
        """Follow what other nodes report, from now on."""
        directory.publish_presence(self.name, None, UserEntry(0, online=False))
        self._me = directory.presence_nodes(self.name)[0]
        for node, user, entry in directory.presence(self.name):
            self._set(node, user, entry)

    def changed(self, node: str, user: User, entry: UserEntry | None, *, returned: bool) -> None:
        """Record what another node reports."""
        self._away.pop((node, user), None)
        self._set(node, user, entry)
        if returned:
            self.known[user].returned.add(node)

    def node_ended(self, node: str) -> None:
        """Record that the users of another node are away, and may connect to other nodes.

        One of the nodes adopts the entries, so that nodes which start now know of them, too.
        """
        holders = (node, self._me) if min(self._nodes) == self._me else (node,)
        for user, known in self.known.items():
            entry = known.entries.get(node)
            if entry is not None and not entry.named:
                self._set(node, user, None)
            elif entry is not None:
                for holder in holders:
                    if holder == node or not (holder in known.entries and known.entries[holder].online):
                        self._set(holder, user, UserEntry(known.next_order(), online=False, about=entry.about))
                        self._away.pop((holder, user), None)
                        self._start_grace(holder, user)
                self._publish(user)

    @property
    def _nodes(self) -> list[str]:
        directory = self._presences.directory
        return [self._me] if directory is None else directory.presence_nodes(self.name)

    def _set(self, node: str, user: User, entry: UserEntry | None) -> None:
        """Set or remove the entry of a user at a node.

        If an entry is removed while it is online, the user has left: otherwise it would be away at first. Earlier
        connections of the user that have ended are no longer away then.
        """
        known = self.known.setdefault(user, KnownUser(user))
        if user not in self.recent_changes:
            self.recent_changes[user] = (self._presences.scheduler.time(), known.present())
            self._start_batch()
        before = known.entries.pop(node, None)
        if entry is not None:
            known.entries[node] = entry
        elif before is not None and node in self._nodes:
            known.removed = max(known.removed, (before.order, node))
        if node != self._me:
            is_contested = known.is_contested(node, self._me)
            if is_contested:  # what the node reports comes first
                _, state = self.recent_changes.pop(user)
                self.recent_changes[user] = self._presences.scheduler.time(), state
            if is_contested or known.present() != self.recent_changes[user][1]:
                self._changed_elsewhere.add(user)
        if entry is None or entry.online:
            self._away.pop((node, user), None)
        if entry is None and before is not None and before.online:
            for other in [other for other in known.entries if (other, user) in self._away]:
                if other != self._me or not known.connections:
                    self._expire(other, user)

    # ------------------------------------------------------------ the grace time

    def _start_grace(self, node: str, user: User) -> None:
        self._away.setdefault((node, user), self._presences.scheduler.time() + self.grace)
        self._start_expiry()

    def _start_expiry(self) -> None:
        if self._expiry is None and self._away:
            self._expiry = self._presences.scheduler.call_at(next(iter(self._away.values())), self._expire_all)

    def _expire_all(self) -> None:
        self._expiry = None
        now = self._presences.scheduler.time()
        for (node, user), deadline in [*islice(self._away.items(), BATCH)]:
            if deadline <= now:
                self._expire(node, user)
        self._start_expiry()

    def _expire(self, node: str, user: User) -> None:
        self._set(node, user, None)
        if node == self._me:
            self._publish(user)

    # ------------------------------------------------------------ batches of changes

    def _start_batch(self, since: float | None = None) -> None:
        if self._batch is None:
            scheduler = self._presences.scheduler
            self._batch = scheduler.call_at((scheduler.time() if since is None else since) + BATCHED, self._end_batch)

    def _end_batch(self) -> None:
        """Report what has changed to the members, and to the functions of `Server.on_presence`."""
        self._batch = None
        nodes = self._nodes
        changes: list[User] = []
        ripe = self._presences.scheduler.time() - BATCHED / 2
        for user, (since, before) in [*islice(self.recent_changes.items(), BATCH)]:
            if since > ripe:  # another node may have changed it at the same time
                self._start_batch(since)
                break
            del self.recent_changes[user]
            known = self.known[user]
            present = known.present()
            if present != before:
                changes.append(user)
            # Another node may have reported a state in between, if that was the last one in a batch there.
            is_new = present != before or user in self._changed_elsewhere
            if is_new and known.reporter(before, present, nodes) == self._me:
                self._report(present)
            self._changed_elsewhere.discard(user)
            known.removed = NEVER
            known.returned.clear()
            self._drop_unused(known)
        if self.recent_changes:
            self._start_batch(ripe)
        self._feed.send(changes)

    def _report(self, present: Present) -> None:
        if self._presences.functions:
            if not self._unreported:
                self._presences.calls.spawn(self._call_functions())
            self._unreported[present.user] = present  # only the latest state counts

    async def _call_functions(self) -> None:
        """Call the functions of `Server.on_presence`, one after another."""
        while self._unreported:
            present = next(iter(self._unreported.values()))
            for function in self._presences.functions:
                try:
                    result = function(self._presences.room(self.name), present)
                    if inspect.isawaitable(result):
                        await result
                except Exception:
                    logger.exception("on_presence failed for room %r", self.name)
            if self._unreported.get(present.user) is present:
                del self._unreported[present.user]

    def stop(self) -> None:
        """Stop the timers, because the server has ended."""
        for timer in (self._expiry, self._batch):
            if timer is not None:
                timer.cancel()


class PresenceFeed(Followers):
    """Sends the users in a room to its members: all users to a new member, then the changes.

    A member whose connection is full gets all users again when it has room. So it needs no memory meanwhile.
    """

    def __init__(self, group: BroadcastGroup, spawn: Spawn, presence: RoomPresence) -> None:
        super().__init__(group, spawn)
        self.new: set[Peer] = set()
        """Members that get all users with the next batch."""
        self._presence = presence
        self._batches = 0
        """Number of batches with changes."""

    def drop(self, member: Peer) -> None:
        super().drop(member)
        self.new.discard(member)

    def send(self, changes: Collection[User]) -> None:
        """Send changes to all members, and all users to the new ones."""
        new, self.new = self.new, set()
        if self.members and changes:
            self._batches += 1
            for message in self._messages(changes, first=False):
                self._send(message, None, new)
        if new:
            for message in self._messages(self._presence.known, first=True):
                self._send(message, None, self.members.keys() - new)

    async def catch_up(self, served: ServedPeer) -> None:
        sent = -1
        while sent != self._batches:  # something has changed since the first part was sent
            await self.wait_room(served)
            sent = self._batches
            for message in [*self._messages(self._presence.known, first=True)]:
                with suppress(MessageTooBig):  # as in a broadcast, of which others see the report
                    BroadcastGroup._deliver(self, served, message, None)
                await self.wait_room(served)

    def _messages(self, users: Iterable[User], *, first: bool) -> Iterator[EventBroadcast]:
        for part in parts_of(map(self._presence.reported, users), PART_BYTES):
            yield EventBroadcast(event_on(CHANNEL, ("presence", self._presence.name, part, first)))
            first = False


class Presences:
    """The rooms of one server that have presence.

    Args:
        room: returns the room with a name.
        spawn: runs a coroutine in a task that ends with the server.
    """

    def __init__(self, room: Callable[[str], Any], spawn: Spawn) -> None:
        self.room = room
        self.spawn = spawn
        self.by_name: dict[str, RoomPresence] = {}
        self.functions: list[Callable[[Any, Present], object]] = []
        """The functions of `Server.on_presence`."""
        self.calls = Tasks()
        """The calls of these functions."""
        self.scheduler: Scheduler = LoopScheduler()
        """Of the present server core."""
        self.directory: PresenceDirectory | None = None
        """The directory of the cluster that the server has joined."""

    def add(self, name: str, grace: float, group: BroadcastGroup) -> None:
        """Add a room, which may have members already."""
        presence = self.by_name[name] = RoomPresence(name, grace, group, self)
        if self.directory is not None:
            presence.cluster_joined(self.directory)
        for inside in group.members.values():
            if isinstance(inside, ServedPeer):
                presence.enter(inside)

    def connection_changed(self, served: ServedPeer, connected: bool) -> None:
        """Record that the session of a peer has lost its connection, or has resumed on another one."""
        for room in served.rooms if self.by_name else ():
            if (presence := self.by_name.get(room.name)) is not None:
                presence.connection_changed(served, connected)

    def cluster_joined(self, directory: PresenceDirectory) -> None:
        """Follow what other nodes report, from now on."""
        self.directory = directory
        for presence in self.by_name.values():
            presence.cluster_joined(directory)

    def changed(self, node: str, room: str, user: User, entry: UserEntry | None) -> None:
        """Record what another node reports, until this server leaves the cluster."""
        if self.directory is not None and room in self.by_name:
            self.by_name[room].changed(node, user, entry, returned=self.directory.has_returned(node))

    def node_ended(self, node: str) -> None:
        """Record the end of another node, until this server leaves the cluster."""
        for presence in self.by_name.values() if self.directory is not None else ():
            presence.node_ended(node)

    async def close(self, patience: float) -> None:
        """Report the last changes, and wait at most ``patience`` seconds for the functions of `Server.on_presence`."""
        if any(presence.recent_changes for presence in self.by_name.values()):
            # Other nodes leave it to this one to call the functions for these changes, if it still exists then.
            await asyncio.sleep(3 * BATCHED)
        with suppress(TimeoutError):
            async with asyncio.timeout(patience):
                await self.calls.wait()
        self.reset()

    def reset(self) -> None:
        """Remove all users, because the server has ended."""
        self.directory = None
        for name, presence in self.by_name.items():
            presence.stop()
            self.by_name[name] = RoomPresence(name, presence.grace, presence.group, self)
