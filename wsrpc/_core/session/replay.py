"""`ReplayBuffer`: sent messages that may have to be sent again. `Acknowledger`: counts and acknowledges received ones.

Both exist only in a session that can resume. No other module counts messages. All sent messages (replies, broadcasts,
raw messages, credit) pass through `ReplayBuffer.counted_send`. All received messages pass through
`Acknowledger.counted_receive`, just before they are decoded.

Both sides count the same messages: the messages of the server from its welcome on, and the messages of the client from
its ``ack n: 0`` on. The control messages in `UNCOUNTED` are not counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol

from ..._base.closing import CloseCode
from ..._base.scheduler import Scheduler, Timer
from ..wire.control import Ack
from .connection import Connection, Receive
from .host import Host

ACK_MESSAGES = 256
ACK_BYTES = 64 * 1024
"""After so many messages or bytes, an acknowledgement leaves within a turn of the event loop. Both numbers are small
compared with the limits of the remote peer's replay buffer."""
LOSSES, LARGE = 4, 32 * 1024
"""Connections on which a message may be lost in a row, and bytes that each engine carries. See `give_up_stuck`."""
ACK_SECONDS = 1.0
"""Seconds after which fewer messages are acknowledged, too. An idle connection has no timer."""

Send = Callable[[bytes, bool], Any]


class Mismatch(Exception):
    """The two sides have counted differently, so messages would be lost or sent twice. The text says how."""


class ReplayOwner(Protocol):
    """The session that has a `ReplayBuffer`. `Session` implements it, and imports this module."""

    replay: ReplayBuffer | None
    """None once the session keeps no more messages, or is over."""
    connection: Connection | None
    """The present connection."""

    def update_full(self) -> None:
        """Update `Session.full`: the buffer has reached its limit, or has room again."""

    def stop_keeping(self) -> None:
        """End with the present connection: the buffer has exceeded `Limits.hard_cap_bytes`."""

    def fail(self, code: int, reason: str, /) -> None:
        """End because of what the remote peer did."""


class ReplayBuffer:
    """The messages that this side has sent in one session, and that the remote peer has not acknowledged.

    ``replay_bytes`` and ``replay_messages`` of `Limits` are its limits: when one is reached, senders wait. Messages
    whose sender cannot wait may take ``hard_cap_bytes`` more. Beyond that, the session stops keeping messages, and
    drops the buffer. The dropped buffer still gets the message that is being sent at that moment, and ignores it.

    Args:
        session: the session of the messages.
    """

    __slots__ = (
        "_cap",
        "_host",
        "_limit",
        "_losses",
        "_most",
        "_payloads",
        "_session",
        "_stall_timer",
        "_texts",
        "acknowledged",
        "acknowledged_bytes",
        "at_limit",
        "size",
    )

    def __init__(self, session: ReplayOwner, host: Host) -> None:
        self._session = session
        self._host = host
        limits = host.settings.limits
        self._limit = limits.replay_bytes
        self._most = limits.replay_messages
        self._cap = limits.replay_bytes + limits.hard_cap_bytes
        # Two lists instead of a deque of pairs: an empty deque takes 600 bytes in each connection, and the garbage
        # collector would look through thousands of pairs. Many leave a list at a time, so what follows is moved seldom.
        self._payloads: list[bytes] = []
        """The messages that are kept."""
        self._texts: list[bool] = []
        """Whether each of them is text."""
        self.size = 0
        """Bytes of the messages that are kept."""
        self.acknowledged = 0
        """Number of the messages that the remote peer has acknowledged. The messages that are kept follow them."""
        self.acknowledged_bytes = 0
        self.at_limit = False
        """Whether a limit is reached, so that senders wait."""
        self._stall_timer: Timer | None = None
        """Runs while a limit is reached and there is a connection. See `start_stall_timer`."""
        self._losses = 0  # see `give_up_stuck`

    def __len__(self) -> int:
        return len(self._payloads)

    def counted_send(self, send: Send) -> Send:
        """Return a function that passes a message to ``send``, and keeps the message if ``send`` accepts it."""
        keep = self.keep

        def send_counted(payload: bytes, text: bool = True, /) -> None:
            send(payload, text)
            keep(payload, text)

        return send_counted

    def keep(self, payload: bytes, text: bool) -> None:
        """Count and keep a message that has just been sent."""
        self._payloads.append(payload)
        self._texts.append(text)
        self.size = size = self.size + len(payload)
        if size >= self._limit or len(self._payloads) >= self._most:
            self._limit_reached(size)

    def _limit_reached(self, size: int) -> None:
        session = self._session
        if session.replay is not self:
            return
        if size > self._cap and len(self._payloads) > 1:
            if session.connection is not None:
                text = "has not acknowledged %d bytes (Limits.replay_bytes and hard_cap_bytes): "
                self._host.log.warn(text + "its session will end with this connection", size)
                session.stop_keeping()
        elif not self.at_limit:
            self.at_limit = True
            self.start_stall_timer()
            session.update_full()

    def acknowledge(self, n: int, size: int) -> bool:
        """Drop the first ``n`` messages of the session, which have arrived, and have ``size`` bytes in all.

        Return whether a limit was reached, and there is room now. The caller reports this to the session, because that
        could start a handler.

        Raises:
            Mismatch: this side has not sent ``n`` messages of ``size`` bytes.
        """
        new = n - self.acknowledged
        payloads = self._payloads
        if not 0 <= new <= len(payloads):
            raise Mismatch(f"{n} messages acknowledged, of which {self.acknowledged} before, but {self.sent} sent")
        arrived = sum(map(len, payloads[:new]))
        del payloads[:new], self._texts[:new]
        self.acknowledged, self.acknowledged_bytes = n, self.acknowledged_bytes + arrived
        self.size -= arrived
        self._losses *= not new
        if size != self.acknowledged_bytes:
            raise Mismatch(f"{size} bytes acknowledged in {n} messages, which had {self.acknowledged_bytes}")
        if not self.at_limit or self.size >= self._limit or len(payloads) >= self._most:
            return False
        self.at_limit = False
        self.stop_stall_timer()
        return True

    def give_up_stuck(self) -> None:
        """Give up the largest message if several connections in a row have ended before any message has arrived.

        What carries the connections may be unable to carry this message, and all further connections would end, too.
        Called on each further connection, before the messages are sent again.
        """
        payloads = self._payloads
        largest = max(payloads, key=len, default=b"")
        self._losses = self._losses + 1 if payloads else 0
        if self._losses >= LOSSES and len(largest) > LARGE:
            index = payloads.index(largest)
            payloads[index], self._texts[index] = self._host.current.give_up(largest)
            self.size += len(payloads[index]) - len(largest)

    def start_stall_timer(self) -> None:
        """Close the connection if no message is acknowledged for `Limits.stall_timeout` seconds."""
        if self._session.connection is None:
            return
        loop, seconds, before = self._host.loop, self._host.settings.limits.stall_timeout, self.acknowledged

        def check() -> None:
            if self.acknowledged == before:
                self._session.fail(CloseCode.SLOW_CONSUMER, f"nothing was acknowledged for {seconds:g} s")
            else:
                self.start_stall_timer()

        self._stall_timer = loop.call_at(loop.time() + seconds, check)

    def stop_stall_timer(self) -> None:
        """Stop the timer: there is room, or the connection has ended, or messages are no longer kept."""
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None

    @property
    def sent(self) -> int:
        """Number of all messages that were sent."""
        return self.acknowledged + len(self._payloads)

    def unacknowledged(self) -> Iterable[tuple[bytes, bool]]:
        """Return the messages that were not acknowledged, in order, and whether each is text."""
        return tuple(zip(self._payloads, self._texts, strict=True))


