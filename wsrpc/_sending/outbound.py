"""`Outbound`: the way out of a session, and what may leave on it now."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable
from threading import get_ident

from .._base.closing import CloseCode
from .._base.scheduler import Scheduler
from .._handlers.invocation import CURRENT, Invocation
from .._handlers.lifecycle import OpenPhase
from .._protocol.codecs import BRACE, MsgpackCodec, NegotiatedCodec, json_text
from .._protocol.control import Announced, Credit
from .._protocol.go import GoCodec, refuse_raw, rejection_from
from .._protocol.messages import Raw, WireMessage
from .._protocol.nodes import as_raised
from .._protocol.settings import Settings
from .._session.session import Session
from .._session.waiting import WaitingMessage
from ..errors import ConnectionLost, MessageTooBig, QueueFull
from .checks import Objections
from .draining import Draining
from .outbox import Outbox
from .slow_readers import Slow, SlowReaderQueue
from .turns import SendTurns


class Outbound:
    """The way out of one session of a peer: its opening, and what may leave on it now. `MessageSender` does the rest.

    ``terms`` say what was negotiated in the session. While ``clear`` is true a message may go straight to the
    transport: the fast path checks nothing else.

    Args:
        outbox: what outlives the session.
        ignored: counts answers that cannot be sent.
        fail: ends the connection with a code and a reason.
    """

    __slots__ = (
        "_fail",
        "_ignored",
        "_settings",
        "clear",
        "draining",
        "is_open",
        "loop",
        "opening",
        "opening_invocations",
        "outbox",
        "overdue",
        "requests",
        "session",
        "slow_reader",
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
        draining: Draining,
        *,
        ignored: Counter[str],
        fail: Callable[[int, str], None],
    ) -> None:
        self._settings = settings
        self._ignored = ignored
        self._fail = fail
        self.session = session
        self.outbox = outbox
        self.draining = draining
        self.requests = outbox.requests
        self.terms = settings.terms
        self.loop = loop
        self.thread = get_ident()
        self.clear = False
        self.turns = SendTurns(loop, self._is_full)
        self.overdue = False
        """A broadcast has waited for the session as long as broadcasts do, and it has not drained since."""
        self.slow_reader: SlowReaderQueue | None = None
        """Broadcasts that wait while the session is full. Most sessions never need one."""
        self.opening: OpenPhase | None = None
        """The `open` and `on_reconnect` handlers that take time, while they run."""
        self.opening_invocations: tuple[Invocation, ...] = ()
        """Those handlers' calls, and those of earlier stages: messages that are sent within them leave at once."""
        self.is_open = False
        """Whether those handlers are done or overdue, so that every message may be sent."""

    def __repr__(self) -> str:
        marks = f"{' full' if self.session.full else ''}{' silent' if self.silent else ''}"
        return f"<Outbound {self.state}{marks}>"

    def _is_full(self) -> bool:
        return self.session.full

    # ------------------------------------------------------------ the gate

    @property
    def state(self) -> str:
        """State of the session, as `Peer` shows it."""
        session = self.session
        if not session.lives:
            return "disconnected"
        if session.detached:
            return session.state.value
        return "closing" if session.closing else "open" if self.is_open else "opening"

    @property
    def silent(self) -> bool:
        """Whether the remote peer is about to close, and new requests and events wait for another session."""
        return self.draining.silent

    @property
    def expects_connection(self) -> bool:
        """Whether there is a connection, or another one may come."""
        return self.session.takes_messages or self.outbox.expects_session

    def not_sent(self) -> ConnectionLost:
        """Return the error for a message that no connection will take."""
        ending = self.session.ending
        reason = ending.reason or ("closed on this side" if ending.user_closed else "")
        return ConnectionLost(ending.code, reason, "not_sent")

    def update_clear(self) -> None:
        """Find out again whether a message may go straight to the transport: what this depends on has changed."""
        session = self.session
        ready = self.is_open and session.connected and self.draining.closes_at is None
        self.clear = ready and not (session.full or self.turns.awaited)

    # ------------------------------------------------------------ opening

    def begin(self) -> None:
        """Belong to the thread of the session, which begins."""
        self.thread = get_ident()

    def enter(self, invocation: Invocation) -> None:
        """Begin a stage of the opening: messages that are sent within ``invocation`` leave at once."""
        self.opening_invocations = (*self.opening_invocations, invocation)

    def open_slowly(self, phase: OpenPhase) -> None:
        """Keep the session opening until ``phase`` is over: some handlers take time."""
        self.opening = phase
        phase.start()

    def end_opening(self) -> None:
        """End the opening: all messages may be sent now, or on the next connection of the session."""
        self.opening_invocations = ()
        self.is_open = True
        self.update_clear()

    def in_open_handler(self) -> bool:
        """Return whether an `open` or `on_reconnect` handler of the session runs, or a task that it made."""
        invocation = CURRENT.get(None)
        return invocation is not None and invocation in self.opening_invocations

    # ------------------------------------------------------------ the course of the session

    def agree(self, announced: Announced, codec: NegotiatedCodec | None, common: frozenset[str]) -> None:
        """Use what both support from now on: the remote peer is wsrpc, too. See `Terms.agreed`."""
        self.terms = self._settings.agreed(announced, codec, common)

    def reattach(self, announced: Announced) -> None:
        """Use another connection of the session, within the limits that the remote peer announces now."""
        self.thread = get_ident()
        if announced != self.terms.announced:
            self.terms = self.terms.within(announced, self._settings.terms.largest)
        waiting, queue = self.session.waiting, self.outbox.queue
        if waiting is not None and queue is not None:
            queue.refuse_too_big(waiting, self.terms.unchecked, self.refusal)

    def session_over(self) -> None:
        """Send nothing more: the session is over, and what was agreed in it holds no more."""
        self.terms = self._settings.terms
        self.slow_reader = None
        self.update_clear()

    def enter_loop(self) -> None:
        """Belong to the event loop, and the thread, that run now. There is no connection."""
        self.requests.stop()
        self.thread = get_ident()

    # ------------------------------------------------------------ slow readers

    def hold_broadcast(self, payload: bytes, text: bool, slow: Slow, key: Hashable) -> bool:
        """Let a broadcast wait until there is room. Return False if the policy drops it."""
        session = self.session
        if self.slow_reader is None:
            self.slow_reader = SlowReaderQueue(
                lambda payload, text: session.send(payload, text),
                lambda: session.full,
                self._settings.limits.behind,
                self.outbox.warn,
                self.outbox.left_out,
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
            ticket: WaitingMessage | None = self.session.send(payload, payload[0] == BRACE if text is None else text)
        except ConnectionLost as exc:
            return self._not_taken(exc)
        # The caller decides where it waits instead: in the session, or in the queue that outlives the session.
        return ticket is None or not ticket.take_back()

    def hand_over(self, raw: Raw) -> bool:
        """Hand a raw message to the transport, like `send`."""
        if len(raw.payload) > self.terms.unchecked and (refusal := self.refusal(raw.payload, raw=True)) is not None:
            raise refusal
        try:
            ticket: WaitingMessage | None = self.session.send(raw.payload, raw.text)
        except ConnectionLost as exc:
            return self._not_taken(exc)
        return ticket is None or not ticket.take_back()

    def send_nowait(self, payload: bytes, /) -> bool:
        """Send an encoded message without waiting. Return False if the connection has just ended and another will come.

        Raises:
            QueueFull: at the hard cap.
            MessageTooBig: the remote peer would not accept the message.
            ConnectionLost: ``"not_sent"``.
        """
        if not self.clear:
            if not self.session.lives:
                raise self.not_sent()
            self.check_cap(payload)
        return self.send(payload)

    def _not_taken(self, exc: ConnectionLost) -> bool:
        """Return False if a message that the session can neither send nor keep may wait for another session.

        Raises:
            ConnectionLost: it may not wait.
        """
        self.session.note_dead()
        if not self.outbox.expects_session:
            raise exc
        return False

    def reply(self, payload: bytes, /) -> None:
        """Send an answer or a notice. It never waits, and is counted as ignored if there is no connection.

        Raises:
            MessageTooBig: the remote peer would not accept the message.
        """
        session, terms = self.session, self.terms
        if len(payload) > terms.unchecked and session.lives and (refusal := self.refusal(payload)) is not None:
            raise refusal
        if session.full and self.over_cap(len(payload)):
            self._fail(CloseCode.SLOW_CONSUMER, "slow consumer")
            return
        text = terms.text
        if text is None:
            text = payload[0] == BRACE
        try:
            session.send(payload, text)
        except ConnectionLost:
            self._ignored["response without a connection"] += 1

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
        if raw or len(payload) <= terms.unchecked:
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
