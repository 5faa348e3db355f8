"""`ClusterRoom`: emits to a room of a cluster from a program without a server."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar, Unpack

from .._base.names import check_channel, check_event
from .._core.api.calls import broadcast
from .._core.api.options import ChannelCallOptions, changed
from .._core.api.outgoing_functions import run_around
from .._core.api.proxy import make_emitter
from .._core.sending.checks import raw_payload
from .._core.wire.call_context import CallContext
from .._core.wire.messages import EVENT_OPTIONS
from .._server.broadcast import EmitReport
from .._server.joined_cluster import RoomMessage
from .._server.rooms.room import Members
from .._server.rooms.room_log import RoomLog
from .._server.rooms.room_requests import RequestMethods, RoomSender
from .._server.skipping import addresses_of, readable_again
from ..errors import EngineLost
from ._cluster_peer import ClusterPeer
from ._cluster_sender import in_time
from ._membership import ClusterMembership

if TYPE_CHECKING:
    from typing_extensions import TypeForm

SkipAddressed: TypeAlias = ClusterPeer | Iterable[ClusterPeer] | None
T = TypeVar("T")


class ClusterEmitter(RequestMethods):
    """`emit` and `request` to a room from a program without a server."""

    __slots__ = ("_channel_name", "_joined", "_room_log", "_room_name")

    def __init__(
        self, room: str, channel: str | None, joined: Callable[[], ClusterMembership], log: RoomLog | None = None
    ) -> None:
        self._room_name = room
        self._channel_name = channel
        self._joined = joined
        self._room_log = log

    async def emit(
        self, event: str, /, *args: Any, skip: SkipAddressed = None, **options: Unpack[ChannelCallOptions]
    ) -> EmitReport:
        """Emit an event to every member of the room. The returned report names the processes that have members.

        Returns when the event is accepted for sending to these processes. ``report.missing_nodes`` names the processes
        that could not be reached. If this call is cancelled, some processes may not get the event.

        Args:
            skip: one or several members to which the event is not sent. Get the objects from `ClusterClient.peer`.
            metadata: as for `Server.emit`.
            timeout: maximum time in seconds. By default, there is none, but 10 seconds for the store of ``keep=``.

        Raises:
            EngineLost: the engine cannot be reached. Nothing was sent.
            Overloaded: the store has no room, or does not answer. If the ``outcome`` is ``"unknown"``, it may have the
                event.
            RequestTimeout: the time is over. Some or all members may get the event, now or later.
            ReservedEvent, TypeError, ValueError: the event name or an argument cannot be sent. Nothing was sent.
        """
        chosen = changed(EVENT_OPTIONS, options, ChannelCallOptions, self.emit, event)
        channel = self._channel_name
        check_event(event)
        assert not isinstance(channel, int)

        async def send(context: CallContext | None) -> EmitReport:
            message = RoomMessage(self._room_name, channel, event, [*args], addresses_of(skip), context=context)
            if self._room_log is not None:
                await self._room_log.emit((channel, event, args), skip, context)
                message.stored = True
            return await self._send(message)

        functions, sent = self._joined().registry.outgoing, (channel, event, args)
        return await in_time(event, chosen.timeout, partial(broadcast, run_around, functions, sent, chosen, send))

    def emitter(self, contract: TypeForm[T], /, *, skip: SkipAddressed = None) -> T:
        """Return an object with the methods of a contract. Each method emits the event of the same name.

        An ``async def`` of the contract does what `emit` does. A plain ``def`` raises `TypeError` when it is called,
        because emitting to a cluster has to wait for the engine. The methods are declared to return None. Arguments are
        sent in the same way as by `ClusterPeer.proxy`.

        Args:
            skip: one or several members that do not get the events, as for `emit`.

        Raises:
            TypeError: the contract is not valid. The error message names the method and explains the problem.
        """
        skip = readable_again(skip)
        addresses_of(skip)  # raises if one of them is not a peer
        made: T = make_emitter(contract, self, skip=skip)
        return made

    def _sender(self) -> RoomSender:
        return RoomSender(self._room_name, self._connected().rooms)

    def _connected(self) -> ClusterMembership:
        membership = self._joined()
        if not membership.connected:
            raise EngineLost("not connected")
        return membership

    async def _send(self, message: RoomMessage) -> EmitReport:
        membership = self._joined() if message.stored else self._connected()
        nodes, missing_nodes = await membership.rooms.send_to_room(message)
        return EmitReport(0, nodes=nodes, missing_nodes=missing_nodes)


class ClusterRoom(ClusterEmitter):
    """Room of a cluster, for a program without a server. `ClusterClient.room` returns it."""

    __slots__ = ()

    @property
    def name(self) -> str:
        """The name of the room."""
        return self._room_name

    def of(self, name: str) -> ClusterRoomChannel:
        """Return a named channel of this room. The channel emits to all members.

        Raises:
            TypeError, ValueError: ``name`` is not a valid channel name.
        """
        check_channel(name)
        return ClusterRoomChannel(self._room_name, name, self._joined, self._room_log)

    async def send_raw(self, data: str | bytes, *, skip: SkipAddressed = None) -> EmitReport:
        """Send a WebSocket message (text or binary) outside the wsrpc protocol to the raw connections; see `emit`.

        Raises:
            EngineLost: the engine cannot be reached. Nothing was sent.
            TypeError: ``data`` is neither a string nor bytes.
            ValueError: the room keeps its events.
        """
        raw_payload(data)
        if self._room_log is not None:
            await self._room_log.emit((None, None, (data,)), skip)  # raises an exception that says why
        return await self._send(RoomMessage(self._room_name, None, None, [data], addresses_of(skip)))

    async def members(self) -> Members:
        """Return the members in all processes. Cancelling is safe.

        Each process has 1.5 seconds to respond. `Members.missing_nodes` names the processes that do not respond in this
        time.

        Raises:
            EngineLost: the engine cannot be reached.
        """
        addresses, others, missing_nodes = await self._connected().rooms.members(self._room_name)
        return Members(tuple(addresses), others, missing_nodes)

    def __repr__(self) -> str:
        return f"<ClusterRoom {self._room_name!r}>"


class ClusterRoomChannel(ClusterEmitter):
    """Named channel of a `ClusterRoom`. `ClusterRoom.of` returns it."""

    __slots__ = ()

    @property
    def name(self) -> str:
        """The channel's name."""
        return str(self._channel_name)

    def __repr__(self) -> str:
        return f"<ClusterRoomChannel {self.name!r} of room {self._room_name!r}>"
