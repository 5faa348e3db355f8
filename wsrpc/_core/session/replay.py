"""`ReplayBuffer`: sent messages that may have to be sent again. `Acknowledger`: counts and acknowledges received ones.

No other module counts messages. While a session keeps messages, `Session.send` is `ReplayBuffer.counted_send`, which
cuts large ones in parts. Messages that are sent again, and those of `UNCOUNTED`, go straight to the connection. All
received messages pass through `Acknowledger.counted_receive`, and `Session.receive_part` lets it join the parts.

Both sides count the same messages: the messages of the server from its welcome on, and the messages of the client from
its hello on. The control messages in `UNCOUNTED` are not counted.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from ..._base.closing import CloseCode, CloseInfo
from ..._base.scheduler import Scheduler, Timer
from ...errors import ConnectionLost
from ..wire.control import Ack
from .connection import Connection, Receive
from .parts import BINARY, HEAD, LARGEST_PART, MARK, MORE, PART_BYTES, SECONDS, TEXT, cut
from .peer_host import PeerHost

if TYPE_CHECKING:
    from .session import Session

ACK_MESSAGES = 256
ACK_BYTES = 64 * 1024
"""After so many messages or bytes, an acknowledgement leaves within a turn of the event loop. Both numbers are small
compared with the limits of the remote peer's replay buffer."""
LOSSES, LOSING_SECONDS = 4, 30.0
"""Connections in a row, and seconds, in which the first message may be lost. See `ReplayBuffer.prepare_again`."""
ENGINE_BYTES = 32 * 1024
"""Bytes of a message that each engine carries."""
ACK_SECONDS = 1.0
"""Seconds after which fewer messages are acknowledged, too. An idle connection has no timer."""


Send = Callable[[bytes, bool], Any]


