"""`Draining`: before the side that accepted closes, both sides finish what has begun."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from enum import Enum
from typing import Any

from ..._base.scheduler import Timer
from ..handlers.opening import Opening
from ..session.host import Host
from ..session.session import Session
from ..wire.control import DRAIN, Drain
from ..wire.messages import MAX_ID

MARGIN = 1.0
"""Seconds before the remote peer closes in which nothing new is begun there: it might arrive too late."""


class DrainPhase(Enum):
    """How far a session is with its end. The side that accepted the connection drains, the one that dialed is told."""

    NONE = "neither side drains"
    ASKED = "this side drains, and the remote peer may still begin something new"
    ANSWERED = "this side drains, and the remote peer begins nothing new"
    FINISHING = "the remote peer drains, and what has begun before goes on"
    OWING = "the remote peer drains, and this side begins nothing new, and says so once `open` handlers are done"
    SILENT = "the remote peer drains, and this side begins nothing new, and has said so"


class Draining:
    """The end of a session that both sides prepare for.

    The side that accepted may `drain`. While calls of the side that dialed are in progress that had begun before, and
    there is time, that side goes on as before. Then it begins nothing new in the session, and says so. Everything that
    crossed with the request to drain has arrived by then, so nothing needs to be refused.
    """

    __slots__ = ("_host", "_on_remote_silent", "_opening", "_session", "_waits", "closes_at", "phase")

    def __init__(self, session: Session, host: Host, opening: Opening) -> None:
        self._session = session
        self._opening = opening
        self._host = host
        self.phase = DrainPhase.NONE
        self.closes_at: float | None = None
        """When the side that drains is going to close, at the latest. None if neither side drains."""
        self._waits: list[Timer | asyncio.Task[None]] = []
        """The wait for the work of this side, which dialed, and what ends this wait when no time is left."""
        self._on_remote_silent: asyncio.Future[None] | None = None

    @property
    def _agreed(self) -> bool:
        return self._session.negotiation.has(DRAIN)

    def _enter(self, phase: DrainPhase) -> None:
        self.phase = phase
        self._host.current.may_send_changed()

    # ------------------------------------------------------------ the side that drains

    def drain(self, until: float) -> None:
        """Finish the calls that have begun, and refuse new ones that they do not need: see `Dispatcher.refuses_new`.

        The remote peer is asked to begin nothing new, because this side closes at the time ``until`` at the latest.
        """
        if not self._session.state.lives:
            return
        self.closes_at = until
        if self.phase is DrainPhase.NONE:
            self._enter(DrainPhase.ASKED)
        self.agreed()
        self._host.current.room_changed()

    def agreed(self) -> None:
        """Ask for that if this side drained before it knew what the remote peer supports."""
        if self._agreed and self.closes_at is not None and self.phase is DrainPhase.ASKED:
            self._session.send_control(Drain(max(0, round((self.closes_at - self._host.loop.time()) * 1000))))

    @property
    def remote_is_silent(self) -> bool:
        """Whether the remote peer begins nothing new any more. A plain peer, which cannot say so, counts as quiet."""
        return self.phase is DrainPhase.ANSWERED or not self._agreed

    async def wait_remote_silent(self) -> None:
        """Wait until the remote peer begins nothing new, or the session has ended. Cancelling is safe."""
        if not self.remote_is_silent:
            self._on_remote_silent = self._host.loop.create_future()
            await self._on_remote_silent

    # ------------------------------------------------------------ both sides

    def received(self, drain: Drain) -> None:
        """Take what the remote peer says."""
        if not 0 <= drain.after_ms <= MAX_ID:
            self._host.ignore("drain that makes no sense")
        elif (
            self._agreed and self._session.negotiation.dialer and self.phase in (DrainPhase.NONE, DrainPhase.FINISHING)
        ):
            self._peer_drains(drain.after_ms / 1000)
        elif self._agreed and self.phase is DrainPhase.ASKED:
            self._enter(DrainPhase.ANSWERED)
            self.stop_waiting()
        else:
            self._host.ignore("control message out of place")

    def stop_waiting(self) -> None:
        """Stop the wait for the remote peer, or for the work of this side."""
        self._stop_timers()
        if self._on_remote_silent is not None and not self._on_remote_silent.done():
            self._on_remote_silent.set_result(None)

    def _stop_timers(self) -> None:
        for each in self._waits:
            each.cancel()

    # ------------------------------------------------------------ the side that is told

    def _peer_drains(self, seconds: float) -> None:
        """Finish what has begun, because the remote peer closes in so many seconds at the latest."""
        loop = self._host.loop
        self._enter(DrainPhase.FINISHING)
        self.closes_at = loop.time() + seconds
        self._stop_timers()
        work = self._host.current.in_progress() if seconds >= MARGIN and self._opening.over else None
        if work is None:
            self._be_silent()
        else:
            self._waits = [loop.call_at(self.closes_at - MARGIN, self._be_silent), loop.spawn(self._finish(work))]

    async def _finish(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        await work()
        self._be_silent()

    @property
    def silent(self) -> bool:
        """Whether this side begins nothing new: the remote peer is about to close."""
        return self.phase is DrainPhase.SILENT or self.phase is DrainPhase.OWING

    def _be_silent(self) -> None:
        """Begin nothing new, and say so. Idempotent."""
        if self.phase is DrainPhase.FINISHING:
            # Requests of `open` handlers are still served, so they are sent before the answer.
            self._enter(DrainPhase.OWING)
            text = "the remote peer is about to close: new messages wait for another connection"
            self._host.log(logging.INFO, text)
            if self._opening.over:
                self.opened()

    def opened(self) -> None:
        """Say what had to wait for the `open` handlers."""
        if self.phase is DrainPhase.OWING:
            self._enter(DrainPhase.SILENT)
            self._session.send_control(Drain(0))
