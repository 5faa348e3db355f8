"""`SessionWriter`: writes the messages of a session to its transport."""

from __future__ import annotations

from collections.abc import Hashable
from threading import get_ident

from ..._base.closing import CloseCode
from ..._base.scheduler import Timer
from ...errors import ConnectionLost, QueueFull
from ..handlers.opening import Opening
from ..session.peer_host import PeerHost
from ..session.session import Session
from ..session.session_states import SessionState
from ..wire.codecs import BRACE
from ..wire.control import Announced, CreditMessage
from .draining import Draining
from .gate import Gate
from .pending import PendingRequests
from .phase import Phase
from .slow_readers import Slow, SlowReaderQueue

GREETING_TIMEOUT = 2.0
"""Seconds that a large message waits for the welcome. A plain server never sends one."""


class SessionWriter:
    """Writes the messages of one session to its transport. `Outbox` lets messages wait that cannot be written now.

    ``terms`` are what was negotiated in the session. While ``may_send`` is true, a message may go straight to the
    transport: the fast path checks nothing else.

    Args:
        requests: the pending requests of the peer.
        room_gate: the callers that wait for room, from one session to the next.
    """

    __slots__ = (
        "_greeting_timer",
        "_host",
        "_started",
        "draining",
        "loop",
        "may_send",
        "opening",
        "overdue",
        "phase",
        "requests",
        "room_gate",
        "session",
        "settings",
        "slow_reader",
        "terms",
        "thread",
    )

    def __init__(
        self,
        session: Session,
        host: PeerHost,
        opening: Opening,
        requests: PendingRequests,
        room_gate: Gate,
    ) -> None:
        self._host = host
        self.settings = settings = host.settings
        self.session = session
        self.room_gate = room_gate
        self.opening = opening
        self.draining = Draining(session, host, opening)
        self.requests = requests
        self.terms = settings.terms
        self._started = 0.0
        self._greeting_timer: Timer | None = None
        self.loop = host.loop
        self.thread = get_ident()
        self.phase = Phase.STOPPED
        """Which messages may be sent. Only `PeerSession.update` writes it, and ``may_send``."""
        self.may_send = False
        self.overdue = False
        """Whether a broadcast has waited as long as broadcasts wait, and the session has not drained since."""
        self.slow_reader: SlowReaderQueue | None = None
        """Broadcasts that wait while the session is full. Most sessions never need a queue for them."""

    def __repr__(self) -> str:
        marks = f"{' full' if self.session.full else ''}{' silent' if self.draining.silent else ''}"
        return f"<SessionWriter {self.state}{marks}>"

    # ------------------------------------------------------------ the state of the session

    @property
    def state(self) -> str:
        """The state of the session, as `Peer` shows it."""
        session = self.session
        if not session.state.lives:
            return "disconnected"
        if session.state.away:
            return session.state.text
        return "closing" if session.state is SessionState.CLOSING else "open" if self.opening.done else "opening"

    def not_sent(self) -> ConnectionLost:
        """Return the error for a message that will never be sent."""
        last = self.session.last_close
        reason = last.reason or ("closed on this side" if last.user_closed else "")
        return ConnectionLost(last.code, reason, "not_sent")

    # ------------------------------------------------------------ the greeting of the remote peer

    def awaits_greeting(self, size: int, *, has_key: bool = False) -> bool:
        """Return whether a message of ``size`` bytes waits until it is known if the remote peer is a wsrpc peer.

        A call with a key does, because a plain peer would ignore the key. On a client, a large message does, because it
        may be too large for the server, or smaller in MessagePack. The wait is short, unless the message would be too
        large for a server with the limits of this side. `PeerSession.greeting_changed` ends the wait.
        """
        terms, limits, now = self.terms, self.settings.limits, self.loop.time()
        is_large = self.session.negotiation.dialer and terms.unchecked < size <= terms.largest
        if terms.known or not (has_key or is_large):
            return False
        latest = self._started + limits.open_timeout
        soon = min(self._started + GREETING_TIMEOUT, latest)
        if now >= (latest if has_key or size > limits.message_bytes else soon):
            return False
        if self._greeting_timer is None:
            changed = self._host.current.greeting_changed
            self._greeting_timer = self.loop.call_at(soon if now < soon else latest, changed)
        return True

    def stop_greeting_timer(self) -> None:
        """Stop the timer that `awaits_greeting` has started."""
        if self._greeting_timer is not None:
            self._greeting_timer.cancel()
            self._greeting_timer = None

    def count_metadata(self) -> None:
        """Count a message that was sent without its metadata, because the remote peer does not accept any."""
        self._host.metadata_not_sent += 1

    # ------------------------------------------------------------ the course of the session

    def start(self) -> None:
        """Belong to the thread that runs now, because the session starts."""
        self.thread = get_ident()
        self._started = self.loop.time()

    def reattach(self, announced: Announced) -> None:
        """Use another connection of the session, within the limits that the remote peer announces now."""
        self.thread = get_ident()
        if announced != self.terms.announced:
            self.terms = self.terms.within(announced)

    def reset(self) -> None:
        """Drop what was negotiated in the session, which is over, and the broadcasts that wait."""
        self.terms = self.settings.terms
        self.slow_reader = None
        self.stop_greeting_timer()

    def enter_loop(self) -> None:
        """Belong to the event loop and the thread that run now. There is no connection."""
        self.requests.stop_timer()
        self.thread = get_ident()

    # ------------------------------------------------------------ slow readers

    def hold_broadcast(self, payload: bytes, text: bool, slow: Slow, key: Hashable) -> bool:
        """Let a broadcast wait until there is room. Return False if the policy drops the broadcast."""
        session = self.session
        if self.slow_reader is None:
            self.slow_reader = SlowReaderQueue(
                session.send_or_wait,
                lambda: session.full,
                self.settings.limits.behind_bytes,
                self._host.log.warn,
                self._host.count_dropped,
            )
        waits = self.slow_reader.add(payload, text, slow, key)
        session.memory_changed()
        return waits

    def mark_overdue(self) -> None:
        """A broadcast has waited as long as broadcasts wait, see ``overdue``."""
        self.overdue = self.session.full

    async def wait_room(self) -> None:
        """Wait until there is room and earlier callers have sent, or the session has ended. Cancelling is safe."""
        waiter = self.room_gate.enter()
        try:
            while self.session.full or not waiter.is_first:
                await waiter.wait()
        finally:
            waiter.exit()

    def flush_broadcasts(self) -> None:
        """Send the broadcasts that wait, as far as there is room."""
        if self.slow_reader is not None:
            self.slow_reader.flush()
        if not self.session.full:
            self.overdue = False

    # ------------------------------------------------------------ writing

    def send(self, payload: bytes, text: bool | None = None) -> bool:
        """Pass a message to the transport. Return False if its connection has just ended, or it may have to wait.

        Args:
            text: whether the message is text. None if it was encoded as ``terms`` say, and may have to wait.

        Raises:
            MessageTooBig: the remote peer would not accept the message.
        """
        terms = self.terms
        if len(payload) > terms.unchecked:
            if text is None and not terms.known:
                return False
            terms.check(payload)
        if text is None and (text := terms.text) is None:  # as `Terms.is_text`, without a call for each message
            text = payload[0] == BRACE
        try:
            self.session.send(payload, text)
        except ConnectionLost as exc:
            self.session.send_failed(exc)
            return False
        return True

    def reply(self, payload: bytes, /) -> None:
        """Send an answer or a notice, without waiting for room. Without a session, drop and count the message.

        Raises:
            MessageTooBig: the remote peer would not accept the message.
        """
        session, terms = self.session, self.terms
        if len(payload) > terms.unchecked and session.state.lives:
            terms.check(payload)
        if session.full and self.over_cap(len(payload)):
            session.fail(CloseCode.SLOW_CONSUMER, "slow consumer")
            return
        if (text := terms.text) is None:
            text = payload[0] == BRACE
        try:
            session.send(payload, text)
        except ConnectionLost as exc:
            if not session.keep_for_next_connection(payload, text, exc):
                self._host.ignore("response without a connection")

    def grant(self, h: int, n: int, size: int) -> None:
        """Let the remote peer send ``n`` items of ``size`` bytes on channel ``h``, in total."""
        self.session.send_control(CreditMessage(h, n, size))
        # Now, because the producer may wait for the credit, and this turn of the event loop may last long.
        connection = self.session.connection
        if connection is not None:
            connection.transport.flush()

    def check_cap(self, payload: bytes) -> None:
        """Check that a message does not exceed the hard cap of a full connection.

        Raises:
            QueueFull: the message exceeds the hard cap.
        """
        session = self.session
        if session.full and self.over_cap(len(payload)):
            raise QueueFull(
                f"{session.unsent} bytes are unsent (Limits.hard_cap_bytes={self.settings.limits.hard_cap_bytes}): "
                "the other side reads too slowly; `await emit()` waits instead"
            )

    def over_cap(self, size: int) -> bool:
        """Return whether ``size`` more bytes would exceed `Limits.hard_cap_bytes`. A single message always fits."""
        unsent = self.session.unsent
        return unsent > 0 and unsent + size > self.settings.limits.hard_cap_bytes
