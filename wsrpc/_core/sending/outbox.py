"""`Outbox`: sends the messages of a peer, now or later."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from threading import get_ident
from typing import Any

from msgspec import UNSET

from ..._base.closing import CloseInfo
from ..._base.misuse import shown_as
from ..._base.names import RESERVED_EVENTS, ChannelRef, Offline
from ...errors import ConnectionLost
from ..inboxes.inbox import ReadableChannel
from ..session.offline_queue import Entry, OfflineQueue
from ..session.peer_host import PeerHost
from ..wire.codecs import BRACE
from ..wire.messages import EVENT_OPTIONS, Event, Request, RequestOptions, event_on
from .checks import check_sending
from .gate import Gate, Waiter
from .pending import HELD, QUEUED, SENT, Pending, PendingRequests
from .phase import Phase
from .places import Decision, Outgoing, Place, Scope, decide
from .session_writer import SessionWriter

FindChannel = Callable[[int], ReadableChannel | None]


def _no_channel(h: int) -> None:
    """Find no channel: there is no session."""


class Outbox:
    """Sends the events and requests of a peer, from one session to the next.

    `decide` decides whether a message is sent at once, whether its caller waits at a gate until there is room, or
    whether the message waits in the ``offline_queue``.

    Args:
        odd: whether the ids of requests are odd, as those of the side that dialed are.
        expects_session: whether messages that are sent without a session wait for the next one.
        fails_offline: whether a message without ``offline=`` fails if there is no connection.
    """

    __slots__ = (
        "expects_session",
        "fails_offline",
        "find_channel",
        "offline_queue",
        "requests",
        "room_gate",
        "writer",
    )

    def __init__(
        self,
        host: PeerHost,
        *,
        odd: bool,
        expects_session: bool,
        fails_offline: bool,
    ) -> None:
        self.requests = PendingRequests(host, odd=odd)
        self.offline_queue = OfflineQueue(host)
        self.room_gate = Gate(host.loop, lambda: host.current.update())
        """The callers that wait until the session has room."""
        self.writer: SessionWriter
        """The writer of the current session, see `PeerHost.current`."""
        self.expects_session = expects_session
        """Whether messages that are sent without a session wait for the next one."""
        self.fails_offline = fails_offline
        self.find_channel: FindChannel = _no_channel
        """Finds an open anonymous channel of the present session."""

    def __repr__(self) -> str:
        return f"<Outbox {self.writer.state} queued={len(self.offline_queue)}>"

    # ------------------------------------------------------------ sessions

    def set_session(self, writer: SessionWriter, find_channel: FindChannel) -> None:
        """Send in another session from now on."""
        self.writer, self.find_channel = writer, find_channel

    @property
    def expects_connection(self) -> bool:
        """Whether there is a connection, or there may be another one."""
        return self.writer.session.state.accepts_messages or self.expects_session

    # ------------------------------------------------------------ sending

    @shown_as("emit")
    async def send_event(
        self, channel: ChannelRef, event: str, args: tuple[Any, ...], options: RequestOptions = EVENT_OPTIONS, /
    ) -> None:
        """See `Caller.emit`."""
        writer = self.writer
        if event.__class__ is str and event not in RESERVED_EVENTS and channel is None and get_ident() == writer.thread:
            message = Event((event, *args))  # most events, without the two calls below
        else:
            check_sending(channel, event, writer.thread)
            message = event_on(channel, (event, *args))
        if options.context is not None:
            message.ctx = options.context
        elif writer.may_send:
            terms = writer.terms
            payload = terms.encode(message)
            if len(payload) > terms.unchecked:
                if writer.send(payload):
                    return
            else:  # nearly always. The same as `SessionWriter.send`, without a call.
                try:
                    writer.session.send(payload, payload[0] == BRACE if terms.text is None else terms.text)
                    return
                except ConnectionLost as exc:
                    writer.session.send_failed(exc)
        await self.wait_and_send(message, options.offline)

    def send_event_nowait(
        self, channel: ChannelRef, event: str, args: tuple[Any, ...], options: RequestOptions = EVENT_OPTIONS, /
    ) -> None:
        """See `Caller.emit_nowait`."""
        writer = self.writer
        check_sending(channel, event, writer.thread, "peer.emit_nowait")
        message = event_on(channel, (event, *args), options.context)
        if options.context is not None or not (writer.may_send and writer.send(writer.terms.encode(message))):
            self._send_or_queue(self._outgoing(message, options.offline))

    async def wait_and_send(
        self, message: Event, offline: Offline | None = None, *, started_in: SessionWriter | None = None
    ) -> int:
        """Wait for room behind all earlier callers, then send a message, or let it wait in the queue.

        Cancelling is safe.

        Args:
            started_in: the message belongs to something that has started in this session.

        Returns:
            the size of the message in bytes.

        Raises:
            ChannelClosed: the message is for an anonymous channel that has ended.
            ConnectionLost: ``"not_sent"``, the message may not wait for another connection, or there will be none.
            QueueFull: too many messages of the user wait in the queue.
        """
        return await self._wait_and_send(self._outgoing(message, offline, started_in=started_in))

    def request_now(self, message: Request, pending: Pending) -> bool:
        """Send a request, if nothing has to wait. Return False if its caller has to use `wait_and_request`."""
        writer, requests = self.writer, self.requests
        terms, flight = writer.terms, requests.flight
        counts = pending.h is None
        # As `PendingRequests.has_capacity` and `was_sent`, without calls: most requests are sent here.
        if not writer.may_send or (
            counts
            and (
                flight.requests >= terms.announced.running
                or flight.bytes > terms.room_for_any
                or requests.capacity_gate.has_callers
            )
        ):
            return False
        if message.ctx is UNSET:
            payload = terms.encode(message)
        elif (terms.known and terms.context) or not message.ctx.must_arrive:
            message.ctx.remaining_ms = pending.remaining_ms(writer.loop.time())
            payload = terms.encode_call(message)
        else:
            return False
        size = len(payload)
        if size > terms.unchecked:
            if not writer.send(payload):
                return False
        else:  # nearly always. The same as `SessionWriter.send`, without a call.
            try:
                writer.session.send(payload, payload[0] == BRACE if terms.text is None else terms.text)
            except ConnectionLost as exc:
                writer.session.send_failed(exc)
                return False
        pending.size, pending.state = size, SENT
        if counts:
            flight.requests += 1
            flight.bytes += size
        return True

    async def wait_and_request(self, message: Request, pending: Pending) -> None:
        """Send a request like `wait_and_send`, once the remote peer has room. Return if the request has failed."""
        await self._wait_and_send(self._outgoing(message, pending.options.offline, pending))

    def _outgoing(
        self,
        message: Event | Request,
        offline: Offline | None,
        pending: Pending | None = None,
        *,
        started_in: SessionWriter | None = None,
    ) -> Outgoing:
        """Make the record of a message that cannot be sent at once."""
        writer, h = started_in or self.writer, message.h
        within_call = pending is not None and pending.options.within_call
        started = started_in is not None or h is not UNSET or within_call
        if started or writer.opening.in_handler():
            scope = Scope.STARTED
        else:
            scope = Scope.PEER if self.expects_session else Scope.SESSION
        channel = None if h is UNSET else self.find_channel(h)
        fails_offline = offline == "fail" or (offline is None and self.fails_offline)
        return Outgoing(message, scope, writer, channel, fails_offline and not started, pending)

    async def _wait_and_send(self, outgoing: Outgoing) -> int:
        """Wait at one gate after the other until a message is sent or waits in the queue. Return its size in bytes."""
        waiter, pending = Waiter(), outgoing.pending
        if pending is not None:
            pending.waiter = waiter
        try:
            while isinstance(done := self._send_or_queue(outgoing, waiter), Gate):
                if not waiter.is_waiting:
                    outgoing.keep()
                waiter.move_to(done)
                await waiter.wait()
                if pending is not None and pending.future.done():  # the request has failed
                    return 0
            return done
        finally:
            waiter.exit()
            if pending is not None:
                pending.waiter = None

    def _send_or_queue(self, outgoing: Outgoing, waiter: Waiter | None = None) -> int | Gate:
        """Send a message, or let it wait in the queue, and return its size. Return the gate if its caller has to wait.

        Args:
            waiter: the place of the caller in a line. None if the caller does not wait.
        """
        while True:
            decision = decide(outgoing, self.writer, expects_session=self.expects_session, waiter=waiter)
            if decision.place is Place.ROOM:
                return self.room_gate
            if decision.place is Place.CAPACITY:
                return self.requests.capacity_gate
            if waiter is None and not decision.may_outlive:
                self.writer.check_cap(outgoing.encode(decision.terms)[0])
            if decision.place is not Place.NOW:
                return self._enqueue(outgoing, decision)
            if (size := self._send(outgoing, decision)) is not None:
                return size
            # The connection has just ended.

    def _send(self, outgoing: Outgoing, decision: Decision) -> int | None:
        """Pass a message to the transport. Return its size, or None if the connection has just ended."""
        outgoing.check_context(self.writer)
        payload, text = outgoing.encode(decision.terms)
        if not self.writer.send(payload, text):
            return None
        if outgoing.pending is not None:
            self.requests.was_sent(outgoing.pending, len(payload), decision.waiting_bytes)
        return len(payload)

    # ------------------------------------------------------------ waiting

    @property
    def callers_must_wait(self) -> bool:
        """Whether a caller would have to wait for room."""
        return self.room_gate.has_callers or self.writer.session.full

    def wake(self) -> None:
        """Let the first caller at each gate check whether there is room, first where callers have waited longer."""
        self.requests.capacity_gate.wake()
        self.room_gate.wake()

    async def wait_written(self) -> None:
        """Wait until all callers that wait for room have sent their messages. Cancelling is safe."""
        waiter = self.room_gate.enter()
        try:
            while self.writer.session.full or not waiter.is_first:
                await waiter.wait()
        finally:
            waiter.exit()

    @property
    def kept(self) -> int:
        """Bytes of the messages that wait for a connection, or may have to be sent again on another connection."""
        return self.writer.session.kept + self.offline_queue.user_size

    def _enqueue(self, outgoing: Outgoing, decision: Decision) -> int:
        """Let a message wait in the queue. Return its size in bytes.

        Raises:
            MessageTooBig: the remote peer would not accept the message.
            QueueFull: too many messages of the user wait in the queue.
        """
        of_session, terms = not decision.may_outlive, decision.terms
        payload, text = outgoing.encode(terms)
        if of_session:
            outgoing.writer.terms.check(payload)
        entry = Entry(payload, text, of_session)
        is_large = not terms.known and len(payload) > terms.unchecked
        if is_large or outgoing.message.ctx is not UNSET:
            outgoing.keep()
            entry.encode = partial(self._encode_late, outgoing, len(payload))
        if outgoing.pending is not None:
            waits_as = HELD if decision.place is Place.HELD else QUEUED
            self.requests.message_queued(outgoing.pending, entry, waits_as, decision.waiting_bytes)
        if of_session:
            outgoing.writer.session.enqueue(entry)
        else:
            state = self.writer.phase
            is_away = state in (Phase.STOPPED, Phase.AWAY, Phase.AWAY_NOT_OPEN)
            waits = self.writer.opening.done and state is Phase.OPENING
            opening = "the other side has not said yet what it accepts" if waits else state.value
            self.offline_queue.add(entry, "not connected" if is_away else opening)
        return len(payload)

    def _encode_late(self, outgoing: Outgoing, size: int) -> tuple[bytes, bool] | None:
        """Encode a message that has waited in the queue, perhaps for this session. Return None if it waits on."""
        if self.expects_session and self.writer.awaits_greeting(size, has_key=outgoing.has_key):
            return None
        outgoing.check_context(self.writer)
        return outgoing.encode(self.writer.terms)

    def withdraw(self, pending: Pending) -> None:
        """Remove the message of a request from the queue, if the message waits there."""
        if pending.entry is not None and pending.entry.withdraw():
            self.writer.session.queue_changed()

    # ------------------------------------------------------------ the end of a connection, of a session, of the peer

    def wake_all(self) -> None:
        """Let all callers check again whether they have to wait: the session has lost its connection."""
        self.room_gate.wake_all()
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
        self.room_gate.wake_all()  # their session is over

    def drop_waiting(self, info: CloseInfo) -> None:
        """Drop all messages that wait, because there will be no session. Requests fail, and events are logged."""
        self.fail_unsent(info)
        self.offline_queue.drop_all()

    def fail_unsent(self, info: CloseInfo) -> None:
        """Fail the requests that were not sent."""
        self._fail_requests(self.requests.unsent(), info)

    def _fail_requests(self, requests: list[Pending], info: CloseInfo) -> None:
        for pending in requests:
            self.withdraw(pending)
            self.requests.fail(pending, ConnectionLost(info.code, info.reason, "not_sent"))
