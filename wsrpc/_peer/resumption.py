"""`Resumption`: what one session needs to go on over another connection."""

from __future__ import annotations

from collections.abc import Callable

from .._base.scheduler import Scheduler, Timer
from .._protocol.control import Ack
from .._sending.ledger import ReceivedMessages, SentMessages
from .._sending.link import Link
from ..limits import Limits

__all__ = ["MOST_SILENCES", "Resumption"]

ANSWER_TIMEOUT = 5.0
"""Seconds in which the server answers that the session goes on, or that it is gone."""
MOST_SILENCES = 2
"""Connections in a row without an answer after which it is no wsrpc server any more. One may have been dead."""


class Resumption:
    """The name and the secret of a session, what it has sent and received, and how long it lives without a connection.

    Both sides have one for each session in which they said that they can resume. It is ``complete`` once both count.

    Args:
        token: on the client, what proves that the session is its own. The server keeps hashes elsewhere.
        ttl: seconds.
    """

    __slots__ = (
        "_answer_timer",
        "_loop",
        "_stall_timer",
        "_timer",
        "complete",
        "gen",
        "given_up",
        "link",
        "received",
        "sent",
        "sid",
        "silences",
        "token",
        "ttl",
    )

    def __init__(
        self,
        sid: str,
        token: str,
        ttl: float,
        *,
        loop: Scheduler,
        limits: Limits,
        room_changed: Callable[[], None],
        overflowed: Callable[[], None],
        tell: Callable[[bytes], None],
    ) -> None:
        self.sid = sid
        self.token = token
        self.ttl = ttl
        self.gen = 0
        """Number of attempts to resume, which the server compares with the last one that it has seen."""
        self.sent = SentMessages(limits, room_changed, overflowed)
        self.received = ReceivedMessages(loop, tell)
        self.given_up = False
        """Whether more was sent than may be kept, so that the session ends with its connection."""
        self.silences = 0
        """Connections in a row on which a resume got no answer."""
        self.complete = False
        """Whether both sides count, so that the session can go on over another connection."""
        self.link: Link | None = None
        """The link on which the client waits for the answer to its resume."""
        self._loop = loop
        self._answer_timer: Timer | None = None
        """Ends the wait for the answer to the resume."""
        self._stall_timer: Timer | None = None
        """Looks whether anything is acknowledged, while as much is kept as may be."""
        self._timer: Timer | None = None
        """Ends the session if it has no connection for too long."""

    def acknowledged(self, ack: Ack, size: int) -> None:
        """Throw away what the remote peer has received.

        Args:
            size: bytes of the control message, which is not counted.

        Raises:
            Mismatch: the two sides have counted differently.
        """
        self.received.leave_out(size)
        self.sent.acknowledge(ack.n, ack.bytes)

    def expire_after(self, seconds: float, expired: Callable[[], None]) -> None:
        """Call ``expired`` in that time, unless the session has a connection by then or is over."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(self._loop.time() + seconds, expired)

    def ask(self, link: Link, unanswered: Callable[[], None]) -> None:
        """Begin another attempt, on ``link``, and call ``unanswered`` if the server does not answer."""
        self.gen += 1
        self.link = link

        def overdue() -> None:
            if self.link is link:
                self.silences += 1
                unanswered()

        if self._answer_timer is not None:
            self._answer_timer.cancel()
        self._answer_timer = self._loop.call_at(self._loop.time() + ANSWER_TIMEOUT, overdue)

    def watch(self, seconds: float, stalled: Callable[[], None]) -> None:
        """Call ``stalled`` if the most is kept that may be, and nothing is acknowledged for so long."""
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None
        sent = self.sent
        if not sent.full:
            return
        arrived = sent.arrived

        def look() -> None:
            if sent.arrived == arrived:
                stalled()
            else:
                self.watch(seconds, stalled)

        self._stall_timer = self._loop.call_at(self._loop.time() + seconds, look)

    def stop(self) -> None:
        """Stop the timers: the connection has ended, or there is another one, or the session is over."""
        self.received.stop()
        if self._answer_timer is not None:
            self._answer_timer.cancel()
            self._answer_timer = None
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
