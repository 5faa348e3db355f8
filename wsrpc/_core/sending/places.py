"""Where a message goes: the table `PLACES`, and `decide_place`, which adds the rules for full sessions to the table."""

from __future__ import annotations

from enum import Enum

from msgspec import UNSET, Struct

from ..._base.closing import CloseCode
from ...errors import ChannelClosed, ConnectionLost, SessionLost
from ..handlers.invocation import CURRENT
from ..inboxes.inbox import ReadableChannel
from ..wire.messages import Event, Raw, Request
from ..wire.settings import Terms
from .gate import Waiter
from .pending import Pending
from .session_writer import SendingState, SessionWriter


class Scope(Enum):
    """What a message belongs to."""

    STARTED = "something that has started"
    """An anonymous channel, a stream, or an `open` handler."""
    SESSION = "the session"
    """All other messages of a server, and of a client that does not connect again."""
    PEER = "the peer"
    """All other messages of a client."""


class Place(Enum):
    """Where a message goes."""

    NOW = "it is sent now"
    ROOM = "its caller waits until the session has room, and the message is encoded then"
    CAPACITY = "its caller waits until the remote peer has room for another request"
    QUEUE = "it waits, encoded: for a connection, for the `open` handlers, or for the next session"


PLACES: dict[SendingState, dict[Scope, Place | None]] = {
    SendingState.NONE: {Scope.STARTED: None, Scope.SESSION: None, Scope.PEER: None},
    SendingState.EXPECTED: {Scope.STARTED: None, Scope.SESSION: None, Scope.PEER: Place.QUEUE},
    SendingState.AWAY: {Scope.STARTED: Place.QUEUE, Scope.SESSION: Place.QUEUE, Scope.PEER: Place.QUEUE},
    SendingState.OPENING: {Scope.STARTED: Place.NOW, Scope.SESSION: Place.NOW, Scope.PEER: Place.QUEUE},
    SendingState.FINISHING: {Scope.STARTED: Place.NOW, Scope.SESSION: Place.NOW, Scope.PEER: Place.NOW},
    SendingState.DRAINING: {Scope.STARTED: Place.NOW, Scope.SESSION: None, Scope.PEER: Place.QUEUE},
    SendingState.OPEN: {Scope.STARTED: Place.NOW, Scope.SESSION: Place.NOW, Scope.PEER: Place.NOW},
}
"""Where a message goes if there is room for it, by the state of the session and the scope of the message.

None: the message fails. `decide_place` also decides whether its caller has to wait for room.
"""


class Outgoing(Struct, eq=False):
    """A message that this side is about to send. `Outbox` makes it when a message cannot be sent at once."""

    message: Event | Request | Raw
    scope: Scope
    writer: SessionWriter
    """The writer of the session in which the message was made. When this session ends, the message fails, unless
    ``scope`` is `Scope.PEER`."""
    channel: ReadableChannel | None
    """The anonymous channel of the message. None without one, and if the channel had ended already."""
    needs_connection: bool
    """Whether the message fails if it would have to wait for a connection."""
    terms: Terms
    """How the message is encoded for its place."""
    pending: Pending | None = None
    """The request that the message makes. None for events and raw messages."""
    waiting_bytes: int = 0
    """Bytes of the request that wait for a handler at the remote peer, if the request is sent now or is held."""
    payload: bytes = b""
    encoded_for: Terms | None = None
    """The terms for which ``payload`` was encoded."""

    def encode(self) -> tuple[bytes, bool]:
        """Encode the message for its place, once. Return the payload, and whether it is text."""
        message, terms = self.message, self.terms
        if isinstance(message, Raw):
            return message.payload, message.text
        if self.encoded_for is not terms:
            self.payload, self.encoded_for = terms.encode(message), terms
        return self.payload, terms.is_text(self.payload)


