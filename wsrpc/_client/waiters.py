"""What a client tells those who wait for a connection."""

from __future__ import annotations

import asyncio
from types import TracebackType

__all__ = ["News"]


class News:
    """That there is a connection, or why there will be none.

    ``failure`` is why, until there is hope again; ``listeners`` counts those who wait.
    """

    def __init__(self) -> None:
        self.failure: Exception | None = None
        self.listeners = 0
        self._raised_at: TracebackType | None = None
        """Where it came from: it is raised again and again, and each time would add to its traceback."""
        self._next: asyncio.Future[Exception | None] | None = None

    def tell(self, failure: Exception | None) -> None:
        """There is a connection, or a ``failure`` because of which there will be none."""
        self.failure = failure
        self._raised_at = None if failure is None else failure.__traceback__
        told, self._next = self._next, None
        if told is not None and not told.done():
            told.set_result(failure)

    async def wait(self) -> None:
        """Return when there is a connection. Cancelling is safe.

        Raises:
            Exception: there will be none, because of this.
        """
        failure = self.failure
        if failure is None:
            if self._next is None:
                self._next = asyncio.get_running_loop().create_future()
            self.listeners += 1
            try:
                failure = await asyncio.shield(self._next)
            finally:
                self.listeners -= 1
        if failure is not None:
            raise failure.with_traceback(self._raised_at)

    def enter_loop(self) -> None:
        """Nobody waits in another event loop than the one that runs, any more."""
        if self._next is not None and self._next.get_loop() is not asyncio.get_running_loop():
            self._next = None
