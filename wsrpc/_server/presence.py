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
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import islice
from typing import Any

import msgspec
from msgspec import Struct

from .._base.logs import logger
from .._base.names import LONGEST_ADDRESS, can_be_sent
from .._base.rooms import CHANNEL, Present
from .._base.scheduler import LoopScheduler, Scheduler, Tasks, Timer
from .._core.api.peer import Peer
from .._core.wire.codecs import Codec, json_text
from .._core.wire.messages import event_on
from ..errors import BadArguments, ConnectionLost, MessageTooBig, made_here
from .broadcast import BroadcastGroup, EventBroadcast
from .followers import Followers, Spawn
from .joined_cluster import MOST, PresenceDirectory, User, UserEntry
from .peers import ServedPeer

BATCHED = 0.05
"""Seconds for which changes are collected."""
BATCH = 1000
"""Maximum number of changes that are handled in one turn of the event loop."""
PART_BYTES = 32 * 1024
"""About the maximum bytes of one event ``presence``."""
LONGEST_ABOUT = 512
"""Maximum bytes of what a connection says about itself, as JSON."""
MOST_ABOUT = 8
"""Maximum number of connections of one user at one process that others see the ``about`` of."""

_encode = msgspec.msgpack.Encoder().encode


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
        raise made_here(BadArguments(f"`about` cannot be sent: {exc}")) from None
    if len(text) > LONGEST_ABOUT:
        raise made_here(BadArguments(f"`about` takes {len(text)} bytes, and at most {LONGEST_ABOUT} are allowed"))
    return plain


class KnownUser:
    """What is known of one user in one room.

    Attributes:
        entries: the entry of each node at which the user is online or away.
        last: the order of the latest change of an entry, and its node.
    """

    __slots__ = ("entries", "last", "user")

    def __init__(self, user: User) -> None:
        self.user = user
        self.entries: dict[str, UserEntry] = {}
        self.last = (0, "")

    def present(self) -> Present:
        """Return the state of the user."""
        entries = [self.entries[node] for node in sorted(self.entries)]
        online = any(entry.online for entry in entries)
        about = tuple(each for entry in entries if entry.online == online for each in entry.about)
        return Present(self.user, "online" if online else "away" if entries else "offline", about)

    def set(self, node: str, entry: UserEntry | None) -> UserEntry | None:
        """Set or remove the entry of a node. Return the one before."""
        before = self.entries.pop(node, None)
        if entry is not None:
            self.entries[node] = entry
            self.last = max(self.last, (entry.order, node))
        elif before is not None:
            self.last = max(self.last, (before.order + 1, node))
        return before

    def reporter(self, before: Present, now: Present, nodes: Collection[str]) -> str:
        """Return the node that calls the functions of `Server.on_presence` for a change. ``nodes`` are all nodes.

        The first node with a connection reports that a user is online, and the node of the latest entry reports other
        changes. Entries that two nodes have made at the same time have the same order, and the names decide.
        """
        node = self.last[1]
        if now.state == "online" and before.state != "online":
            node = min((entry.order, node) for node, entry in self.entries.items() if entry.online)[1]
        return node if node in nodes else min(nodes)


