"""Broadcasts: emitting to all peers of a server, or to the members of a room.

A message is encoded once for each codec. A slow peer delays the other peers for at most `SLOW_READERS_TIMEOUT`. A
report counts the peers that got the message.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Hashable, Sequence
from contextlib import suppress
from functools import partial
from secrets import token_hex
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar, Unpack

import msgspec
from msgspec import UNSET
from msgspec.structs import replace

from .._base.closing import CloseCode
from .._base.logs import logger
from .._base.names import ChannelRef, OnChannel
from .._core.api.calls import broadcast
from .._core.api.options import ChannelEventOptions, changed
from .._core.api.outgoing_functions import run_around, run_at_once
from .._core.api.peer import Peer
from .._core.api.proxy import make_emitter
from .._core.sending.checks import check_thread, check_thread_of_plain, raw_payload
from .._core.sending.session_writer import SessionWriter
from .._core.sending.slow_readers import KeepLatest, Slow
from .._core.wire.call_context import CallContext
from .._core.wire.codecs import Codec, json_text
from .._core.wire.messages import EVENT_OPTIONS, Event, event_on
from .._core.wire.terms import Objections, Terms
from .._raw.raw_connection import RawConnection
from .._raw.raw_link import RawLink
from ..errors import ConnectionLost, MessageTooBig, PeerError, QueueFull
from .joined_cluster import RoomMessage
from .peers import ServedPeer
from .skipping import Skip, readable_again, skipped_by

if TYPE_CHECKING:
    from typing_extensions import TypeForm

T = TypeVar("T")
S = TypeVar("S")

BURST = 64
"""Number of broadcasts after which other tasks run."""
SLOW_READERS_TIMEOUT = 0.1
"""Seconds that one broadcast waits for all slow readers together."""

UNSENDABLE = (MessageTooBig, ValueError, TypeError, OverflowError, RecursionError)
"""Errors of a message of which a member does not accept the size, or a value."""


class EmitReport(msgspec.Struct, frozen=True):
    """Result of a broadcast.

    ``sent`` is the number of peers to which the message was sent, or for which it was queued. ``skipped`` is the number
    of slow readers to which the message is not sent, because of the policy for slow readers. (The peers of ``skip=``
    are not counted.) In a room with ``keep=``, these are members that do not read: they get the message if it is still
    kept when they read again, and are told otherwise. ``errors`` has one `PeerError` for each peer to which the message
    could not be sent. The ``__cause__`` of the `PeerError` is the reason: for example, a `MessageTooBig` if the message
    has more bytes or values than the peer accepts.

    In a cluster, ``sent``, ``skipped`` and ``errors`` cover only the peers of this process. ``nodes`` has the names of
    the other processes with members of the room to which the message was sent, for which it waits while the engine is
    away, or which read it from the store (``keep=``). ``missing_nodes`` has those that could not be reached.
    """

    sent: int
    errors: tuple[PeerError, ...] = ()
    skipped: int = 0
    nodes: tuple[str, ...] = ()
    missing_nodes: tuple[str, ...] = ()


NO_RAW = "the members use the wsrpc protocol, and only raw connections get raw messages: use emit"

Sent = tuple[ChannelRef, str | None, tuple[Any, ...]]
"""The channel, the event and its arguments. For a raw message, these are None, None and the message."""

Encode = Callable[[Any], bytes]
"""Function of a codec. It is the key of an encoding: peers that negotiated the same codec share the encoding."""


class EventBroadcast:
    """Event that is broadcast, encoded once for each codec, and once more for peers that accept no metadata.

    ``objections`` caches for all receivers whether the message is too large.

    Args:
        codec: encodes the event at once, so that a wrong argument raises an exception even if nobody gets the event.
            None if the arguments were encoded before.
        room: the name of a room without a log.
    """

    def __init__(self, message: Event, codec: Codec | None = None, room: str | None = None) -> None:
        self._message = message
        self._room = room
        self._encoded: dict[tuple[Encode, bool, bool], tuple[bytes, bool]] = {}
        self.objections: dict[bytes, Objections] = {}
        self._has_context = message.ctx is not UNSET
        self.has_metadata = message.ctx is not UNSET and message.ctx.metadata is not UNSET
        if codec is not None:
            plain = replace(message, ctx=UNSET) if self._has_context else message
            self._encoded[codec.encode, False, False] = (codec.encode(plain), codec.text)

    def encoded(self, terms: Terms) -> tuple[bytes, bool]:
        """Return the event as a peer with these terms gets it, and whether the encoding is text."""
        room = self._room if terms.names_rooms else None
        key = (terms.encode, self._has_context and terms.context, room is not None)
        made = self._encoded.get(key)
        if made is None:
            message = self._message
            if room is not None:
                message = replace(message, ctx=replace(message.ctx or CallContext(), at=(room, "")))
            payload = terms.encode_call(message)
            made = self._encoded[key] = (payload, terms.is_text(payload))
        return made

    def raw(self) -> tuple[bytes, bool]:
        """Refuse to send the event on a raw connection."""
        raise ValueError("a raw connection does not use the protocol: use send_raw or send_json")


class RawBroadcast:
    """Raw message that is broadcast to raw connections."""

    objections: dict[bytes, Objections] | None = None
    has_metadata = False

    def __init__(self, data: str | bytes) -> None:
        self._made = raw_payload(data)

    def encoded(self, terms: Terms) -> tuple[bytes, bool]:
        """Refuse to send the message to a peer."""
        raise ValueError(NO_RAW)

    def raw(self) -> tuple[bytes, bool]:
        """Return the message as it is sent on a raw connection."""
        return self._made


Broadcast: TypeAlias = EventBroadcast | RawBroadcast
Members = dict[Peer | RawConnection, ServedPeer | RawLink]
Lost = Callable[[Peer | RawConnection], object]


class Fanout:
    """Sends messages to members, of whom some may be skipped.

    Args:
        members: the members, each with its inside.
        slow: the policy for slow readers.
        lost: called with each member to which sending fails because its connection is broken.
    """

    def __init__(self, members: Members, slow: Slow, lost: Lost) -> None:
        self.members = members
        self.slow: Slow = slow
        self.lost = lost

    def _send(self, message: Broadcast, key: Hashable, skipped: Collection[object]) -> EmitReport:
        sent = skipped_readers = 0
        errors: list[PeerError] = []
        terms: Terms | None = None
        payload, text, at_once = b"", True, False
        for member, inside in tuple(self.members.items()):
            if skipped and (member in skipped or inside.address in skipped):
                continue
            try:
                if isinstance(inside, ServedPeer):
                    writer = inside.core.current.writer
                    if writer.terms is not terms:
                        payload, text = message.encoded(writer.terms)
                        terms = writer.terms
                        at_once = len(payload) <= terms.unchecked and (terms.context or not message.has_metadata)
                    if at_once and writer.may_send:
                        # `_deliver` does the same for a connection that has room, as nearly all connections have.
                        # One call for each peer would be a large part of the time of a broadcast.
                        try:
                            writer.session.send(payload, text)
                        except ConnectionLost as exc:
                            if not writer.session.keep_for_next_connection(payload, text, exc):
                                raise
                        sent += 1
                        continue
                if self._deliver(inside, message, key):
                    sent += 1
                else:
                    skipped_readers += 1
            except (ConnectionLost, QueueFull, *UNSENDABLE) as exc:
                error = PeerError(member, str(exc))
                error.__cause__ = exc.with_traceback(None)  # a traceback would keep this frame and the message alive
                errors.append(error)
                if isinstance(exc, (ConnectionLost, QueueFull)):
                    self.lost(member)
        return EmitReport(sent, tuple(errors), skipped_readers)

    def _deliver(self, inside: ServedPeer | RawLink, message: Broadcast, key: Hashable) -> bool:
        """Send a message to one member. Return False if the policy for slow readers drops it.

        Raises:
            ConnectionLost: there is no connection.
            MessageTooBig: the remote peer does not accept such a large message.
            QueueFull: the connection is at its hard cap, and is closed with 4408.
            ValueError: the member cannot get messages of this kind.
        """
        if isinstance(inside, RawLink):
            return inside.broadcast(*message.raw(), self.slow, key)
        writer = inside.writer
        session = writer.session
        payload, text = message.encoded(writer.terms)
        if not session.state.accepts_messages:
            raise writer.not_sent()
        if len(payload) > writer.terms.unchecked:
            writer.terms.check(payload, message.objections)
        if session.full:
            if self.slow != "close":
                return writer.hold_broadcast(payload, text, self.slow, key)
            if writer.slow_reader is not None:
                writer.slow_reader.flush(everything=True)  # this message must neither be dropped nor overtake
            if writer.over_cap(len(payload)):
                session.fail(CloseCode.SLOW_CONSUMER, "slow consumer")
                raise QueueFull(f"{session.unsent} bytes were unsent: the connection was closed with 4408")
        session.send_or_wait(payload, text)
        if message.has_metadata and not writer.terms.context:
            writer.count_metadata()
        return True


class BroadcastGroup(Fanout):
    """Peers that get a broadcast: all peers of a server, or the members of a room.

    A server has either peers or raw connections. ``outgoing`` has the server's functions of `use_outgoing`. ``room`` is
    the name of the room.
    """

    shown = "server"
    """What error messages call it."""

    def __init__(self, codec: Codec, slow: Slow, outgoing: Sequence[Any], lost: Lost) -> None:
        super().__init__({}, slow, lost)
        self.outgoing = outgoing
        self.codec = codec
        self.room: str | None = None
        self._sent = 0

    @property
    def _thread(self) -> int | None:
        """The thread of all members. None while there are none."""
        for inside in self.members.values():
            return inside.thread
        return None

    async def emit(self, sent: Sent, skip: Skip, context: CallContext | None = None) -> EmitReport:
        """Emit an event, or send a raw message; see `RawBroadcastMethods`."""
        message, key = self._encode(sent, context)
        check_thread(self._thread, f"{self.shown}.{'send_raw' if sent[1] is None else 'emit'}(...)")
        if sent[1] is None and isinstance(next(iter(self.members), None), Peer):  # then all members are peers
            raise ValueError(NO_RAW)
        skipped = skipped_by(skip)
        await self.wait_turn(skipped, message)
        return self._send(message, key, skipped)

    def emit_nowait(self, sent: Sent, skip: Skip, context: CallContext | None = None) -> EmitReport:
        """Emit an event without waiting; see `BroadcastMethods.emit_nowait`."""
        message, key = self._encode(sent, context)
        check_thread_of_plain(self._thread, f"{self.shown}.emit_nowait")
        skipped = skipped_by(skip)
        if self.slow == "close":
            self._check_cap(message, skipped)
        return self._send(message, key, skipped)

    def pass_on(self, message: RoomMessage, skipped: Collection[object]) -> EmitReport:
        """Send a message that another node has emitted. ``skipped`` has peers and addresses."""
        sent = message.channel, message.event, tuple(message.args)
        try:
            encoded = self._encode(sent, message.context, message.key)
        except Exception as exc:  # the user's function gets plain values here
            logger.warning("%r of another process has no key for KeepLatest: %s", message.event, exc, exc_info=True)
            encoded = self._encode(sent, message.context, token_hex(8))
        return self._send(*encoded, skipped)

    def json_text(self, value: object) -> str:
        """Encode a value for `RawBroadcastMethods.send_json`."""
        return json_text(self.codec, value)

    def _encode(self, sent: Sent, context: CallContext | None, key: str = "") -> tuple[Broadcast, Hashable]:
        """Return the message, and its key for `KeepLatest`."""
        channel, event, args = sent
        message: Broadcast
        if event is None:
            message = RawBroadcast(args[0])
        else:
            message = EventBroadcast(event_on(channel, (event, *args), context), self.codec, self.room)
        return message, (self, channel, event, key or key_of(self.slow, args))

    # ------------------------------------------------------------ slow readers

    def _stalled(self, skipped: Collection[object]) -> dict[ServedPeer | RawLink, SessionWriter | RawLink]:
        """Members that are above their high-water mark, unless their connection is known to be broken."""
        stalled: dict[ServedPeer | RawLink, SessionWriter | RawLink] = {}
        for member, inside in self.members.items():
            if member in skipped or inside.address in skipped:
                continue
            if isinstance(inside, ServedPeer):
                current = inside.core.current
                if current.writer.session.full and current.session.state.accepts_messages:
                    stalled[inside] = current.writer
            elif inside.full and not inside.closed:
                stalled[inside] = inside
        return stalled

    def _most(self, some: Collection[object]) -> bool:
        """Whether ``some`` are more than half of all members. Then the sender is too fast, not the readers too slow."""
        return 2 * len(some) > len(self.members)

    def _check_cap(self, message: Broadcast, skipped: Collection[object]) -> None:
        """Refuse to send if most members are slow, and one of them would be closed because it is at its hard cap.

        Within one turn of the event loop nothing is written. So a loop of `emit_nowait` fills every connection.

        Raises:
            QueueFull: nothing was sent.
        """
        stalled = self._stalled(skipped)
        if not self._most(stalled):
            return
        for inside in stalled:
            if (
                isinstance(inside, ServedPeer)  # raw connections get no events
                and inside.writer.over_cap(len(message.encoded(inside.writer.terms)[0]))
            ):
                raise QueueFull(
                    f"{len(stalled)} of {len(self.members)} peers are behind, some of them at Limits.hard_cap_bytes, "
                    "so nothing was sent: use `await emit()`, which gives them time to read"
                )

    async def wait_turn(self, skipped: Collection[object], message: Broadcast | None = None) -> None:
        """Give other tasks a turn from time to time, and slow readers some time to drain.

        Do not wait again for a reader until it has drained. If ``slow`` is "close" and most members are slow, every
        call waits for them. Otherwise all would be closed.

        Args:
            message: is encoded before this method waits, because the user may change the arguments meanwhile.
        """
        self._sent += 1
        stalled = [*self._stalled(skipped).values()]
        late = [link for link in stalled if not link.overdue]
        if not late and self.slow == "close" and self._most(stalled):
            late = stalled
        if not late and self._sent % BURST:
            return
        for inside in self.members.values():
            if isinstance(message, EventBroadcast) and isinstance(inside, ServedPeer):
                message.encoded(inside.writer.terms)
        await asyncio.sleep(0)  # connections must be able to open and close while a loop does nothing but emit
        with suppress(TimeoutError):
            async with asyncio.timeout(SLOW_READERS_TIMEOUT):
                await asyncio.gather(*(link.wait_room() for link in late), return_exceptions=True)
        for link in late:
            link.mark_overdue()


class BroadcastMethods(OnChannel):
    """Methods that broadcast on a channel, for servers, rooms and channels of both."""

    __slots__ = ()

    _group: BroadcastGroup

    def emitter(self, contract: TypeForm[T], /, *, skip: Skip = None) -> T:
        """Return an object with the methods of a contract. Each method emits the event of the same name.

        An ``async def`` of the contract does what `emit` does, and a plain ``def`` does what `emit_nowait` does. In the
        contract, declare both with the return type None. Arguments are sent as for a proxy; see `Peer.proxy`.

        Args:
            skip: a peer, or several peers, that should not get the events, as for `emit`.

        Raises:
            TypeError: the contract is not valid. The error message names the method and explains the problem.
        """
        skip = readable_again(skip)
        skipped_by(skip)  # raises if one of them is not a peer
        made: T = make_emitter(contract, self, skip=skip)
        return made

    async def emit(
        self, event: str, /, *args: Any, skip: Skip = None, **options: Unpack[ChannelEventOptions]
    ) -> EmitReport:
        """Emit an event to several peers.

        `Server` and `ServerChannel` emit to all peers of the server. `Room` and `RoomChannel` emit to all members of
        the room.

        The arguments are encoded once. If sending to a peer fails, the other peers still get the event. A peer whose
        connection is broken appears in only one report, and leaves its rooms.

        If the unsent bytes of some peers exceed `Limits.high_water_bytes`, this method waits for these peers to read,
        at most 100 ms in total. If a peer is still above the limit after that time, later calls wait for that peer only
        after it has caught up. However, with ``slow="close"``, this method always waits if more than half of the peers
        are above the limit. After the wait, the policy ``slow`` determines what happens to the message and to the slow
        peers; see `Server`.

        Cancelling is safe: the event is then not sent.

        Args:
            skip: a peer that should not get the event, or several such peers, for example a list, a set or a room. For
                room member that is connected to another process, pass the object that `Cluster.peer` returns for its
                address.
            metadata: as for `Peer.emit`. Peers that have not announced that they accept metadata get the event without
                it.

        Returns:
            A report of how many peers got the event and which ones failed.

        Raises:
            ReservedEvent, TypeError, ValueError: the event name or an argument cannot be sent, or ``skip`` contains
                something other than peers. Nothing was sent.
            RuntimeError: called in a thread other than that of the server's event loop.
        """
        self._check_open()
        chosen = changed(EVENT_OPTIONS, options, ChannelEventOptions, self.emit, event)
        message = (self._channel_name, event, args)
        send = partial(self._group.emit, message, skip)
        return await broadcast(run_around, self._group.outgoing, message, chosen, send)

    def emit_nowait(
        self, event: str, /, *args: Any, skip: Skip = None, **options: Unpack[ChannelEventOptions]
    ) -> EmitReport:
        """Emit an event like `emit`, but do not wait. Call this method in the event loop's thread.

        Peers whose unsent bytes exceed `Limits.high_water_bytes` get no time to read: the policy ``slow`` applies to
        them immediately.

        Raises:
            QueueFull: with ``slow="close"``, the unsent bytes of a peer have reached `Limits.hard_cap_bytes`, and those
                of more than half of all peers exceed `Limits.high_water_bytes`. This happens if you emit in a loop
                without awaiting anything: no peer can then read. Nothing was sent, and no connection is closed.
            ReservedEvent, TypeError, ValueError, RuntimeError: as for `emit`.
        """
        self._check_open()
        chosen = changed(EVENT_OPTIONS, options, ChannelEventOptions, self.emit_nowait, event)
        message = (self._channel_name, event, args)
        send = partial(self._group.emit_nowait, message, skip)
        return broadcast(run_at_once, self._group.outgoing, message, chosen, send)


class RawBroadcastMethods(BroadcastMethods):
    """The methods of `BroadcastMethods`, with `send_raw` and `send_json`, which belong to no channel."""

    __slots__ = ()

    async def send_raw(self, data: str | bytes, *, skip: Skip = None) -> EmitReport:
        """Send a WebSocket message that does not use the wsrpc protocol to several `RawConnection` objects; see `emit`.

        A str is sent as text, and bytes are sent as binary. Peers cannot get such messages. (In a cluster, servers
        whose members are peers ignore them.)

        The key function of a `KeepLatest` policy is called with the message. Cancelling is safe: the message is then
        not sent.

        Raises:
            TypeError: ``data`` is neither str nor bytes, or ``skip`` contains something other than peers.
            ValueError: the members are peers, which use the protocol.
            RuntimeError: called in a thread other than that of the server's event loop.
        """
        return await self._group.emit((None, None, (data,)), skip)

    async def send_json(self, value: object, *, skip: Skip = None) -> EmitReport:
        """Send a value as a raw text message in JSON; see `send_raw`. The value is encoded like a handler's result."""
        return await self.send_raw(self._group.json_text(value), skip=skip)


def key_of(slow: Slow, args: tuple[Any, ...]) -> str:
    """Return a text that is equal for messages with the same key for `KeepLatest`, in all processes."""
    if not isinstance(slow, KeepLatest) or slow.key is None:
        return ""
    key = slow.key(*args)
    try:
        here = repr(hash(key))  # checked for each message, so that a mistake is found before a reader is slow
    except TypeError as exc:
        raise TypeError(f"the key of KeepLatest must be hashable, such as text or a tuple; got {key!r}") from exc
    with suppress(TypeError):  # not values that JSON can express
        return repr(msgspec.to_builtins(key, order="deterministic"))
    return here
