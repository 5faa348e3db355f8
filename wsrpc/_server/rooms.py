"""Rooms: named groups of a server's peers, which clients may be allowed to join."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

import msgspec

from .._base.names import ChannelRef, can_be_sent, check_name
from .._handlers.lifecycle import ends_the_task
from .._handlers.registry import Registry, accepted
from .._peer.peer import Peer
from .._peer.slow_readers import Slow, check_slow
from .._protocol.codecs import Codec
from .._sending.checks import check_thread_of_plain
from ..errors import RpcError
from ..transport import ConnectionInfo, Transport
from .broadcast import Audience, Broadcaster, RawBroadcaster

if TYPE_CHECKING:
    from .server import Server

__all__ = ["Allow", "Membership", "Room", "RoomChannel", "RoomFrom", "Rooms"]

CHANNEL = "rooms"
"""Where clients join and leave."""
NOT_ALLOWED = "not allowed"

Allow = Callable[[Peer], bool | Awaitable[bool]]
"""A user's: whether a peer may join."""
RoomFrom = Callable[[ConnectionInfo], str]


class Room(RawBroadcaster):
    """Some of a server's peers, by a name; `Server.room` gives it, the same one while anybody has it.

    ``len(room)``, ``peer in room`` and ``for peer in room`` are about its members; a member that is gone is none.
    """

    def __init__(self, name: str, rooms: Rooms) -> None:
        self._channel_name = None
        self._name = name
        self._rooms = rooms
        self._members: dict[Peer, None] = {}
        self._audience = Audience(self._members, rooms.codec, rooms.slow, rooms.leave_all)
        self._allow: Allow | None = None
        self._slow: Slow | None = None

    @property
    def name(self) -> str:
        """The room's name."""
        return self._name

    def add(self, peer: Peer) -> None:
        """Make ``peer`` a member, until it is discarded or its connection ends. Idempotent.

        Raises:
            RpcError: it is in as many rooms as `Limits.rooms` allows. (A handler that lets this through tells so.)
            ConnectionLost: its connection has ended.
            ValueError: it is not this server's.
            RuntimeError: in another thread than the event loop's.
        """
        self._rooms.add(self, peer, by_itself=False)

    def discard(self, peer: Peer) -> None:
        """``peer`` is no member any more, if it was one.

        Raises:
            ValueError, RuntimeError: as for `add`.
        """
        self._rooms.discard(self, peer)

    def of(self, name: str) -> RoomChannel:
        """A named channel, to all members."""
        check_name("a channel's name", name)
        return RoomChannel(name, self)

    def __len__(self) -> int:
        return len(self._members)

    def __contains__(self, peer: object) -> bool:
        return peer in self._members

    def __iter__(self) -> Iterator[Peer]:
        return iter(tuple(self._members))  # whoever loops may emit, and members go

    def __repr__(self) -> str:
        return f"<Room {self._name!r} {len(self._members)} members>"


class RoomChannel(Broadcaster):
    """A named channel of a room: emitting to all its members."""

    def __init__(self, name: str, room: Room) -> None:
        self._channel_name = self._name = name
        self._room = room
        self._audience = room._audience

    @property
    def name(self) -> str:
        """The channel's name."""
        return self._name

    def __repr__(self) -> str:
        return f"<RoomChannel {self._name!r} of {self._room!r}>"


class Membership(msgspec.Struct, eq=False):
    """The server of a peer, and its rooms there."""

    server: Server
    rooms: dict[Room, bool] = {}
    """With each whether the client has joined it by itself. They stay when the connection is gone, for `close`."""
    home: Room | None = None


