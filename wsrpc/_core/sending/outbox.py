"""`Outbox`: sends the messages of a peer. `Outgoing`: one of them, and the rules that say where it goes."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Any

from msgspec import UNSET

from ..._base.closing import CloseCode, CloseInfo
from ..._base.misuse import shown_as
from ..._base.names import ChannelRef, Offline
from ...errors import ChannelClosed, ConnectionLost, SessionLost
from ..handlers.invocation import CURRENT
from ..inboxes.inbox import ReadableChannel
from ..session.host import Host
from ..session.offline_queue import Entry, OfflineQueue
from ..wire.messages import Event, Raw, Request, event_on
from ..wire.settings import Terms
from .checks import check_sending
from .gate import Gate, Waiter
from .pending import HELD, QUEUED, Pending, PendingRequests
from .session_writer import Line, SessionWriter

FindChannel = Callable[[int], ReadableChannel | None]


def _no_channel(h: int) -> None:
    """Find no channel: there is no session."""


class Scope(Enum):
    """What a message belongs to."""

    STARTED = "something that has begun"
    """An anonymous channel, a stream, or an `open` handler."""
    SESSION = "the session"
    """All other messages of a server, and of a client that does not connect again."""
    PEER = "the peer"
    """All other messages of a client."""


class Place(Enum):
    """Where a message goes."""

    NOW = "it leaves now"
    GATE = "its caller waits until the session has room, and the message is encoded then"
    CAPACITY = "its caller waits until the remote peer has room for another request"
    QUEUE = "it waits, encoded: for a connection, for the `open` handlers, or for the next session"


PLACES: dict[Line, dict[Scope, Place | None]] = {
    Line.NONE: {Scope.STARTED: None, Scope.SESSION: None, Scope.PEER: None},
    Line.EXPECTED: {Scope.STARTED: None, Scope.SESSION: None, Scope.PEER: Place.QUEUE},
    Line.AWAY: {Scope.STARTED: Place.QUEUE, Scope.SESSION: Place.QUEUE, Scope.PEER: Place.QUEUE},
    Line.OPENING: {Scope.STARTED: Place.NOW, Scope.SESSION: Place.NOW, Scope.PEER: Place.QUEUE},
    Line.FINISHING: {Scope.STARTED: Place.NOW, Scope.SESSION: Place.NOW, Scope.PEER: Place.NOW},
    Line.DRAINING: {Scope.STARTED: Place.NOW, Scope.SESSION: None, Scope.PEER: Place.QUEUE},
    Line.OPEN: {Scope.STARTED: Place.NOW, Scope.SESSION: Place.NOW, Scope.PEER: Place.NOW},
}
"""Where a message goes, by the state of the line and the scope of the message. None: the message fails.

