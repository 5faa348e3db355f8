"""Rooms: named groups of a server's peers, which clients may be allowed to join."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import suppress
from functools import partial
from operator import attrgetter
from typing import Annotated, Any
from weakref import WeakValueDictionary

from msgspec import Meta, Struct
from msgspec.structs import replace

from .._base.logs import logger
from .._base.misuse import check_has_run, check_no_yield, check_number
from .._base.names import LONGEST_NAME, can_be_sent, check_channel, check_name
from .._base.rooms import CHANNEL, Joined, Present, RoomState
from .._core.api.peer import Peer, core_of
from .._core.handlers.invocation import CURRENT
from .._core.handlers.lifecycle import ends_the_task
from .._core.handlers.registry import Registry, accepted
from .._core.sending.checks import check_thread, check_thread_of_plain
from .._core.sending.slow_readers import Slow, check_slow
from .._core.wire.call_context import CallContext
from .._core.wire.codecs import Codec
from .._log.kept import encoder_of
from .._log.link import StoreLink
from .._log.position import Position
from .._raw.raw_connection import RawConnection, link_of
from .._raw.raw_link import RawLink
from ..errors import BadArguments, Overloaded, RpcError, made_here
from .broadcast import (
    BroadcastGroup,
    BroadcastMethods,
    EmitReport,
    RawBroadcastMethods,
    Sent,
    Skip,
    addresses_of,
    key_of,
    readable_again,
)
from .joined_cluster import STORED, RoomMessage, RoomsElsewhere
from .peers import ServedPeer, served_peer
from .presence import Presences, RoomPresence
from .room_events import RoomEvents
from .room_log import RoomLog, check_keep
from .room_requests import Asking, RequestMethods, RoomAnswer, RoomRequest, RoomSender
from .user_entries import checked_about

NOT_ALLOWED = "not allowed"
BEGINNING = Position(0, "")
"""The position before the first event of a log."""

Allow = Callable[[Peer], bool | Awaitable[bool]]
"""A user's function that decides whether a peer may join."""


GetState = Callable[[Peer], object]
"""A user's function that returns the state of a room for a member: a `RoomState` or its value, perhaps later."""


class Members(Struct, frozen=True):
    """Members of a room. `Room.members` returns this object.

    Attributes:
        addresses: `Peer.address` of each member that has an address, in all processes. Without a cluster, several
            members can have the same address.
        others: the number of members without an address.
        missing_nodes: the names of the processes that have members, but did not respond in time.
    """

    addresses: tuple[str, ...]
    others: int = 0
    missing_nodes: tuple[str, ...] = ()


class JoinOptions(Struct, frozen=True, forbid_unknown_fields=True):
    """Options of a client's request to join a room; see `Room.join`."""

    after: str | None = None
    last: Annotated[int, Meta(ge=0, le=2**53 - 1)] = 0
    about: Any = None


NO_JOIN_OPTIONS = JoinOptions()


