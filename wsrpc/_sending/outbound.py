"""The way out of a session: messages are sent at once, in turn, or on the next connection."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable
from functools import partial
from threading import get_ident
from typing import Any, Protocol

from msgspec import UNSET

from .._base.closing import CloseCode, CloseInfo
from .._base.logs import PeerLog
from .._base.misuse import shown_as
from .._base.names import RESERVED_EVENTS, ChannelRef, Offline
from .._base.scheduler import Scheduler
from .._handlers.invocation import CURRENT, Invocation
from .._handlers.lifecycle import OpenPhase
from .._protocol.codecs import BRACE, MsgpackCodec, NegotiatedCodec, json_text
from .._protocol.control import Announced, Credit
from .._protocol.go import GoCodec, refuse_raw, rejection_from
from .._protocol.messages import Event, Raw, Request, WireMessage, event_on
from .._protocol.nodes import as_raised
from .._protocol.settings import Settings
from .._session.session import Session
from .._session.waiting import Told, Waiting
from ..errors import ChannelClosed, ConnectionLost, MessageTooBig, QueueFull
from .checks import Objections, check_sending
from .draining import Draining
from .outbox import Outbox
from .pending import Pending
from .slow_readers import Slow, SlowReaderQueue
from .states import TRANSITIONS, OutboundState
from .turns import SendTurns, Turn

__all__ = ["Outbound", "OutboundListener"]


class OutboundListener(Protocol):
    """The owner of an `Outbound`: it is told what happens, and answers what `Outbound` cannot know."""

    log: PeerLog
    ignored: Counter[str]
    """Counts answers that cannot be sent."""

    def fail(self, code: int, reason: str, /) -> None:
        """End the connection because of the remote peer."""

    def fell_silent(self) -> bool:
        """This side begins nothing new, because the remote peer is about to close.

        Return whether `open` handlers still run, so that this side cannot say so yet.
        """
        ...

    def broadcasts_dropped(self, count: int, /) -> None:
        """Broadcasts were left out because the remote peer reads too slowly."""

    def has_channel(self, h: int, /) -> bool:
        """Return whether an anonymous channel is still open."""
        ...

    def is_awaited(self, ctx: Invocation | None, /) -> bool:
        """Return whether the remote peer waits for the handler that this context belongs to."""
        ...


class Outbound:
    """The sending half of one session of a peer: how far it has opened or closed, and what may be sent on it.

    ``terms`` say what was negotiated in the session. While ``clear`` is true a message may go straight to the
    transport: the fast path checks nothing else.

    A message that cannot be sent because there is no connection waits, or it fails as ``"not_sent"``:

    - It waits *in its session* while that may go on over another connection.
    - It waits *for the next session* if it has none, or if that ends: events and requests of a client, except
      those that are bound to the present connection by ``offline="fail"``. All other messages end with their session:
      answers, control messages, what is said on an anonymous channel, and what `open` and `on_reconnect` handlers send.
      On a server, whose peers do not come back without their session, everything does.

    Args:
        outbox: what outlives the session.
        dialer: whether this side dials.
        ending: how the session before has ended, or why there was none.
        present: returns the sending half of the present session, or of the last one.
    """

    __slots__ = (
        "_listener",
        "_present",
        "_settings",
        "clear",
        "contexts",
        "draining",
        "ending",
        "loop",
        "opening",
        "outbox",
        "overdue",
        "requests",
        "send_kept_back",
        "session",
        "slow_reader",
        "state",
        "terms",
        "thread",
        "turns",
    )

    def __init__(
        self,
        session: Session,
        settings: Settings,
        loop: Scheduler,
        outbox: Outbox,
        listener: OutboundListener,
        *,
        dialer: bool,
        ending: CloseInfo,
        present: Callable[[], Outbound],
    ) -> None:
        self._settings = settings
        self._listener = listener
        self._present = present
        self.session = session
        self.outbox = outbox
        self.requests = outbox.requests
        self.terms = settings.terms
        self.loop = loop
        self.thread = get_ident()
        self.state = OutboundState.NEW
        self.clear = False
        self.ending = ending
        """How the present connection is going to end, or how the last one has ended, or why there was none."""
        self.turns = SendTurns(loop, self._is_full)
        self.draining = Draining(session, loop, listener.ignored, self._fall_silent, dialer=dialer)
        self.send_kept_back: Callable[[], None] = _nothing
        """Sends what is kept back, see `precede`."""
        self.overdue = False
        """A broadcast has waited for the session as long as broadcasts do, and it has not drained since."""
        self.slow_reader: SlowReaderQueue | None = None
        """Broadcasts that wait while the session is full. Most sessions never need one."""
        self.opening: OpenPhase | None = None
        """The handlers that run while the session opens."""
        self.contexts: tuple[Invocation, ...] = ()
        """The contexts of those handlers: messages that are sent within them leave at once."""

    def __repr__(self) -> str:
        marks = f"{' full' if self.session.full else ''}{' silent' if self.silent else ''}"
        return f"<Outbound {self.state.value}{marks}>"

    def _is_full(self) -> bool:
        return self.session.full

    # ------------------------------------------------------------ opening and closing

    @property
    def lives(self) -> bool:
        """Whether the session has begun and is not over."""
        return self.state is not OutboundState.NEW and self.state is not OutboundState.LOST

    @property
    def works(self) -> bool:
        """Whether messages can still be sent, or wait for the next connection of the session."""
        session = self.session
        open_ = self.state is OutboundState.OPEN or self.state is OutboundState.OPENING
        return open_ and (session.connection is not None or session.resumable)

    @property
    def _successor(self) -> Outbound | None:
        """The sending half of the next session, if this session has ended. None while there is no next one."""
        present = self._present() if self.state is OutboundState.LOST else self
        return None if present is self else present

    @property
    def silent(self) -> bool:
        """Whether the remote peer is about to close: new requests and events wait for another session."""
        return self.draining.silent

    @property
    def awaits_connection(self) -> bool:
        """Whether the session has no connection that takes messages, but may get one."""
        return self.session.connection is None and self.session.resumable and self.state is not OutboundState.CLOSING

    @property
    def expects_connection(self) -> bool:
        """Whether there is a connection, or another one may come."""
        return self.works or self.outbox.expects_session

    def move(self, state: OutboundState) -> None:
        """Enter ``state``."""
        if state not in TRANSITIONS[self.state]:
            raise AssertionError(f"a session cannot go from {self.state.value} to {state.value}")
        self.state = state
        self.update_clear()

    def update_clear(self) -> None:
        """Find out again whether a message may go straight to the transport: what this depends on has changed."""
        session = self.session
        self.clear = (
            self.state is OutboundState.OPEN
            and session.connection is not None
            and not (self.draining.silent or session.full or self.turns.awaited)
        )

    def begin(self) -> None:
        """Begin to open the session, on its first connection."""
        self.thread = get_ident()
        self.move(OutboundState.OPENING)

    def enter(self, context: Invocation) -> None:
        """Begin a stage of the opening: messages that are sent in ``context`` leave at once."""
        self.contexts = (*self.contexts, context)

    def open_slowly(self, phase: OpenPhase) -> None:
        """Stay in the state OPENING until ``phase`` is over: some handlers take time."""
        self.opening = phase
        phase.start()

    def opened(self) -> None:
        """End the opening: all messages may be sent now, or on the next connection of the session."""
        self.contexts = ()
        if self.state is OutboundState.OPENING:
            self.move(OutboundState.OPEN)
        self.draining.opened()

    def in_open_handler(self) -> bool:
        """Return whether an `open` or `on_reconnect` handler of the session runs, or a task that it made."""
        context = CURRENT.get(None)
        return context is not None and context in self.contexts

    def precede(self, first: Callable[[], None]) -> Callable[[], None]:
        """Call ``first`` before each message that is sent from now on. Return a function that ends this.

        For code that runs while something is kept back that has to leave before what that code sends, and before that
        code ends a channel or the session, where `send_kept_back` is called. That code may use it, too, and ends it
        first.
        """
        session = self.session
        send, send_kept_back = session.send, self.send_kept_back

        def send_first() -> None:
            send_kept_back()
            session.send = send
            try:
                first()
            finally:
                session.send = send_after

        def send_after(payload: bytes, text: bool = True, /) -> object:
            session.send = send
            try:
                first()
                return session.send(payload, text)
            finally:
                session.send = send_after

        def end() -> None:
            if session.send is send_after:
                session.send, self.send_kept_back = send, send_kept_back

        session.send, self.send_kept_back = send_after, send_first
        return end

    def _fall_silent(self) -> bool:
        """Begin nothing new in the session. Return whether this side says so only later."""
        self.update_clear()
        if self.outbox.queue is not None:
            self.outbox.queue.refuse_bound(self._drained())
        return self._listener.fell_silent()

    def agree(self, announced: Announced, codec: NegotiatedCodec | None, common: frozenset[str]) -> None:
        """Use what both support from now on: the remote peer is wsrpc, too. See `Terms.agreed`."""
        self.terms = self._settings.agreed(announced, codec, common)
        self.draining.agreed()

    def detached(self) -> None:
        """Fail what is bound to the connection, which has ended. The session goes on, and everything else waits."""
        self.outbox.refuse_bound(self.not_sent())
        self.overdue = False
        self.turns.drop_bound()

    def connected(self, announced: Announced) -> None:
        """Go on over another connection, within the limits that the remote peer announces now."""
        self.thread = get_ident()
        if announced != self.terms.announced:
            self.terms = self.terms.within(announced, self._settings.terms.largest)
        waiting, queue = self.session.waiting, self.outbox.queue
        if waiting is not None and queue is not None:
            queue.refuse_too_big(waiting, self.terms.unchecked, self.refusal)

    def lose(self) -> None:
        """Send nothing more, because the session is over. What was agreed in it holds no more."""
        self.move(OutboundState.LOST)
        self.terms = self._settings.terms

    def end(self, info: CloseInfo, lost: ConnectionLost) -> None:
        """Fail with ``lost`` what belongs to the session, which is over. All else waits for the next, if there is one.

        The messages that wait for the next session keep their order: those that have waited in the session go first,
        then those before which others waited for room.
        """
        outbox, flight = self.outbox, self.requests.flight
        self.ending = info
        outliving: list[Waiting] = []
        for message in () if self.session.waiting is None else self.session.waiting.all():
            if message.outlives:
                message.take_back()
                outliving.append(message)
            else:
                message.fail(lost)
        if outliving:
            outbox.offline_queue().put_first(outliving)
        outbox.end_session(lost)
        if not outbox.expects_session:
            outbox.discard(info)
        self.turns.end_all(leave=outbox.expects_session)
        flight.end(leave=outbox.expects_session)

    def give_up(self, info: CloseInfo) -> None:
        """Fail what waits for a session, with ``info`` as the reason unless a connection is still ending."""
        if not self.lives:
            self.ending = info
        self.outbox.discard(self.ending)

    def enter_loop(self) -> None:
        """Belong to the event loop, and the thread, that run now. There is no connection."""
        self.requests.stop()
        self.thread = get_ident()

    # ------------------------------------------------------------ what waits and is kept

    @property
    def queued(self) -> int:
        """How many messages wait for a connection."""
        queue, in_session = self.outbox.queue, self.session.waiting
        return (0 if queue is None else len(queue)) + (0 if in_session is None else len(in_session))

    @property
    def kept(self) -> int:
        """Bytes of the messages that wait for a connection, or may have to be sent again on another one."""
        queue, session = self.outbox.queue, self.session
        return (
            (0 if queue is None else queue.size)
            + session.kept
            + (0 if session.waiting is None else session.waiting.outliving_size)
        )

    def flush_offline(self) -> None:
        """Send the messages that waited for a session, in order. If it has no connection, they wait in it."""
        if self.outbox.queue is not None:
            self.outbox.queue.flush(self.session, self.terms.unchecked, self.refusal)

    # ------------------------------------------------------------ slow readers

    def hold_broadcast(self, payload: bytes, text: bool, slow: Slow, key: Hashable) -> bool:
        """Let a broadcast wait until there is room. Return False if the policy drops it."""
        session = self.session
        if self.slow_reader is None:
            self.slow_reader = SlowReaderQueue(
                lambda payload, text: session.send(payload, text),
                lambda: session.full,
                self._settings.limits.behind,
                self._listener.log.warn,
                self._listener.broadcasts_dropped,
            )
        waits = self.slow_reader.add(payload, text, slow, key)
        session.recount()
        return waits

    def note_overdue(self) -> None:
        """Note that a broadcast has waited for the session to drain; see ``overdue``."""
        self.overdue = self.session.full

    async def drain(self) -> None:
        """Wait until there is room, or the session has ended. Cancelling is safe."""
        await self.session.drain()

    def flush_broadcasts(self) -> bool:
        """Send broadcasts that waited, if there is room. Return False if they have used it up."""
        if self.session.full:
            return True
        if self.slow_reader is not None:
            self.slow_reader.flush()
            if self.session.full:
                return False
        self.overdue = False
        return True

    # ------------------------------------------------------------ straight to the transport

    def send(self, payload: bytes) -> bool:
        """Hand a message to the transport. Return False if its connection has just ended and another one will come.

        Raises:
            ConnectionLost: ``"not_sent"``, no other connection will come.
            MessageTooBig: the remote peer would not accept the message.
        """
        terms = self.terms
        if len(payload) > terms.unchecked and (refusal := self.refusal(payload)) is not None:
            raise refusal
        text = terms.text
        try:
            ticket: Waiting | None = self.session.send(payload, payload[0] == BRACE if text is None else text)
        except ConnectionLost as exc:
            return self._refused(exc)
        return ticket is None or not ticket.take_back()

    def hand_over(self, raw: Raw) -> bool:
        """Hand a raw message to the transport, like `send`."""
        if len(raw.payload) > self.terms.unchecked and (refusal := self.refusal(raw.payload, raw=True)) is not None:
            raise refusal
        try:
            ticket: Waiting | None = self.session.send(raw.payload, raw.text)
        except ConnectionLost as exc:
            return self._refused(exc)
        return ticket is None or not ticket.take_back()

    def send_nowait(self, payload: bytes, /) -> bool:
        """Send an encoded message without waiting. Return False if the connection has just ended and another will come.

        Raises:
            QueueFull: at the hard cap.
            MessageTooBig: the remote peer would not accept the message.
            ConnectionLost: ``"not_sent"``.
        """
        if not self.clear:
            if not self.lives:
                raise self.not_sent()
            self.check_cap(payload)
        return self.send(payload)

    def _refused(self, exc: ConnectionLost) -> bool:
        """Return False if a message that the transport has refused may wait for another connection.

        The connection has just ended, and its transport is about to say so.

        Raises:
            ConnectionLost: it may not wait.
        """
        if not self.session.refuse() and not self.outbox.expects_session:
            raise exc
        return False

    def reply(self, payload: bytes, /) -> None:
        """Send an answer or a notice. It never waits, and is counted as ignored if there is no connection.

        Raises:
            MessageTooBig: the remote peer would not accept the message.
        """
        session, terms = self.session, self.terms
        if len(payload) > terms.unchecked and self.lives and (refusal := self.refusal(payload)) is not None:
            raise refusal
        if session.full and self.over_cap(len(payload)):
            self._listener.fail(CloseCode.SLOW_CONSUMER, "slow consumer")
            return
        text = terms.text
        if text is None:
            text = payload[0] == BRACE
        try:
            session.send(payload, text)
        except ConnectionLost:
            self._listener.ignored["response without a connection"] += 1

    def grant(self, h: int, n: int, size: int) -> None:
        """Let the remote peer send ``n`` items of ``size`` bytes on channel ``h``, in total."""
        self.session.say(Credit(h, n, size))
        # The producer may wait for it, and the reader may go on for a while without a turn of the event loop.
        self.session.flush()

    @property
    def hears_null_as_channel(self) -> bool:
        """Whether an unexpected channel may stand for null: JavaScript answers null that way, by mistake."""
        return self.terms.plain and self._settings.codec.__class__ is not GoCodec

    def json_text(self, value: object) -> str:
        """Encode a value as the JSON of a raw message."""
        return json_text(self._settings.codec, value)

    def check_raw(self) -> None:
        """Refuse raw messages if the remote peer would close the connection because of them.

        Raises:
            ValueError: says why.
        """
        refuse_raw(self._settings.codec)

    @property
    def between_nodes(self) -> bool:
        """Whether the remote peer is another node of a cluster."""
        return self._settings.between_nodes

    def rejection_from(self, answer: WireMessage, event: str, count: int) -> Exception:
        """Return the error for the rejection of a request with ``count`` arguments."""
        error = rejection_from(answer.e, answer.flag, self._settings.codec, event, count)
        return as_raised(error) if self._settings.between_nodes else error

    def check_cap(self, payload: bytes) -> None:
        """Refuse a message that would exceed the hard cap of a full connection.

        Raises:
            QueueFull: at the hard cap.
        """
        session = self.session
        if session.full and self.over_cap(len(payload)):
            raise QueueFull(
                f"{session.unsent} bytes are unsent (Limits.hard_cap={self._settings.limits.hard_cap}): the "
                "other side reads too slowly; `await emit()` waits instead"
            )

    def over_cap(self, size: int) -> bool:
        """Return whether ``size`` more bytes would exceed `Limits.hard_cap`. A single message always fits."""
        unsent = self.session.unsent
        return unsent > 0 and unsent + size > self._settings.limits.hard_cap

    def refusal(
        self, payload: bytes, raw: bool = False, known: dict[bytes, Objections] | None = None
    ) -> MessageTooBig | None:
        """Return the error for an encoded message that the remote peer would not accept. None if it may be sent.

        Args:
            raw: it is a raw message, which the remote peer does not decode.
            known: for a message that goes to many peers: what is known about each payload. It is filled here.
        """
        terms = self.terms
        if len(payload) > terms.largest:
            return self._too_big(payload)
        if raw or terms.plain or len(payload) <= terms.unchecked:
            return None
        is_negotiated = terms.text is None and payload[0] != BRACE
        objection = MsgpackCodec.objection if is_negotiated else self._settings.codec.objection
        if known is None:
            why = objection(payload, terms.announced.values)
        else:
            if payload not in known:
                known[payload] = Objections(payload, objection)
            why = known[payload].to(terms.announced.values)
        if why is None:
            return None
        return MessageTooBig(
            f"the message holds {why}, and the other side takes no more (it has announced {terms.announced.values} "
            "values): send less at once, as a stream of small items for instance, or numbers as bytes"
        )

    def _too_big(self, payload: bytes) -> MessageTooBig:
        largest = self.terms.largest
        if largest == self._settings.terms.largest:
            bound = 'Limits.sent_message, 32768 with profile="go"'
            if self._settings.between_nodes:
                bound = "what the engine of the cluster takes, such as max_payload of NATS"
            return MessageTooBig(
                f"the message has {len(payload)} bytes encoded, and at most {largest} may be sent ({bound}): send less "
                "at once, as a stream of small items for instance"
            )
        return MessageTooBig(
            f"the message has {len(payload)} bytes encoded, and the other side takes at most {largest} "
            "(its Limits.message): send less at once, as a stream of small items for instance"
        )

    # ------------------------------------------------------------ events

    @shown_as("emit")
    async def send_event(
        self, channel: ChannelRef, event: str, args: tuple[Any, ...], offline: Offline | None = None, /
    ) -> None:
        """See `Caller.emit`."""
        if channel is None and event.__class__ is str and event not in RESERVED_EVENTS and get_ident() == self.thread:
            message = Event((event, *args))  # most events, without the two calls below
        else:
            check_sending(channel, event, self.thread)
            message = event_on(channel, (event, *args))
        if not (self.clear and self.send(self.terms.encode(message))):
            await self.send_in_turn(message, None, self.outbox.fails(offline))

    def send_event_nowait(
        self, channel: ChannelRef, event: str, args: tuple[Any, ...], offline: Offline | None = None, /
    ) -> None:
        """See `Caller.emit_nowait`."""
        check_sending(channel, event, self.thread)
        message = event_on(channel, (event, *args))
        if self.must_wait(message) or not self.send_nowait(self.terms.encode(message)):
            self.let_wait(message, offline)

    # ------------------------------------------------------------ messages that cannot be sent at once

    async def send_in_turn(
        self, message: Event | Request | Raw, pending: Pending | None = None, bound: bool = False
    ) -> int:
        """Send a message that cannot be sent at once: wait until the connection has room, or for the next connection.

        Args:
            bound: the message is for the present connection: it fails instead of waiting for another one.

        Returns:
            The size of the message in bytes. 0 if it waits for the next connection, or is not sent.

        Raises:
            ChannelClosed: it was for an anonymous channel that has ended meanwhile.
            ConnectionLost: ``"not_sent"``, it may not wait for another connection, or none will come.
        """
        of_session = message.h is not UNSET
        if not of_session and (successor := self._successor) is not None:
            return await successor.send_in_turn(message, pending, bound)  # the session has ended since the call
        if of_session:
            bound = False  # the channel belongs to the session, and ends with it
        leave = None if of_session or bound else partial(self.wait_for_next, message, pending)
        turn = Turn(self.turns, bound=bound, leave=leave)
        if pending is not None:
            pending.turn = turn
        try:
            while True:
                must_wait = self.must_wait(message)
                if bound:
                    self._check_bound(must_wait)
                needs_room = not must_wait or self._belongs_to_session(message)
                if (needs_room and self.session.full) or (self.turns.awaited and not turn.held):
                    await turn.wait()
                    # It has left with the session, or timed out in the queue.
                    if turn.left is not None or (pending is not None and pending.future.done()):
                        return 0
                    if leave is not None and (successor := self._successor) is not None:
                        # No session was expected when this one ended, but a `close` handler has begun one.
                        return await successor.send_in_turn(message, pending)
                    continue
                if not must_wait and (size := self._try_to_send(message)) is not None:
                    if pending is not None:
                        self.requests.flight.was_sent(pending, size)
                    return size
                if not must_wait and bound:
                    raise self.not_sent()
                if self._belongs_to_session(message):
                    return self._wait_encoded(message, pending)
                if not must_wait and message.h is not UNSET:
                    raise self.channel_lost(message.h)
                break
        finally:
            turn.end()
            if pending is not None:
                pending.turn = None
            self.update_clear()
        if bound and pending is None:
            await self.outbox.offline_queue().keep_and_wait(message, self.session, self.loop)
        else:
            self.wait_for_next(message, pending, bound)
        return 0

    def _check_bound(self, must_wait: bool) -> None:
        """Refuse a message that is bound to the connection if that has ended or begins nothing new."""
        if not self.works or self.awaits_connection:
            raise self.not_sent()
        if must_wait and self.silent:
            raise self._drained()

    def _try_to_send(self, message: Event | Request | Raw) -> int | None:
        """Hand a message to the transport. Return its size, or None if the connection has just ended."""
        if isinstance(message, Raw):
            return len(message.payload) if self.hand_over(message) else None
        payload = self.terms.encode(message)
        return len(payload) if self.send(payload) else None

    def must_wait(self, message: Event | Request | Raw) -> bool:
        """Return whether a message has to wait for a connection.

        Raises:
            ConnectionLost: ``"not_sent"``, no connection will come.
            ChannelClosed: it is for an anonymous channel that has ended.
        """
        if message.h is not UNSET and not self._listener.has_channel(message.h):
            raise self.channel_lost(message.h)  # an anonymous channel ends with its session
        if self.clear:
            return False
        if self.awaits_connection:
            return True
        if message.h is not UNSET:
            return False
        if self.state is OutboundState.OPEN:
            return self.silent and not self._listener.is_awaited(CURRENT.get(None)) and self._must_wait_for_another()
        if self.state is OutboundState.OPENING:
            # `open` and `on_reconnect` handlers send first. A server's peer has no queue that could be overtaken.
            return self.outbox.keeps_offline and not self.in_open_handler()
        if self.outbox.expects_session:
            return True
        raise self.not_sent()

    def _must_wait_for_another(self) -> bool:
        if not self.outbox.keeps_offline:
            raise self._drained()
        return True

    def let_wait(self, message: Event | Raw, offline: Offline | None) -> None:
        """Let a message wait with its session, for another connection, or for the `open` handlers.

        Raises:
            ConnectionLost: ``"not_sent"``, it may not wait.
            ChannelClosed: it is for an anonymous channel.
            QueueFull: too much waits already.
        """
        bound = message.h is UNSET and self.outbox.fails(offline)
        if bound and (not self.works or self.awaits_connection):
            raise self.not_sent()
        if self._belongs_to_session(message):
            if self.session.full:
                self.check_cap(b"" if isinstance(message, Raw) else self.terms.encode(message))
            self._wait_encoded(message, None)
            return
        if message.h is not UNSET:
            raise self.channel_lost(message.h)
        if bound and self.silent:
            raise self._drained()
        self._keep(message, bound=bound)

    # ------------------------------------------------------------ waiting with the session

    def _belongs_to_session(self, message: Event | Request | Raw) -> bool:
        """Return whether a message ends with its session, if it cannot be sent. The class says which messages do."""
        return self.session.resumable and (
            message.h is not UNSET or not self.outbox.keeps_offline or self.in_open_handler()
        )

    def _wait_encoded(self, message: Event | Request | Raw, pending: Pending | None) -> int:
        """Let a message wait with the session, encoded as was agreed in it. Return its size in bytes.

        Raises:
            MessageTooBig: the remote peer would not accept it.
        """
        if isinstance(message, Raw):
            payload, text = message.payload, message.text
        else:
            payload = self.terms.encode(message)
            text = payload[0] == BRACE if self.terms.text is None else self.terms.text
        if (refusal := self.refusal(payload, raw=isinstance(message, Raw))) is not None:
            raise refusal
        waiting = Waiting(payload, text)
        if pending is not None:
            waiting.told, pending.waiting = self.requests.told(pending), waiting
        self.session.wait(waiting)
        return len(payload)

    # ------------------------------------------------------------ waiting for the next session

    def wait_for_next(self, message: Event | Request | Raw, pending: Pending | None, bound: bool = False) -> Waiting:
        """Let a message wait for the next session, or in this one if that has opened and waits for a connection.

        Args:
            bound: it is a request that waits for the present connection to open.

        Raises:
            QueueFull: too much waits already.
        """
        if pending is None:
            return self._keep(message)
        waiting = pending.waiting = self._keep(message, self.requests.told(pending), bound=bound)
        return waiting

    def _keep(self, message: Event | Request | Raw, told: Told | None = None, *, bound: bool = False) -> Waiting:
        at_once = self.awaits_connection and self.state is OutboundState.OPEN and not self.silent
        return self.outbox.offline_queue().keep(message, self.session, told, bound=bound, at_once=at_once)

    async def wait_written(self) -> None:
        """Wait until all callers that wait for room have sent. Cancelling is safe."""
        turn = Turn(self.turns)
        try:
            await turn.wait()
        finally:
            turn.end()
            self.update_clear()

    def not_sent(self) -> ConnectionLost:
        """Return the error for a message that no connection will take."""
        reason = self.ending.reason or ("closed on this side" if self.ending.user_closed else "")
        return ConnectionLost(self.ending.code, reason, "not_sent")

    def _drained(self) -> ConnectionLost:
        return ConnectionLost(CloseCode.SERVICE_RESTART, "the other side is draining", "not_sent")

    def channel_lost(self, h: int) -> ChannelClosed:
        """Return the error for a message on an anonymous channel that has ended."""
        return ChannelClosed(str(h), self.not_sent())


def _nothing() -> None:
    """Send nothing: nothing is kept back."""
