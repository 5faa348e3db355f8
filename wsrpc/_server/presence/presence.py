"""`RoomPresence`: the users in a room, in all processes. `Presences`: the rooms of a server that have presence.

The entries of all nodes are in `UserEntries`. Each process writes its own entries, those of its connections, and reads
the state of a user, which is the best one of all entries. A user who is away for the grace time is offline. The process
with the connections of the user measures this time.

When a process has ended, each other process counts the users of its entries as away for the grace time. The first one
also has entries of its own for them, so that processes which start later know them.

`PresenceFeed` sends the changes to the members of a process, and `PresenceReports` calls the application.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from itertools import islice
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from ..._base.rooms import Present
from ..._base.scheduler import Scheduler, Tasks, Timer
from ..broadcast import BroadcastGroup
from ..lossless_fanout import Spawn
from ..peers import ServedPeer
from .presence_feed import PresenceFeed
from .presence_reports import PresenceReports
from .room_users import BATCHED, RoomUsers
from .user_entries import User, UserEntries, UserEntry, user_of

MOST_ABOUT = 8
"""Maximum number of connections of one user at one process that others see the ``about`` of."""


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
        self.grace = grace
        self.group = group
        self.users = RoomUsers(name, presences.entries, presences.scheduler, self._report)
        self.present = self.users.present
        self._entries = presences.entries
        self._connections: dict[User, dict[ServedPeer, Connection]] = {}
        """The members of this process, by user."""
        self._grace: dict[tuple[str, User], Timer] = {}
        """The entries that are removed when the grace time is over, by node and user: those of this node that are away,
        and those of nodes that have ended."""
        self._feed = PresenceFeed(group, presences.spawn, self.users)
        self._entries.set(self._entries.me, name, None, UserEntry(online=False))
        self._reports = PresenceReports(self.users, presences.functions, presences.calls, presences.room)

    def _report(self, users: list[User], changes: list[User]) -> None:
        """Report a batch of changes to the members, and to the functions of `Server.on_presence`."""
        for user in users:
            self._reports.check(user)
        self._feed.send(changes)

    # ------------------------------------------------------------ the members of this process

    def enter(self, served: ServedPeer, about: object = None) -> None:
        """Add a connection, which is a new member of the room, or change what it says about itself."""
        user = user_of(served.peer)
        connections = self._connections.setdefault(user, {})
        if is_new := served not in connections:
            connections[served] = Connection(served.current.session.state.sends)
            self._feed.add(served.peer)
            self.users.start_batch()
        if about is not None:
            connections[served].about = about
        self._update(user, is_new=is_new)

    def leave(self, served: ServedPeer, *, ended: bool) -> None:
        """Remove a connection. ``ended``: its session has ended. Otherwise it has left the room. Idempotent."""
        user = user_of(served.peer)
        connections = self._connections.get(user, {})
        if connections.pop(served, None) is not None:
            self._feed.drop(served.peer)
            if not connections:
                del self._connections[user]
            self._update(user, stays=ended and user != served.peer.id)

    def connection_changed(self, served: ServedPeer, connected: bool) -> None:
        """Record that the session of a member has lost its connection, or has resumed on another one."""
        user = user_of(served.peer)
        connection = self._connections.get(user, {}).get(served)
        if connection is not None:
            connection.connected = connected
            self._update(user)

    def _update(self, user: User, *, is_new: bool = False, stays: bool = False) -> None:
        """Compute the entry of a user here. ``stays``: a user without a connection is away at first."""
        before = self.users.entries(user).get(self._entries.me)
        entry = self._computed_entry(user, before) if stays or user in self._connections else None
        if entry == before or (before is None and entry is not None and not entry.online and not is_new):
            return  # nothing has changed, or the grace time is over
        self._set(self._entries.me, user, entry, for_grace=entry is not None and not entry.online)

    def _computed_entry(self, user: User, before: UserEntry | None) -> UserEntry:
        """Return the entry that the connections make. Without a connection, the user is away as of ``before``."""
        connections = self._connections.get(user)
        if not connections:
            return UserEntry(online=False, about=() if before is None else before.about)
        online = any(each.connected for each in connections.values())
        shown = (each.about for each in connections.values() if each.connected == online and each.about is not None)
        # A user without a name is its only connection.
        return UserEntry(
            online, tuple(islice(shown, MOST_ABOUT)), named=all(user != each.peer.id for each in connections)
        )

    # ------------------------------------------------------------ all processes

    def entry_changing(self, node: str, user: User, entry: UserEntry | None) -> None:
        """Record a change of an entry, before it is made.

        If an entry is removed while it is online, the user has left: otherwise it would be away at first. Earlier
        connections of the user that have ended are no longer away then.
        """
        self.users.record_change(user)
        entries = self.users.entries(user)
        has_left = entry is None and node in entries and entries[node].online
        for each in [*entries] if has_left else [node]:
            if (timer := self._grace.pop((each, user), None)) is not None:
                timer.cancel()
                if each != node:
                    self._set(each, user, None)

    def node_ended(self, node: str) -> None:
        """Handle the end of another node, whose users may connect to other nodes. Until then, they are away.

        The first of the nodes adopts them: it has entries of them, too, so that processes which start later know them.
        """
        me = self._entries.me
        is_first = min(self._entries.nodes(self.users.name)) == me
        for user in [each for each in self._entries.users(self.users.name) if node in self.users.entries(each)]:
            entry = self.users.entries(user)[node]
            if me in self.users.entries(user) or (is_first and not entry.named):
                self._reports.repeat(user)  # also if it is online here: perhaps the other node did not know that
            # Without a name, the user cannot connect again.
            self._set(node, user, replace(entry, online=False) if entry.named else None, for_grace=entry.named)
        if is_first:
            for ended, user in [*self._grace]:  # also of nodes whose users another node has not adopted before its end
                if me not in self.users.entries(user):
                    self._set(me, user, self.users.entries(user)[ended], for_grace=True)
            self._reports.repeat_offline()

    def was_missed(self) -> None:
        self._reports.repeat_all()

    def _set(self, node: str, user: User, entry: UserEntry | None, *, for_grace: bool = False) -> None:
        """Set or remove an entry. ``for_grace``: remove it when the grace time is over."""
        self._entries.set(node, self.users.name, user, entry)
        if for_grace:
            self._grace[node, user] = self.users.call_later(self.grace, self._set, node, user, None)

    def stop(self) -> None:
        """Stop the timers, because the server has ended."""
        self.users.stop()
        self._reports.stop()
        for timer in self._grace.values():
            timer.cancel()


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
        self.scheduler: Scheduler
        """Of the present server core."""
        self.entries = UserEntries()
        """Of this server, or of the cluster that it has joined."""

    def open(self, scheduler: Scheduler) -> None:
        """Use the scheduler of another server core."""
        self.scheduler = scheduler
        self.use(UserEntries())

    def use(self, entries: UserEntries) -> None:
        """Read and write other entries, because the server has joined a cluster or has ended. It has no members."""
        for presence in self.by_name.values():
            presence.stop()
        self.entries.listen(lambda room: None)
        self.entries = entries
        self.by_name = {
            name: RoomPresence(name, presence.grace, presence.group, self) for name, presence in self.by_name.items()
        }
        entries.listen(self.by_name.get)

    def add(self, name: str, grace: float, group: BroadcastGroup) -> None:
        """Add a room, which may have members already."""
        presence = self.by_name[name] = RoomPresence(name, grace, group, self)
        for inside in group.members.values():
            if isinstance(inside, ServedPeer):
                presence.enter(inside)

    def connection_changed(self, served: ServedPeer, connected: bool) -> None:
        """Record that the session of a peer has lost its connection, or has resumed on another one."""
        for room in served.rooms if self.by_name else ():
            if (presence := self.by_name.get(room.name)) is not None:
                presence.connection_changed(served, connected)

    async def close(self, patience: float) -> None:
        """Report the last changes, and wait at most ``patience`` seconds for the functions of `Server.on_presence`."""
        if any(presence.users.recent_changes for presence in self.by_name.values()):
            # Nobody else calls the functions for users that have left.
            await asyncio.sleep(3 * BATCHED)
        with suppress(TimeoutError):
            async with asyncio.timeout(patience):
                await self.calls.wait()
        self.use(UserEntries())