class Mismatch(Exception):
    """The two sides have counted differently, so messages would be lost or sent twice. The text says how."""


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
        "_in_parts",
        "_limit",
        "_losses",
        "_lost_at",
        "_measuring",
        "_most",
        "_payloads",
        "_repeats",
        "_session",
        "_stall_timer",
        "_texts",
        "acknowledged",
        "acknowledged_bytes",
        "at_limit",
        "largest",
        "size",
    )

    def __init__(self, session: Session, host: PeerHost) -> None:
        self._session = session
        self._host = host
        self.largest = sys.maxsize
        """Bytes of the largest message that is not sent in parts."""
        self._measuring: tuple[int, int, float] | None = None
        """While the time of a message in parts is measured: `sent` after it, its bytes, and when it was sent."""
        self._in_parts = False
        """Whether each large message is sent in parts, because one that was not in parts has not arrived."""
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
        self._losses = 0
        """Connections that were lost in a row without any message having arrived."""
        self._lost_at = 0.0
        """When the session resumed after the first of them."""
        self._repeats = False
        """Whether the session has resumed, and nothing was acknowledged since."""

    def __len__(self) -> int:
        return len(self._payloads)

    def counted_send(self, send: Send) -> Send:
        """Return a function that passes a message to ``send``, and keeps the message if ``send`` accepts it."""
        payloads, texts, limit, most = self._payloads, self._texts, self._limit, self._most

        def send_counted(payload: bytes, text: bool = True, /) -> None:
            size = len(payload)
            if size > self.largest:
                self._send_parts(send, payload, text)
                return
            send(payload, text)
            payloads.append(payload)
            texts.append(text)
            self.size = size = self.size + size
            if size >= limit or len(payloads) >= most:
                self._limit_reached(1)

        return send_counted

    def _send_parts(self, send: Send, payload: bytes, text: bool) -> None:
        parts, started = cut(payload, text, self.largest), self._host.loop.time()
        send(parts[0], False)
        for part in parts[1:]:
            with suppress(ConnectionLost):  # the message is kept like any message that does not arrive
                send(part, False)
        self._payloads += parts
        self._texts += [False] * len(parts)
        self.size += sum(map(len, parts))
        if self._measuring is None:
            self._measuring = self.sent, len(payload), started
        if self.size >= self._limit or len(self._payloads) >= self._most:
            self._limit_reached(len(parts))

    def _limit_reached(self, count: int) -> None:
        """A limit is reached by a message of ``count`` parts."""
        session, size = self._session, self.size
        if session.replay is not self:
            return
        if not session.sid:  # a plain server acknowledges nothing, and no server does so before its welcome
            if size > self._cap or len(self._payloads) * self._limit > self._most * self._cap:  # in proportion
                session.stop_keeping()
        elif size > self._cap and len(self._payloads) > count:
            if session.connection is not None:
                text = "has not acknowledged %d bytes (Limits.replay_bytes and hard_cap_bytes): "
                self._host.log.warn(text + "its session will end with this connection", size)
                session.stop_keeping()
        elif not self.at_limit:
            self.at_limit = True
            self.start_stall_timer()
            session.update_full()

    def welcomed(self) -> None:
        """Let senders wait if a limit is reached already: what was sent before the welcome will be acknowledged now."""
        if self.size >= self._limit or len(self._payloads) >= self._most:
            self._limit_reached(0)

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
        self._repeats = False
        self.size -= arrived
        self._losses *= not new
        if size != self.acknowledged_bytes:
            raise Mismatch(f"{size} bytes acknowledged in {n} messages, which had {self.acknowledged_bytes}")
        if self._measuring is not None and n >= self._measuring[0]:
            self._measure(*self._measuring[1:])
        if not self.at_limit or self.size >= self._limit or len(payloads) >= self._most:
            return False
        self.at_limit = False
        self.stop_stall_timer()
        return True

    def _measure(self, size: int, started: float) -> None:
        """Record how long a message of ``size`` bytes took that was sent at ``started``."""
        self._measuring = None
        if not self._in_parts:
            seconds = max(self._host.loop.time() - started, 0.001)
            self.largest = min(max(PART_BYTES, int(size * SECONDS / seconds)), LARGEST_PART)

    def prepare_again(self) -> str | None:
        """Prepare the messages for another connection, which has to show that it is fast. Called once for each.

        Return why the session cannot go on: its first message has not arrived on `LOSSES` connections in a row, in
        `LOSING_SECONDS` seconds. All later messages would wait for it, and the path may be unable to carry it.

        Between nodes, the largest message is given up instead: what carries the connections may be unable to carry it,
        so that all further connections would end, too.
        """
        payloads, self._repeats = self._payloads, True
        if not payloads:
            self._losses = 0
            return None
        self._losses += 1
        largest = max(payloads, key=len)
        if self.largest < sys.maxsize:  # the remote peer joins parts
            self.largest, self._measuring = PART_BYTES, None
            if len(largest) > PART_BYTES + HEAD:
                self._cut()
        if self._losses == 1:
            self._lost_at = self._host.loop.time()
        if self._losses < LOSSES:
            return None
        if not self._host.settings.between_nodes:
            late = self._host.loop.time() - self._lost_at >= LOSING_SECONDS
            return f"a message of {len(payloads[0])} bytes was lost {self._losses} times in a row" if late else None
        if len(largest) > ENGINE_BYTES:
            index = payloads.index(largest)
            payloads[index], self._texts[index] = self._host.current.give_up(largest)
            self.size += len(payloads[index]) - len(largest)
        return None

    def _cut(self) -> None:
        """Cut the large messages that are kept, and from now on each large message."""
        self._in_parts, kept = True, self.unacknowledged()
        self._payloads.clear()
        self._texts.clear()
        for payload, text in kept:
            is_large = len(payload) > PART_BYTES + HEAD
            parts = cut(payload, text, PART_BYTES) if is_large else [payload]
            self._payloads += parts
            self._texts += [text and not is_large] * len(parts)
        self.size = sum(map(len, self._payloads))

    def start_stall_timer(self) -> None:
        """Drop the connection if no message is acknowledged, and none arrives, for `Limits.stall_timeout` seconds.

        An acknowledgement comes after the messages that the remote peer has sent before.
        """
        if (connection := self._session.connection) is None:
            return
        loop, seconds, before = self._host.loop, self._host.settings.limits.stall_timeout, self._progress

        def check() -> None:
            if self._progress != before:
                self.start_stall_timer()
            elif not connection.closing:  # else acknowledgements are ignored
                connection.drop(CloseInfo(CloseCode.ABNORMAL, f"nothing was acknowledged for {seconds:g} s"))

        self._stall_timer = loop.call_at(loop.time() + seconds, check)

    @property
    def _progress(self) -> tuple[int, int]:
        acknowledger = self._session.acknowledger
        return self.acknowledged, 0 if acknowledger is None else acknowledger.n

    @property
    def received(self) -> object:
        """How much has arrived, and on which connection: another value after more has arrived, or a resume."""
        return self._session.connection, self._progress

    def remote_repeats(self, since: object) -> bool:
        """Return whether what the remote peer has sent on a lost connection may still arrive.

        It sends that again after a resume, before its next acknowledgement. (The count of messages with which the
        session resumes precedes it.) If nothing has arrived since ``received`` was ``since``, nothing more will.
        """
        return self._session.connection is None or (self._repeats and self.received != since)

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
        "_session",
        "_timer",
        "bytes",
        "joined",
        "n",
    )

    def __init__(self, session: Session, loop: Scheduler) -> None:
        self._session = session
        self._loop = loop
        self._connection: Connection | None = None
        """The present connection."""
        self.n = 0
        self.bytes = 0
        self.joined = bytearray()
        """The parts of a message that wait for its rest."""
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

    def join(self, part: bytes | bytearray, receive: Receive) -> None:
        """Add a part to the parts before it, and pass their message to ``receive`` if it was the last."""
        most, joined = self._session.negotiation.limits.message_bytes, self.joined
        joined += memoryview(part)[HEAD:]
        if len(part) <= HEAD or part[1] > BINARY or (part[1] == BINARY and joined.startswith(MARK)):
            self._session.fail(
                CloseCode.INVALID_DATA, "part of a message without content, of an unknown kind or in parts"
            )
        elif len(joined) > most:
            self._session.fail(CloseCode.MESSAGE_TOO_BIG, f"parts of a message exceed limit of {most} bytes")
        elif part[1] != MORE:
            self.joined = bytearray()
            receive(joined, part[1] == TEXT)

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
