"""`RunReaders`: those in this process who read the items of a run, so that its handler is not far ahead of them."""

from __future__ import annotations

import asyncio
from collections import deque

from .._log.position import LAST

AHEAD = 64 * 1024
"""Bytes of items that a handler may be ahead of the store, and of the furthest reader in its process."""
STARTER = ""
"""Stands for the caller that has started a run, until it or another caller reads."""


class RunReaders:
    """The readers in this process of one run, and the items after the furthest of them.

    Args:
        lease: seconds after which readers that do nothing are no longer waited for.
        before: the number of items that another process has stored, if the handler goes on.

    Attributes:
        names: the readers in this process.
    """

    def __init__(self, lease: float, before: int | None = None) -> None:
        self.names: set[str] = set()
        self._lease = lease
        self._positions = {STARTER: 0} if before is None else {}
        """The number of the last item that each of them has read, if it is waited for."""
        self._progress = asyncio.Event()
        """Set when a reader has read something, or has left."""
        self._count = before or 0
        """The number of items."""
        self._ahead: deque[int] = deque()
        """Bytes of each item after the furthest of these positions."""
        self._ahead_bytes = 0
        self._missing_since: float | None = None

    def has_read(self, reader: str, number: int | None) -> None:
        """A reader has read the items up to a number. None: it reads no more."""
        self._positions.pop(STARTER, None)
        self._positions.pop(reader, None)
        self.names.discard(reader)
        if number is not None:
            self._positions[reader] = number
            self.names.add(reader)
        self._progress.set()

    async def wait_near(self, size: int) -> None:
        """Count the next item, of ``size`` bytes, and wait until a reader is near."""
        self._count += 1
        self._ahead.append(size)
        self._ahead_bytes += size
        while self._ahead_bytes > AHEAD:
            furthest = max(self._positions.values(), default=LAST)
            while self._ahead and self._count - len(self._ahead) < furthest:
                self._ahead_bytes -= self._ahead.popleft()
            if self._ahead_bytes > AHEAD:
                await self._wait_progress()

    async def _wait_progress(self) -> None:
        self._progress.clear()
        try:
            async with asyncio.timeout(self._lease):
                await self._progress.wait()
        except TimeoutError:
            self._positions.clear()

    def are_missing(self, seconds: float | None, *, reads: bool) -> bool:
        """Return whether nobody has read the run for some seconds. None: it does not matter.

        Args:
            reads: whether somebody reads it now, in any process.
        """
        now = asyncio.get_running_loop().time()
        if seconds is None or reads:
            self._missing_since = None
            return False
        if self._missing_since is None:
            self._missing_since = now
        return now - self._missing_since >= seconds