class Connection(Struct):
    """A connection of a user in a room. ``about``: what it says about itself, or None."""

    connected: bool
    about: Any = None


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
        self.known: dict[User, KnownUser] = {}
        """The users that are online or away, and those that were until the last batch."""
        self._presences = presences
        self._me = ""
        """The name of this node. Empty without a cluster."""
        self._user_of: dict[ServedPeer, User] = {}
        """The members of this process, each with its user."""
        self._connections: dict[User, dict[ServedPeer, Connection]] = {}
        self._away: dict[tuple[str, User], float] = {}
        """Entries that end at a time, the first one first: those of this node that are away, and those of nodes that
        have ended."""
        self._expiry: Timer | None = None
        self._changed: dict[User, tuple[float, Present]] = {}
        """Users that have changed, each with the time of the first change and the state before. The oldest is first."""
        self._unpublished: set[User] = set()
        """Users whose entry here has changed more than once since the last batch."""
        self._batch: Timer | None = None
        self._feed = PresenceFeed(name, group, presences.spawn, self)
        self._unreported: dict[User, Present] = {}
        """Changes for which the functions of `Server.on_presence` were not called yet."""
        self._reporting = False

    def present(self) -> dict[User, Present]:
        """Return the users that are online or away."""
        return {user: known.present() for user, known in self.known.items() if known.entries}

    def reported(self, user: User) -> Present:
        """Return the state of a user as of the last batch. Later changes are reported with the next one."""
        if user in self._changed:
            return self._changed[user][1]
        return self.known[user].present() if user in self.known else Present(user, "offline")

    # ------------------------------------------------------------ the members of this process

    def enter(self, served: ServedPeer, about: object = None) -> None:
        """Add a connection, which is a new member of the room, or change what it says about itself."""
        is_new = served not in self._user_of
        user = self._user_of.setdefault(served, user_of(served.peer))
        connections = self._connections.setdefault(user, {})
        if is_new:
            connections[served] = Connection(served.current.session.state.sends)
            self._feed.enter(served)
            self._start_batch()
        if about is not None:
            connections[served].about = about
        self._update(user, is_new=is_new)

    def leave(self, served: ServedPeer, *, ended: bool) -> None:
        """Remove a connection. ``ended``: its session has ended. Otherwise it has left the room. Idempotent."""
        user = self._user_of.pop(served, None)
        if user is None:
            return
        self._feed.drop(served.peer)
        connections = self._connections[user]
        del connections[served]
        if not connections:
            del self._connections[user]
        self._update(user, stays=ended and user != served.peer.id)

    def connection_changed(self, served: ServedPeer, connected: bool) -> None:
        """Record that the session of a member has lost its connection, or has resumed on another one."""
        user = self._user_of.get(served)
        if user is not None:
            self._connections[user][served].connected = connected
            self._update(user)

    def _update(self, user: User, *, is_new: bool = False, stays: bool = False) -> None:
        """Compute the entry of a user here. ``stays``: a user without a connection is away at first."""
        connections = self._connections.get(user, {})
        known = self.known.get(user)
        before = None if known is None else known.entries.get(self._me)
        online = any(connection.connected for connection in connections.values())
        if before is None and not online and not is_new:
            return  # the grace time is over
        entry: UserEntry | None = None
        if connections or stays:
            shown = (each.about for each in connections.values() if each.connected == online and each.about is not None)
            about = before.about if before is not None and not connections else tuple(islice(shown, MOST_ABOUT))
            if before is not None and (before.online, before.about) == (online, about):
                return
            order = 1 if known is None else min(known.last[0] + 1, MOST)
            entry = UserEntry(
                order, online, about, named=all(user != served.peer.id for served in islice(connections, 1))
            )
        again = user in self._changed
        self._set(self._me, user, entry)
        if entry is not None and not online:
            self._start_grace(self._me, user)
        if again:
            self._unpublished.add(user)
        else:
            self._publish(user)

    def _publish(self, user: User) -> None:
        directory, known = self._presences.directory, self.known.get(user)
        if directory is not None:
            directory.publish_presence(self.name, user, None if known is None else known.entries.get(self._me))

    # ------------------------------------------------------------ all processes

    def cluster_joined(self, directory: PresenceDirectory) -> None:
        """Follow what other nodes report, from now on."""
        directory.declare_presence(self.name)
        self._me = directory.presence_nodes(self.name)[0]
        for node, user, entry in directory.presence(self.name):
            self._set(node, user, entry)

    def changed(self, node: str, user: User, entry: UserEntry | None) -> None:
        """Record what another node reports."""
        self._away.pop((node, user), None)
        self._set(node, user, entry)

    def node_ended(self, node: str) -> None:
        """Record that the users of another node are away, and may connect to other nodes."""
        for user, known in self.known.items():
            entry = known.entries.get(node)
            if entry is not None:
                away = UserEntry(min(entry.order + 1, MOST), online=False, about=entry.about)
                self._set(node, user, away if entry.named else None)
                if entry.named:
                    self._start_grace(node, user)

    def _set(self, node: str, user: User, entry: UserEntry | None) -> None:
        known = self.known.get(user)
        if known is None:
            if entry is None:
                return
            known = self.known[user] = KnownUser(user)
        if user not in self._changed:
            self._changed[user] = (self._presences.scheduler.time(), known.present())
        before = known.set(node, entry)
        if entry is None or entry.online:
            self._away.pop((node, user), None)
        if entry is None and before is not None and before.online:
            self._end_grace(user)
        self._start_batch()

    # ------------------------------------------------------------ the grace time

    def _start_grace(self, node: str, user: User) -> None:
        self._away.setdefault((node, user), self._presences.scheduler.time() + self.grace)
        self._start_expiry()

    def _end_grace(self, user: User) -> None:
        """Record that a user has left, so that earlier connections of the user, which have ended, are no longer away.

        An entry that is removed while it is online means that the user has left. Otherwise it would be away at first.
        """
        for node in [node for node in self.known[user].entries if (node, user) in self._away]:
            if node != self._me or user not in self._connections:
                self._expire(node, user)

    def _expire(self, node: str, user: User) -> None:
        self._set(node, user, None)
        if node == self._me:
            self._publish(user)

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

    # ------------------------------------------------------------ batches of changes

    def _start_batch(self, when: float | None = None) -> None:
        if self._batch is None:
            scheduler = self._presences.scheduler
            self._batch = scheduler.call_at(scheduler.time() + BATCHED if when is None else when, self._end_batch)

    def _end_batch(self) -> None:
        """Report what has changed: to other nodes, to the members, and to the functions of `Server.on_presence`."""
        self._batch = None
        for user in self._unpublished:
            self._publish(user)
        self._unpublished.clear()
        directory = self._presences.directory
        nodes = [self._me] if directory is None else directory.presence_nodes(self.name)
        changes: list[User] = []
        ripe = self._presences.scheduler.time() - BATCHED / 2
        for user, (since, before) in [*islice(self._changed.items(), BATCH)]:
            if since > ripe:  # another node may have changed it at the same time
                break
            del self._changed[user]
            known = self.known[user]
            present = known.present()
            if present != before:
                changes.append(user)
                if known.reporter(before, present, nodes) == self._me:
                    self._report(present)
            if not known.entries:
                del self.known[user]
        if self._changed:
            self._start_batch(next(iter(self._changed.values()))[0] + BATCHED)
        self._feed.send(changes)

    @property
    def has_changes(self) -> bool:
        """Whether there are changes that were not reported yet."""
        return bool(self._changed)

    def _report(self, present: Present) -> None:
        if self._presences.functions:
            self._unreported.pop(present.user, None)  # only the latest state counts
            self._unreported[present.user] = present
            if not self._reporting:
                self._reporting = True
                self._presences.calls.spawn(self._call_functions())

    async def _call_functions(self) -> None:
        """Call the functions of `Server.on_presence`, one after another."""
        try:
            while self._unreported:
                present = self._unreported.pop(next(iter(self._unreported)))
                for function in self._presences.functions:
                    try:
                        result = function(self._presences.room(self.name), present)
                        if inspect.isawaitable(result):
                            await result
                    except Exception:
                        logger.exception("on_presence failed for room %r", self.name)
        finally:
            self._reporting = False

    def reset(self) -> None:
        """Remove everything, because the server has ended."""
        for timer in (self._expiry, self._batch):
            if timer is not None:
                timer.cancel()
        self._expiry = self._batch = None
        for served in [*self._user_of]:
            self._feed.drop(served.peer)
        for table in (self.known, self._user_of, self._connections, self._away, self._changed, self._unreported):
            table.clear()
        self._unpublished.clear()
        self._me = ""