`Outgoing.place` has the rules that apply on top of the table, in order.
"""


class Outgoing:
    """A message that this side is about to send, with what was true of it when it was given to the outbox.

    Args:
        pending: the request that it makes. None for events and raw messages.
        started_in: the message belongs to something that has begun in this session.
    """

    __slots__ = (
        "_channel",
        "_encoded_for",
        "_needs_connection",
        "_outbox",
        "_payload",
        "_terms",
        "message",
        "pending",
        "scope",
        "waiting_bytes",
        "writer",
    )

    def __init__(
        self,
        outbox: Outbox,
        message: Event | Request | Raw,
        pending: Pending | None = None,
        *,
        offline: Offline | None = None,
        started_in: SessionWriter | None = None,
    ) -> None:
        self._outbox = outbox
        self.message = message
        self.pending = pending
        self.writer = started_in or outbox.writer
        """The way out of the session of that time, with which the message ends, unless it belongs to the peer."""
        self._channel = None if message.h is UNSET else outbox.find_channel(message.h)
        """The anonymous channel of the message. None without one, and if it had ended already."""
        within_call = pending is not None and pending.options.within_call
        begun = started_in is not None or message.h is not UNSET or within_call
        if begun or self.writer.opening.in_handler():
            self.scope = Scope.STARTED
        else:
            self.scope = Scope.PEER if outbox.expects_session else Scope.SESSION
        fails_offline = offline == "fail" or (offline is None and outbox.fails_offline)
        self._needs_connection = fails_offline and not begun
        self.waiting_bytes = 0
        """Bytes of a request that wait for a handler at the remote peer, if it leaves now or is held."""
        self._terms = self.writer.terms
        """How it is encoded for its `place`."""
        self._payload = b""
        self._encoded_for: Terms | None = None
        """Those for which ``_payload`` was encoded."""

    # ------------------------------------------------------------ where it goes

    def place(self, waiter: Waiter | None = None) -> Place:
        """Return where the message goes now, by the first rule that applies.

        Args:
            turn: the turn of its caller. None for a caller that does not wait: the message takes no turn, and ``GATE``
                says that there is no room for it.

        Raises:
            ConnectionLost: ``"not_sent"``, the message may not wait for another connection, or none will come.
            ChannelClosed: the message is for an anonymous channel that has ended.
        """
        outbox, line = self._outbox, self._line()
        session, gate, capacity_gate = outbox.writer.session, outbox.gate, outbox.requests.capacity_gate
        # It fails if what it belongs to is over, or where the table says so.
        place = PLACES[line][self.scope] if self._continues() else None
        # With offline="fail" it does not wait for a connection. (It does wait for `open` handlers.)
        if self._needs_connection and place is Place.QUEUE and line is not Line.OPENING:
            place = None
        if place is None:
            raise self._not_sent(line, waiter)
        # It is encoded as was negotiated in the session, unless it goes into the queue and may outlive the session.
        outlives = place is Place.QUEUE and self.scope is Scope.PEER
        self._terms, self.waiting_bytes = outbox.next_terms if outlives else outbox.writer.terms, 0
        # It waits while the session is full, unless it may outlive the session.
        full = session.full and not outlives
        if waiter is None:
            return Place.GATE if full else place
        if full:
            return Place.CAPACITY if waiter.waits_at(capacity_gate) else Place.GATE
        # It does not overtake the callers at the gate. (The first of those who wait for capacity came before them.)
        if gate.has_callers and not waiter.is_first:
            return Place.GATE
        # It waits for the `open` handlers or the next session, whatever is in flight now.
        if place is Place.QUEUE and not self.held:
            return place
        # A request waits while the remote peer has no room for it. In a session that waits for another connection, too:
        # its requests are still in flight, and those that are held will all leave at once.
        return place if self._finds_capacity(waiter) else Place.CAPACITY

    @property
    def held(self) -> bool:
        """Whether the message leaves as soon as the session has another connection.

        A client's own messages may also wait for `open` handlers, whose requests leave first, or for the next session.
        """
        writer = self._outbox.writer
        return writer.line is Line.AWAY and (self.scope is not Scope.PEER or writer.connected_line is Line.OPEN)

    def _line(self) -> Line:
        """Return the state of the line for this message.

        While the remote peer drains, it is open for what a handler sends for which the remote peer waits. A stream, an
        upload or a conversation might not end in time, and does not begin any more.
        """
        writer = self._outbox.writer
        line = writer.line
        if line is Line.NONE and self._outbox.expects_session:
            return Line.EXPECTED
        if line in (Line.FINISHING, Line.DRAINING):
            handler = CURRENT.get(None)
            if handler is not None and handler.awaited and handler.dispatcher.writer is writer:
                return Line.OPEN
            if self.pending is not None and self.pending.options.wants_channel:
                return Line.DRAINING
        return line

    def _continues(self) -> bool:
        """Return whether the session of the message goes on, and its channel, if it has one."""
        if self.scope is Scope.PEER:
            return True
        has_channel = self.message.h is UNSET or (self._channel is not None and not self._channel.over)
        return has_channel and self.writer is self._outbox.writer

    def _finds_capacity(self, waiter: Waiter) -> bool:
        """Return whether the remote peer has room for the message. It has for all but requests."""
        requests, terms = self._outbox.requests, self._outbox.writer.terms
        flight, capacity_gate = requests.flight, requests.capacity_gate
        if self.pending is None or self.pending.h is not None or requests.has_capacity(terms):
            return True
        others_first = capacity_gate.has_callers and not (waiter.waits_at(capacity_gate) and waiter.is_first)
        if others_first or flight.is_full(terms.announced):
            return False
        waiting_bytes = flight.waiting_bytes(terms.announced, len(self.encode()[0]))
        self.waiting_bytes = waiting_bytes or 0
        return waiting_bytes is not None

    def _not_sent(self, line: Line, waiter: Waiter | None) -> ConnectionLost | ChannelClosed:
        """Return the error for the message if it can neither be sent nor wait."""
        session, h = self.writer.session, self.message.h
        if line is Line.DRAINING and self.scope is not Scope.STARTED:
            return ConnectionLost(CloseCode.SERVICE_RESTART, "the other side is draining", "not_sent")
        if self._channel is not None and self._channel.over and not session.over:
            return self._channel.closed_error()
        lost = self.writer.not_sent()
        if isinstance(session.end_error, SessionLost) and waiter is not None and waiter.is_waiting:
            lost = session.end_error.for_outcome("not_sent")  # it was lost while the caller waited
        return lost if h is UNSET else ChannelClosed(str(h), lost)

    # ------------------------------------------------------------ what is sent

    def encode(self) -> tuple[bytes, bool]:
        """Encode the message for its ``place``, once. Return the payload, and whether it is text."""
        message, terms = self.message, self._terms
        if isinstance(message, Raw):
            return message.payload, message.text
        if self._encoded_for is not terms:
            self._payload, self._encoded_for = terms.encode(message), terms
        return self._payload, terms.is_text(self._payload)


class Outbox:
    """Sends the events, requests and raw messages of a peer, from one session to the next.

    A message leaves at once, waits at the ``gate`` until there is room, or waits in the ``queue``: `Outgoing.place`
    decides.

    Args:
        odd: whether the ids of requests are odd: the side that dialed uses those.
        expects_session: whether messages that are sent without a session wait for the next one.
        fails_offline: whether a message without ``offline=`` fails if there is no connection.
    """

    __slots__ = (
        "expects_session",
        "fails_offline",
        "find_channel",
        "gate",
        "next_terms",
        "offline_queue",
        "requests",
        "writer",
    )

    def __init__(
        self,
        host: Host,
        *,
        odd: bool,
        expects_session: bool,
        fails_offline: bool,
    ) -> None:
        self.next_terms = host.settings.terms
        """How messages for the next session are encoded: nothing is negotiated yet."""
        self.requests = PendingRequests(host, odd=odd)
        self.offline_queue = OfflineQueue(host)
        self.gate = Gate(host.loop, lambda: host.current.may_send_changed())
        """The callers that wait until the session has room."""
        self.writer: SessionWriter
        """The way out of the present session, of the next one, or of the last one."""
        self.expects_session = expects_session
        """Whether messages that are sent without a session wait for the next one."""
        self.fails_offline = fails_offline
        self.find_channel: FindChannel = _no_channel
        """Finds an open anonymous channel of the present session."""

    def __repr__(self) -> str:
        return f"<Outbox {self.writer.state} queued={len(self.offline_queue)}>"

    # ------------------------------------------------------------ sessions

    def set_session(self, writer: SessionWriter, find_channel: FindChannel) -> None:
        """Send in this session from now on."""
        self.writer, self.find_channel = writer, find_channel

    @property
    def expects_connection(self) -> bool:
        """Whether there is a connection, or another one may come."""
        return self.writer.session.state.accepts_messages or self.expects_session

    # ------------------------------------------------------------ sending

    @shown_as("emit")
    async def send_event(
        self, channel: ChannelRef, event: str, args: tuple[Any, ...], offline: Offline | None = None, /
    ) -> None:
        """See `Caller.emit`."""
        writer = self.writer
        check_sending(channel, event, writer.thread)
        message = event_on(channel, (event, *args))
        if not (writer.may_send and writer.send(writer.terms.encode(message))):
            await self.wait_and_send(message, offline)

    def send_event_nowait(
        self, channel: ChannelRef, event: str, args: tuple[Any, ...], offline: Offline | None = None, /
    ) -> None:
        """See `Caller.emit_nowait`."""
        writer = self.writer
        check_sending(channel, event, writer.thread)
        message = event_on(channel, (event, *args))
        if not (writer.may_send and writer.send(writer.terms.encode(message))):
            self.send_now(message, offline)

    async def send_raw(self, raw: Raw, offline: Offline | None) -> None:
        """See `RawCaller.send_raw`."""
        if not (self.writer.may_send and self.writer.send(raw.payload, raw.text, raw=True)):
            await self.wait_and_send(raw, offline)

    def send_now(self, message: Event | Raw, offline: Offline | None) -> None:
        """Send a message without waiting for room, or let it wait in the queue.

        Raises:
            ConnectionLost: ``"not_sent"``, the message may not wait.
            ChannelClosed: the message is for an anonymous channel that has ended.
            QueueFull: the session holds as much as `Limits.hard_cap_bytes` allows, or too much waits in the queue.
        """
        outgoing = Outgoing(self, message, offline=offline)
        while True:
            place = outgoing.place()
            if place is Place.GATE:
                self.writer.check_cap(outgoing.encode()[0])
                place = Place.QUEUE if self.writer.session.state.waits else Place.NOW
            if place is Place.QUEUE:
                self._enqueue(outgoing)
                return
            if self._send(outgoing) is not None:
                return

    async def wait_and_send(
        self, message: Event | Raw, offline: Offline | None = None, *, started_in: SessionWriter | None = None
    ) -> int:
        """Send a message behind those that wait for room, or let it wait in the queue. Return its size in bytes.

        Cancelling is safe.

        Args:
            begun_in: the message belongs to something that has begun in this session.

        Raises:
            ChannelClosed: the message is for an anonymous channel that has ended meanwhile.
            ConnectionLost: ``"not_sent"``, the message may not wait for another connection, or none will come.
            QueueFull: too many messages of the user wait in the queue.
        """
        return await self._wait_and_send(Outgoing(self, message, offline=offline, started_in=started_in))

    def request_now(self, message: Request, pending: Pending) -> bool:
        """Send a request, if nothing is in its way. Return False if it has to take its turn."""
        writer = self.writer
        if not writer.may_send or (pending.h is None and not self.requests.has_capacity(writer.terms)):
            return False
        payload = writer.terms.encode(message)
        if not writer.send(payload):
            return False
        self.requests.was_sent(pending, len(payload))
        return True

    async def wait_and_request(self, message: Request, pending: Pending) -> None:
        """Send a request like `wait_and_send`, once the remote peer can accept it. Return if it fails meanwhile."""
        await self._wait_and_send(Outgoing(self, message, pending, offline=pending.options.offline))

    async def _wait_and_send(self, outgoing: Outgoing) -> int:
        """Wait in one line after the other until a message leaves or waits in the queue. Return its size in bytes."""
        waiter, pending = Waiter(), outgoing.pending
        lines = {Place.GATE: self.gate, Place.CAPACITY: self.requests.capacity_gate}
        if pending is not None:
            pending.waiter = waiter
        try:
            while True:
                place = outgoing.place(waiter)
                if place is Place.QUEUE:
                    return self._enqueue(outgoing)
                if place is Place.NOW:
                    if (size := self._send(outgoing)) is not None:
                        return size
                    continue  # the connection has just ended
                waiter.move_to(lines[place])
                await waiter.wait()
                if pending is not None and pending.future.done():  # the request has failed
                    return 0
        finally:
            waiter.exit()
            if pending is not None:
                pending.waiter = None

    def _send(self, outgoing: Outgoing) -> int | None:
        """Hand a message to the transport. Return its size, or None if the connection has just ended."""
        payload, text = outgoing.encode()
        if not self.writer.send(payload, text, raw=isinstance(outgoing.message, Raw)):
            return None
        if outgoing.pending is not None:
            self.requests.was_sent(outgoing.pending, len(payload), outgoing.waiting_bytes)
        return len(payload)

    # ------------------------------------------------------------ waiting

    @property
    def callers_must_wait(self) -> bool:
        """Whether a caller would have to wait for room."""
        return self.gate.has_callers or self.writer.session.full

    def wake(self) -> None:
        """Let the first caller of each line look whether there is room. Those who wait for capacity began earlier."""
        self.requests.capacity_gate.wake()
        self.gate.wake()

    async def wait_written(self) -> None:
        """Wait until all callers that wait for room have sent. Cancelling is safe."""
        waiter = self.gate.enter()
        try:
            while self.writer.session.full or not waiter.is_first:
                await waiter.wait()
        finally:
            waiter.exit()

    @property
    def kept(self) -> int:
        """Bytes of the messages that wait for a connection, or may have to be sent again on another one."""
        return self.writer.session.kept + self.offline_queue.user_size

    def _enqueue(self, outgoing: Outgoing) -> int:
        """Let a message wait in the queue. Return its size in bytes.

        Raises:
            MessageTooBig: the remote peer would not accept it.
            QueueFull: too many messages of the user wait in the queue.
        """
        of_session, is_raw = outgoing.scope is not Scope.PEER, isinstance(outgoing.message, Raw)
        payload, text = outgoing.encode()
        if of_session:
            outgoing.writer.check_accepted(payload, is_raw)
        entry = Entry(payload, text, of_session, raw=is_raw)
        if outgoing.pending is not None:
            state = HELD if outgoing.held else QUEUED
            self.requests.message_queued(outgoing.pending, entry, state, outgoing.waiting_bytes)
        if of_session:
            outgoing.writer.session.enqueue(entry)
        else:
            line = self.writer.line
            self.offline_queue.add(entry, "not connected" if line in (Line.NONE, Line.AWAY) else line.value)
        return len(payload)

    def withdraw(self, pending: Pending) -> None:
        """Take the message of a request out of the queue, if it waits there."""
        if pending.entry is not None and pending.entry.withdraw():
            self.writer.session.queue_changed()

    # ------------------------------------------------------------ the end of a connection, of a session, and of all

    def end_connection(self) -> None:
        """Let the callers that wait look again: the session goes on without its connection."""
        self.gate.wake_all()
        self.requests.capacity_gate.wake_all()

    def fail_session(self, lost: ConnectionLost) -> None:
        """Fail the messages of the session, which is over. All other messages wait for the next session, if any."""
        self.find_channel = _no_channel
        self.offline_queue.end_session(lost)
        self.requests.fail_sent(lost)
        if not self.expects_session:
            self._fail_requests(
                [each for each in self.requests.unsent() if each.state is QUEUED], self.writer.session.last_close
            )
            self.offline_queue.drop_all()
        self.gate.wake_all()  # the callers that wait there see that their session is over

    def drop_waiting(self, info: CloseInfo) -> None:
        """Drop everything that waits for a session, because none will come. Requests fail, and events are logged."""
        self.fail_unsent(info)
        self.offline_queue.drop_all()

    def fail_unsent(self, info: CloseInfo) -> None:
        """Fail the requests that were not sent yet."""
        self._fail_requests(self.requests.unsent(), info)

    def _fail_requests(self, requests: list[Pending], info: CloseInfo) -> None:
        for pending in requests:
            self.withdraw(pending)
            self.requests.fail(pending, ConnectionLost(info.code, info.reason, "not_sent"))
