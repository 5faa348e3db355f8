"""`LogLosses`: notices that a store has lost entries of a log, such as a Redis that was restored from an old copy."""

from __future__ import annotations

from ..._log.contract import Appended, Page
from ..._log.position import Position


class LogLosses:
    """What one process knows of the log of a room: which one it is, and how far this process has written it.

    Reads and writes are recorded apart: the answer to a read may overtake that to a write.
    """

    def __init__(self) -> None:
        self._read = ""
        """The id of the log that was read last. If there was none: the one that was written next."""
        self._written = "", 0
        """The id of the log that was written last, and the number of the entry there."""

    def written(self, added: Appended, count: int) -> bool:
        """Record that entries were added. Return whether entries that this process had added were lost before."""
        log, last = self._written
        self._read = self._read or added.state.id
        self._written = added.state.id, added.number + count - 1
        return log == added.state.id and 1 < added.number <= last

    def read(self, page: Page, after: Position | None = None) -> bool:
        """Record a page that was read ``after`` a position. Return whether entries before that were lost.

        Another log has lost none, because no position of the one before is valid there.
        """
        is_same, self._read = page.state.id == self._read, page.state.id
        if after is None or not is_same or page.number > after.number + 1 or after.before(page) == "next":
            return False
        self._written = "", 0  # what this process has written may be lost, too, and was noticed now
        return True
