"""`ConnectionWaiters`: the callers that wait until a client has a connection."""

from __future__ import annotations

import asyncio
from types import TracebackType

__all__ = ["ConnectionWaiters"]


class ConnectionWaiters:
    """The callers that wait for a connection, or for the reason why none will come.

    ``failure`` is that reason, until `expect`. ``count`` is how many callers wait.
    """

    def __init__(self) -> None:
        self.failure: Exception | None = None
        self.count = 0
        self._traceback: TracebackType | None = None
        """Where the failure came from. It is raised many times, and each time would add to its traceback."""
        self._told: asyncio.Future[Exception | None] | None = None
        """What all of them wait for. It may belong to an event loop that has ended; nobody waits for that one."""

    def expect(self) -> None:
        """Forget the failure: a connection may come."""
        self.failure = None

    def tell(self, failure: Exception | None) -> None:
        """Wake the callers: there is a connection, or there will be none because of ``failure``."""
        self.failure = failure
        self._traceback = None if failure is None else failure.__traceback__
        told = self._present()
        self._told = None
        if told is not None and not told.done():
            told.set_result(failure)

    async def wait(self) -> None:
        """Return when there is a connection. Cancelling is safe.

        Raises:
            Exception: there will be none, because of this.
        """
        failure = self.failure
        if failure is None:
            told = self._present()
            if told is None:
                told = self._told = asyncio.get_running_loop().create_future()
            self.count += 1
            try:
                failure = await asyncio.shield(told)
            finally:
                self.count -= 1
        if failure is not None:
            raise failure.with_traceback(self._traceback)

    def _present(self) -> asyncio.Future[Exception | None] | None:
        """The future of the running event loop, if somebody waits in it."""
        told = self._told
        return None if told is None or told.get_loop() is not asyncio.get_running_loop() else told
