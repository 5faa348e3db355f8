"""`Outbox`: sends the messages of a peer, and decides where each one waits."""

from __future__ import annotations

from enum import Enum
from typing import Any, NamedTuple

from msgspec import UNSET

from .._base.closing import CloseCode, CloseInfo
from .._base.misuse import shown_as
from .._base.names import ChannelRef, Offline
from .._handlers.invocation import CURRENT
from .._protocol.messages import Event, Raw, Request, event_on
from .._session.host import Host
from .._session.queue import Entry, SendQueue
from ..errors import ChannelClosed, ConnectionLost, SessionLost
from .checks import check_sending
from .draining import DrainPhase
from .gate import Gate, Turn
from .outbound import Line, Outbound
from .pending import ACCEPTED, QUEUED, Pending, PendingRequests


class Scope(Enum):
    """What a message belongs to."""

    BEGUN = "something that has begun"
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
    Line.NONE: {Scope.BEGUN: None, Scope.SESSION: None, Scope.PEER: Place.QUEUE},
    Line.AWAY: {Scope.BEGUN: Place.QUEUE, Scope.SESSION: Place.QUEUE, Scope.PEER: Place.QUEUE},
    Line.OPENING: {Scope.BEGUN: Place.NOW, Scope.SESSION: Place.NOW, Scope.PEER: Place.QUEUE},
    Line.DRAINING: {Scope.BEGUN: Place.NOW, Scope.SESSION: None, Scope.PEER: Place.QUEUE},
    Line.OPEN: {Scope.BEGUN: Place.NOW, Scope.SESSION: Place.NOW, Scope.PEER: Place.NOW},
}
"""Where a message goes, by the state of the line and the scope of the message. None: the message fails.

Further rules apply on top of the table. A message with ``offline="fail"`` fails where others wait in the queue, except
while `open` handlers run. A message of the peer fails if there is no session and none is expected. While the session is
full, what would leave now waits at the gate, and so does what would wait in the queue and ends with the session. Then a
request waits for the capacity of the remote peer. `Outbox._line` has the rules for a session that drains.
"""


class Call(NamedTuple):
    """What was true of a message when it was given to the outbox."""

    scope: Scope
    out: Outbound
    """The way out of the session of that time. A message that does not belong to the peer ends with this session."""
    h: Any
    """The anonymous channel of the message, or ``UNSET``."""
    lasts: bool = False
    """Whether the message opens a stream, an upload or a conversation."""
    needs_connection: bool = False
    """Whether the message fails instead of waiting for another connection."""
    in_session: bool = True
    """Whether that session had begun, and was not over."""

    def not_sent(self) -> ConnectionLost | ChannelClosed:
        """Return the error for the message if it can neither be sent nor wait."""
        lost, reason = self.out.not_sent(), self.out.session.end_reason
        if self.in_session and isinstance(reason, SessionLost):
            lost = reason.for_outcome("not_sent")
        return lost if self.h is UNSET else ChannelClosed(str(self.h), lost)