def decide_place(
    outgoing: Outgoing, writer: SessionWriter, *, expects_session: bool, waiter: Waiter | None = None
) -> Place:
    """Return where a message goes now, by the first rule that applies.

    The call sets ``terms`` and ``waiting_bytes`` of the message for this place.

    Args:
        writer: the writer of the current session, see `Host.current`.
        expects_session: whether messages that are sent without a session wait for the next one.
        waiter: the place of the caller in a line. None for a caller that does not wait. ``ROOM`` then means that the
            session has no room for the message.

    Raises:
        ConnectionLost: ``"not_sent"``, the message may not wait for another connection, or there will be none.
        ChannelClosed: the message is for an anonymous channel that has ended.
    """
    capacity_gate, state = writer.requests.capacity_gate, writer.sending_state
    if state is SendingState.NONE and expects_session:
        state = SendingState.EXPECTED
    elif state in (SendingState.FINISHING, SendingState.DRAINING):
        state = _state_while_draining(outgoing, writer, state)
    # 1. A message fails if its session or its channel is over, or where the table says so.
    place = None if _is_over(outgoing, writer) else PLACES[state][outgoing.scope]
    # 2. With offline="fail", a message does not wait for a connection. (It does wait for `open` handlers.)
    if outgoing.needs_connection and place is Place.QUEUE and state is not SendingState.OPENING:
        place = None
    if place is None:
        raise _error_for(outgoing, state, waiter)
    # A message that may outlive the session is encoded for the next session.
    outlives = place is Place.QUEUE and outgoing.scope is Scope.PEER
    outgoing.terms, outgoing.waiting_bytes = writer.next_terms if outlives else writer.terms, 0
    # 3. A message waits while the session is full, unless it may outlive the session.
    full = writer.session.full and not outlives
    if waiter is None:
        return Place.ROOM if full else place
    if full:
        return Place.CAPACITY if waiter.waits_at(capacity_gate) else Place.ROOM
    # 4. A message does not overtake messages whose callers wait for room. (But the first caller in either line may
    # continue: a caller that waits for capacity had room before.)
    if writer.room_gate.has_callers and not waiter.is_first:
        return Place.ROOM
    # 5. A message waits for the `open` handlers or for the next session, whatever is in flight now.
    if place is Place.QUEUE and not is_held(outgoing, writer):
        return place
    # 6. A request waits while the remote peer has no capacity for it, also in a session that waits for another
    # connection: its requests are still in flight, and all held requests will be sent at once.
    return place if _has_capacity(outgoing, writer, waiter) else Place.CAPACITY


def is_held(outgoing: Outgoing, writer: SessionWriter) -> bool:
    """Return whether a message is sent as soon as the session has another connection.

    A client's own messages may also wait for `open` handlers, whose requests are sent first, or for the next session.
    """
    if writer.sending_state is not SendingState.AWAY:
        return False
    return outgoing.scope is not Scope.PEER or writer.connected_sending_state is SendingState.OPEN


def _state_while_draining(outgoing: Outgoing, writer: SessionWriter, state: SendingState) -> SendingState:
    """Return the state of the session for a message, while the remote peer drains.

    It is ``OPEN`` for the messages of a handler for which the remote peer waits. For a stream, an upload or a
    conversation it is ``DRAINING``, because this might not end in time.
    """
    handler = CURRENT.get(None)
    if handler is not None and handler.awaited and handler.dispatcher.writer is writer:
        return SendingState.OPEN
    wants_channel = outgoing.pending is not None and outgoing.pending.options.wants_channel
    return SendingState.DRAINING if wants_channel else state


def _is_over(outgoing: Outgoing, writer: SessionWriter) -> bool:
    """Return whether the session of a message is over, or its anonymous channel."""
    if outgoing.scope is Scope.PEER:
        return False
    if outgoing.message.h is not UNSET and (outgoing.channel is None or outgoing.channel.over):
        return True
    return outgoing.writer is not writer


def _has_capacity(outgoing: Outgoing, writer: SessionWriter, waiter: Waiter) -> bool:
    """Return whether the remote peer has room for a message. It always has room for events, and on channels."""
    requests, terms = writer.requests, writer.terms
    flight, gate, pending = requests.flight, requests.capacity_gate, outgoing.pending
    if pending is None or pending.h is not None or requests.has_capacity(terms):
        return True
    others_first = gate.has_callers and not (waiter.waits_at(gate) and waiter.is_first)
    if others_first or flight.is_full(terms.announced):
        return False
    waiting_bytes = flight.waiting_bytes(terms.announced, len(outgoing.encode()[0]))
    outgoing.waiting_bytes = waiting_bytes or 0
    return waiting_bytes is not None


def _error_for(outgoing: Outgoing, state: SendingState, waiter: Waiter | None) -> ConnectionLost | ChannelClosed:
    """Return the error for a message that can neither be sent nor wait."""
    session, h, channel = outgoing.writer.session, outgoing.message.h, outgoing.channel
    if state is SendingState.DRAINING and outgoing.scope is not Scope.STARTED:
        return ConnectionLost(CloseCode.SERVICE_RESTART, "the other side is draining", "not_sent")
    if channel is not None and channel.over and not session.over:
        return channel.closed_error()
    lost = outgoing.writer.not_sent()
    if isinstance(session.end_error, SessionLost) and waiter is not None and waiter.is_waiting:
        lost = session.end_error.for_outcome("not_sent")  # it was lost while the caller waited
    return lost if h is UNSET else ChannelClosed(str(h), lost)
