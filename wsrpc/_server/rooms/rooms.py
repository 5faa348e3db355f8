"""`Rooms`: all rooms of a server, and the requests by which clients join and leave them."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncGenerator, Callable
from functools import partial
from typing import Any
from weakref import WeakValueDictionary

from ..._base.logs import logger
from ..._base.misuse import check_has_run
from ..._base.names import LONGEST_NAME, can_be_sent, check_name
from ..._base.rooms import CHANNEL, Joined, RoomState
from ..._core.api.peer import Peer
from ..._core.handlers.invocation import CURRENT
from ..._core.handlers.registry import Registry
from ..._core.sending.checks import check_thread_of_plain
from ..._core.sending.slow_readers import Slow
from ..._core.wire.codecs import Codec
from ..._log.kept import encoder_of
from ..._log.link import StoreLink
from ..._log.position import Position
from ..._raw.raw_connection import RawConnection, link_of
from ..._raw.raw_link import RawLink
from ...errors import BadArguments, Overloaded, RpcError, made_here
from ..broadcast import BroadcastGroup
from ..decider import NOT_ALLOWED, Decider
from ..joined_cluster import RoomMessage, RoomsElsewhere
from ..peers import ServedPeer, served_peer
from ..presence.presence import Presences
from ..presence.user_entries import checked_about
from .room import NO_JOIN_OPTIONS, JoinOptions, Room, RoomCore, room_core
from .room_log import RoomLog
from .room_options import NO_OPTIONS, GetState, RoomOptions
from .room_requests import Asking, RoomAnswer, RoomRequest


async def _state_from(function: GetState, peer: Peer) -> RoomState:
    state = function(peer)
    if inspect.isawaitable(state):
        state = await state
    check_has_run("state=", state)
    return state if isinstance(state, RoomState) else RoomState(state)


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
        self.everybody = BroadcastGroup(codec, slow, registry.outgoing, self.disconnected)
        """Receivers of `Server.emit`."""
        self.server = server
        self.registry = registry
        registry.hints[CHANNEL] = ": clients cannot join, because no room has allow=, and the server has no on_join"
        # A room without options is kept alive by its members, and by the user's references to it.
        self._rooms: WeakValueDictionary[str, Room] = WeakValueDictionary()
        self._configured: dict[str, Room] = {}
        """Rooms that were created with options. They are never removed."""
        self._on_join: Decider | None = None
        self.elsewhere: RoomsElsewhere | None = None
        """The rooms at other nodes; see `ClusterJoiner`."""
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

    def configure(self, name: str, options: RoomOptions) -> Room:
        """Return a room with options; see `Server.room`."""
        room = self.get(name)
        if options != NO_OPTIONS:
            room_core(room).configure(options)
            if options.allow is not None:
                self._offer()
            self._configured[name] = room
        return room

    def new_log(self, core: RoomCore) -> RoomLog:
        """Return the log of a room with ``keep=``."""
        keep, state = core.options.keep, core.options.state
        assert keep is not None
        get_state = None if state is None else partial(_state_from, state)
        return RoomLog(core.name, core, self._link, keep, self._to_bytes, self._gates, get_state)

    def check_can_keep(self) -> None:
        """Check that rooms can keep events.

        Raises:
            ValueError: they cannot.
        """
        if not self._extensions:
            raise ValueError("keep= needs extensions: without them, clients do not learn the positions of events")
        if self._in_cluster and not self._link.is_shared:
            raise ValueError("keep= in a cluster needs a store for all processes: Server(store=RedisStore(...))")

    def all(self) -> tuple[Room, ...]:
        """The rooms that have members or options."""
        return tuple(room for name, room in self._rooms.items() if len(room) or name in self._configured)

    @property
    def count(self) -> int:
        """Number of rooms that exist."""
        return len(self._rooms)

    def use_on_join(self, function: Callable[[Peer, str], Any]) -> None:
        """Call ``function`` to decide which clients may join; see `Server.on_join`."""
        decider = Decider("on_join", ("peer", "room"), function)
        self._offer()
        self._on_join = decider

    def connected(self, member: Peer | RawConnection) -> None:
        """Add a new peer or raw connection to `everybody`. `disconnected` removes it there, and from all rooms."""
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
            room_core(room).describe(inside, about)
            return
        most = peer.limits.rooms
        if len(inside.rooms) >= most:
            raise RpcError(f"in {most} rooms already, and Limits.rooms allows no more")
        inside.rooms[room] = by_itself
        room_core(room).enter(peer, inside, about)

    async def join(self, room: Room, peer: Peer, options: JoinOptions, *, by_itself: bool) -> Joined:
        """Make ``peer`` a member, and send what it has missed; see `Room.join`."""
        served, core = self._inside(peer, "room.join"), room_core(room)
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
        if options.last and core.options.state is not None:
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
        room_core(room).leave(peer)

    def disconnected(self, member: Peer | RawConnection) -> None:
        """Remove a peer from all rooms and from `everybody`: its session ended, or its connection broke. Idempotent."""
        self.everybody.members.pop(member, None)
        inside = _inside_of(member)
        for room in () if inside is None else inside.rooms:
            room_core(room).leave(member, ended=True)

    def abandon(self) -> None:
        """Forget what runs for the logs, because the event loop was closed."""
        for room in self._configured.values():
            core = room_core(room)
            if core.room_log is not None:
                core.room_log = self.new_log(core)

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

    def deliver_from_node(self, message: RoomMessage) -> None:
        """Send a message of another node to the members of a room."""
        room = self._rooms.get(message.room)
        if room is None:
            return
        if (log := room_core(room).room_log) is not None:
            text = "room %r: members miss an event, because another process has not stored it: it needs the same keep="
            logger.warning(text, room.name)
            log.miss_one()
            return
        skipped: set[object] = {*message.skip}
        for name in message.skip_rooms:
            skipped.update(self._rooms.get(name, ()))
        try:
            if errors := room_core(room).pass_on(message, skipped).errors:
                text = "room %r: %d members did not get %r of another process, for example: %s"
                logger.info(text, room.name, len(errors), message.event, errors[0])
        except Exception:
            logger.exception("room %r: nobody gets %r of another process", room.name, message.event)

    async def answers_for_node(self, request: RoomRequest, within: float) -> AsyncGenerator[RoomAnswer]:
        """Yield the answers of a room's members at this server to a request of another node, until that has one."""
        room = self.get(request.room)  # kept, so that peers that join meanwhile enter the same room
        async with Asking(request, within, (room_core(room),)) as asking:
            while True:
                yield RoomAnswer.of(await asking.answers.get())

    def members_of(self, room: str) -> tuple[list[str], int]:
        """Return the addresses of a room's members at this server, and the number of members without an address."""
        found = self._rooms.get(room)
        return ([], 0) if found is None else room_core(found).here()

    # ------------------------------------------------------------ clients that join

    def _offer(self) -> None:
        """Handle the requests by which clients join and leave, from now on.

        Raises:
            ValueError: the user has handlers on the channel "rooms".
        """
        if CHANNEL not in self.registry.reserved:
            handlers: dict[str, Callable[..., Any]] = {"join": self._requested_join, "leave": self._requested_leave}
            # Ordered, because a client that joins and then leaves at once must not remain a member.
            self.registry.offer(CHANNEL, "clients join rooms", handlers, ordered=True)

    async def _requested_join(self, peer: Peer, room: str, options: JoinOptions = NO_JOIN_OPTIONS) -> Joined | None:
        """Handle a client's request to join a room."""
        if not await self._may_join(peer, room):
            raise RpcError(NOT_ALLOWED)
        try:
            joined = await self.join(self.get(room), peer, options, by_itself=True)
        except (BadArguments, Overloaded) as exc:
            raise made_here(exc) from None  # for the client; a handler that calls `Room.join` does not pass it on
        return None if joined.position is None else joined

    async def _may_join(self, peer: Peer, name: str) -> bool:
        if not can_be_sent(name) or not 0 < len(name.encode()) <= LONGEST_NAME:
            return False
        declared = self._configured.get(name)
        allow = None if declared is None else room_core(declared).allow
        what = f"let the peer join room {name!r}"
        if allow is not None:
            return await allow.allows(what, peer)
        return self._on_join is not None and await self._on_join.allows(what, peer, name)

    async def _requested_leave(self, peer: Peer, room: str) -> None:
        """Handle a client's request to leave a room."""
        found = self._rooms.get(room)
        rooms = self._inside(peer, "room.remove").rooms
        if found is None or found not in rooms:
            return
        if not rooms[found]:  # the server added it
            raise RpcError(NOT_ALLOWED)
        self.remove(found, peer)
