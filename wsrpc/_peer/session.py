"""`Session`: what belongs to one conversation of two peers."""

from __future__ import annotations

import asyncio
import contextvars

from .._base.scheduler import Scheduler
from .._channels.core import ChannelTable
from .._handlers.invocation import Invocation
from .._sending.link import Link

__all__ = ["Session"]


class Session:
    """One conversation of two peers: the requests that are being handled, and the anonymous channels.

    It is thrown away when it is over. A callback that comes late holds a session that is over, and can see that.
    """

    __slots__ = ("_gone", "active", "channels", "context", "end_reason", "link", "over", "paused")

    def __init__(self, channels: ChannelTable) -> None:
        self.channels = channels
        self.active: dict[int, Invocation] = {}
        """Requests of the remote peer that are being handled, by id."""
        self.context = contextvars.copy_context()
        """Each handler runs in a copy of it, so that what it sets is seen by no other one."""
        self.link: Link | None = None
        """None before it begins, and once it is over."""
        self.over = False
        """Whether the session has ended, so that nobody waits for an answer in it."""
        self.end_reason: Exception | None = None
        """Why it has ended: what handlers are cancelled with, because nobody can get their answers."""
        self.paused: asyncio.Future[None] | None = None
        """Set while no handler may start, because a Close frame is queued. Done when the session is over, or goes on
        over another connection."""
        self._gone: asyncio.Future[None] | None = None
        """Done once the session is over and its `close` handlers were called. None unless something waits for that."""

    def begin(self, link: Link) -> None:
        """Begin."""
        self.link = link

    def end(self) -> None:
        """End."""
        self.over = True
        self.link = None

    def pause(self, loop: Scheduler) -> None:
        """Let no handler start: a Close frame is queued. Idempotent."""
        if self.paused is None:
            self.paused = loop.create_future()

    def unpause(self) -> None:
        """Let handlers start: there is another connection. Idempotent."""
        paused, self.paused = self.paused, None
        if paused is not None:
            paused.set_result(None)

    def orphan_calls(self, reason: Exception) -> None:
        """Cancel the handlers of requests: the session is over, so nobody can get their answers.

        Handlers of events that have started finish.
        """
        self.end_reason = reason
        for call in list(self.active.values()):
            call.orphan(reason)
        self.active.clear()
        if self.paused is not None:
            self.paused.set_result(None)  # ends handlers that wait to start

    def end_reported(self) -> None:
        """Wake what waits in `wait_gone`."""
        gone, self._gone = self._gone, None
        if gone is not None and not gone.done():
            gone.set_result(None)

    async def wait_gone(self, loop: Scheduler) -> None:
        """Wait until there is no connection, and if the session is over its `close` handlers were called.

        Cancelling is safe.
        """
        await asyncio.shield(self.gone(loop))

    def gone(self, loop: Scheduler) -> asyncio.Future[None]:
        """Return the future that is done when `wait_gone` returns. Do not cancel it."""
        if self._gone is None:
            self._gone = loop.create_future()
        return self._gone

    def __repr__(self) -> str:
        return f"<Session{' over' if self.over else ''} active={len(self.active)} channels={len(self.channels)}>"
