"""`SlowFunctions`: warns of plain functions that hold the event loop for too long."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from ..._base.scheduler import Scheduler
from ..handlers.compiled import Handler
from ..sending.answers import Answers

SLOW_HANDLER = 0.1
"""Seconds for which a plain function may hold the event loop before a warning names it."""


class SlowFunctions:
    """The plain functions that have run in one read from the network, without other code in between.

    Together they are timed, because reading the clock for each of them takes measurable time.
    """

    __slots__ = ("_answers", "_loop", "ran", "since")

    def __init__(self, answers: Answers, loop: Scheduler) -> None:
        self._answers = answers
        self._loop = loop
        self.ran: dict[Handler | None, None] = {}
        self.since = 0.0
        """When the first of them began."""

    def check(self) -> None:
        """Check the time of the functions that have run: the read has ended, or other code is about to run."""
        if self.ran:
            self.report(self.ran, self._loop.time() - self.since)
            self.ran.clear()

    def report(self, handlers: Iterable[Handler | None], seconds: float) -> None:
        """Warn of plain functions if together they have held the event loop for more than `SLOW_HANDLER` seconds."""
        names = [handler.name for handler in handlers if handler is not None] if seconds > SLOW_HANDLER else []
        if names:
            text = "%s held the event loop for %.0f ms: make it async, or register it with thread=True"
            if len(names) > 1:
                text = f"one of {', '.join(names[:-1])} and {text}"
            self._answers.log(logging.WARNING, text, names[-1], seconds * 1000)
