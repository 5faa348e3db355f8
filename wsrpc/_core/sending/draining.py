"""`Draining`: before the side that accepted closes, both sides finish the calls that have started."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from contextlib import suppress
from enum import Enum
from typing import Any

from ..handlers.opening import Opening
from ..session.peer_host import PeerHost
from ..session.session import Session
from ..wire.control import DRAIN, Drain
from ..wire.messages import MAX_ID

MARGIN = 1.0
"""Seconds before the remote peer closes in which this side starts nothing new: it might arrive too late."""

DRAIN_TIMEOUT = "drain_timeout= is a number of seconds, 0 or more"

LONGEST_DRAIN = 365 * 86400.0
"""Seconds of the longest drain. (Event loops cannot wait for an unlimited time.)"""


class DrainPhase(Enum):
    """How far the draining of a session is. The side that accepted the connection asks, the other side answers."""

    NONE = "neither side drains"
    ASKED = "this side drains, and the remote peer may still start something new"
    ANSWERED = "this side drains, and the remote peer starts nothing new"
    FINISHING = "the remote peer drains, and this side finishes what has started"
    OWING = "the remote peer drains, this side starts nothing new, and answers once the `open` handlers are done"
    SILENT = "the remote peer drains, this side starts nothing new, and has answered"


REFUSING = (DrainPhase.ASKED, DrainPhase.ANSWERED)
"""The phases in which this side may have to refuse new requests."""


class Draining:
    """The end of a session for which both sides prepare.

    The side that accepted may `drain`: it asks the side that dialed to start nothing new. The side that dialed first
    finishes its calls that are in progress, as long as there is time. Then it answers, and starts nothing new in the
    session. All messages that it sent before have arrived by then, so no message needs to be refused.
    """

    __slots__ = ("_finishing", "_host", "_on_remote_silent", "_opening", "_session", "closes_at", "phase")

    def __init__(self, session: Session, host: PeerHost, opening: Opening) -> None:
        self._session = session
        self._opening = opening
        self._host = host
        self.phase = DrainPhase.NONE
        self.closes_at: float | None = None
        """The time at which the side that drains closes at the latest. None if neither side drains."""
        self._finishing: asyncio.Task[None] | None = None
        """Waits until this side has finished, or no time is left."""
        self._on_remote_silent: asyncio.Future[None] | None = None

    @property
    def agreed(self) -> bool:
        """Whether both sides support the question and its answer."""
        return self._session.negotiation.has(DRAIN)

    def _enter(self, phase: DrainPhase) -> None:
        self.phase = phase
        self._host.current.update()

    # ------------------------------------------------------------ the side that drains

    def drain(self, until: float) -> None:
        """Finish the calls that have started, and refuse new calls that these do not need.

        See `Admission`. Ask the remote peer to start nothing new, too.

        Args:
            until: the time at which this side closes at the latest.
        """
        if not self._session.state.lives:
            return
        self.closes_at = until
        if self.phase is DrainPhase.NONE:
            self._enter(DrainPhase.ASKED)
        self.ask_to_drain()
        self._host.current.room_changed()

    def ask_to_drain(self) -> None:
        """Ask the remote peer to start nothing new, if this side drains and both sides support the question."""
        if self.agreed and self.closes_at is not None and self.phase is DrainPhase.ASKED:
            self._session.send_control(Drain(max(0, round((self.closes_at - self._host.loop.time()) * 1000))))

    @property
    def remote_is_silent(self) -> bool:
        """Whether the remote peer starts nothing new. True for a plain peer, which cannot answer."""
        return self.phase is DrainPhase.ANSWERED or not self.agreed

    async def wait_remote_silent(self) -> None:
        """Wait until the remote peer starts nothing new, or the session has ended. Cancelling is safe."""
        if not self.remote_is_silent:
            if self._on_remote_silent is None:
                self._on_remote_silent = self._host.loop.create_future()
            await asyncio.shield(self._on_remote_silent)  # others may wait, too

    # ------------------------------------------------------------ both sides

    def received(self, drain: Drain) -> None:
        """Handle the request to drain of the remote peer, or its answer."""
        if not 0 <= drain.after_ms <= MAX_ID:
            self._host.ignore("invalid drain")
        elif self.agreed and self._session.negotiation.dialer and self.phase in (DrainPhase.NONE, DrainPhase.FINISHING):
            self._peer_drains(drain.after_ms / 1000)
        elif self.agreed and self.phase is DrainPhase.ASKED:
            self._enter(DrainPhase.ANSWERED)
            self.stop_waiting()
        else:
            self._host.ignore("control message out of place")

    def stop_waiting(self) -> None:
        """Stop the wait for the remote peer, or for the calls of this side."""
        self._stop_finishing()
        if self._on_remote_silent is not None and not self._on_remote_silent.done():
            self._on_remote_silent.set_result(None)

    def _stop_finishing(self) -> None:
        if self._finishing is not None:
            self._finishing.cancel()

    # ------------------------------------------------------------ the side that is asked

    def _peer_drains(self, seconds: float) -> None:
        """Finish what has started, because the remote peer closes in so many ``seconds`` at the latest."""
        self._enter(DrainPhase.FINISHING)
        self.closes_at = self._host.loop.time() + seconds
        self._stop_finishing()
        finish = self._host.current.in_progress() if seconds >= MARGIN and self._opening.done else None
        if finish is None:
            self._become_silent()
        else:
            self._finishing = self._host.loop.spawn(self._finish(finish, seconds - MARGIN))

    async def _finish(self, finish: Callable[[], Coroutine[Any, Any, None]], seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await finish()
        self._become_silent()

    @property
    def silent(self) -> bool:
        """Whether this side starts nothing new, because the remote peer is about to close."""
        return self.phase is DrainPhase.SILENT or self.phase is DrainPhase.OWING

    def _become_silent(self) -> None:
        """Start nothing new, and answer. Idempotent."""
        if self.phase is DrainPhase.FINISHING:
            # Requests of `open` handlers are still served, so they are sent before the answer.
            self._enter(DrainPhase.OWING)
            text = "the remote peer is about to close: new messages wait for another connection"
            self._host.log(logging.INFO, text)
            if self._opening.done:
                self.answer_if_due()

    def answer_if_due(self) -> None:
        """Answer, if the answer had to wait for the `open` handlers."""
        if self.phase is DrainPhase.OWING:
            self._enter(DrainPhase.SILENT)
            self._session.send_control(Drain(0))
