"""`Outbox`: sends the messages of a peer, now or later."""

from __future__ import annotations

from threading import get_ident
from typing import Any

from msgspec import UNSET

from ..._base.closing import CloseInfo
from ..._base.misuse import shown_as
from ..._base.names import RESERVED_EVENTS, ChannelRef, Offline
from ...errors import ConnectionLost
from ..handlers.invocation import CURRENT
from ..session.offline_queue import Encoded, OfflineQueue
from ..session.peer_host import PeerHost
from ..wire.codecs import BRACE
from ..wire.messages import EVENT_OPTIONS, Event, Request, RequestOptions, event_on
from .checks import check_sending
from .gate import Gate, Waiter
from .outgoing_message import Outgoing
from .pending import HELD, QUEUED, SENT, Pending, PendingRequests
from .phase import Phase
from .places import PLACES, Place, Scope
from .session_writer import SessionWriter


class Outbox:
    """Sends the events and requests of a peer, from one session to the next.

    A message that cannot be sent at once becomes an `Outgoing`, and `_place_of` says where it goes: it is sent after
    all, its caller waits at a gate until there is room, it waits in the ``offline_queue``, or it fails.

    """

    __slots__ = (
        "_host",
        "expects_session",
        "greeting_gate",
        "offline_queue",
        "requests",
        "room_gate",
        "writer",
    )

    def __init__(self, host: PeerHost) -> None:
        self._host = host
        self.requests = PendingRequests(host)
        self.offline_queue = OfflineQueue(host)
        self.room_gate = Gate(lambda: host.current.update())
        """The callers that wait until the session has room."""
        self.greeting_gate = Gate()
        """The calls with a key that wait until the remote peer has said whether it knows keys. Others overtake them."""
        self.writer: SessionWriter
        """The writer of the current session, see `PeerHost.current`."""
        self.expects_session = host.options.keeps_offline
        """Whether messages that are sent without a session wait for the next one."""

    def __repr__(self) -> str:
        return f"<Outbox {self.writer.state} queued={len(self.offline_queue)}>"

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
        await self.post(message, options.offline)

    def send_event_nowait(
        self, channel: ChannelRef, event: str, args: tuple[Any, ...], options: RequestOptions = EVENT_OPTIONS, /
    ) -> None:
        """See `Caller.emit_nowait`."""
        writer = self.writer
        check_sending(channel, event, writer.thread, "peer.emit_nowait")
        message = event_on(channel, (event, *args), options.context)
        if options.context is not None or not (writer.may_send and writer.send(writer.terms.encode(message))):
            self._send_or_queue(self._outgoing(message, options.offline))

    def request_now(self, message: Request, pending: Pending) -> bool:
        """Send a request, if nothing has to wait. Return False if its caller has to `post` it."""
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
        elif not message.ctx.must_arrive or (terms.known and terms.context and not self.greeting_gate.has_callers):
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

    async def post(
        self,
        message: Event | Request,
        offline: Offline | None = None,
        pending: Pending | None = None,
        *,
        started_in: SessionWriter | None = None,
    ) -> int:
        """Wait for room behind all earlier callers, then send a message, or let it wait in the queue.

        Cancelling is safe.

        Args:
            pending: the request that the message makes, which also waits until the remote peer has room for it. If the
                request fails meanwhile, this returns.
            started_in: the message belongs to something that has started in this session.

        Returns:
            the size of the message in bytes.

        Raises:
            ChannelClosed: the message is for an anonymous channel that has ended.
            ConnectionLost: ``"not_sent"``, the message may not wait for another connection, or there will be none.
            QueueFull: too many messages of the user wait in the queue.
        """
        waiter = Waiter()
        outgoing = self._outgoing(message, offline, pending, waiter, started_in)
        if pending is not None:
            pending.waiter = waiter
        try:
            while (gate := self._send_or_queue(outgoing)) is not None:
                if not waiter.is_waiting:
                    outgoing.copy_arguments()
                waiter.move_to(gate)
                await waiter.wait()
                if pending is not None and pending.future.done():  # the request has failed
                    return 0
            return len(outgoing.payload)
        finally:
            waiter.exit()
            if pending is not None:
                pending.waiter = None

    def _outgoing(
        self,
        message: Event | Request,
        offline: Offline | None,
        pending: Pending | None = None,
        waiter: Waiter | None = None,
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
        fails_offline = offline == "fail" or (offline is None and self._host.options.fails_offline)
        return Outgoing(
            message=message,
            host=self._host,
            scope=scope,
            writer=writer,
            channel=None if h is UNSET else self._host.current.channels.find(h),
            fails_offline=fails_offline and not started,
            pending=pending,
            waiter=waiter,
            terms=writer.terms,
        )

    def _send_or_queue(self, outgoing: Outgoing) -> Gate | None:
        """Send a message, or let it wait in the queue. Return the gate if its caller has to wait first."""
        while True:
            place = self._place_of(outgoing)
            if place is Place.ROOM:
                return self.room_gate
            if place is Place.GREETING:
                return self.greeting_gate
            if place is Place.CAPACITY:
                return self.requests.capacity_gate
            payload = outgoing.encode()
            if outgoing.waiter is None and outgoing.of_session:
                self.writer.check_cap(payload)
            if place is not Place.NOW:
                self._enqueue(outgoing, place)
                return None
            outgoing.check_context()
            if self.writer.send(payload, outgoing.text):
                if outgoing.pending is not None:
                    self.requests.was_sent(outgoing.pending, len(payload), outgoing.waiting_bytes)
                return None
            # The connection has just ended.

    def _enqueue(self, outgoing: Outgoing, place: Place) -> None:
        """Let a message wait in the queue.

        Raises:
            MessageTooBig: the remote peer would not accept the message.
            QueueFull: too many messages of the user wait in the queue.
        """
        terms, size, message = outgoing.terms, len(outgoing.payload), outgoing.message
        if outgoing.of_session:
            terms.check(outgoing.payload)
        else:
            self.offline_queue.check_room(size, self._why_queued)
        # The context depends on the remote peer, and a large message may be smaller by what will be negotiated.
        outgoing.encoded_late = message.ctx is not UNSET or (size > terms.unchecked and not terms.known)
        if outgoing.encoded_late:
            outgoing.copy_arguments()
        else:
            message.a = ()  # the payload has the arguments
        if outgoing.pending is not None:
            state = HELD if place is Place.HELD else QUEUED
            self.requests.message_queued(outgoing.pending, outgoing, state, outgoing.waiting_bytes)
        if outgoing.of_session:
            self.writer.session.enqueue(outgoing)
        else:
            self.offline_queue.add(outgoing)

    def _why_queued(self) -> str:
        """Return why messages of the user wait in the queue now."""
        state = self.writer.phase
        if state in (Phase.STOPPED, Phase.AWAY, Phase.AWAY_NOT_OPEN):
            return "not connected"
        waits = self.writer.opening.done and state is Phase.OPENING
        return "the other side has not said yet what it accepts" if waits else state.value

    # ------------------------------------------------------------ where a message goes

    def _place_of(self, outgoing: Outgoing) -> Place:
        """Return where a message goes now, by the first rule that applies, and prepare its record for this place.

        For a caller that does not wait, only rules 1 and 2 apply.

        Raises:
            ConnectionLost: ``"not_sent"``, the message may not wait for another connection, or there will be none.
            ChannelClosed: the message is for an anonymous channel that has ended.
        """
        writer, waiter, state = self.writer, outgoing.waiter, self._state_for(outgoing)
        # 1. A message fails if its session or its channel is over, or where the table says so.
        place = None if outgoing.over else PLACES[state][outgoing.scope]
        # 2. With offline="fail", a message does not wait for a connection. (It does wait for `open` handlers.)
        waits = place is Place.HELD or place is Place.QUEUE
        if place is None or (outgoing.fails_offline and waits and state is not Phase.OPENING):
            raise outgoing.error(state)
        # A message that may outlive the session is encoded for the next session.
        outgoing.of_session, outgoing.waiting_bytes = not (waits and outgoing.scope is Scope.PEER), 0
        terms = writer.terms if outgoing.of_session else writer.settings.terms
        if outgoing.terms is not terms:
            outgoing.terms, outgoing.payload = terms, b""
        if waiter is None:
            return place
        # 3. A call with a key, or a large message, waits until it is known what the remote peer accepts. A call with a
        # key does not overtake those that wait for this, even if they need not wait any longer and are about to go on.
        has_key = outgoing.has_key
        if has_key and self.greeting_gate.others_first(waiter):
            return Place.GREETING
        if place is Place.NOW and not terms.known and writer.awaits_greeting(len(outgoing.encode()), has_key=has_key):
            return Place.GREETING if has_key else Place.ROOM
        # 4. A message waits while the session is full, unless it may outlive the session.
        if writer.session.full and outgoing.of_session:
            return Place.CAPACITY if waiter.waits_at(self.requests.capacity_gate) else Place.ROOM
        # 5. A message does not overtake messages whose callers wait for room. (But the first of these may continue, and
        # the first that waits for capacity, because it had room before.)
        if self.room_gate.has_callers and (not waiter.is_first or waiter.waits_at(self.greeting_gate)):
            return Place.ROOM
        # 6. A message waits for the `open` handlers or for the next session, whatever is in flight now.
        # 7. A request waits while the remote peer has no capacity for it, also in a session that waits for another
        # connection: its requests are still in flight, and all held requests will be sent at once.
        return place if place is Place.QUEUE or self._has_capacity(outgoing, waiter) else Place.CAPACITY

    def _state_for(self, outgoing: Outgoing) -> Phase:
        """Return the state of the session for one message.

        While the remote peer drains, it is ``OPEN`` for the messages of a handler for which the remote peer waits. For
        a stream, an upload or a conversation it is ``DRAINING``, because this might not end in time.
        """
        state = self.writer.phase
        if state is Phase.STOPPED and self.expects_session:
            return Phase.EXPECTED
        if state is Phase.FINISHING or state is Phase.DRAINING:
            handler = CURRENT.get(None)
            if handler is not None and handler.awaited and handler.dispatcher.writer is self.writer:
                return Phase.OPEN
            if outgoing.pending is not None and outgoing.pending.options.wants_channel:
                return Phase.DRAINING
        return state

    def _has_capacity(self, outgoing: Outgoing, waiter: Waiter) -> bool:
        """Return whether the remote peer has room for a message, and record how many bytes wait for a handler there.

        It always has room for events, and for requests on channels.
        """
        requests, pending, terms = self.requests, outgoing.pending, self.writer.terms
        if pending is None or pending.h is not None or not terms.known or requests.has_capacity(terms):
            return True
        flight, gate, limits = requests.flight, requests.capacity_gate, terms.announced
        if gate.others_first(waiter) or flight.is_full(limits):
            return False
        waiting_bytes = flight.waiting_bytes(limits, len(outgoing.encode()))
        outgoing.waiting_bytes = waiting_bytes or 0
        return waiting_bytes is not None

    # ------------------------------------------------------------ waiting

    @property
    def callers_must_wait(self) -> bool:
        """Whether a caller would have to wait for room."""
        return self.room_gate.has_callers or self.writer.session.full

    def wake(self) -> None:
        """Let the first caller at each gate check whether there is room, first where callers have waited longer."""
        self.requests.capacity_gate.wake()
        self.room_gate.wake()

    @property
    def kept_bytes(self) -> int:
        """Bytes of the messages that wait for a connection, or may have to be sent again on another connection."""
        return self.writer.session.kept_bytes + self.offline_queue.user_size

    def withdraw(self, queued: Encoded | None) -> bool:
        """Remove a message from the queue. Return False if it does not wait there."""
        if queued is None or not queued.withdraw():
            return False
        self.writer.session.queue_changed()
        return True

    # ------------------------------------------------------------ the end of a connection, of a session, of the peer

    def wake_all(self) -> None:
        """Let all callers check again whether they have to wait: the session has lost its connection."""
        if self.greeting_gate.has_callers:
            self.greeting_gate.wake_all()
        self.room_gate.wake_all()
        self.requests.capacity_gate.wake_all()

    def fail_session(self, lost: ConnectionLost) -> None:
        """Fail the messages of the session, which is over. All other messages wait for the next session, if any."""
        self.offline_queue.end_session(lost)
        self.requests.fail_sent(lost)
        if not self.expects_session:
            self._fail_requests(
                [each for each in self.requests.unsent() if each.state is QUEUED], self.writer.session.last_close
            )
            self.offline_queue.drop_all()
        self.greeting_gate.wake_all()  # their session is over
        self.room_gate.wake_all()

    def drop_waiting(self, info: CloseInfo) -> None:
        """Drop all messages that wait, because there will be no session. Requests fail, and events are logged."""
        self.fail_unsent(info)
        self.offline_queue.drop_all()

    def fail_unsent(self, info: CloseInfo) -> None:
        """Fail the requests that were not sent."""
        self._fail_requests(self.requests.unsent(), info)

    def _fail_requests(self, requests: list[Pending], info: CloseInfo) -> None:
        for pending in requests:
            self.withdraw(pending.queued)
            self.requests.fail(pending, ConnectionLost(info.code, info.reason, "not_sent"))