class Room(RawBroadcastMethods, RequestMethods):
    """Named group of a server's peers. `Server.room` returns the same object for as long as the room is in use.

    Rooms support ``len(room)``, ``peer in room`` and ``for peer in room``. A peer leaves its rooms when its session
    ends. If the connection drops, the peer stays a member while its session is kept; `Peer.connected` is then false.

    On a server with raw connections, the members are `RawConnection` objects. They get the raw messages of the room. An
    event fails for them: the report of `emit` has an error for each.

    In a cluster, messages to a room reach its members in all processes. Members get the messages of one process in the
    order in which that process emits them. Processes without a member get no messages. ``len``, ``in`` and ``for``
    cover only the members in this process. `members` also asks the other processes. This process does not wait for slow
    readers in other processes: the policy ``slow`` applies to them immediately.

    `emit` waits up to 1.5 seconds for a process that has just joined the cluster, and without a limit for one to which
    64 MiB are unsent. The other processes get the message at once. Meanwhile, `emit_nowait` does not send to such a
    process, because it would overtake: `EmitReport.missing_nodes` has its name.
    """

    def __init__(self, core: RoomCore) -> None:
        self._channel_name = None
        self._group = self._core = core
        self._sender = core.sender

    @property
    def name(self) -> str:
        """The name of the room."""
        return self._core.name

    def add(self, peer: Peer | RawConnection) -> None:
        """Make ``peer`` a member of the room, until you call `remove` or the peer's session ends.

        If the peer is already a member, nothing happens. A `RawConnection` gets only the raw messages of the room.

        Raises:
            RpcError: the peer is already in as many rooms as `Limits.rooms` allows. If a handler does not catch the
                error, the caller gets the error message.
            ConnectionLost: the peer's session has ended.
            ValueError: the peer belongs to another server, or to no server.
            RuntimeError: called in a thread other than that of the server's event loop.
        """
        self._core.rooms.add(self, peer, by_itself=False)

    def remove(self, peer: Peer | RawConnection) -> None:
        """Remove ``peer`` from the room. If the peer is not a member, nothing happens.

        Raises:
            ValueError, RuntimeError: as for `add`.
        """
        self._core.rooms.remove(self, peer)

    async def join(self, peer: Peer, *, after: str | None = None, last: int = 0, about: object = None) -> Joined:
        """Make ``peer`` a member, as `add` does. If the room has ``keep=``, send the missed events before later ones.

        If the peer is already a member, no missed events are sent. Cancelling stops the waiting; the peer stays a
        member.

        Args:
            after: a position: `Joined.position`, or the `Context.position` of an event. The events after it are sent.
                If some of them are not kept any more, the peer gets the event ``missed`` on the channel "rooms", with
                the name of the room and the position from which events are sent.
            last: without ``after``, the number of events to send, the last ones that are kept.
            about: what the connection says about itself to others in a room with ``presence=``; see `Present.about`. A
                value that takes at most 512 bytes as JSON, nested at most 16 deep. A member can replace it. None: no
                change.

        Raises:
            BadArguments: ``after`` is not a position, ``about`` is too large, or the room has no ``keep=`` or no
                ``presence=``.
            Overloaded: the store does not answer, or has no room.
            RpcError, ConnectionLost, ValueError, RuntimeError: as for `add`.
        """
        return await self._core.rooms.join_with(self, peer, JoinOptions(after, last, about), by_itself=False)

    def present(self) -> dict[str | int, Present]:
        """Return the users that are online or away, in all processes, of a room with ``presence=``.

        Each process knows the users of the others, so this method returns at once. It may be called in any process,
        also if the room has no members there.

        Raises:
            RuntimeError: the room was created without ``presence=``.
        """
        presence = self._core.presence
        if presence is None:
            raise RuntimeError(f"room {self.name!r} has no presence: use server.room({self.name!r}, presence=10)")
        return presence.present()

    def events(self, *, after: str | None = None, last: int | None = None) -> RoomEvents:
        """Return an async iterator over the events of a room with ``keep=``, of all processes, in order.

        Args:
            after: a position, such as `RoomEvent.position`: the events after it.
            last: the number of events to begin with, the last ones that are kept. 0: only later events. Without
                ``after`` and ``last``, the iterator begins with the first event, or says that it is not kept any more.

        Raises:
            BadArguments: ``after`` is not a position.
            ValueError: both ``after`` and ``last`` were passed.
            RuntimeError: the room was created without ``keep=``; or called in a thread other than that of the server's
                event loop.
        """
        log = self._core.room_log
        self._core.check_events()
        if after is not None and last is not None:
            raise ValueError("events() takes either after= or last=")
        if log is None:
            raise RuntimeError(f"room {self.name!r} keeps no events: use server.room({self.name!r}, keep=3600)")
        return RoomEvents(log, BEGINNING if after is None else Position.parse(after), last)

    async def members(self) -> Members:
        """Return the members. In a cluster, these are the members in all processes. Cancelling is safe.

        Each process has 1.5 seconds to respond. `Members.missing_nodes` names the processes that did not respond.
        """
        here, others = self._core.here()
        elsewhere = self._core.rooms.elsewhere
        if elsewhere is None:
            return Members(tuple(here), others)
        there, more, missing_nodes = await elsewhere.members(self.name)
        return Members((*here, *there), others + more, missing_nodes)

    def of(self, name: str) -> RoomChannel:
        """Return a named channel of this room. Events that you emit on it go to all members.

        Raises:
            TypeError, ValueError: ``name`` is not a valid channel name.
        """
        check_channel(name)
        return RoomChannel(name, self, self._core)

    def __len__(self) -> int:
        return len(self._core.members)

    def __contains__(self, peer: object) -> bool:
        return peer in self._core.members

    def __iter__(self) -> Iterator[Peer]:
        # A tuple, because members may leave while a loop emits. The annotated type is right for nearly all rooms.
        members: tuple[Any, ...] = tuple(self._core.members)
        return iter(members)

    def __repr__(self) -> str:
        return f"<Room {self.name!r} {len(self)} members>"


