"""Where a message goes: the table `PLACES`, and `decide`, which adds the rules for full sessions to the table."""

from __future__ import annotations

from enum import Enum

from msgspec import UNSET, Struct

from ..._base.closing import CloseCode
from ...errors import ChannelClosed, ConnectionLost, SessionLost, WsrpcError
from ..handlers.invocation import CURRENT
from ..inboxes.inbox import ReadableChannel
from ..wire.messages import Event, Request
from ..wire.terms import Terms
from .gate import Waiter
from .pending import Pending
from .phase import Phase
from .session_writer import SessionWriter


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
    ROOM = "its caller waits, with the arguments of its call, until the session has room, or the server has greeted"
    CAPACITY = "its caller waits until the remote peer has room for the request, or has said whether it knows keys"
    HELD = "it waits, encoded, and is sent as soon as its session has another connection"
    QUEUE = "it waits, encoded, for the `open` handlers or for the next session"


PLACES: dict[Phase, dict[Scope, Place | None]] = {
    Phase.STOPPED: {Scope.STARTED: None, Scope.SESSION: None, Scope.PEER: None},
    Phase.EXPECTED: {Scope.STARTED: None, Scope.SESSION: None, Scope.PEER: Place.QUEUE},
    Phase.AWAY: {Scope.STARTED: Place.HELD, Scope.SESSION: Place.HELD, Scope.PEER: Place.HELD},
    Phase.AWAY_NOT_OPEN: {Scope.STARTED: Place.HELD, Scope.SESSION: Place.HELD, Scope.PEER: Place.QUEUE},
    Phase.OPENING: {Scope.STARTED: Place.NOW, Scope.SESSION: Place.NOW, Scope.PEER: Place.QUEUE},
    Phase.FINISHING: {Scope.STARTED: Place.NOW, Scope.SESSION: Place.NOW, Scope.PEER: Place.NOW},
    Phase.DRAINING: {Scope.STARTED: Place.NOW, Scope.SESSION: None, Scope.PEER: Place.QUEUE},
    Phase.OPEN: {Scope.STARTED: Place.NOW, Scope.SESSION: Place.NOW, Scope.PEER: Place.NOW},
}
"""Where a message goes if there is room for it, by its `Phase` and its scope.

None: the message fails. `decide` also decides whether its caller has to wait for room.
"""


class Outgoing(Struct, eq=False):
    """A message that this side is about to send. `Outbox` makes it when a message cannot be sent at once."""

    message: Event | Request
    scope: Scope
    writer: SessionWriter
    """The writer of the session in which the message was made. When this session ends, the message fails, unless
    ``scope`` is `Scope.PEER`."""
    channel: ReadableChannel | None
    """The anonymous channel of the message. None without one, and if the channel had ended already."""
    fails_offline: bool
    """Whether the message fails if it would have to wait for a connection."""
    pending: Pending | None = None
    """The request that the message makes. None for events."""
    payload: bytes = b""
    encoded_for: Terms | None = None
    """The terms for which ``payload`` was encoded."""

    def encode(self, terms: Terms) -> tuple[bytes, bool]:
        """Encode the message, once for the same terms, unless it says how much time is left.

        Returns:
            the payload, and whether it is text.
        """
        message, pending = self.message, self.pending
        if pending is not None and message.ctx is not UNSET:
            message.ctx.remaining_ms = pending.remaining_ms(self.writer.loop.time())
            self.encoded_for = None
        if self.encoded_for is not terms:
            self.payload, self.encoded_for = terms.encode_call(message), terms
        return self.payload, terms.is_text(self.payload)

    def keep(self) -> None:
        """Copy the arguments before the message waits, because the caller may change them.

        Raises what encoding them raises.
        """
        # Before the greeting, the payload is JSON, in which bytes are text.
        payload = self.payload if self.encoded_for is not None and self.encoded_for.known else b""
        self.message.a = self.writer.settings.kept(self.message.a, payload)

    @property
    def has_key(self) -> bool:
        """Whether it is a call with a key."""
        return self.pending is not None and self.pending.options.has_key

    def check_context(self, writer: SessionWriter) -> None:
        """Refuse a call whose key the remote peer might ignore, and count metadata that it does not get.

        Raises:
            ValueError: the remote peer ignores keys.
            WsrpcError: the remote peer has not said in time whether it knows keys.
        """
        terms, ctx = writer.terms, self.message.ctx
        if ctx is UNSET or (terms.known and terms.context):
            return
        if self.pending is not None and self.has_key:
            not_sent = f"{self.pending.event!r} was not sent: the remote peer"
            if terms.known:
                raise ValueError(f"{not_sent} does not speak wsrpc, and ignores key=")
            seconds = writer.settings.limits.open_timeout
            raise WsrpcError(f"{not_sent} has not said within {seconds:g} s if it knows keys (Limits.open_timeout)")
        if terms.known and ctx.metadata is not UNSET:
            writer.count_metadata()


class Decision(Struct, frozen=True):
    """Where a message goes now, and how it is encoded for this place."""

    place: Place
    terms: Terms
    may_outlive: bool = False
    """Whether the message waits, and may be sent in the next session."""
    waiting_bytes: int = 0
    """Bytes of a request that will wait for a handler at the remote peer."""


