"""`SessionWriter`: the way out of a session, and what may leave there now."""

from __future__ import annotations

from collections.abc import Hashable
from enum import Enum
from threading import get_ident

from ..._base.closing import CloseCode
from ...errors import ConnectionLost, MessageTooBig, QueueFull
from ..handlers.opening import Opening, OpeningState
from ..session.host import Host
from ..session.session import Session
from ..session.session_states import SessionState
from ..wire.codecs import MsgpackCodec, NegotiatedCodec, json_text
from ..wire.control import Announced, CreditMessage
from ..wire.go_profile import GoCodec, refuse_raw, rejection_from
from ..wire.messages import WireMessage
from ..wire.nodes import as_raised
from .checks import Objections
from .draining import Draining, DrainPhase
from .gate import Gate
from .pending import PendingRequests
from .slow_readers import Slow, SlowReaderQueue

_OPENED = OpeningState.OVER  # a constant, because Python 3.11 looks members of an enum up slowly


class Line(Enum):
    """The state of a session, as far as it decides what may leave. Whether there is room is another question."""

    NONE = "there is no session, or it is about to end"
    EXPECTED = "there is no session, or it is about to end, but another one is expected"
    AWAY = "the session waits for another connection"
    OPENING = "`open` handlers are running"
    FINISHING = "the remote peer is about to close, and what has begun before goes on"
    DRAINING = "the remote peer is about to close, and has said so"
    OPEN = "none of these"


