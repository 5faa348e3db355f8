"""`Draining`: before the side that accepted closes, both sides finish what has begun."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from .._base.scheduler import Timer
from .._protocol.control import DRAIN, Drain
from .._protocol.messages import MAX_ID
from .._session.host import Host
from .._session.session import Session

MARGIN = 1.0
"""Seconds before the remote peer closes in which nothing new is begun there: it might arrive too late."""


class Draining:
    """The end of a session that both sides prepare for.

    The side that accepted may `drain`. While calls of the side that dialed are in progress that had begun before, and
    there is time, that side goes on as before. Then it begins nothing new in the session, and says so. Everything that
    crossed with the request to drain has arrived by then, so nothing needs to be refused.

    Args:
        work: returns what waits for the end of the work in progress, and then calls `be_silent`. None if there is none.
        fall_silent: called when this side begins nothing new. Returns whether it says so only after `opened`.
    """

    __slots__ = (
        "_fall_silent",
        "_host",
        "_on_quiet",
        "_owes_quiet",
        "_quiet",
        "_session",
        "_waits",
        "_work",
        "closes_at",
        "silent",
    )

    def __init__(
        self,
        session: Session,
        host: Host,
        work: Callable[[], Coroutine[Any, Any, None] | None],
        fall_silent: Callable[[], bool],
    ) -> None:
        self._session = session
        self._host = host
        self._work = work
        self._fall_silent = fall_silent
        self.closes_at: float | None = None
        """When the side that accepted is going to close, if it has said so."""
        self._waits: list[Timer | asyncio.Task[None]] = []
        """The wait for the work of this side, which dialed, and what ends this wait when no time is left."""
        self._quiet = False
        """Whether the side that dialed has said that it begins nothing new."""
        self.silent = False
        """Whether this side, which dialed, begins nothing new: the remote peer is about to close."""
        self._on_quiet: asyncio.Future[None] | None = None
        self._owes_quiet = False
        """Whether this side has still to say that."""

    @property
    def _agreed(self) -> bool:
        return self._session.negotiation.has(DRAIN)

    def drain(self, until: float) -> None:
        """Ask the remote peer to begin nothing new, because this side closes at the time ``until`` at the latest."""
        self.closes_at = until
        self.agreed()

    def agreed(self) -> None:
        """Ask for that if this side drained before it knew what the remote peer supports."""
        if self._agreed and self.closes_at is not None and not self._quiet:
            self._session.say(Drain(max(0, round((self.closes_at - self._host.loop.time()) * 1000))))

    @property
    def quiet(self) -> bool:
        """Whether the remote peer begins nothing new any more. A plain peer, which cannot say so, counts as quiet."""
        return self._quiet or not self._agreed

    async def wait_quiet(self) -> None:
        """Wait until the remote peer begins nothing new, or the session has ended. Cancelling is safe."""
        if not self.quiet:
            self._on_quiet = self._host.loop.create_future()
            await self._on_quiet

    def session_over(self) -> None:
        """End the wait for the remote peer, or for this side's work."""
        self._stop_waiting()
        if self._on_quiet is not None and not self._on_quiet.done():
            self._on_quiet.set_result(None)

    def _stop_waiting(self) -> None:
        for each in self._waits:
            each.cancel()

    def received(self, drain: Drain) -> None:
        """Take what the remote peer says."""
        if not 0 <= drain.after_ms <= MAX_ID:
            self._host.ignore("drain that makes no sense")
        elif self._agreed and self._session.negotiation.dialer and not self._quiet:
            self.closes_at = self._host.loop.time() + drain.after_ms / 1000
            self._stop_waiting()
            if drain.after_ms >= MARGIN * 1000 and (work := self._work()) is not None:
                self._waits = [
                    self._host.loop.call_at(self.closes_at - MARGIN, self.be_silent),
                    self._host.loop.spawn(work),
                ]
            else:
                self.be_silent()
        elif self._agreed and self.closes_at is not None and not self._quiet:
            self._quiet = True
            self.session_over()
        else:
            self._host.ignore("control message out of place")

    def be_silent(self) -> None:
        """Begin nothing new, and say so. Idempotent."""
        if not self.silent:
            self._quiet = self.silent = True
            # Requests of `open` handlers are still served, so they are sent before the answer.
            self._owes_quiet = self._fall_silent()
            if not self._owes_quiet:
                self._session.say(Drain(0))

    def opened(self) -> None:
        """Say what had to wait for the `open` handlers."""
        if self._owes_quiet:
            self._owes_quiet = False
            self._session.say(Drain(0))
