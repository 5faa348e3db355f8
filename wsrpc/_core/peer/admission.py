"""`Admission`: decides whether the handler of a received message runs now. `WAITING`: which received messages wait."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

from msgspec import UNSET

from ..._base.buckets import above, bucket_of
from ..._base.names import STREAM_EVENTS, ChannelRef
from ...errors import BadArguments, Draining, Overloaded, above_a_rate
from ...limits import Rate, rate_of
from ..channels.channel_core import ChannelCore
from ..channels.named_channels import NamedChannels
from ..handlers.invocation import CallState, Invocation
from ..handlers.observation import Message, mark_processed
from ..handlers.opening import OpeningState
from ..inboxes.inbox import Inbox
from ..inboxes.recipients import Recipient
from ..sending.draining import REFUSING
from ..session.peer_host import PeerHost
from ..session.session import BYTES_PER_MESSAGE
from ..wire.call_context import read_call_context
from ..wire.counting import decode_any
from ..wire.messages import Decode, WireMessage, aging, place_on
from .active_calls import ActiveCalls
from .waiting_room import NOTHING_WAITS, MessageKind, WaitingMessage, WaitingRoom

if TYPE_CHECKING:
    from .dispatcher import Dispatcher


class ReceivingState(Enum):
    """The state of a session, as far as it decides which received messages wait for their handlers."""

    __hash__ = object.__hash__  # Enum's own is a Python function, and the table is read often

    STOPPED = "the session is full, so that answers cannot be sent, or a Close frame is queued"
    """When the session continues on another connection, this state lasts until the handlers that waited in tasks have
    started."""
    ACCEPTED = "`open` handlers run on the side that accepted"
    DIALED = "`open` handlers run on the side that dialed"
    OPEN = "none of these"


_STOPPED, _ACCEPTED, _DIALED, _OPEN = ReceivingState

WAITING: dict[ReceivingState, tuple[MessageKind, ...]] = {
    ReceivingState.STOPPED: (MessageKind.ON_CHANNEL, MessageKind.REQUEST, MessageKind.EVENT),
    # An `open` handler may have opened a channel and wait for messages on it.
    ReceivingState.ACCEPTED: (MessageKind.REQUEST, MessageKind.EVENT),
    # If requests waited on both sides, the `open` handlers of the two sides could wait for each other.
    ReceivingState.DIALED: (MessageKind.EVENT,),
    ReceivingState.OPEN: (),
}
"""The kinds of received messages that wait in each state. The other kinds are handled, as far as there is room.