class RoomChannel(BroadcastMethods, RequestMethods):
    """Named channel of a room. Events that you emit on it go to all members. `Room.of` returns it."""

    def __init__(self, name: str, room: Room, core: RoomCore) -> None:
        self._channel_name = name
        self._room = room
        self._group = core
        self._sender = core.sender

    @property
    def name(self) -> str:
        """The channel's name."""
        return str(self._channel_name)

    def __repr__(self) -> str:
        return f"<RoomChannel {self.name!r} of {self._room!r}>"


class RoomCore(BroadcastGroup):
    """The members of one room, and the options of the room from `Server.room`.

    In a cluster, messages also reach the members at other nodes.
    """

    def __init__(self, name: str, rooms: Rooms) -> None:
        super().__init__(rooms.codec, rooms.slow, rooms.everybody.outgoing, rooms.leave_all)
        self.name = self.room = name
        self.rooms = rooms
        self.allow: Decider | None = None
        self.options: dict[str, Any] = {}
        """The options that are set; see `Rooms.declare`."""
        self.room_log: RoomLog | None = None
        self.asking: set[Asking] = set()
        self.converter = rooms.registry.converter

    @property
    def presence(self) -> RoomPresence | None:
        """The users in the room, if it has presence."""
        return self.rooms.presences.by_name.get(self.name)

    def check_events(self) -> None:
        """Refuse to read the events in another thread than that of the server's peers."""
        check_thread_of_plain(self.rooms.everybody._thread, "room.events")

    @property
    def announced(self) -> str:
        """The name of the room for other nodes."""
        return self.name if self.room_log is None else STORED + self.name

    def here(self) -> tuple[list[str], int]:
        """Return the addresses of the members of this server, and the number of members without an address."""
        addresses = [inside.address for inside in self.members.values() if inside.address is not None]
        return addresses, len(self.members) - len(addresses)

    def enter(self, member: Peer | RawConnection, inside: ServedPeer | RawLink, about: object) -> None:
        """Add a member. ``about`` is what it says about itself, or None."""
        if not self.members and self.rooms.elsewhere is not None:
            self.rooms.elsewhere.room_filled(self.announced)
        if self.room_log is not None:
            self.room_log.start()
        self.members[member] = inside
        if self.room_log is not None and isinstance(inside, ServedPeer):
            self.room_log.feed.enter(inside)
        for asking in self.asking:
            self._ask(asking, member)
        self.describe(inside, about)

    def describe(self, inside: ServedPeer | RawLink, about: object) -> None:
        """Record what a member says about itself, if the room has presence. None: no change."""
        if self.presence is not None and isinstance(inside, ServedPeer):
            self.presence.enter(inside, about)

    def leave(self, member: Peer | RawConnection, *, ended: bool = False) -> None:
        """Remove a member. ``ended``: its session has ended, or its connection is broken. Idempotent."""
        left = self.members.pop(member, None)
        for asking in self.asking:
            asking.stop_asking(member)
        if self.presence is not None and isinstance(left, ServedPeer):
            self.presence.leave(left, ended=ended)
        if self.room_log is not None and isinstance(member, Peer):
            self.room_log.feed.drop(member)
        if left is not None and not self.members:
            if self.room_log is not None:
                self.room_log.stop()
            if self.rooms.elsewhere is not None:
                self.rooms.elsewhere.room_emptied(self.announced)

    def ask(self, asking: Asking) -> None:
        """Ask all members."""
        check_thread(self._thread, "room.request(...)")
        for member in tuple(self.members):
            self._ask(asking, member)

    def _ask(self, asking: Asking, member: Peer | RawConnection) -> None:
        if isinstance(member, Peer):  # raw connections cannot be asked
            asking.ask(member, asking.send, core_of(member).requester)

    def sender(self) -> RoomSender:
        """Return the sender of requests to the members in all processes."""
        elsewhere = self.rooms.elsewhere
        return RoomSender(self.name, self) if elsewhere is None else RoomSender(self.name, self, elsewhere)

    async def emit(self, sent: Sent, skip: Skip, context: CallContext | None = None) -> EmitReport:
        skip = readable_again(skip)
        if self.room_log is not None:
            check_thread(self._thread, "room.emit(...)")
            report = await self.room_log.emit(sent, skip, context, *_rooms_in(skip))
        else:
            report = await super().emit(sent, skip, context)
        if self.rooms.elsewhere is None:
            return report
        message = self._message(sent, skip, context)
        nodes, missing_nodes = await self.rooms.elsewhere.send_to_room(message)
        return replace(report, nodes=nodes, missing_nodes=missing_nodes)

    def emit_nowait(self, sent: Sent, skip: Skip, context: CallContext | None = None) -> EmitReport:
        skip = readable_again(skip)
        if self.room_log is not None:
            raise RuntimeError(f"room {self.name!r} keeps its events (keep=), which takes time: `await room.emit()`")
        report = super().emit_nowait(sent, skip, context)
        if self.rooms.elsewhere is None:
            return report
        message = self._message(sent, skip, context)
        nodes, missing_nodes = self.rooms.elsewhere.send_to_room_nowait(message)
        return replace(report, nodes=nodes, missing_nodes=missing_nodes)

    def _message(self, sent: Sent, skip: Skip, context: CallContext | None) -> RoomMessage:
        channel, event, args = sent
        assert not isinstance(channel, int)
        key = key_of(self.slow, args)
        skipped, stored = (addresses_of(skip), _rooms_in(skip)), self.room_log is not None
        return RoomMessage(self.name, channel, event, [*args], *skipped, context, key, stored)

    def check_options(self, options: dict[str, Any]) -> None:
        """Check that options do not contradict the options of the room.

        Raises:
            ValueError: the room has another value of an option.
        """
        for option, new in options.items():
            if (old := self.options.get(option, new)) != new:
                raise ValueError(f"room {self.name!r} has {option}={old!r} already, which differs from {new!r}")
        names = self.options.keys() | options.keys()
        if "state" in names and "keep" not in names:
            raise ValueError(f"room {self.name!r} has state=, which needs keep= for the events that follow")
        if {"slow", "keep"} <= names:
            raise ValueError(f"room {self.name!r} has keep=, so slow readers get all events later: leave out slow=")