class Backlog:
    """What a member that is behind has to get: users that have changed. ``first``: it has no snapshot yet."""

    def __init__(self) -> None:
        self.first = False
        self.users: dict[User, None] = {}

    def add(self, users: Iterable[User], *, first: bool = False) -> None:
        self.users.update(dict.fromkeys(users))
        self.first = self.first or first


class PresenceFeed(Followers):
    """Reports the users in a room to its members: all users to a new member, then the changes.

    A member whose connection is full gets the present state of the changed users when it has room again. So it needs
    memory only for their names. If these are more than the users in the room, it gets all users again.
    """

    def __init__(self, room: str, group: BroadcastGroup, spawn: Spawn, presence: RoomPresence) -> None:
        super().__init__(group, spawn)
        self._room = room
        self._presence = presence
        self._new: dict[Peer, ServedPeer] = {}
        """Members that get all users with the next batch."""
        self._backlogs: dict[Peer, Backlog] = {}

    def enter(self, served: ServedPeer) -> None:
        """Send all users to a new member, with the next batch."""
        self._new[served.peer] = served

    def drop(self, member: object) -> None:
        super().drop(member)
        if isinstance(member, Peer):
            self._new.pop(member, None)
            self._backlogs.pop(member, None)

    def send(self, changes: Collection[User]) -> None:
        """Send changes to all members, and all users to the new ones."""
        if not self.members:
            return
        for part in self._parts(changes):
            for error in self._send(self._message(part, first=False), None, self._new).errors:
                if isinstance(error.__cause__, MessageTooBig):
                    logger.warning("the presence of room %r was not sent: %s", self._room, error)
            for backlog in self._backlogs.values():
                backlog.add(part)
        new, self._new = self._new, {}
        first = True
        for part in self._parts(self._presence.known) if new else ():
            message = self._message(part, first=first)  # once for all of them
            for peer, served in new.items():
                if not self.is_behind(peer):
                    self._send_to(served, message)
                if peer in self._backlogs:
                    self._backlogs[peer].add(part, first=first)
            first = False

    def _send_to(self, served: ServedPeer, message: EventBroadcast) -> None:
        try:
            self._deliver(served, message, None)
        except ConnectionLost:
            self.lost(served.peer)
        except MessageTooBig as exc:
            logger.warning("the presence of room %r was not sent: %s", self._room, exc)

    def fall_behind(self, served: ServedPeer) -> asyncio.Task[Any]:
        self._backlogs.setdefault(served.peer, Backlog())
        return super().fall_behind(served)

    async def catch_up(self, served: ServedPeer) -> None:
        backlog = self._backlogs[served.peer]
        try:
            while True:
                await self.wait_room(served)
                if not backlog.users:
                    return
                if len(backlog.users) > len(self._presence.known) + BATCH:
                    backlog.users, backlog.first = dict.fromkeys(self._presence.known), True
                part = next(self._parts(backlog.users))
                for user in part:
                    del backlog.users[user]
                self._send_to(served, self._message(part, first=backlog.first))
                backlog.first = False
        finally:
            if self._backlogs.get(served.peer) is backlog:
                del self._backlogs[served.peer]

    def _parts(self, users: Iterable[User]) -> Iterator[dict[User, Present]]:
        """Split users into parts, each of which is an event of moderate size."""
        part: dict[User, Present] = {}
        size = 0
        for user in users:
            present = self._presence.reported(user)
            bytes_of_one = len(_encode(present))
            if part and size + bytes_of_one > PART_BYTES:
                yield part
                part, size = {}, 0
            part[user] = present
            size += bytes_of_one
        if part:
            yield part

    def _message(self, part: Mapping[User, Present], *, first: bool) -> EventBroadcast:
        entries = [{"user": each.user, "state": each.state, "about": each.about} for each in part.values()]
        return EventBroadcast(event_on(CHANNEL, ("presence", self._room, entries, first)))