class Rooms:
    """All rooms of one server, and who may join them. ``slow`` is the policy of those that say nothing else."""

    def __init__(self, registry: Registry, codec: Codec, slow: Slow, room_from: RoomFrom | None) -> None:
        if room_from is not None:
            _check_function("room_from=", ("info",), room_from)
            if inspect.iscoroutinefunction(room_from):
                raise TypeError(f"room_from= takes a plain function, not an async one like {room_from!r}")
        self.codec = codec
        self.slow: Slow = slow
        self._registry = registry
        self._taken = set[ChannelRef]()
        registry.reserve(self._taken)
        self._room_from = room_from
        # A room that was not declared is kept by its members, and by whoever has it at hand.
        self._rooms: WeakValueDictionary[str, Room] = WeakValueDictionary()
        self._declared: dict[str, Room] = {}
        self._function: Callable[[Peer, str], Any] | None = None
        self._everybody: dict[Peer, None] = {}
        self.everybody = Audience(self._everybody, codec, slow, self.leave_all)

    # ------------------------------------------------------------ the server's side

    def get(self, name: str) -> Room:
        """The room of that name, made if nobody has it."""
        check_name("a room's name", name)
        room = self._rooms.get(name)
        if room is None:
            room = self._rooms[name] = Room(name, self)
        return room

    def declare(self, name: str, allow: Allow | None, slow: Slow | None) -> Room:
        """See `Server.room`."""
        room = self.get(name)
        if allow is not None:
            _check_function("allow=", ("peer",), allow)
        if slow is not None:
            check_slow(slow)
        for option, old, new in (("allow", room._allow, allow), ("slow", room._slow, slow)):
            if old is not None and new is not None and old != new:
                raise ValueError(f"room {name!r} has {option}={old!r} already, which is not {new!r}")
        if allow is not None:
            self._offer()
            room._allow = allow
        if slow is not None:
            room._slow = room._audience.slow = slow
        if allow is not None or slow is not None:
            self._declared[name] = room
        return room

    def all(self) -> tuple[Room, ...]:
        """See `Server.rooms`."""
        return tuple(room for name, room in self._rooms.items() if room._members or name in self._declared)

    def ask(self, function: Callable[[Peer, str], Any]) -> None:
        """See `Server.on_join`."""
        _check_function("on_join", ("peer", "room"), function)
        self._offer()
        self._function = function

    def admit(self, peer: Peer, transport: Transport) -> None:
        """A new peer; what ``room_from`` raises goes on to the caller."""
        membership = peer._membership
        assert membership is not None
        peer._registry.reserve(self._taken)  # its own handlers would go before ours
        if self._room_from is not None:
            home = membership.home = self.get(self._room_from(transport.info))
            membership.rooms[home] = False
            home._members[peer] = None
        self._everybody[peer] = None

    # ------------------------------------------------------------ members

    def add(self, room: Room, peer: Peer, *, by_itself: bool) -> None:
        """See `Room.add`."""
        membership = self._membership_of(peer)
        check_thread_of_plain(peer._out.thread, "room.add")
        if peer._out.broken:
            raise peer._out.not_sent()
        if peer in room._members:
            if not by_itself:  # from now on it is the server that wants it there
                membership.rooms[room] = False
            return
        most = peer.limits.rooms
        if len(membership.rooms) >= most:
            raise RpcError(f"in {most} rooms already, and Limits.rooms allows no more")
        membership.rooms[room] = by_itself
        room._members[peer] = None

    def discard(self, room: Room, peer: Peer) -> None:
        """See `Room.discard`."""
        membership = self._membership_of(peer)
        check_thread_of_plain(peer._out.thread, "room.discard")
        membership.rooms.pop(room, None)
        room._members.pop(peer, None)

    def leave_all(self, peer: Peer) -> None:
        """Its connection is gone, or turned out to be broken, which is reported once."""
        self._everybody.pop(peer, None)
        for room in self._membership_of(peer).rooms:
            room._members.pop(peer, None)

    def _membership_of(self, peer: Any) -> Membership:
        membership = peer._membership if isinstance(peer, Peer) else None
        if membership is None or membership.server._rooms is not self:
            raise ValueError(f"{peer!r} is not a peer of this room's server")
        return membership

    # ------------------------------------------------------------ clients that join

    def _offer(self) -> None:
        """Let clients join and leave from now on."""
        registry = self._registry
        if CHANNEL in self._taken:
            return
        scope = registry.scope(CHANNEL)
        if theirs := [*scope.handlers, *scope.once]:
            raise ValueError(f"clients join rooms on channel {CHANNEL!r}, where you have handlers of {theirs}")
        registry.order(CHANNEL)  # whoever joins and leaves again at once is not to end up inside
        registry.add(CHANNEL, "join", self.join)
        registry.add(CHANNEL, "leave", self.leave)
        self._taken.add(CHANNEL)

    async def join(self, peer: Peer, room: str) -> None:
        if not await self._may_join(peer, room):
            raise RpcError(NOT_ALLOWED)
        self.add(self.get(room), peer, by_itself=True)

    async def _may_join(self, peer: Peer, name: str) -> bool:
        if not can_be_sent(name) or not 0 < len(name.encode()) <= peer.limits.name:
            return False
        declared = self._declared.get(name)
        allow = None if declared is None else declared._allow
        try:
            if allow is not None:
                allowed: Any = allow(peer)
            elif self._function is not None:
                allowed = self._function(peer, name)
            else:
                return False
            return bool(await allowed if inspect.isawaitable(allowed) else allowed)
        except BaseException as exc:
            if ends_the_task(exc):
                raise
            peer._log(logging.WARNING, "refused to let it join room %r:", name, exc_info=exc)
            return False

    async def leave(self, peer: Peer, room: str) -> None:
        found = self._rooms.get(room)
        rooms = self._membership_of(peer).rooms
        if found is None or found not in rooms:
            return
        if not rooms[found]:  # the server has put it there
            raise RpcError(NOT_ALLOWED)
        self.discard(found, peer)


def _check_function(option: str, names: tuple[str, ...], function: Any) -> None:
    with suppress(TypeError):
        if accepted(option, names, function) == len(names):
            return
    raise TypeError(f"{option} takes a function that is called with ({', '.join(names)}), got {function!r}")