A message also waits behind messages that wait for room: see `Admission`.
"""

# Constants, because Python 3.11 looks members of an enum up slowly, and these are asked for with each message.
_ON_CHANNEL, _REQUEST, _EVENT = MessageKind
_OPENED = OpeningState.DONE


class Refusal(NamedTuple):
    """Why a message is refused. ``kind`` is that of `Peer.ignored`, and ``by`` names the limit.

    ``wait`` is the time in seconds after which it may be sent again, if that is known. ``is_logged`` says whether it is
    logged. If it is None, the first of each kind of a peer is.
    """

    kind: str
    why: str
    by: str
    wait: float | None
    is_logged: bool | None = None


Spend = Callable[[float], bool]
"""Counts a request or an event that arrives at a time in seconds, or returns False to refuse it."""


class Limiter(NamedTuple):
    """Something that counts the messages of a peer, and perhaps of others, and refuses some."""

    spend: Spend
    refusal: Callable[[float], Refusal]
    """Says why ``spend`` has just returned False at that time."""
    refund: Callable[[], None]
    """Undoes a ``spend`` that returned True, because the message is refused after all."""


def _own_limiter(rate: Rate) -> Limiter:
    """Return what counts the messages of one peer against `Limits.rate`."""
    bucket, why = bucket_of(rate), above(rate, "requests and events")

    def refuse(now: float) -> Refusal:
        return Refusal("above the rate", why, "Limits.rate", bucket.wait())

    return Limiter(bucket.spend, refuse, bucket.refund)


class Admission:
    """Decides for each received event and request whether its handler runs now, later or never.

    Messages of one kind are handled in order. Events that wait at the end of a session are still handled. A message

    1. is ignored or refused, or goes to readers and has no handler: see `_handle_without_handler`.
    2. waits, as `WAITING` says, or for room (see `ActiveCalls.has_room`), or behind other messages that wait for room.
    3. is refused if it would wait, and `Limits.waiting` or `Limits.waiting_bytes` is reached.
    4. goes to `Dispatcher.run`. There it may still be refused, for example because its arguments do not fit.

    While ``needs_checks`` is false, only the last of these is possible: a message may go straight to `Dispatcher.run`,
    unless it has the id of a request in `Dispatcher.active`, or one of ``limiters`` refuses it.

    A peer has one object of this class. A `Dispatcher` has the state that ends with a session.
    """

    __slots__ = (
        "_limits",
        "_loop",
        "_starts_waiting",
        "calls",
        "dispatcher",
        "leaving",
        "limiters",
        "named_channels",
        "needs_checks",
        "on_events_done",
        "on_position",
        "waiting_room",
    )

    def __init__(self, host: PeerHost, named_channels: NamedChannels) -> None:
        self._limits = limits = host.settings.limits
        self._loop = host.loop
        self.named_channels = named_channels
        self.calls = ActiveCalls(limits)
        self.dispatcher: Dispatcher
        """The dispatcher of the current session, see `PeerHost.current`."""
        self.leaving = False
        """Whether new requests are refused in each session, because this side is a client that drains. No message asks
        the server to stop, which may send one request after another. Call `update` when this changes."""
        self.needs_checks = True
        """Whether the next message may have to be refused or to wait, or may be for readers. Only `update` sets it."""
        self.on_events_done: Callable[[], None] | None = None
        """Is called when the events that arrived before the end of the session are handled."""
        self.on_position: Callable[[str, str], bool] | None = None
        """Is called when an event of a room with a log arrives, with the name of the room and the position. Returns
        whether the event is handled."""
        self.waiting_room = NOTHING_WAITS
        """The messages that wait. Peers share an empty queue until their first message waits."""
        self._starts_waiting = False
        """Whether `start_waiting` runs."""
        rate = limits.rate
        self.limiters: tuple[Limiter, ...] = () if rate is None else (_own_limiter(rate_of("Limits.rate", rate)),)
        """Count messages against `Limits.rate`, and against what `limit` adds, which other peers may share."""

    def __repr__(self) -> str:
        return f"<Admission {self.calls.count} handlers, {len(self.waiting_room)} messages wait>"

    def limit(self, others: Sequence[Limiter]) -> None:
        """Count the messages of this peer also with ``others``."""
        self.limiters += tuple(others)

    def set_dispatcher(self, dispatcher: Dispatcher) -> None:
        """Use the dispatcher of another session from now on."""
        self.dispatcher = dispatcher
        self.update()

    def update(self) -> None:
        """Compute ``needs_checks`` again, because something on which it depends has changed."""
        dispatcher, calls = self.dispatcher, self.calls
        writer = dispatcher.writer
        self.needs_checks = bool(
            self.named_channels.channels
            or self.waiting_room.items
            # The state is not `ReceivingState.OPEN`, without a call.
            or writer.session.full
            or dispatcher.paused is not None
            or dispatcher.held_up
            or writer.opening.state is not _OPENED
            or writer.draining.phase in REFUSING
            or self.leaving
            or calls.count >= self._limits.running
            or calls.bytes > calls.room_for_any
            or self.on_position is not None
        )

    @staticmethod
    def _state(dispatcher: Dispatcher) -> ReceivingState:
        """Return the state of a session, as far as it decides which received messages wait."""
        writer = dispatcher.writer
        if writer.session.full or dispatcher.paused is not None or dispatcher.held_up:
            return _STOPPED
        if writer.opening.holds_back:
            return _DIALED if writer.session.negotiation.dialer else _ACCEPTED
        return _OPEN

    # ------------------------------------------------------------ one message

    def arrived(
        self,
        dispatcher: Dispatcher,
        message: WireMessage,
        payload: bytes | bytearray,
        view: Message | None,
        decode: Decode,
        channel: ChannelCore | None = None,
    ) -> None:
        """Handle an event or a request, let it wait, or refuse it.

        Args:
            dispatcher: the dispatcher of the session in which the message arrived.
            message: ``a`` is a non-empty list, and ``i`` is an id or absent.
            channel: the anonymous channel on which the message arrived.
        """
        i = message.i
        report = None if message.ctx is UNSET else self.on_position
        if report is not None and not self._report_position(message, report):
            dispatcher.answers.ignored["event of a left room"] += 1
            mark_processed(view)
            return
        is_read = dispatcher.writer.opening.holds_back and self.named_channels.has_readers(message.c, message.a[0])
        if self._handle_without_handler(dispatcher, message, payload, decode, channel):
            mark_processed(view)
            return
        kind = _ON_CHANNEL if channel is not None else _EVENT if i is UNSET else _REQUEST
        if not self._must_wait(dispatcher, kind, len(payload)):
            dispatcher.run(message, payload, view, channel)
            return
        key = None if i is UNSET else i
        decode = aging(message, decode, self._loop.time)
        waiting = WaitingMessage(kind, _payload_of(payload, view), key, view, decode, dispatcher, channel, is_read)
        limits = self._limits
        if self.waiting_room is NOTHING_WAITS:
            self.waiting_room = WaitingRoom(limits.waiting_bytes)
        # What might run may wait, too: callers keep to the sum of both limits, and the sum bounds the memory. They do
        # not count calls that they have cancelled.
        calls = self.calls
        most = limits.waiting + max(0, limits.running - calls.count + calls.unawaited)
        extra = max(0, limits.running_bytes - calls.bytes + calls.unawaited_bytes)
        if len(self.waiting_room) < most and self.waiting_room.add(waiting, extra):
            self.update()
            return
        if channel is not None or not self.named_channels.is_of_stream(message):
            self.refund()
        why = f"{len(self.waiting_room)} messages wait already"
        if i is UNSET:
            dispatcher.answers.host.count("event dropped, too many wait", f"an event was dropped: {why}")
        else:
            dispatcher.answers.reject(i, Overloaded(f"{why}, ask again later"))
        mark_processed(view)

    @staticmethod
    def _report_position(message: WireMessage, report: Callable[[str, str], bool]) -> bool:
        """Report the position of an event when it arrives, because the event may wait until after its session. Return
        whether the event is handled.
        """
        with suppress(BadArguments):  # the message is refused when it is handled
            context = read_call_context(message.ctx)
            if context.at is not UNSET and message.i is UNSET and message.h is None:
                return report(*context.at)
        return True

    def _handle_without_handler(
        self,
        dispatcher: Dispatcher,
        message: WireMessage,
        payload: bytes | bytearray,
        decode: Decode,
        channel: ChannelCore | None,
    ) -> bool:
        """Refuse, drop or pass to readers a message that needs no handler. Return whether that was done."""
        i = message.i
        if i is not UNSET and dispatcher.knows(i):
            # A rejection would end the first request with this id, whose handler still runs.
            dispatcher.answers.ignored["duplicate id"] += 1
            return True
        if self.limiters and self._counts(message, channel) and not self.spend_rate_or_refuse(dispatcher, message):
            return True
        if self.named_channels.channels and channel is None and self.named_channels.pass_on(message, payload, decode):
            return True
        if i is not UNSET and message.h is None and (self.leaving or self._refuses_new(dispatcher)):
            dispatcher.answers.reject(
                i, Draining("closing, no new requests are taken: ask again on another connection")
            )
            return True
        if dispatcher.paused is not None and dispatcher.writer.session.over:
            # The mailbox of a channel had kept it.
            dispatcher.answers.ignored["dropped at the end"] += 1
            return True
        return False

    @staticmethod
    def _refuses_new(dispatcher: Dispatcher) -> bool:
        """Return whether a new request is refused, while this side drains, and has accepted the connection.

        While a request of this side is pending, a new request may be a part of what its handler does.
        """
        writer = dispatcher.writer
        if writer.draining.closes_at is None or not writer.draining.remote_is_silent:
            return False
        return not (writer.requests or dispatcher.channels.opened)

    def spend_rate_or_refuse(self, dispatcher: Dispatcher, message: WireMessage) -> bool:
        """Count an event or a request against the rates. If it exceeds one, refuse it and return False."""
        now = self._loop.time()
        for number, limiter in enumerate(self.limiters):
            if limiter.spend(now):
                continue
            for each in self.limiters[:number]:
                each.refund()
            kind, why, by, wait, is_logged = limiter.refusal(now)
            dispatcher.answers.host.count_refused(kind, why, by, is_logged)
            if message.i is not UNSET:
                dispatcher.answers.reject(message.i, above_a_rate(why, wait))
            return False
        return True

    def refund(self) -> None:
        """Undo a `spend_rate_or_refuse` that returned True, because the message is refused after all."""
        for limiter in self.limiters:
            limiter.refund()

    def _counts(self, message: WireMessage, channel: ChannelCore | None) -> bool:
        """Return whether a message has to be counted against `Limits.rate`.

        Messages of streams are not counted. Messages on anonymous channels were counted before, except for
        `STREAM_EVENTS`. These are counted here, when it is known that no stream has received them.
        """
        if channel is not None:
            return message.a[0] in STREAM_EVENTS
        return not self.named_channels.is_of_stream(message)

    def _must_wait(self, dispatcher: Dispatcher, kind: MessageKind, size: int) -> bool:
        """Return whether a message waits: as `WAITING` says, for room, or behind other messages that wait for room."""
        waiting = WAITING[self._state(dispatcher)]
        if kind in waiting or not self.calls.has_room(size):
            return True
        return bool(self.waiting_room.items) and self.waiting_room.oldest(waiting) is not None

    def recipient_added(self, channel: ChannelRef, event: str, recipient: Recipient) -> None:
        """Pass the events that wait for the opening to a new reader, because an `open` handler may be the reader."""
        if self.dispatcher.writer.opening.holds_back and isinstance(recipient, Inbox):
            handled = self.named_channels.has_handler(channel, event)
            for ticket, waiting in self.waiting_room.events():
                message = decode_any(waiting.decode, waiting.payload)
                if (message.c, message.a[0]) != (channel, event) or waiting.is_read or recipient.over:
                    continue
                message.i = UNSET
                recipient.receive(message, waiting.payload, waiting.decode)
                waiting.is_read = True
                if not handled:
                    self.waiting_room.pop(ticket)
                    mark_processed(waiting.view)
        self.update()

    # ------------------------------------------------------------ messages that wait

    def start_waiting(self) -> None:
        """Start the messages that wait, as far as there is room: the state of the session or a count has changed."""
        if self._starts_waiting or not self.waiting_room.items:
            self.update()
            return
        self._starts_waiting = True
        try:
            while (found := self.waiting_room.oldest(WAITING[self._state(self.dispatcher)])) is not None:
                ticket, waiting = found
                if not self.calls.has_room(len(waiting.payload)):
                    break
                self.waiting_room.pop(ticket)
                self._start(waiting)
        finally:
            self._starts_waiting = False
            self.dispatcher.slow.check()  # these messages are not of one read from the network
            self.update()

    @staticmethod
    def _start(waiting: WaitingMessage) -> None:
        """Run the handler of a message that waited."""
        dispatcher, channel = waiting.dispatcher, waiting.channel
        try:
            if waiting.too_late:
                waiting.drop()
                return
            message = decode_any(waiting.decode, waiting.payload)
            message.i = UNSET if waiting.id is None else waiting.id
            if channel is not None:
                place_on(message, channel.id)
            dispatcher.run(message, waiting.payload, waiting.view, channel)
        except Exception as exc:
            dispatcher.fail_connection(exc)  # it was decoded when it arrived, so the codec is wrong

    def start_waiting_soon(self) -> None:
        """Call `start_waiting` when the caller has finished what it does: handlers would see it half done."""
        self.update()
        if self.waiting_room.items:
            self._loop.call_soon(self.start_waiting)

    def call_moved(self, state: CallState) -> None:
        """A call has moved to ``state``."""
        if state.counts_as == "channel":  # there is room for another handler
            self.start_waiting_soon()
        else:
            self.update()

    def end_session(self) -> None:
        """Drop the requests that wait, because the session is over. Events are still handled.

        If this side has closed the connection, or while `open` handlers run, which may refuse the remote peer, all
        messages that wait are dropped.
        """
        dispatcher = self.dispatcher
        if dispatcher.paused is not None or not dispatcher.writer.opening.done:
            self.drop_all()
        for waiting in self.waiting_room.pop_requests():
            mark_processed(waiting.view)
        if dispatcher.paused is not None:
            dispatcher.paused.set_result(None)  # cancels the handlers that wait in their tasks

    def drop_all(self) -> None:
        """Drop all messages that wait."""
        for ticket in [*self.waiting_room.items]:
            waiting = self.waiting_room.pop(ticket)
            mark_processed(waiting.view)
            waiting.dispatcher.answers.ignored["dropped at the end"] += 1
        self.update()

    # ------------------------------------------------------------ the end of handlers

    def when_events_done(self, notify: Callable[[], None] | None) -> None:
        """Call ``notify`` when the handlers of all events have started, and those that run in lanes have exited.

        The function of an earlier call that was not called yet is called now.
        """
        if self.calls.starting is not None:
            self.calls.add(self.calls.starting)  # its first step has ended the connection
        earlier, self.on_events_done = self.on_events_done, notify
        if earlier is not None:
            earlier()
        self.notify_if_events_done()

    def notify_if_events_done(self) -> None:
        """Call the function of `when_events_done`, if all events are done."""
        calls = self.calls
        if not (self.waiting_room.items or calls.tasks_not_started or any(map(_is_event_in_order, calls.invocations))):
            notify, self.on_events_done = self.on_events_done, None
            if notify is not None:
                notify()

    def backlog(self) -> int:
        """Return about how many bytes handlers with their messages, waiting messages and unread messages take."""
        room = self.waiting_room
        return self.calls.memory() + room.size + BYTES_PER_MESSAGE * len(room) + self.named_channels.unread_bytes

    def drop_backlog(self, why: str) -> None:
        """Drop all messages that wait or are unread, and cancel all handlers, because these hold too much."""
        self.drop_all()
        for invocation in list(self.calls.invocations):
            invocation.orphan(why)
        self.named_channels.unread_memory().drop_all(why)


def _payload_of(payload: bytes | bytearray, view: Message | None) -> bytes:
    return bytes(payload) if view is None else view.payload  # the same bytes, which the view has anyway


def _is_event_in_order(invocation: Invocation) -> bool:
    """Return whether the handler of an event runs in a lane, where other handlers may wait for it."""
    return invocation.id is None and invocation.handler is not None and invocation.handler.lane is not None