class Presences:
    """The rooms of one server that have presence.

    Args:
        room: returns the room with a name.
        spawn: runs a coroutine in a task that ends with the server.
    """

    def __init__(self, room: Callable[[str], Any], spawn: Spawn) -> None:
        self.room = room
        self.by_name: dict[str, RoomPresence] = {}
        self.functions: list[Callable[[Any, Present], object]] = []
        """The functions of `Server.on_presence`."""
        self.scheduler: Scheduler = LoopScheduler()
        """Of the present server core."""
        self.directory: PresenceDirectory | None = None
        self.spawn = spawn
        self.calls = Tasks()
        """The calls of these functions."""

    def add(self, name: str, grace: float, group: BroadcastGroup) -> RoomPresence:
        """Add a room, which may have members already."""
        presence = self.by_name[name] = RoomPresence(name, grace, group, self)
        if self.directory is not None:
            presence.cluster_joined(self.directory)
        for inside in group.members.values():
            if isinstance(inside, ServedPeer):
                presence.enter(inside)
        return presence

    def connection_changed(self, served: ServedPeer, connected: bool) -> None:
        """Record that the session of a peer has lost its connection, or has resumed on another one."""
        for room in served.rooms if self.by_name else ():
            if (presence := self.by_name.get(room.name)) is not None:
                presence.connection_changed(served, connected)

    # ------------------------------------------------------------ the cluster

    def cluster_joined(self, directory: PresenceDirectory) -> None:
        """Follow what other nodes report, from now on."""
        self.directory = directory
        for presence in self.by_name.values():
            presence.cluster_joined(directory)

    def changed(self, node: str, room: str, user: User, entry: UserEntry | None) -> None:
        """Record what another node reports."""
        if (presence := self.by_name.get(room)) is not None:
            presence.changed(node, user, entry)

    def node_ended(self, node: str) -> None:
        """Record the end of another node."""
        for presence in self.by_name.values():
            presence.node_ended(node)

    # ------------------------------------------------------------ the end

    async def close(self, patience: float) -> None:
        """Report the last changes, and wait at most ``patience`` seconds for the functions of `Server.on_presence`."""
        if any(presence.has_changes for presence in self.by_name.values()):
            # Other nodes leave it to this one to call the functions for these changes, if it still exists then.
            await asyncio.sleep(2 * BATCHED)
        with suppress(TimeoutError):
            async with asyncio.timeout(patience):
                await self.calls.wait()
        self.reset()

    def reset(self) -> None:
        """Remove everything, because the server has ended."""
        self.directory = None
        for presence in self.by_name.values():
            presence.reset()
