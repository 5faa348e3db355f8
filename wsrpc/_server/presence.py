"""`RoomPresence`: the users in a room, in all processes. `Presences`: the rooms of a server that have presence.

The entries of all nodes are in `UserEntries`. Each process writes the entries of the connections that it serves itself,
and reads the state of a user, which is the best one of all entries. A user who is away for the grace time is offline.
The process with the connections of the user measures this time. When a process has ended, all others keep its entries
for the grace time, in which they count as away. The first of them also adopts the entries, so that processes that start
later know them.
`PresenceFeed` tells the members of a process what has changed.

`PresenceReports` calls the functions of `Server.on_presence`. Whatever the order of messages, the last call of all
processes must be true. So a process watches each user of whom it has an entry, and then until nothing has changed for
`WATCHED` seconds in which it received messages; it calls the functions as long as they were not called with the present
state here. It calls them once more with the same state if other processes have perhaps taken it for ended, or if a
process with entries of the same users has ended, because theirs may be the last calls. The process that adopts entries
also does so for users who went offline shortly before.
A process that receives nothing calls no function until it receives messages again: others have perhaps taken it for
ended, and have made their last calls. If it ends meanwhile, too, nobody would make another one after its own.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import suppress
from functools import partial
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
from .peers import ServedPeer
from .user_entries import User, UserEntries, UserEntry

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
WATCHED = 10.0
"""Seconds for which a process watches a user of whom it has no entry any more. Within this time, it receives what other
processes reported before, or notices that it receives nothing."""
HEARING = 2.0
"""Seconds for which a process must have received messages before it calls the functions. Within this time, it receives
what other processes report."""

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

    user: User
    named: bool
    """Whether the user is not the peer itself."""
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
        self.group = group
        self._presences = presences
        self._entries = presences.entries
        self._connections: dict[ServedPeer, Connection] = {}
        """The members of this process."""
        self._by_user: dict[User, list[Connection]] = {}
        """The same connections."""
        self._away: dict[User, Timer] = {}
        """The users whose entry here is away. It is removed when the time is over."""
        self._ended: dict[str, Timer] = {}
        """The nodes that have ended. Their entries count as away, and are removed when the time is over."""
        self.recent_changes: dict[User, tuple[float, Present]] = {}
        """Users that have changed, each with the time of the first change and the state before. The oldest is first."""
        self._batch: Timer | None = None
        self._feed = PresenceFeed(group, presences.spawn, self)
        self._entries.set(self._entries.me, name, None, UserEntry(online=False))
        self._reports = PresenceReports(self, presences)

    def present(self) -> dict[User, Present]:
        """Return the users that are online or away."""
        return {user: self.state(user) for user in self._entries.users(self.name)}

    def state(self, user: User) -> Present:
        """Return the state of a user, which is the best one that a node reports."""
        entries = [(self._is_online(node, entry), entry.about) for node, entry in sorted(self.entries(user).items())]
        online = any(is_online for is_online, _ in entries)
        about = tuple(each for is_online, about in entries if is_online == online for each in about)
        return Present(user, "online" if online else "away" if entries else "offline", about)

    def _is_online(self, node: str, entry: UserEntry) -> bool:
        return entry.online and node not in self._ended

    def entries(self, user: User) -> dict[str, UserEntry]:
        """Return the entries of a user, by node."""
        return self._entries.entries(self.name, user)

    def last_state(self, user: User) -> Present:
        """Return the state of a user as of the last batch. Later changes are reported with the next one."""
        recent = self.recent_changes.get(user)
        return self.state(user) if recent is None else recent[1]

    def last_states(self) -> Iterator[Present]:
        """Return the states of all users as of the last batch."""
        return map(self.last_state, {**dict.fromkeys(self._entries.users(self.name)), **self.recent_changes})

    # ------------------------------------------------------------ the members of this process

    def enter(self, served: ServedPeer, about: object = None) -> None:
        """Add a connection, which is a new member of the room, or change what it says about itself."""
        is_new = served not in self._connections
        if is_new:
            user, peer = user_of(served.peer), served.peer
            connection = Connection(user, user != peer.id, served.current.session.state.sends)
            self._connections[served] = connection
            self._by_user.setdefault(user, []).append(connection)
            self._feed.new.add(peer)
            self._start_batch()
        connection = self._connections[served]
        if about is not None:
            connection.about = about
        self._update(connection.user, is_new=is_new)

    def leave(self, served: ServedPeer, *, ended: bool) -> None:
        """Remove a connection. ``ended``: its session has ended. Otherwise it has left the room. Idempotent."""
        left = self._connections.pop(served, None)
        if left is not None:
            self._feed.drop(served.peer)
            others = [each for each in self._by_user.pop(left.user) if each is not left]
            if others:
                self._by_user[left.user] = others
            self._update(left.user, stays=ended and left.named)

    def connection_changed(self, served: ServedPeer, connected: bool) -> None:
        """Record that the session of a member has lost its connection, or has resumed on another one."""
        connection = self._connections.get(served)
        if connection is not None:
            connection.connected = connected
            self._update(connection.user)

    def _update(self, user: User, *, is_new: bool = False, stays: bool = False) -> None:
        """Compute the entry of a user here. ``stays``: a user without a connection is away at first."""
        before = self.entries(user).get(self._entries.me)
        entry = self._computed_entry(user, before) if stays or user in self._by_user else None
        if entry == before or (before is None and entry is not None and not entry.online and not is_new):
            return  # nothing has changed, or the grace time is over
        self._entries.set(self._entries.me, self.name, user, entry)
        if entry is not None and not entry.online and user not in self._away:
            self._start_grace(user)

    def _computed_entry(self, user: User, before: UserEntry | None) -> UserEntry:
        """Return the entry that the connections make. Without a connection, the user is away as of ``before``."""
        connections = self._by_user.get(user)
        if not connections:
            return UserEntry(online=False, about=() if before is None else before.about)
        online = any(each.connected for each in connections)
        shown = (each.about for each in connections if each.connected == online and each.about is not None)
        return UserEntry(online, tuple(islice(shown, MOST_ABOUT)), named=connections[0].named)

    # ------------------------------------------------------------ all processes

    def entry_changing(self, node: str, user: User, entry: UserEntry | None) -> None:
        """Record a change of an entry, before it is made.

        If an entry is removed while it is online, the user has left: otherwise it would be away at first. Earlier
        connections of the user that have ended are no longer away then.
        """
        self.record_change(user)
        me, entries = self._entries.me, self.entries(user)
        if node == me and (entry is None or entry.online):
            self._stop_grace(user)
        if entry is None and node in entries and self._is_online(node, entries[node]):
            past = [other for other in entries if other in self._ended]
            if user in self._away and user not in self._by_user:
                past.append(me)
            for other in past:
                self._entries.set(other, self.name, user, None)

    def node_ended(self, node: str) -> None:
        """Handle the end of another node, whose users may connect to other nodes.

        The first of the nodes adopts the entries of nodes that have ended, also those that another node has not adopted
        before its own end.
        """
        self._record_changes_of(node)
        if node in self._ended:
            self._ended[node].cancel()
        if self._users_of(node):  # else it may come back, and have nothing to report
            self._ended[node] = self._presences.call_later(self.grace, partial(self._drop_ended, node))
        me, nodes = self._entries.me, self._entries.nodes(self.name)
        adopts = min(nodes) == me
        for user in self._entries.users(self.name):
            entries = self.entries(user)
            own, ended = entries.get(me), entries.get(node)
            if ended is not None:
                if not ended.named:  # the user cannot connect again
                    self._entries.set(node, self.name, user, None)
                if own is not None or (adopts and not ended.named):
                    self._reports.repeat(user)  # also if it is online here: perhaps the other node did not know that
            about = next((entry.about for holder, entry in entries.items() if holder in self._ended), None)
            if adopts and about is not None and (own is None or (ended is not None and not own.online)):
                self._entries.set(me, self.name, user, UserEntry(online=False, about=about))
                self._start_grace(user)
        if adopts:
            self._reports.repeat_offline()

    def node_back(self, node: str) -> None:
        if node in self._ended:
            self._record_changes_of(node)
            self._ended.pop(node).cancel()

    def _users_of(self, node: str) -> list[User]:
        return [user for user in self._entries.users(self.name) if node in self.entries(user)]

    def _record_changes_of(self, node: str) -> None:
        """Record changes of all users of a node, before they are made."""
        for user in self._users_of(node):
            self.record_change(user)

    def _drop_ended(self, node: str) -> None:
        for user in self._users_of(node):
            self._entries.set(node, self.name, user, None)
        del self._ended[node]

    def was_missed(self) -> None:
        self._reports.repeat_all()

    def _start_grace(self, user: User) -> None:
        self._stop_grace(user)
        expire = partial(self._entries.set, self._entries.me, self.name, user, None)
        self._away[user] = self._presences.call_later(self.grace, expire)

    def _stop_grace(self, user: User) -> None:
        if user in self._away:
            self._away.pop(user).cancel()

    # ------------------------------------------------------------ batches of changes

    def record_change(self, user: User) -> None:
        """Report a user with the next batch."""
        if user not in self.recent_changes:
            self.recent_changes[user] = (self._presences.scheduler.time(), self.state(user))
            self._start_batch()

    def _start_batch(self, since: float | None = None) -> None:
        if self._batch is None:
            scheduler = self._presences.scheduler
            self._batch = scheduler.call_at((scheduler.time() if since is None else since) + BATCHED, self._end_batch)

    def _end_batch(self) -> None:
        """Report what has changed to the members, and to the functions of `Server.on_presence`."""
        self._batch = None
        changes: list[User] = []
        ripe = self._presences.scheduler.time() - BATCHED / 2
        for user, (since, before) in [*islice(self.recent_changes.items(), BATCH)]:
            if since > ripe:  # another node may have changed it at the same time
                self._start_batch(since)
                break
            del self.recent_changes[user]
            if self.state(user) != before:
                changes.append(user)
            self._reports.check(user)
        if self.recent_changes:
            self._start_batch(ripe)
        self._feed.send(changes)

    def stop(self) -> None:
        """Stop the timers, because the server has ended."""
        timers = (*self._away.values(), *self._ended.values(), *self._reports.leaving.values())
        for timer in (self._batch, self._reports.later, *timers):
            if timer is not None:
                timer.cancel()


class PresenceReports:
    """Calls the functions of `Server.on_presence` for the users that this node watches in a room.

    Attributes:
        leaving: timers. Until then, this node watches users of whom it has no entry any more, and remembers others who
            have gone offline.
        later: a timer. Until then, this node calls no function, because it receives nothing.
    """

    def __init__(self, presence: RoomPresence, presences: Presences) -> None:
        self.leaving: dict[User, Timer] = {}
        self.later: Timer | None = None
        self._presence = presence
        self._presences = presences
        self._last_state = presence.last_state
        self._reported: dict[User, Present | None] = {}
        """The users that this node watches, each with what the functions were last called with. None: the present state
        must be reported in any case."""
        self._unreported: dict[User, None] = {}
        """Those of them for which the functions are called next."""

    def repeat(self, user: User) -> None:
        """Report the present state of a user with the next batch, even if it was reported before."""
        if self._presences.functions:
            self._reported[user] = None
            self._presence.record_change(user)

    def repeat_all(self) -> None:
        """Do this for all users, because other nodes have perhaps reported that they are away."""
        for user in self._reported:
            self.repeat(user)

    def repeat_offline(self) -> None:
        """Do this for the users who have gone offline lately, because the node that has ended has perhaps not."""
        for user in self.leaving:
            if not self._presence.entries(user):
                self.repeat(user)

    def check(self, user: User) -> None:
        """Report the state of a user, which may have changed, if this node watches the user and has not reported it."""
        if user in self.leaving:
            self.leaving.pop(user).cancel()
        if not self._presences.functions:
            return
        entries = self._presence.entries(user)
        is_here = self._presences.entries.me in entries
        if not is_here and (not entries or user in self._reported):
            self._wait(user)
        if (is_here or user in self._reported) and self._reported.setdefault(user, None) != self._last_state(user):
            if not self._unreported:
                self._start_calls()
            self._unreported[user] = None

    def _wait(self, user: User) -> None:
        self.leaving[user] = self._presences.call_later(WATCHED, partial(self._drop, user))

    def _drop(self, user: User) -> None:
        """Stop watching a user, unless changes are expected."""
        if self._was_deaf(WATCHED) or user in self._unreported or user in self._presence.recent_changes:
            self._wait(user)
        else:
            del self.leaving[user]
            self._reported.pop(user, None)

    def _was_deaf(self, seconds: float) -> bool:
        """Whether this node received nothing at some time within the last ``seconds``."""
        return self._presences.scheduler.time() < self._presences.entries.deaf_at + seconds

    def _start_calls(self) -> None:
        """Call the functions of `Server.on_presence` once this node knows what other nodes report."""
        if self._was_deaf(HEARING):
            self.later = self._presences.scheduler.call_at(self._presences.entries.deaf_at + HEARING, self._start_calls)
        else:
            self._presences.calls.spawn(self._call_functions())

    async def _call_functions(self) -> None:
        """Call the functions of `Server.on_presence`, one after another."""
        while self._unreported:
            if self._was_deaf(HEARING):
                self._start_calls()
                return
            user = next(iter(self._unreported))
            present = self._last_state(user)  # only the latest state counts
            if present != self._reported[user]:
                self._reported[user] = present
                await self._call_functions_with(present)
            del self._unreported[user]
            if self._reported[user] != self._last_state(user):
                self._unreported[user] = None

    async def _call_functions_with(self, present: Present) -> None:
        for function in self._presences.functions:
            try:
                result = function(self._presences.room(self._presence.name), present)
                if inspect.isawaitable(result):
                    await result
            except Exception:
                logger.exception("on_presence failed for room %r", self._presence.name)


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
            for message in self._messages(map(self._presence.last_state, changes), first=False):
                self._send(message, None, new)
        if new:
            for message in self._messages(self._presence.last_states(), first=True):
                self._send(message, None, self.members.keys() - new)

    async def catch_up(self, served: ServedPeer) -> None:
        sent = -1
        while sent != self._batches:  # something has changed since the first part was sent
            await self.wait_room(served)
            sent = self._batches
            for message in [*self._messages(self._presence.last_states(), first=True)]:
                with suppress(MessageTooBig):  # as in a broadcast, of which others see the report
                    BroadcastGroup._deliver(self, served, message, None)
                await self.wait_room(served)

    def _messages(self, states: Iterable[Present], *, first: bool) -> Iterator[EventBroadcast]:
        for part in parts_of(states, PART_BYTES):
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
        self.use(UserEntries())

    def use(self, entries: UserEntries) -> None:
        """Read and write other entries, because the server has joined a cluster or has ended. It has no members."""
        for presence in self.by_name.values():
            presence.stop()
        self.entries = entries
        """Of this server, or of the cluster that it has joined."""
        entries.listeners = self.by_name = {
            name: RoomPresence(name, presence.grace, presence.group, self) for name, presence in self.by_name.items()
        }

    def call_later(self, seconds: float, function: Callable[[], object]) -> Timer:
        return self.scheduler.call_at(self.scheduler.time() + seconds, function)

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
        if any(presence.recent_changes for presence in self.by_name.values()):
            # Nobody else calls the functions for users that have left.
            await asyncio.sleep(3 * BATCHED)
        with suppress(TimeoutError):
            async with asyncio.timeout(patience):
                await self.calls.wait()
        self.reset()

    def reset(self) -> None:
        """Remove all users, because the server has ended."""
        self.entries.listeners = {}
        self.use(UserEntries())