class Acknowledger:
    """Counts the messages that have arrived in one session, and acknowledges them.

    If possible, an acknowledgement leaves together with other messages. A write only for the acknowledgement, and the
    read on the remote peer, would cost more than all the counting.
    """

    __slots__ = (
        "_acknowledged",
        "_connection",
        "_loop",
        "_next",
        "_next_bytes",
        "_scheduled",
        "_timer",
        "bytes",
        "n",
    )

    def __init__(self, loop: Scheduler) -> None:
        self._loop = loop
        self._connection: Connection | None = None
        """The present connection."""
        self.n = 0
        self.bytes = 0
        self._acknowledged = 0
        """Number of the messages that were acknowledged."""
        self._next = ACK_MESSAGES
        """When ``n`` or ``bytes`` reach these numbers, an acknowledgement leaves soon."""
        self._next_bytes = ACK_BYTES
        self._scheduled = False
        """Whether an acknowledgement leaves in the next turn of the event loop."""
        self._timer: Timer | None = None
        """Runs while there are messages that were not acknowledged."""

    def counted_receive(self, connection: Connection, receive: Receive) -> Receive:
        """Return a function that counts each message of ``connection``, passes it on, and acknowledges if necessary."""
        self._connection = connection

        def receive_counted(payload: bytes | bytearray, text: bool, /) -> None:
            self.n += 1
            self.bytes += len(payload)
            receive(payload, text)
            if self.n >= self._next or self.bytes >= self._next_bytes or self._timer is None:
                self._arrived()

        return receive_counted

    def _arrived(self) -> None:
        if self._connection is None:  # the connection has ended because of this message
            return
        if self.n >= self._next or self.bytes >= self._next_bytes:
            if self._connection.transport.unsent > 0:  # the acknowledgement leaves together with these bytes
                self._acknowledge(self._connection)
                return
            # In the next turn, the answers to these messages are sent, too.
            self._set_next()
            if not self._scheduled:
                self._scheduled = True
                self._loop.call_soon(self._acknowledge_soon)
        elif self.n != self._acknowledged:
            self._timer = self._loop.call_at(self._loop.time() + ACK_SECONDS, self._acknowledge_late)

    def uncount(self, size: int) -> None:
        """Subtract the message that is being received, of ``size`` bytes, from the counts."""
        self.n -= 1
        self.bytes -= size

    def record_acknowledged(self) -> None:
        """Record that an `Ack`, `Resume` or `Resumed` acknowledges all messages that have arrived."""
        self._acknowledged = self.n
        self._set_next()

    def _set_next(self) -> None:
        self._next, self._next_bytes = self.n + ACK_MESSAGES, self.bytes + ACK_BYTES

    def stop(self) -> None:
        """Acknowledge no more messages: the connection has ended."""
        self._connection = None
        self._scheduled = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _acknowledge_soon(self) -> None:
        if self._scheduled:
            self._scheduled = False
            self._acknowledge_rest()

    def _acknowledge_late(self) -> None:
        self._timer = None
        self._acknowledge_rest()

    def _acknowledge_rest(self) -> None:
        if self._connection is not None and self.n != self._acknowledged:
            self._acknowledge(self._connection)

    def _acknowledge(self, connection: Connection) -> None:
        """Send an `Ack`."""
        self.record_acknowledged()
        connection.send_control(Ack(self.n, self.bytes))
