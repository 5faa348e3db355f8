"""`Admission`: decides whether handlers of one session may start now."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from ..handlers.invocation import Invocation
from ..sending.answers import Answers
from ..sending.session_writer import SessionWriter

if TYPE_CHECKING:
    from .work import Work


class Admission:
    """Decides whether handlers of one session may start now. It reports each change to `Work`."""

    __slots__ = ("_answers", "_loop", "_work", "late", "paused", "session")

    def __init__(self, work: Work, writer: SessionWriter, answers: Answers) -> None:
        self._work = work
        self._answers = answers
        self._loop = writer.loop
        self.session = writer.session
        self.paused: asyncio.Future[None] | None = None
        """Set while no handler may start, because a Close frame is queued. Done when the session is over, or continues
        on another connection. May be read in any thread."""
        self.late = 0
        """Number of handlers that wait in tasks until ``paused`` is done. Later messages wait, to stay in order."""

    @property
    def stops_all(self) -> bool:
        """Whether every message has to wait. (If the session is full, answers could not be sent.)"""
        return self.session.full or self.paused is not None or self.late > 0

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
                if self.session.end_error is not None:
                    self._answers.ignored["dropped at the end"] += 1
                    invocation.record_orphaned(self.session.end_error)
                    raise invocation.cancellation()
        finally:
            self.late -= 1
            if not self.late:
                self._loop.call_soon(self._work.start_waiting)  # later, so that this handler comes first
