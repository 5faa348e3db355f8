"""`Ending`: how a connection of another library ends, and the time that it has for that."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from wsrpc import CloseInfo

__all__ = ["Ending"]


class Ending:
    """End of one connection. ``over`` is done when there is ``info``."""

    def __init__(self) -> None:
        self.info: CloseInfo | None = None
        """How the connection ended; None if it has not."""
        self._loop = asyncio.get_running_loop()
        self.over: asyncio.Future[None] = self._loop.create_future()
        self._timer: asyncio.TimerHandle | None = None

    def expect(self, seconds: float, overdue: Callable[[], None]) -> None:
        """Call ``overdue`` if the connection is not over in time. Later calls have no effect."""
        if self._timer is None and self.info is None:
            self._timer = self._loop.call_later(seconds, overdue)

    def finish(self, info: CloseInfo) -> None:
        """Note that the connection is over."""
        self.info = info
        if self._timer is not None:
            self._timer.cancel()
        if not self.over.done():  # its task may have been cancelled
            self.over.set_result(None)
