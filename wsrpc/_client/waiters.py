"""`ConnectionWaiters`: the callers that wait until a client has a connection."""

from __future__ import annotations

import asyncio
from types import TracebackType


class Callers:
    """Callers that wait in one event loop for the same outcome."""

    def __init__(self) -> None:
        self.told: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()
        self.count = 0

    async def wait(self) -> Exception | None:
        """Return why there will be no connection, or None if there is one. Cancelling is safe."""
        self.count += 1
        try:
            return await asyncio.shield(self.told)
        finally:
            self.count -= 1


class ConnectionWaiters:
    """The callers that wait for a connection, or for the reason why none will come.

    ``failure`` is that reason, until `expect`.
    """

    def __init__(self) -> None:
        self.failure: Exception | None = None
        self._traceback: TracebackType | None = None
        """The traceback of the failure when it came. Each time that the failure is raised would add to it."""
        self._waiting: Callers | None = None
        """The present callers. If their event loop has ended, nobody waits any more."""

    @property
    def count(self) -> int:
        """How many callers wait."""
        waiting = self._present()
        return 0 if waiting is None else waiting.count

    def expect(self) -> None:
        """Forget the failure: a connection may come."""
        self.failure = None

    def tell(self, failure: Exception | None) -> None:
        """Wake the callers: there is a connection, or there will be none because of ``failure``."""
        self.failure = failure
        self._traceback = None if failure is None else failure.__traceback__
        waiting = self._present()
        self._waiting = None
        if waiting is not None:
            waiting.told.set_result(failure)

    async def wait(self) -> None:
        """Return when there is a connection. Cancelling is safe.

        Raises:
            Exception: there will be none, because of this.
        """
        failure = self.failure
        if failure is None:
            waiting = self._present()
            if waiting is None:
                waiting = self._waiting = Callers()
            failure = await waiting.wait()
        if failure is not None:
            raise failure.with_traceback(self._traceback)

    def _present(self) -> Callers | None:
        """Return the callers that wait in the running event loop."""
        waiting = self._waiting
        return None if waiting is None or waiting.told.get_loop() is not asyncio.get_running_loop() else waiting
