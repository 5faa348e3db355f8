"""`Outbox`: what the sending half of a peer keeps from one session to the next."""

from __future__ import annotations

from collections.abc import Callable

from .._base.closing import CloseInfo
from .._base.names import Offline
from .._base.scheduler import Scheduler
from .._protocol.settings import Settings
from ..errors import ConnectionLost
from .offline import OfflineQueue
from .pending import Pending, PendingRequests


class Outbox:
    """What the sending half of a peer keeps from one session to the next.

    These are the pending requests, whose ids go on counting, and the messages of a client that wait for a session.

    Args:
        odd: whether the ids of requests are odd: the side that dialed uses those.
        keeps_offline: whether messages that are sent without a session wait for the next one.
        fails_offline: whether a message without ``offline=`` fails instead of waiting for the next session.
        expired: called with each request whose deadline is over.
        queued: called when a message begins to wait for a connection.
        left_out: called with the number of broadcasts that were left out, because the remote peer reads too slowly.
        warn: writes a line into the log.
    """

    __slots__ = (
        "_fails_offline",
        "_queued",
        "_settings",
        "keeps_offline",
        "left_out",
        "queue",
        "requests",
        "user_closed",
        "warn",
    )

    def __init__(
        self,
        settings: Settings,
        loop: Scheduler,
        *,
        odd: bool,
        keeps_offline: bool,
        fails_offline: bool,
        expired: Callable[[Pending], None],
        queued: Callable[[], None],
        left_out: Callable[[int], None],
        warn: Callable[..., None],
    ) -> None:
        self._settings = settings
        self._queued = queued
        self.left_out = left_out
        self.warn = warn
        self.requests = PendingRequests(loop, odd=odd, limit=settings.limits.pending, expired=expired)
        self.queue: OfflineQueue | None = None
        """None until the first message waits for a session. A server's peer never has one."""
        self.keeps_offline = keeps_offline
        self._fails_offline = fails_offline
        self.user_closed = False
        """Whether the user has closed the peer, and nothing has begun another session since."""

    @property
    def expects_session(self) -> bool:
        """Whether messages that are sent without a session wait for the next one."""
        return self.keeps_offline and not self.user_closed

    def bound_by(self, offline: Offline | None) -> bool:
        """Return whether a message with that option is bound to the present connection."""
        return self._fails_offline if offline is None else offline == "fail"

    def expect_session(self) -> None:
        """Keep what is sent without a session: there will be one."""
        self.user_closed = False
        self.keeps_offline = True

    def expect_no_session(self) -> None:
        """Refuse what is sent from now on without a session: there will be none."""
        self.keeps_offline = False

    def offline_queue(self) -> OfflineQueue:
        """Return the queue of the messages that wait for a session."""
        if self.queue is None:
            self.queue = OfflineQueue(self._settings.codec, self._settings.limits, self._queued, self.warn)
        return self.queue

    def end_session(self, lost: ConnectionLost) -> None:
        """Fail with ``lost`` the requests that were sent in the session, and what is bound to its connection."""
        self.requests.end_session(lost)
        self.refuse_bound(lost)

    def refuse_bound(self, lost: ConnectionLost) -> None:
        """Fail with ``lost`` what was not sent and is bound to the connection, which has ended."""
        if self.queue is not None:
            self.queue.refuse_bound(lost)
        for pending in self.requests.unsent():
            # A request on an anonymous channel ends with that.
            if pending.h is None and self.bound_by(pending.options.offline):
                self.requests.fail(pending, lost.for_outcome("not_sent"))

    def discard(self, info: CloseInfo) -> None:
        """Drop everything that waits for a session, because none will come. Requests fail, and events are logged."""
        self.discard_requests(info)
        if self.queue is not None:
            self.queue.discard()

    def discard_requests(self, info: CloseInfo) -> None:
        """Fail the requests that were not sent yet."""
        for pending in self.requests.unsent():
            pending.take_back()
            self.requests.fail(pending, ConnectionLost(info.code, info.reason, "not_sent"))