class Outbox:
    """Sends the events, requests and raw messages of a peer, from one session to the next.

    A message leaves at once, waits at the ``gate`` until there is room, or waits in the ``queue``: see `PLACES`.

    Args:
        odd: whether the ids of requests are odd: the side that dialed uses those.
        expects_session: whether messages that are sent without a session wait for the next one.
        fails_offline: whether a message without ``offline=`` fails if there is no connection.
    """

    __slots__ = (
        "_codec",
        "_fails_offline",
        "expects_session",
        "gate",
        "out",
        "queue",
        "requests",
    )

    def __init__(
        self,
        host: Host,
        *,
        odd: bool,
        expects_session: bool,
        fails_offline: bool,
    ) -> None:
        self._codec = host.settings.codec
        self.requests = PendingRequests(host, odd=odd)
        self.queue = SendQueue(host)
        self.gate = Gate(host.loop)
        """The callers that wait until the session has room."""
        self.out: Outbound
        """The way out of the present session, of the next one, or of the last one."""
        self.expects_session = expects_session
        """Whether messages that are sent without a session wait for the next one."""
        self._fails_offline = fails_offline

    def __repr__(self) -> str:
        return f"<Outbox {self.out.state} queued={len(self.queue)}>"

    # ------------------------------------------------------------ sessions to come

    @property
    def expects_connection(self) -> bool:
        """Whether there is a connection, or another one may come."""
        return self.out.session.state.takes_messages or self.expects_session

    # ------------------------------------------------------------ where a message goes

    def _call(
        self,
        message: Event | Request | Raw,
        pending: Pending | None = None,
        offline: Offline | None = None,
        begun_in: Outbound | None = None,
    ) -> Call:
        """Return what is true of a message at the time of the call that sends it."""
        out, options = self.out, None if pending is None else pending.options
        if begun_in is not None or message.h is not UNSET or (options is not None and options.within_call):
            return Call(Scope.BEGUN, begun_in or out, message.h, in_session=(begun_in or out).session.state.lives)
        if out.opening.in_handler():
            scope = Scope.BEGUN
        else:
            scope = Scope.PEER if self.expects_session else Scope.SESSION
        lasts = options is not None and options.wants_channel
        needs_connection = offline == "fail" or (offline is None and self._fails_offline)
        return Call(scope, out, UNSET, lasts, needs_connection, out.session.state.lives)

    def _line(self, call: Call) -> Line:
        """Return the state of the line for a message.

        While the remote peer drains, what a handler sends for which the remote peer waits leaves as before. Streams,
        uploads and conversations might not end in time: they wait from the beginning of the drain.
        """
        out = self.out
        line = out.line
        drains = line is Line.DRAINING or (line is Line.OPEN and call.lasts and out.draining.phase is DrainPhase.TOLD)
        if drains:
            handler = CURRENT.get(None)
            awaited = handler is not None and handler.awaited and handler.dispatcher.out is out
            line = Line.OPEN if awaited else Line.DRAINING
        return line

    def _place(self, call: Call) -> Place:
        """Return where a message goes.

        Raises:
            ConnectionLost: ``"not_sent"``, the message may not wait for another connection, or none will come.
            ChannelClosed: the message is for an anonymous channel that has ended.
        """
        line, scope, session = self._line(call), call.scope, self.out.session
        place = PLACES[line][scope] if scope is Scope.PEER or self._goes_on(call) else None
        if call.needs_connection and place is Place.QUEUE and line is not Line.OPENING:
            place = None
        if place is None or (line is Line.NONE and not self.expects_session):
            if line is Line.DRAINING and scope is not Scope.BEGUN:
                raise ConnectionLost(CloseCode.SERVICE_RESTART, "the other side is draining", "not_sent")
            raise call.not_sent()
        if session.full and (place is Place.NOW or scope is not Scope.PEER):
            return Place.GATE
        return place

    def _goes_on(self, call: Call) -> bool:
        """Return whether the session of a message goes on, and its channel, if it has one."""
        return call.out is self.out and (call.h is UNSET or call.out.has_channel(call.h))

    # ------------------------------------------------------------ sending

    @shown_as("emit")
    async def send_event(
        self, channel: ChannelRef, event: str, args: tuple[Any, ...], offline: Offline | None = None, /
    ) -> None:
        """See `Caller.emit`."""
        out = self.out
        check_sending(channel, event, out.thread)
        message = event_on(channel, (event, *args))
        if not (out.clear and out.send(out.terms.encode(message))):
            await self.send_in_turn(message, offline)

    def send_event_nowait(
        self, channel: ChannelRef, event: str, args: tuple[Any, ...], offline: Offline | None = None, /
    ) -> None:
        """See `Caller.emit_nowait`."""
        check_sending(channel, event, self.out.thread)
        self.send_now(event_on(channel, (event, *args)), offline)

    async def send_raw(self, raw: Raw, offline: Offline | None) -> None:
        """See `RawCaller.send_raw`."""
        if not (self.out.clear and self.out.send(raw.payload, raw.text, raw=True)):
            await self.send_in_turn(raw, offline)

    def send_now(self, message: Event | Raw, offline: Offline | None) -> None:
        """Send a message without waiting for room, or let it wait in the queue.

        Raises:
            ConnectionLost: ``"not_sent"``, the message may not wait.
            ChannelClosed: the message is for an anonymous channel that has ended.
            QueueFull: the session holds as much as `Limits.hard_cap` allows, or too much waits in the queue.
        """
        out = self.out
        if out.clear and self._leave(message) is not None:
            return
        call = self._call(message, None, offline)
        while True:
            place = self._place(call)
            if place is Place.GATE:
                out.check_cap(self._encode(message)[0])
                place = Place.QUEUE if out.session.state.waits else Place.NOW
            if place is Place.QUEUE:
                self._enqueue(message, call)
                return
            if self._leave(message) is not None:
                return

    async def send_in_turn(
        self, message: Event | Raw, offline: Offline | None = None, *, begun_in: Outbound | None = None
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
        return await self._in_turn(message, self._call(message, None, offline, begun_in), None)

    def request_now(self, message: Request, pending: Pending) -> bool:
        """Send a request, if nothing is in its way. Return False if it has to take its turn."""
        out = self.out
        if not out.clear or (pending.h is None and not self.requests.has_capacity(out.terms)):
            return False
        payload = out.terms.encode(message)
        if not out.send(payload):
            return False
        self.requests.was_sent(pending, len(payload))
        return True

    async def request_in_turn(self, message: Request, pending: Pending) -> None:
        """Send a request like `send_in_turn`, once the remote peer can accept it. Return if it fails meanwhile."""
        await self._in_turn(message, self._call(message, pending, pending.options.offline), pending)

    async def _in_turn(self, message: Event | Request | Raw, call: Call, pending: Pending | None) -> int:
        """Wait in one line after the other until a message leaves or waits in the queue. Return its size in bytes."""
        turn, lines = Turn(), {Place.GATE: self.gate, Place.CAPACITY: self.requests.capacity}
        if pending is not None:
            pending.turn = turn
        try:
            while True:
                place = self._next_place(message, call, pending, turn)
                if place is Place.QUEUE:
                    return self._enqueue(message, call, pending)
                if place is Place.NOW:
                    if (size := self._leave(message)) is not None:
                        if pending is not None:
                            self.requests.was_sent(pending, size)
                        return size
                    continue  # the connection has just ended
                turn.join(lines[place])
                await turn.wait()
                if pending is not None and pending.future.done():  # the request has failed
                    return 0
        finally:
            turn.leave()
            self.out.update_clear()
            if pending is not None:
                pending.turn = None

    def _next_place(self, message: Event | Request | Raw, call: Call, pending: Pending | None, turn: Turn) -> Place:
        """Return where a message goes if it takes its turn. A caller that waits for capacity stays in that line."""
        place, gate = self._place(call), self.gate
        if turn.waits_at(self.requests.capacity) and not self._accepted(message, pending, turn):
            return Place.CAPACITY
        if gate.busy and not (turn.waits_at(gate) and turn.first):
            return Place.GATE
        if place is not Place.GATE and not self._accepted(message, pending, turn):
            return Place.CAPACITY
        return place

    def _accepted(self, message: Event | Request | Raw, pending: Pending | None, turn: Turn) -> bool:
        """Return whether the remote peer has room for a message. It has for all but requests."""
        requests, terms = self.requests, self.out.terms
        if pending is None or pending.h is not None or pending.state is ACCEPTED or requests.has_capacity(terms):
            return True
        may_look = turn.first if turn.waits_at(requests.capacity) else not requests.capacity.busy
        return may_look and requests.accept(pending, terms, len(terms.encode(message)))

    def _leave(self, message: Event | Request | Raw) -> int | None:
        """Hand a message to the transport. Return its size, or None if the connection has just ended."""
        payload, text = self._encode(message)
        return len(payload) if self.out.send(payload, text, raw=isinstance(message, Raw)) else None

    # ------------------------------------------------------------ waiting

    @property
    def busy(self) -> bool:
        """Whether a caller would have to wait for room."""
        return self.gate.busy or self.out.session.full

    async def wait_written(self) -> None:
        """Wait until all callers that wait for room have sent. Cancelling is safe."""
        turn = self.gate.enter()
        try:
            while self.out.session.full or not turn.first:
                await turn.wait()
        finally:
            turn.leave()
            self.out.update_clear()

    @property
    def kept(self) -> int:
        """Bytes of the messages that wait for a connection, or may have to be sent again on another one."""
        return self.out.session.kept + self.queue.user_size

    def _enqueue(self, message: Event | Request | Raw, call: Call, pending: Pending | None = None) -> int:
        """Let a message wait in the queue. Return its size in bytes.

        Raises:
            MessageTooBig: the remote peer would not accept it.
            QueueFull: too many messages of the user wait in the queue.
        """
        is_raw, of_session = isinstance(message, Raw), call.scope is not Scope.PEER
        if of_session:
            payload, text = self._encode(message)
            call.out.check_accepted(payload, is_raw)
        elif isinstance(message, Raw):
            payload, text = message.payload, message.text
        else:  # nothing is negotiated yet
            payload, text = self._codec.encode(message), self._codec.text
        entry = Entry(payload, text, of_session, raw=is_raw)
        if pending is not None:
            self.requests.queued(pending, entry)
        if of_session:
            call.out.session.wait(entry)
        else:
            line = self.out.line
            self.queue.add(entry, "not connected" if line in (Line.NONE, Line.AWAY) else line.value)
        return len(payload)

    def take_back(self, pending: Pending) -> None:
        """Take the message of a request out of the queue, if it waits there."""
        if pending.entry is not None and pending.entry.take_back():
            self.out.session.queue_changed()

    def _encode(self, message: Event | Request | Raw) -> tuple[bytes, bool]:
        """Encode a message as was negotiated in the session. Return the payload, and whether it is text."""
        if isinstance(message, Raw):
            return message.payload, message.text
        terms = self.out.terms
        payload = terms.encode(message)
        return payload, terms.is_text(payload)

    # ------------------------------------------------------------ the end of a connection, of a session, and of all

    def end_connection(self) -> None:
        """Let the callers that wait look again: the session goes on without its connection."""
        self.gate.wake_all()
        self.requests.capacity.wake_all()

    def end_session(self, lost: ConnectionLost) -> None:
        """Fail with ``lost`` what belongs to the session, which is over. All else waits for the next one, if any."""
        self.queue.end_session(lost)
        self.requests.end_session(lost)
        if not self.expects_session:
            self._fail_requests(
                [each for each in self.requests.unsent() if each.state is QUEUED], self.out.session.ending
            )
            self.queue.discard()
        self.gate.wake_all()  # the callers that wait there see that their session is over

    def discard(self, info: CloseInfo) -> None:
        """Drop everything that waits for a session, because none will come. Requests fail, and events are logged."""
        self.discard_requests(info)
        self.queue.discard()

    def discard_requests(self, info: CloseInfo) -> None:
        """Fail the requests that were not sent yet."""
        self._fail_requests(self.requests.unsent(), info)

    def _fail_requests(self, requests: list[Pending], info: CloseInfo) -> None:
        for pending in requests:
            self.take_back(pending)
            self.requests.fail(pending, ConnectionLost(info.code, info.reason, "not_sent"))