_room_core: Callable[[Room], RoomCore] = attrgetter("_core")
"""Returns the inside of a room. (A public class has no public name for its inside.)"""


async def _state_from(function: GetState, peer: Peer) -> RoomState:
    state = function(peer)
    if inspect.isawaitable(state):
        state = await state
    check_has_run("state=", state)
    return state if isinstance(state, RoomState) else RoomState(state)


def _rooms_in(skip: Skip) -> list[str]:
    return [skip.name] if isinstance(skip, Room) else []


def _inside_of(member: object) -> ServedPeer | RawLink | None:
    return link_of(member) if isinstance(member, RawConnection) else served_peer(member)


class Rooms:
    """All rooms of one server, and the requests by which clients join and leave them.

    ``slow`` is the policy of rooms without ``slow=``. Only peers of ``server`` can be members. ``link`` leads to the
    store.
    """

    def __init__(
        self,
        server: Any,
        registry: Registry,
        codec: Codec,
        slow: Slow,
        link: StoreLink,
        *,
        in_cluster: bool,
        extensions: bool,
    ) -> None:
        self.codec = codec
        self._link = link
        self._in_cluster = in_cluster
        self._extensions = extensions
        self._to_bytes = encoder_of(codec)
        self._gates: WeakValueDictionary[object, asyncio.Semaphore] = WeakValueDictionary()
        """See `RoomLog`."""
        self.slow: Slow = slow
        self.everybody = BroadcastGroup(codec, slow, registry.outgoing, self.leave_all)
        """Receivers of `Server.emit`."""
        self.server = server
        self.registry = registry
        registry.hints[CHANNEL] = ": clients cannot join, because no room has allow=, and the server has no on_join"
        # A room without options is kept alive by its members, and by the user's references to it.
        self._rooms: WeakValueDictionary[str, Room] = WeakValueDictionary()
        self._declared: dict[str, Room] = {}
        """Rooms that were created with options. They are never removed."""
        self._on_join: Decider | None = None
        self.elsewhere: RoomsElsewhere | None = None
        """The rooms at other nodes, while `ServerCore` has joined the cluster."""
        self.presences = Presences(self.get, link.spawn)

    # ------------------------------------------------------------ the server's side

    def get(self, name: str) -> Room:
        """Return the room with this name. Create the room if it does not exist.

        Raises:
            TypeError, ValueError: ``name`` cannot name a room.
        """
        check_name("a room's name", name)
        room = self._rooms.get(name)
        if room is None:
            room = self._rooms[name] = Room(RoomCore(name, self))
        return room

    def declare(
        self,
        name: str,
        allow: Allow | None,
        slow: Slow | None,
        keep: float | None,
        presence: float | None,
        state: GetState | None,
    ) -> Room:
        """Return a room with options; see `Server.room`. None means that an option is not set."""
        room = self.get(name)
        given = {"allow": allow, "slow": slow, "keep": keep, "presence": presence, "state": state}
        options = {option: value for option, value in given.items() if value is not None}
        decider = None if allow is None else Decider("allow=", ("peer",), allow)
        if slow is not None:
            check_slow(slow)
        if keep is not None:
            check_keep(keep)
        if state is not None:
            check_decider("state=", ("peer",), state)
        if presence is not None:
            check_number("presence= is a number of seconds, 0 or more", presence, 0)
        core = _room_core(room)
        core.check_options(options)
        if decider is not None:
            self._offer()
            core.allow = decider
        if slow is not None:
            core.slow = slow
        if keep is not None and core.room_log is None:
            self._check_can_keep(core)
            core.room_log = self._make_room_log(core, keep, state)
        elif state is not None and "state" not in core.options:
            raise ValueError(f"room {name!r} exists already: give it state= together with keep=")
        if presence is not None and core.presence is None:
            self.presences.add(name, presence, core)
        if options:
            core.options |= options
            self._declared[name] = room
        return room

    def _check_can_keep(self, core: RoomCore) -> None:
        if not self._extensions:
            raise ValueError("keep= needs extensions: without them, clients do not learn the positions of events")
        if core.members:
            raise ValueError(f"room {core.name!r} has members already: call server.room(..., keep=) before")
        if self._in_cluster and not self._link.is_shared:
            raise ValueError("keep= in a cluster needs a store for all processes: Server(store=RedisStore(...))")

    def _make_room_log(self, core: RoomCore, keep: float, state: GetState | None) -> RoomLog:
        get_state = None if state is None else partial(_state_from, state)
        return RoomLog(core.name, core, self._link, keep, self._to_bytes, self._gates, get_state)

    def all(self) -> tuple[Room, ...]:
        """The rooms that have members or options."""
        return tuple(room for name, room in self._rooms.items() if len(room) or name in self._declared)

    @property
    def count(self) -> int:
        """Number of rooms that exist."""
        return len(self._rooms)

    def ask(self, function: Callable[[Peer, str], Any]) -> None:
        """Call ``function`` to decide which clients may join; see `Server.on_join`."""
        decider = Decider("on_join", ("peer", "room"), function)
        self._offer()
        self._on_join = decider

    def enter(self, member: Peer | RawConnection) -> None:
        """Add a new peer or raw connection to `everybody`. `leave_all` removes it there, and from all rooms."""
        inside = _inside_of(member)
        assert inside is not None
        self.everybody.members[member] = inside

    # ------------------------------------------------------------ members

    def add(self, room: Room, peer: Peer | RawConnection, *, by_itself: bool, about: object = None) -> None:
        """Make ``peer`` a member; see `Room.join`. ``by_itself`` is whether the client requested this."""
        inside = self._inside(peer, "room.add")
        inside.check_open()
        if peer in room:
            if not by_itself:  # from now on the client cannot leave by its own request
                inside.rooms[room] = False
            _room_core(room).describe(inside, about)
            return
        most = peer.limits.rooms
        if len(inside.rooms) >= most:
            raise RpcError(f"in {most} rooms already, and Limits.rooms allows no more")
        inside.rooms[room] = by_itself
        _room_core(room).enter(peer, inside, about)

    async def join_with(self, room: Room, peer: Peer, options: JoinOptions, *, by_itself: bool) -> Joined:
        """Make ``peer`` a member, and send what it has missed; see `Room.join`."""
        served, core = self._inside(peer, "room.join"), _room_core(room)
        about, log = options.about, core.room_log
        if about is not None:
            if core.presence is None:
                raise BadArguments("the room has no presence, so it takes no `about`")
            about = checked_about(about, self.codec)
        if log is None or not isinstance(served, ServedPeer):
            if options.after is not None or options.last:
                raise BadArguments("in this process, the room keeps no events (keep=)")
            self.add(room, peer, by_itself=by_itself, about=about)
            return Joined(None, complete=True)
        if options.last and "state" in core.options:
            raise BadArguments("the room begins with its state (state=), so it takes no `last`")
        position = None if options.after is None else Position.parse(options.after)
        with log.needed():
            await log.wait_started()
            is_new = peer not in room
            self.add(room, peer, by_itself=by_itself, about=about)
            if by_itself:  # joins and leaves of other rooms do not wait for the state and the missed events of this one
                CURRENT.get().release_lane()
            if is_new:
                return await log.feed.send_missed(served, position, options.last)
            return await log.feed.wait_live(served)

    def remove(self, room: Room, peer: Peer | RawConnection) -> None:
        """Remove ``peer`` from a room; see `Room.remove`."""
        self._inside(peer, "room.remove").rooms.pop(room, None)
        _room_core(room).leave(peer)

    def leave_all(self, member: Peer | RawConnection) -> None:
        """Remove a peer from all rooms and from `everybody`: its session ended, or its connection broke. Idempotent."""
        self.everybody.members.pop(member, None)
        inside = _inside_of(member)
        for room in () if inside is None else inside.rooms:
            _room_core(room).leave(member, ended=True)

    def abandon(self) -> None:
        """Forget what runs for the logs, because the event loop was closed."""
        for room in self._declared.values():
            core = _room_core(room)
            if core.room_log is not None:
                core.room_log = self._make_room_log(core, core.room_log.keep, core.options.get("state"))

    def _inside(self, peer: Peer | RawConnection, call: str) -> ServedPeer | RawLink:
        """Return the inside of a peer or raw connection of this server, for ``call``.

        Raises:
            ValueError: the peer belongs to another server, or to no server.
            RuntimeError: the call is not in the server's thread.
        """
        inside = _inside_of(peer)
        if inside is None or peer.server is not self.server:
            raise ValueError(f"{peer!r} is not a peer of this room's server")
        check_thread_of_plain(inside.thread, call)
        return inside

    # ------------------------------------------------------------ the cluster

    def deliver(self, message: RoomMessage) -> None:
        """Send a message of another node to the members of a room."""
        room = self._rooms.get(message.room)
        if room is None:
            return
        if (log := _room_core(room).room_log) is not None:
            text = "room %r: members miss an event, because another process has not stored it: it needs the same keep="
            logger.warning(text, room.name)
            log.miss_one()
            return
        skipped: set[object] = {*message.skip}
        for name in message.skip_rooms:
            skipped.update(self._rooms.get(name, ()))
        try:
            if errors := _room_core(room).pass_on(message, skipped).errors:
                text = "room %r: %d members did not get %r of another process, for example: %s"
                logger.info(text, room.name, len(errors), message.event, errors[0])
        except Exception:
            logger.exception("room %r: nobody gets %r of another process", room.name, message.event)

    async def answers(self, request: RoomRequest, within: float) -> AsyncGenerator[RoomAnswer]:
        """Yield the answers of a room's members at this server to a request of another node, until that has one."""
        room = self.get(request.room)  # kept, so that peers that join meanwhile enter the same room
        async with Asking(request, within, (_room_core(room),)) as asking:
            while True:
                yield RoomAnswer.of(await asking.answers.get())

    def members_of(self, room: str) -> tuple[list[str], int]:
        """Return the addresses of a room's members at this server, and the number of members without an address."""
        found = self._rooms.get(room)
        return ([], 0) if found is None else _room_core(found).here()

    # ------------------------------------------------------------ clients that join

    def _offer(self) -> None:
        """Handle the requests by which clients join and leave, from now on.

        Raises:
            ValueError: the user has handlers on the channel "rooms".
        """
        if CHANNEL not in self.registry.reserved:
            handlers: dict[str, Callable[..., Any]] = {"join": self.join, "leave": self.leave}
            # Ordered, because a client that joins and then leaves at once must not remain a member.
            self.registry.offer(CHANNEL, "clients join rooms", handlers, ordered=True)

    async def join(self, peer: Peer, room: str, options: JoinOptions = NO_JOIN_OPTIONS) -> Joined | None:
        """Handle a client's request to join a room."""
        if not await self._may_join(peer, room):
            raise RpcError(NOT_ALLOWED)
        try:
            joined = await self.join_with(self.get(room), peer, options, by_itself=True)
        except (BadArguments, Overloaded) as exc:
            raise made_here(exc) from None  # for the client; a handler that calls `Room.join` does not pass it on
        return None if joined.position is None else joined

    async def _may_join(self, peer: Peer, name: str) -> bool:
        if not can_be_sent(name) or not 0 < len(name.encode()) <= LONGEST_NAME:
            return False
        declared = self._declared.get(name)
        allow = None if declared is None else _room_core(declared).allow
        what = f"let the peer join room {name!r}"
        if allow is not None:
            return await allow.allows(what, peer)
        return self._on_join is not None and await self._on_join.allows(what, peer, name)

    async def leave(self, peer: Peer, room: str) -> None:
        """Handle a client's request to leave a room."""
        found = self._rooms.get(room)
        rooms = self._inside(peer, "room.remove").rooms
        if found is None or found not in rooms:
            return
        if not rooms[found]:  # the server added it
            raise RpcError(NOT_ALLOWED)
        self.remove(found, peer)


