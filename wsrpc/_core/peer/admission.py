"""`Admission`: decides whether handlers of one session may start now. `WAITING`: which received messages wait."""

from __future__ import annotations

import asyncio
from enum import Enum
from typing import TYPE_CHECKING

from ..handlers.invocation import Invocation
from ..sending.answers import Answers
from ..sending.session_writer import SessionWriter

if TYPE_CHECKING:
    from .work import Work


class MessageKind(Enum):
    """The kind of a received message."""

    ON_CHANNEL = "an event or a request on an anonymous channel"
    REQUEST = "any other request"
    EVENT = "any other event"


class ReceivingState(Enum):
    """The state of a session, as far as it decides which received messages wait for their handlers."""

    STOPPED = "the session is full, so that answers cannot be sent, or a Close frame is queued"
    """When the session continues on another connection, this state lasts until the handlers that waited in tasks have
    started."""
    ACCEPTED = "`open` handlers run on the side that accepted"
    DIALED = "`open` handlers run on the side that dialed"
    OPEN = "none of these"


_STOPPED, _ACCEPTED, _DIALED, _OPEN = ReceivingState

WAITING: dict[ReceivingState, tuple[MessageKind, ...]] = {
    ReceivingState.STOPPED: (MessageKind.ON_CHANNEL, MessageKind.REQUEST, MessageKind.EVENT),
    # An `open` handler may have opened a channel and wait for messages on it.
    ReceivingState.ACCEPTED: (MessageKind.REQUEST, MessageKind.EVENT),
    # If requests waited on both sides, the `open` handlers of the two sides could wait for each other.
    ReceivingState.DIALED: (MessageKind.EVENT,),
    ReceivingState.OPEN: (),
}
"""The kinds of received messages that wait in each state. The other kinds are handled, as far as there is room.

A message also waits behind messages that wait for room: see `Work`.
"""


class Admission:
    """Decides whether handlers of one session may start now."""

    __slots__ = ("_answers", "_loop", "_work", "_writer", "late", "paused")

    def __init__(self, work: Work, writer: SessionWriter, answers: Answers) -> None:
        self._work = work
        self._answers = answers
        self._loop = writer.loop
        self._writer = writer
        self.paused: asyncio.Future[None] | None = None
        """A future while no handler may start, because a Close frame is queued. It is done when the session is over, or
        continues on another connection. May be read in any thread."""
        self.late = 0
        """Number of handlers that wait in tasks until ``paused`` is done. Later messages wait, to stay in order."""

    @property
    def state(self) -> ReceivingState:
        """The state of the session, as far as it decides which received messages wait."""
        if self._writer.session.full or self.paused is not None or self.late:
            return _STOPPED
        if self._writer.opening.holds_back:
            return _DIALED if self._writer.session.negotiation.dialer else _ACCEPTED
        return _OPEN

    def pause(self) -> None:
        """Start no handlers from now on: a Close frame is queued. Idempotent."""
        if self.paused is None:
            self.paused = self._loop.create_future()
        self._work.update()

    def unpause(self) -> None:
        """Start handlers again: there is another connection. Idempotent."""
        paused, self.paused = self.paused, None
        if paused is not None:
            paused.set_result(None)

    def session_over(self) -> None:
        """Cancel the handlers that wait until they may start."""
        if self.paused is not None:
            self.paused.set_result(None)

    async def wait_while_paused(self, invocation: Invocation) -> None:
        """Wait while no handler may start.

        Raises:
            asyncio.CancelledError: the session is over.
        """
        self.late += 1
        try:
            while (paused := self.paused) is not None:
                await asyncio.shield(paused)
                if self._writer.session.over:
                    self._answers.ignored["dropped at the end"] += 1
                    invocation.record_orphaned(self._writer.session.end_error)
                    raise invocation.cancellation()
        finally:
            self.late -= 1
            if not self.late:
                self._loop.call_soon(self._work.start_waiting)  # later, so that this handler starts first
