"""`Room`: one room of a server, as its user sees it, and `RoomCore`: its members and options."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from operator import attrgetter
from typing import TYPE_CHECKING, Annotated, Any

from msgspec import Meta, Struct
from msgspec.structs import replace

from ..._base.names import check_channel
from ..._base.rooms import Joined, Present
from ..._core.api.peer import Peer, core_of
from ..._core.sending.checks import check_thread, check_thread_of_plain
from ..._core.wire.call_context import CallContext
from ..._log.position import Position
from ..._raw.raw_connection import RawConnection
from ..._raw.raw_link import RawLink
from ..broadcast import (
    BroadcastGroup,
    BroadcastMethods,
    EmitReport,
    RawBroadcastMethods,
    Sent,
    key_of,
)
from ..decider import Decider
from ..joined_cluster import STORED, RoomMessage
from ..peers import ServedPeer
from ..presence.presence import RoomPresence
from ..skipping import Skip, addresses_of, readable_again
from .room_events import RoomEvents
from .room_log import RoomLog
from .room_options import NO_OPTIONS, RoomOptions
from .room_requests import Asking, RequestMethods, RoomSender

if TYPE_CHECKING:
    from .rooms import Rooms

BEGINNING = Position(0, "")
"""The position before the first event of a log."""


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
        return await self._core.rooms.join(self, peer, JoinOptions(after, last, about), by_itself=False)

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

    shown = "room"

    def __init__(self, name: str, rooms: Rooms) -> None:
        super().__init__(rooms.codec, rooms.slow, rooms.everybody.outgoing, rooms.disconnected)
        self.name = self.room = name
        self.rooms = rooms
        self.allow: Decider | None = None
        self.options = NO_OPTIONS
        """Only `configure` changes them, together with ``allow``, ``slow`` and ``room_log``."""
        self.room_log: RoomLog | None = None
        self.asking: set[Asking] = set()
        self.converter = rooms.registry.converter

    @property
    def presence(self) -> RoomPresence | None:
        """The users in the room, if it has presence."""
        return self.rooms.presences.by_name.get(self.name)

    def configure(self, options: RoomOptions) -> None:
        """Set the options that are not set yet; see `Server.room`."""
        before, merged = self.options, self.options.merged(options, self.name)
        if before.keep is None and merged.keep is not None:
            if self.members:
                raise ValueError(f"room {self.name!r} has members already: call server.room(..., keep=) before")
            self.rooms.check_can_keep()
        self.options = merged
        if options.allow is not None:
            self.allow = Decider("allow=", ("peer",), options.allow)
        if options.slow is not None:
            self.slow = options.slow
        if before.keep is None and merged.keep is not None:
            self.room_log = self.rooms.new_log(self)
        if before.presence is None and merged.presence is not None:
            self.rooms.presences.add(self.name, merged.presence, self)

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
        self.members[member] = inside
        if self.room_log is not None and isinstance(inside, ServedPeer):
            self.room_log.start()
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


room_core: Callable[[Room], RoomCore] = attrgetter("_core")
"""Returns the inside of a room. (A public class has no public name for its inside.)"""


def _rooms_in(skip: Skip) -> list[str]:
    return [skip.name] if isinstance(skip, Room) else []