class Decider:
    """A user's function, sync or async, that allows or refuses something. Only True allows it.

    ``option`` is the name of the option or decorator with which the user passed the function. ``names`` are the names
    of its arguments. The first argument is a peer.

    Raises:
        TypeError: the function has other arguments, or a ``yield``.
    """

    def __init__(self, option: str, names: tuple[str, ...], function: Callable[..., Any]) -> None:
        check_decider(option, names, function)
        self.function = function
        self._option = option
        self._warned = False

    async def allows(self, what: str, peer: Peer, *args: object) -> bool:
        """Return the decision of the function. If the function fails, the log says that ``what`` was refused."""
        log = core_of(peer).log
        try:
            decision = self.function(peer, *args)
            if inspect.isawaitable(decision):
                decision = await decision
            check_has_run(self._option, decision)
        except BaseException as exc:
            if ends_the_task(exc):
                raise
            log(logging.WARNING, "refused to %s, because %s failed", what, self._option, exc_info=exc)
            return False
        if not isinstance(decision, bool) and not self._warned:
            self._warned = True
            text = "refused to %s, because %s returned %s, which is only logged once: return True or False"
            log(logging.WARNING, text, what, self._option, None if decision is None else type(decision).__name__)
        return decision is True


def check_decider(option: str, names: tuple[str, ...], function: Any) -> None:
    """Check that a user's function has the arguments ``names``. ``option`` names the function in the error message.

    Raises:
        TypeError: the function has other arguments, or a ``yield``.
    """
    check_no_yield(option, function)
    with suppress(TypeError):
        if accepted(option, names, function) == len(names):
            return
    raise TypeError(f"{option} takes a function that is called with ({', '.join(names)}), got {function!r}")