class SessionWriter:
    """The way out of one session of a peer, and what may leave there now. `Outbox` does the rest.

    ``terms`` say what was negotiated in the session. While ``may_send`` is true a message may go straight to the
    transport: the fast path checks nothing else.

    Args:
        requests: those of the peer.
        gate: the callers that wait for room, from one session to the next.
    """

    __slots__ = (
        "_gate",
        "_host",
        "_settings",
        "draining",
        "loop",
        "may_send",
        "opening",
        "overdue",
        "requests",
        "session",
        "slow_reader",
        "terms",
        "thread",
    )

    def __init__(
        self,
        session: Session,
        host: Host,
        opening: Opening,
        requests: PendingRequests,
        gate: Gate,
    ) -> None:
        self._host = host
        self._settings = settings = host.settings
        self.session = session
        self._gate = gate
        self.opening = opening
        self.draining = Draining(session, host, opening)
        self.requests = requests
        self.terms = settings.terms
        self.loop = host.loop
        self.thread = get_ident()
        self.may_send = False
        self.overdue = False
        """A broadcast has waited for the session as long as broadcasts do, and it has not drained since."""
        self.slow_reader: SlowReaderQueue | None = None
        """Broadcasts that wait while the session is full. Most sessions never need one."""

    def __repr__(self) -> str:
        marks = f"{' full' if self.session.full else ''}{' silent' if self.silent else ''}"
        return f"<SessionWriter {self.state}{marks}>"

    # ------------------------------------------------------------ the line

    @property
    def state(self) -> str:
        """State of the session, as `Peer` shows it."""
        session = self.session
        if not session.state.lives:
            return "disconnected"
        if session.state.away:
            return session.state.text
        return "closing" if session.state is SessionState.CLOSING else "open" if self.opening.over else "opening"

    @property
    def line(self) -> Line:
        """The state of the session, as far as it decides what may leave."""
        state = self.session.state
        if state.waits:
            return Line.AWAY
        return self.connected_line if state.sends else Line.NONE

    @property
    def connected_line(self) -> Line:
        """The state of the session once it has a connection."""
        if self.opening.state is not _OPENED:
            return Line.OPENING
        if self.draining.silent:
            return Line.DRAINING
        return Line.FINISHING if self.draining.phase is DrainPhase.FINISHING else Line.OPEN

    @property
    def silent(self) -> bool:
        """Whether the remote peer is about to close, and new requests and events wait for another session."""
        return self.draining.silent

    def not_sent(self) -> ConnectionLost:
        """Return the error for a message that no connection will take."""
        last = self.session.last_close
        reason = last.reason or ("closed on this side" if last.user_closed else "")
        return ConnectionLost(last.code, reason, "not_sent")

    @property
    def callers_wait(self) -> bool:
        """Whether callers wait for room."""
        return self._gate.has_callers

    def update_may_send(self) -> None:
        """Find out again whether a message may go straight to the transport.

        Each object on which that depends reports its changes to `SessionReceiver`: the session, its opening, its drain
        and the gate.
        """
        self.may_send = self.line is Line.OPEN and not (self.session.full or self._gate.has_callers)

    # ------------------------------------------------------------ the course of the session

    def set_thread(self) -> None:
        """Belong to the thread of the session, which begins."""
        self.thread = get_ident()

    def agree(self, announced: Announced, codec: NegotiatedCodec | None, common: frozenset[str]) -> None:
        """Use what both support from now on: the remote peer is wsrpc, too. See `Terms.agreed`."""
        self.terms = self._settings.agreed(announced, codec, common)

    def reattach(self, announced: Announced) -> None:
        """Use another connection of the session, within the limits that the remote peer announces now."""
        self.thread = get_ident()
        if announced != self.terms.announced:
            self.terms = self.terms.within(announced, self._settings.terms.largest)

    def reset(self) -> None:
        """Drop what was negotiated in the session, which is over, and the broadcasts that wait."""
        self.terms = self._settings.terms
        self.slow_reader = None

    def enter_loop(self) -> None:
        """Belong to the event loop, and the thread, that run now. There is no connection."""
        self.requests.stop_timer()
        self.thread = get_ident()

    # ------------------------------------------------------------ slow readers

    def hold_broadcast(self, payload: bytes, text: bool, slow: Slow, key: Hashable) -> bool:
        """Let a broadcast wait until there is room. Return False if the policy drops it."""
        session = self.session
        if self.slow_reader is None:
            self.slow_reader = SlowReaderQueue(
                session.send_or_wait,
                lambda: session.full,
                self._settings.limits.behind_bytes,
                self._host.log.warn,
                self._host.count_dropped,
            )
        waits = self.slow_reader.add(payload, text, slow, key)
        session.memory_changed()
        return waits

    def mark_overdue(self) -> None:
        """Note that a broadcast has waited for the session to drain; see ``overdue``."""
        self.overdue = self.session.full

    async def drain(self) -> None:
        """Wait until there is room, or the session has ended. Cancelling is safe."""
        await self.session.drain()

    def flush_broadcasts(self) -> None:
        """Send broadcasts that waited, as far as there is room."""
        if self.slow_reader is not None:
            self.slow_reader.flush()
        if not self.session.full:
            self.overdue = False

    # ------------------------------------------------------------ straight to the transport

    def send(self, payload: bytes, text: bool | None = None, *, raw: bool = False) -> bool:
        """Hand a message to the transport. Return False if its connection has just ended.

        Args:
            text: whether it is text. None if it was encoded as `terms` say.
            raw: it is a raw message.

        Raises:
            MessageTooBig: the remote peer would not accept the message.
        """
        terms = self.terms
        if len(payload) > terms.unchecked:
            self.check_accepted(payload, raw)
        try:
            self.session.send(payload, terms.is_text(payload) if text is None else text)
        except ConnectionLost as exc:
            self.session.send_failed(exc)
            return False
        return True

    def reply(self, payload: bytes, /) -> None:
        """Send an answer or a notice. It never waits, and is counted as ignored if there is no connection.

        Raises:
            MessageTooBig: the remote peer would not accept the message.
        """
        session, terms = self.session, self.terms
        if len(payload) > terms.unchecked and session.state.lives:
            self.check_accepted(payload)
        if session.full and self.over_cap(len(payload)):
            session.fail(CloseCode.SLOW_CONSUMER, "slow consumer")
            return
        try:
            session.send_or_wait(payload, terms.is_text(payload))
        except ConnectionLost:
            self._host.ignore("response without a connection")

    def grant(self, h: int, n: int, size: int) -> None:
        """Let the remote peer send ``n`` items of ``size`` bytes on channel ``h``, in total."""
        self.session.send_control(CreditMessage(h, n, size))
        # The producer may wait for it, and the reader may go on for a while without a turn of the event loop.
        connection = self.session.connection
        if connection is not None:
            connection.transport.flush()

    @property
    def reads_channel_as_null(self) -> bool:
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
                f"{session.unsent} bytes are unsent (Limits.hard_cap_bytes={self._settings.limits.hard_cap_bytes}): "
                "the other side reads too slowly; `await emit()` waits instead"
            )

    def over_cap(self, size: int) -> bool:
        """Return whether ``size`` more bytes would exceed `Limits.hard_cap_bytes`. A single message always fits."""
        unsent = self.session.unsent
        return unsent > 0 and unsent + size > self._settings.limits.hard_cap_bytes

    def check_accepted(self, payload: bytes, raw: bool = False, known: dict[bytes, Objections] | None = None) -> None:
        """Refuse an encoded message that the remote peer would not accept. The arguments are those of `refusal`.

        Raises:
            MessageTooBig: says why.
        """
        refusal = self.refusal(payload, raw, known)
        if refusal is not None:
            try:
                raise refusal
            finally:  # else the exception would refer to this frame, and the frame to the exception, and to the message
                del refusal

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
        is_negotiated = terms.text is None and not terms.is_text(payload)
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
            bound = 'Limits.sent_message_bytes, 32768 with profile="go"'
            if self._settings.between_nodes:
                bound = "what the engine of the cluster takes, such as max_payload of NATS"
            return MessageTooBig(
                f"the message has {len(payload)} bytes encoded, and at most {largest} may be sent ({bound}): send less "
                "at once, as a stream of small items for instance"
            )
        return MessageTooBig(
            f"the message has {len(payload)} bytes encoded, and the other side takes at most {largest} "
            "(its Limits.message_bytes): send less at once, as a stream of small items for instance"
        )
