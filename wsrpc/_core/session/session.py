"""`Session`: a transport that survives drops."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, ClassVar

from ..._base.closing import RESUMABLE, CloseCode, CloseInfo
from ..._base.scheduler import Timer
from ...errors import ConnectionLost
from ...limits import Limits
from ..wire.control import (
    PARTS,
    UNCOUNTED,
    Ack,
    Announced,
    Control,
    CreditMessage,
    Deprecated,
    Drain,
    Hello,
    LimitsChanged,
    UnknownControl,
    Welcome,
    announce,
    read_control,
    write_control,
)
from .connection import Connection, Receive, ignore_end, ignore_message
from .negotiation import Negotiation
from .offline_queue import Encoded, OfflineQueue
from .parts import MARK, PART_BYTES
from .peer_host import PeerHost
from .replay import Acknowledger, Mismatch, ReplayBuffer, Send
from .session_end import NO_DECISION, Decision, SessionEnd, end_of
from .session_states import SessionInput, SessionState, after

NOT_CONNECTED = CloseInfo(CloseCode.ABNORMAL, "not connected")
VERSION = 1
BYTES_PER_MESSAGE = 192
"""About how many bytes a waiting message takes besides its payload."""

_OVER = SessionState.OVER  # a constant, because Python 3.11 looks members of an enum up slowly


class Session:
    """A transport that survives drops: it has one connection after another, or none, and ends once.

    ``send`` passes a message to the connection, or raises `ConnectionLost`; see `_choose_send`. It is an attribute, so
    that the messages of a plain peer go straight to the method of the transport. `send_or_wait` is for messages whose
    sender cannot wait: control messages and broadcasts. (`SessionWriter.reply` does the same for replies.)

    A control message and a part of a message look like any other message until they are decoded. The receiver therefore
    passes messages that it cannot handle to `receive_part` and `receive_control`. A plain peer sends neither.

    A session is made before its first connection. `start_on` gives it that connection, and `_resume_on` each later one.
    ``TABLE`` of ``_core.session.session_states`` has its states, and the inputs that change them.

    Args:
        queue: the messages of the peer that wait for a connection.
        last_close: why there is no connection yet.
    """

    __slots__ = (
        "_direct",
        "_expiry_timer",
        "_held_back",
        "_host",
        "_offline_queue",
        "_read_ended",
        "_receive",
        "_wrap",
        "acknowledger",
        "connection",
        "end_error",
        "full",
        "last_close",
        "negotiation",
        "over",
        "replay",
        "send",
        "sid",
        "state",
        "ttl",
    )

    greeting: ClassVar[type[Hello | Welcome]]
    """The first message of the remote peer."""

    def __init__(self, host: PeerHost, queue: OfflineQueue, *, last_close: CloseInfo = NOT_CONNECTED) -> None:
        self._offline_queue = queue
        self._host = host
        self.connection: Connection | None = None
        """The present connection, which may be dead."""
        self._receive: Receive = ignore_message
        self._read_ended: Callable[[], None] = ignore_end
        self._wrap: Callable[[Send], Send] | None = None
        self.state = SessionState.NEW
        self.over = False
        """Whether the session has ended. An attribute and not a property, because each request reads it."""
        self.last_close = last_close
        """How the last connection has ended, or will end because this side closes it. It says why there is none."""
        self.end_error: ConnectionLost | None = None
        """The error of calls in flight. None until the session is over."""
        self.send: Send = not_sent
        self._direct: Send = not_sent
        """What ``send`` does when no message is held back."""
        self._held_back: tuple[Callable[[], None], ...] = ()
        """The functions that send the messages that are held back, the outermost first. See `precede`."""
        self.negotiation = Negotiation(host, dialer=self.greeting is Welcome)
        self.replay: ReplayBuffer | None = None
        """The messages that may have to be sent again. None if the session ends with its connection."""
        self.acknowledger: Acknowledger | None = None
        """Counts the received messages. None until the remote peer counts them, too."""
        self.sid = ""
        """The name of the session. Empty if the session cannot resume on another connection."""
        self.ttl = 0.0
        """Seconds for which the session is kept without a connection."""
        self.full = False
        """Whether senders wait: the connection is above its high-water mark, or `Limits.replay_bytes` is reached."""
        self._expiry_timer: Timer | None = None
        """Ends the session after ``ttl`` seconds without a connection. Before the welcome, it stops the keeping."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.state.text}{' full' if self.full else ''}>"

    # ------------------------------------------------------------ state

    @property
    def live_connection(self) -> Connection | None:
        """The present connection. None if there is none, or if it is dead."""
        return None if self.state.connection == "dead" else self.connection

    def _move(self, happened: SessionInput) -> None:
        self.state = state = after(self.state, happened)
        self.over = state is _OVER
        self._choose_send()
        self._host.current.update()

    # ------------------------------------------------------------ the beginning

    def start_on(self, connection: Connection, *, can_resume: bool, wrap: Callable[[Send], Send] | None = None) -> None:
        """Start the session on its first connection. No message is received before `start_receiving`.

        Args:
            can_resume: whether this side can resume the session on another connection.
            wrap: wraps the function that sends messages.
        """
        self.negotiation.can_resume = can_resume
        self._host.log.program = self._host.contract = None  # of the last remote peer; a plain peer announces none
        self._wrap = wrap
        self._set_connection(connection)
        self._move(SessionInput.STARTED)

    def _set_connection(self, connection: Connection) -> None:
        """Make ``connection`` the present connection. Nothing was sent on it yet."""
        self.connection = connection
        connection.owner = self

    def set_receive(self, receive: Receive) -> None:
        """Pass all further messages to ``receive``."""
        self._receive = receive
        if self.connection is not None:
            self.connection.receive = receive

    def start_receiving(self, receive: Receive, read_ended: Callable[[], None]) -> None:
        """Receive messages from now on. Messages that have already arrived are received within this call."""
        self._receive, self._read_ended = receive, read_ended
        connection = self.connection
        if connection is None:
            return
        if connection.ended is not None:  # before it belonged to this session
            self._host.loop.call_soon(partial(self.connection_lost, connection, connection.ended))
        elif self.state is SessionState.CLOSING:
            connection.start_receiving(connection.receive, ignore_end)
        else:
            connection.start_receiving(receive, read_ended)

    # ------------------------------------------------------------ sending

    def _choose_send(self) -> None:
        """Choose what ``send`` does. Called when the state or ``replay`` change."""
        connection, replay = self.connection, self.replay
        if connection is None or self.state.waits:
            # Also when there still is a connection: it has refused a message, which no later message may overtake.
            self._direct = not_sent
        else:
            direct = connection.send if replay is None else replay.counted_send(connection.send)
            self._direct = direct if self._wrap is None else self._wrap(direct)
        self.send = self._send_after_held_back if self._held_back else self._direct

    def _hold_back(self, first: tuple[Callable[[], None], ...]) -> None:
        """Let these functions send the messages that are held back, before each message that is sent."""
        self._held_back, self.send = first, self._send_after_held_back if first else self._direct

    def precede(self, first: Callable[[], None]) -> Callable[[], None]:
        """Call ``first`` before each message that is sent from now on. Return a function that stops these calls.

        A producer uses it while it collects items for one message. Other code may run meanwhile, and may send messages.
        ``first`` then sends the collected items before these messages. Code that closes a channel or the session calls
        `send_held_back` before. Calls of `precede` may be nested.
        """
        outer = self._held_back
        self._hold_back((*outer, first))
        return partial(self._hold_back, outer)

    def send_held_back(self) -> None:
        """Send the messages that are held back, see `precede`."""
        held_back = self._held_back
        if not held_back:
            return
        self._hold_back(())  # no message precedes these
        try:
            for first in held_back:
                first()
        finally:
            self._hold_back(held_back)

    def _send_after_held_back(self, payload: bytes, text: bool = True, /) -> None:
        self.send_held_back()
        self._direct(payload, text)

    @property
    def unsent(self) -> int:
        """Bytes that the connection has not written yet. Without a connection, ``kept_bytes``."""
        connection = self.live_connection
        return self.kept_bytes if connection is None else connection.transport.unsent

    def send_control(self, message: Control) -> None:
        """Send a control message, which is JSON text whatever the codec is.

        The message waits and is counted like other messages. If it can neither be sent nor wait, it is dropped.
        """
        with suppress(ConnectionLost):
            self.send_or_wait(write_control(message), True)

    def send_failed(self, why: ConnectionLost) -> None:
        """The connection has refused a message. It is dead, and is about to report its end."""
        if self.state.sends:
            self.last_close = CloseInfo(why.code, why.reason)  # until the connection reports its end
            self._move(SessionInput.SEND_FAILED)
            self.update_full(other_connection=True)

    def send_or_wait(self, payload: bytes, text: bool) -> None:
        """Send a message, or let it wait for another connection.

        Raises:
            ConnectionLost: the message can neither be sent nor wait.
        """
        try:
            self.send(payload, text)
        except ConnectionLost as exc:
            if not self.keep_for_next_connection(payload, text, exc):
                raise

    def keep_for_next_connection(self, payload: bytes, text: bool, why: ConnectionLost) -> bool:
        """Let a message wait that ``send`` has refused. Return False if there will be no other connection."""
        if self.state.resumes:  # else the connection reports its end soon enough
            self.send_failed(why)
        if self.state.waits:
            self.enqueue(Encoded(payload, text))
            return True
        return False

    def enqueue(self, message: Encoded) -> None:
        """Add a message of the session to the offline queue. Called only while the session may get a connection."""
        self._offline_queue.add(message)
        self.queue_changed()

    def queue_changed(self) -> None:
        """The messages that wait with the session have changed."""
        self.memory_changed()
        self.update_full()

    @property
    def queue_is_empty(self) -> bool:
        """Whether no message of the user waits in the queue."""
        return not self._offline_queue.user_count

    def send_queued(self, *, include_user_messages: bool) -> None:
        """Send the messages that wait, oldest first, until the connection refuses one, or one has to wait longer.

        Args:
            include_user_messages: whether to send the user's messages, too.
        """
        if self.live_connection is None:
            return
        try:
            self._offline_queue.send(self._direct, include_user_messages=include_user_messages)
        except ConnectionLost as exc:
            self.send_failed(exc)

    def update_full(self, *, other_connection: bool = False) -> None:
        """Update ``full``, because something has changed on which it depends.

        Args:
            other_connection: the session has another connection, or none. This is reported even if ``full`` stays.
        """
        connection, replay = self.connection, self.replay
        # As `live_connection`, without a call.
        full = (
            (connection is not None and connection.above_high_water and self.state.connection != "dead")
            or (replay is not None and replay.at_limit)
            or (self._offline_queue.session_size > 0 and self.kept_bytes >= self._host.settings.limits.replay_bytes)
        )
        if (full != self.full or other_connection) and self.state is not SessionState.OVER:
            self.full = full
            self._host.current.room_changed()

    def _waits(self) -> bool:
        """Return whether something waits for the remote peer: an acknowledgement, a response or a channel."""
        return bool(self.replay) or self._host.current.has_calls

    # ------------------------------------------------------------ messages that are kept, and counted

    @property
    def kept_bytes(self) -> int:
        """Bytes of the messages that may have to be sent again, and of the messages of the session that wait."""
        replay, waiting = self.replay, self._offline_queue.session_size
        return waiting if replay is None else waiting + replay.size

    def memory_changed(self) -> None:
        """The session takes more memory, or less."""

    def _count_sent(self) -> None:
        """From now on, count sent messages, and keep them until the remote peer has acknowledged them."""
        self.replay = ReplayBuffer(self, self._host)
        self._choose_send()

    def _count_received(self) -> None:
        """From now on, count received messages, as the remote peer does. The session can resume if this side counts."""
        self.acknowledger, connection = Acknowledger(self, self._host.loop), self.connection
        if self.replay is not None and self.negotiation.has(PARTS):
            self.replay.largest = PART_BYTES
        if connection is not None and self.state is not SessionState.CLOSING:
            if self.replay is not None:
                connection.mark_resumable(self._waits)
                if not self.state.resumes:
                    self._move(SessionInput.COUNTED)
            connection.receive = self.acknowledger.counted_receive(connection, self._receive)

    def stop_keeping(self) -> None:
        """From now on, neither count nor keep sent messages. The session will end with its connection.

        Received messages are still counted, because the remote peer waits for acknowledgements.
        """
        if self.replay is not None and self.connection is not None:
            self.replay.stop_stall_timer()
            self.replay = None
            if self.state.resumes:
                self._move(SessionInput.STOPPED_KEEPING)
            else:
                self._choose_send()
            self.update_full()

    # ------------------------------------------------------------ control messages

    def change_limits(self, limits: Limits) -> None:
        """Set other limits of this side, and announce them."""
        self.negotiation.limits = limits
        if self.connection is not None:
            self.connection.transport.largest = limits.message_bytes
        if self.negotiation.common is not None:
            self.send_control(LimitsChanged(announce(limits)))

    def receive_part(self, payload: bytes | bytearray, text: bool) -> bool:
        """Receive a part of a message, and the message with its last part. Return False if it is no part."""
        if text or self.acknowledger is None or not self.negotiation.has(PARTS) or not payload.startswith(MARK):
            return False
        self.acknowledger.join(payload, self._receive)
        return True

    def receive_control(self, payload: bytes | bytearray) -> bool:
        """Receive a control message. Return False if ``payload`` is another message."""
        message = read_control(payload)
        if message is None:
            return False
        if self.acknowledger is not None and isinstance(message, UNCOUNTED):
            self.acknowledger.uncount(len(payload))
        if isinstance(message, UnknownControl):
            self._host.ignore("unknown control message")
        elif isinstance(message, (CreditMessage, Drain)):
            self._host.current.control_received(message)
        elif not self._handle_control(message):
            self._host.ignore("control message out of place")
        return True

    def _handle_control(self, message: Any) -> bool:
        """Handle a control message that is about the session. Return False if it is out of place."""
        negotiation, host = self.negotiation, self._host
        greeted = negotiation.common is not None
        if isinstance(message, Ack) and self.acknowledger is not None:
            self._acknowledged(message)
        elif isinstance(message, Deprecated) and greeted:
            host.warn_deprecated(message.event, message.why)
        elif not isinstance(message, LimitsChanged if greeted else self.greeting):
            return False
        elif isinstance(message, Hello) and message.v < VERSION:
            host.ignore("hello of another version")
        elif (why := message.limits.objection()) is not None:
            self.fail(CloseCode.INVALID_DATA, why)
        elif isinstance(message, LimitsChanged):
            negotiation.apply(message.limits)
        else:
            host.announced(message.program, message.contract)
            negotiation.agree(message.features)
            self._greeting_received(message)
        return True

    def _acknowledged(self, ack: Ack) -> None:
        """Drop the messages that have arrived from the replay buffer."""
        if self.connection is not None:
            self.connection.acknowledged()
        if self.replay is not None:
            try:
                if self.replay.acknowledge(ack.n, ack.bytes):
                    self.update_full()
            except Mismatch as exc:
                self.fail(CloseCode.COUNT_MISMATCH, str(exc))

    def _greeting_received(self, message: Any) -> None:
        """The `greeting` of the remote peer has arrived. Both sides know their common features."""
        raise NotImplementedError

    # ------------------------------------------------------------ from one connection to the next

    def connection_lost(self, connection: Connection, info: CloseInfo) -> None:
        """The connection has ended. Wait for another one, or end the session."""
        if connection is self.connection:
            self._drop(info, resumable=info.code in RESUMABLE)

    def _drop(self, info: CloseInfo, *, resumable: bool) -> None:
        """Lose the connection. The owner decides, and may ask a function of the user, which may end the session."""
        decision = self._host.owner.decide(info)
        if decision.keeps and resumable and self.state.resumes:
            self._detach(info, decision)
        elif not self.over:
            self.end(SessionInput.ENDED, info=info, decision=decision)

    def _detach(self, info: CloseInfo, decision: Decision) -> None:
        """Wait for another connection for ``ttl`` seconds."""
        self._detach_connection()
        self._move(SessionInput.DETACHED)
        self.last_close = info
        self._stop_timers()
        expired, loop = partial(self.end, SessionInput.EXPIRED, "no connection resumed it in time"), self._host.loop
        self._expiry_timer = loop.call_at(loop.time() + self.ttl, expired)
        self.update_full(other_connection=True)
        self._host.current.session_detached(info, decision)

    def _detach_connection(self) -> None:
        """Drop the present connection. The session ignores what it still delivers."""
        connection, self.connection = self.connection, None
        if connection is not None:
            connection.disown()
            self._host.connection_ended(connection)

    def _resume_on(self, connection: Connection, limits: Announced) -> None:
        """Resume on ``connection``. The caller has checked that the counts agree.

        Messages leave in this order: messages that have not arrived, messages that have waited, new messages. After
        these steps, received messages are handled.
        """
        self._stop_timers()
        self._set_connection(connection)
        connection.transport.largest = self.negotiation.limits.message_bytes  # `Peer.limits` may have changed
        self._send_again(connection)
        is_open = self._host.current.session_resuming(connection, limits)
        self.send_queued(include_user_messages=is_open)
        self._announce_changes()
        self.update_full(other_connection=True)
        self._receive_again(connection)

    def _counts_agree(self, connection: Connection, rx: int, size: int, limits: Announced) -> bool:
        """Drop the ``rx`` messages of ``size`` bytes that have arrived.

        Return False if the session cannot go on, and has therefore ended.
        """
        assert self.replay is not None
        code, why = CloseCode.INVALID_DATA, limits.objection()
        if why is None:
            try:
                self.replay.acknowledge(rx, size)
                code, why = CloseCode.MESSAGE_TOO_BIG, self.replay.prepare_again()
            except Mismatch as exc:
                code, why = CloseCode.COUNT_MISMATCH, str(exc)
        if why is not None:
            self._host.log.warn("closing the connection with %d: %s", code, why)
            connection.disown()
            self._host.spawn(connection.close(code, why))
            self.end(SessionInput.ENDED, why)
        return why is None

    def _send_again(self, connection: Connection) -> None:
        """Send the messages that have not arrived."""
        replay = self.replay
        assert replay is not None
        for payload, text in replay.unacknowledged() if replay.size else ():
            with suppress(ConnectionLost):  # another connection gets them
                connection.send(payload, text)
        self._move(SessionInput.RESUMED)
        if replay.at_limit:  # as on the last connection, whose timer is stopped
            replay.start_stall_timer()
        connection.mark_resumable(self._waits)

    def _receive_again(self, connection: Connection) -> None:
        """Receive messages on ``connection``, if it is still the present one and this side does not close it."""
        if self.connection is not connection or self.state is SessionState.CLOSING:
            return
        receive = self._receive
        if self.acknowledger is not None:  # else a welcome follows
            self.acknowledger.record_acknowledged()  # the remote peer got the count when it resumed
            receive = self.acknowledger.counted_receive(connection, receive)
        connection.start_receiving(receive, self._read_ended)
        self._host.current.session_resumed()

    def _announce_changes(self) -> None:
        """Announce what has changed while the session had no connection. Called after the waiting messages."""

    # ------------------------------------------------------------ the end

    def start_closing(self, info: CloseInfo) -> None:
        """Ignore received messages from now on. The caller closes the connection, and the session ends with it."""
        self._announce_end()
        self._move(SessionInput.CLOSED)
        self.last_close = info
        if self.connection is not None:
            self.connection.stop_receiving()

    def _announce_end(self) -> None:
        """Announce that the session ends with its connection, if the remote peer might not notice this."""

    async def close(self, code: int | None = 1000, reason: str = "") -> None:
        """Close the connection, and return when it has ended. Cancelling is safe."""
        if self.connection is not None:
            await self.connection.close(code, reason)

    def fail(self, code: int, reason: str) -> None:
        """End the session because of what the remote peer did. Ignore further messages."""
        if self.state.away:
            self.end(SessionInput.OVERFLOWED, reason)
        elif self.state.lives and self.state is not SessionState.CLOSING:
            self._host.current.fail(code, reason)

    def end(
        self, cause: SessionInput, why: str = "", *, info: CloseInfo | None = None, decision: Decision = NO_DECISION
    ) -> None:
        """End the session and everything that belongs to it. Close its connection, if it is still open.

        Args:
            why: the reason of `SessionLost`, if the session has no connection.
            info: how the connection ends. None if ``last_close`` says how. See `end_of`.
        """
        end, connection = end_of(self.state, cause, self.last_close, info, why, decision), self.connection
        still_open = connection is not None and connection.ended is None
        if still_open and self.state is not SessionState.CLOSING:
            self._announce_end()
        self.last_close, self.end_error = end.info, end.error
        self._detach_connection()
        self._move(cause)
        self._stop_timers()
        self._drop_messages()
        self._release(end)
        self._host.current.session_over(end)
        if connection is not None and still_open:
            self._host.spawn(connection.close(end.info.code, end.info.reason))

    def _drop_messages(self) -> None:
        """Drop the kept messages, ignore received messages, and never be full again."""
        self.replay = self.acknowledger = None
        self._receive, self._read_ended = ignore_message, ignore_end
        self.negotiation.end()
        self.full = False

    def _release(self, end: SessionEnd) -> None:
        """Release what a subclass has added to the session, which is over."""

    def _stop_timers(self) -> None:
        if self.replay is not None and self.replay.at_limit:
            self.replay.stop_stall_timer()
        if self.acknowledger is not None:
            self.acknowledger.stop()
        if self._expiry_timer is not None:
            self._expiry_timer.cancel()
            self._expiry_timer = None


def not_sent(payload: bytes, text: bool = True, /) -> None:
    """Refuse a message, because there is no connection to send it on."""
    raise ConnectionLost(NOT_CONNECTED.code, NOT_CONNECTED.reason, "not_sent")