def decide(
    outgoing: Outgoing, writer: SessionWriter, *, expects_session: bool, waiter: Waiter | None = None
) -> Decision:
    """Return where a message goes now, by the first rule that applies.

    Args:
        writer: the writer of the current session, see `PeerHost.current`.
        expects_session: whether messages that are sent without a session wait for the next one.
        waiter: the place of the caller in a line. None for a caller that does not wait: only rules 1 and 2 apply.

    Raises:
        ConnectionLost: ``"not_sent"``, the message may not wait for another connection, or there will be none.
        ChannelClosed: the message is for an anonymous channel that has ended.
    """
    state = state_for(outgoing, writer, expects_session=expects_session)
    # 1. A message fails if its session or its channel is over, or where the table says so.
    place = None if _is_over(outgoing, writer) else PLACES[state][outgoing.scope]
    # 2. With offline="fail", a message does not wait for a connection. (It does wait for `open` handlers.)
    waits = place is Place.HELD or place is Place.QUEUE
    if outgoing.fails_offline and waits and state is not Phase.OPENING:
        place = None
    if place is None:
        raise _error_for(outgoing, state, waiter)
    # A message that may outlive the session is encoded for the next session.
    may_outlive = waits and outgoing.scope is Scope.PEER
    terms = writer.settings.terms if may_outlive else writer.terms
    decision = Decision(place, terms, may_outlive)
    if waiter is None:
        return decision
    # 3. A call with a key, or a large message, waits until it is known what the remote peer accepts.
    if place is Place.NOW and not terms.known:
        size, has_key = len(outgoing.encode(terms)[0]), outgoing.has_key
        if writer.awaits_greeting(size, has_key=has_key):
            return Decision(Place.CAPACITY if has_key else Place.ROOM, terms)
    # 4. A message waits while the session is full, unless it may outlive the session.
    if writer.session.full and not may_outlive:
        waits_for_capacity = waiter.waits_at(writer.requests.capacity_gate)
        return Decision(Place.CAPACITY if waits_for_capacity else Place.ROOM, terms)
    # 5. A message does not overtake messages whose callers wait for room. (But the first caller in either line may
    # continue: a caller that waits for capacity had room before.)
    if writer.room_gate.has_callers and not waiter.is_first:
        return Decision(Place.ROOM, terms)
    # 6. A message waits for the `open` handlers or for the next session, whatever is in flight now.
    if place is Place.QUEUE:
        return decision
    # 7. A request waits while the remote peer has no capacity for it, also in a session that waits for another
    # connection: its requests are still in flight, and all held requests will be sent at once.
    waiting_bytes = _waiting_bytes(outgoing, writer, waiter, terms)
    if waiting_bytes is None:
        return Decision(Place.CAPACITY, terms)
    return Decision(place, terms, may_outlive, waiting_bytes) if waiting_bytes else decision


def state_for(outgoing: Outgoing, writer: SessionWriter, *, expects_session: bool) -> Phase:
    """Return the state of the session for one message.

    While the remote peer drains, it is ``OPEN`` for the messages of a handler for which the remote peer waits. For a
    stream, an upload or a conversation it is ``DRAINING``, because this might not end in time.
    """
    state = writer.phase
    if state is Phase.STOPPED and expects_session:
        return Phase.EXPECTED
    if state is Phase.FINISHING or state is Phase.DRAINING:
        handler = CURRENT.get(None)
        if handler is not None and handler.awaited and handler.dispatcher.writer is writer:
            return Phase.OPEN
        if outgoing.pending is not None and outgoing.pending.options.wants_channel:
            return Phase.DRAINING
    return state


def _is_over(outgoing: Outgoing, writer: SessionWriter) -> bool:
    """Return whether the session of a message is over, or its anonymous channel."""
    if outgoing.scope is Scope.PEER:
        return False
    if outgoing.message.h is not UNSET and (outgoing.channel is None or outgoing.channel.over):
        return True
    return outgoing.writer is not writer


def _waiting_bytes(outgoing: Outgoing, writer: SessionWriter, waiter: Waiter, terms: Terms) -> int | None:
    """Return how many bytes of a message wait for a handler, if it is sent now. None if the remote peer has no room.

    It always has room for events, and for requests on channels.
    """
    requests, limits = writer.requests, writer.terms.announced
    flight, gate, pending = requests.flight, requests.capacity_gate, outgoing.pending
    if pending is None or pending.h is not None or not writer.terms.known or requests.has_capacity(writer.terms):
        return 0
    others_first = gate.has_callers and not (waiter.waits_at(gate) and waiter.is_first)
    if others_first or flight.is_full(limits):
        return None
    return flight.waiting_bytes(limits, len(outgoing.encode(terms)[0]))


def _error_for(outgoing: Outgoing, state: Phase, waiter: Waiter | None) -> ConnectionLost | ChannelClosed:
    """Return the error for a message that can neither be sent nor wait."""
    session, h, channel = outgoing.writer.session, outgoing.message.h, outgoing.channel
    if state is Phase.DRAINING and outgoing.scope is not Scope.STARTED:
        return ConnectionLost(CloseCode.SERVICE_RESTART, "the other side is draining", "not_sent")
    if channel is not None and channel.over and not session.over:
        return channel.closed_error()
    lost = outgoing.writer.not_sent()
    if isinstance(session.end_error, SessionLost) and waiter is not None and waiter.is_waiting:
        lost = session.end_error.for_outcome("not_sent")  # it was lost while the caller waited
    return lost if h is UNSET else ChannelClosed(str(h), lost)
