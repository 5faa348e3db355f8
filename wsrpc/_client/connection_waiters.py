"""`ConnectionWaiters`: the callers that wait until a client has a connection."""

from __future__ import annotations

import asyncio


class ConnectionWaiters:
    """The callers in one event loop that wait until there is a connection, or there will be none.

    Args:
        failure: why there will be none. None while there may be one.
    """

    def __init__(self, failure: Exception | None = None) -> None:
        self.failure = failure
        self._traceback = None if failure is None else failure.__traceback__
        """The original traceback of the failure. Each raise of the failure would make it longer."""
        self._outcome: asyncio.Future[Exception | None] | None = None
        """What the present callers wait for. None while there are none."""
        self.count = 0
        """Number of the present callers."""

    def notify(self, failure: Exception | None) -> None:
        """Wake the callers: there is a connection, or there will be none, because of ``failure``."""
        self.failure = failure
        self._traceback = None if failure is None else failure.__traceback__
        outcome, self._outcome, self.count = self._outcome, None, 0
        if outcome is not None:
            outcome.set_result(failure)

    async def wait(self) -> None:
        """Return when there is a connection. Cancelling is safe.

        Raises:
            Exception: ``failure``, because of which there will be none.
        """
        failure = self.failure
        if failure is None:
            if self._outcome is None:
                self._outcome = asyncio.get_running_loop().create_future()
            outcome = self._outcome
            self.count += 1
            try:
                failure = await asyncio.shield(outcome)
            finally:
                self.count -= outcome is self._outcome
        if failure is not None:
            raise failure.with_traceback(self._traceback)
