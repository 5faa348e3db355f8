"""`RoomPages`: what late members of a room read: the last events, or pages of the log."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import partial
from math import inf
from typing import Any

from ..._base.single_flight import SingleFlight
from ..._log.contract import LogState, Page
from ..._log.position import LAST, Position
from ..._log.writer import QUEUED_ENTRY
from ..lossless_fanout import Spawn

TOGETHER = 16
"""Number of events that are sent to all members, or to a late member, in one turn of the event loop."""
RECENT = 4 * 1024 * 1024
"""Bytes of the last events that a process has at hand for late members."""
NOTHING = Page(LogState("", "", 0, 0, None, readers=0, lost=False), LAST + 1, "", (), ())
"""A page in place of one of a log that the store does not have. It follows no position."""


def start_of(page: Page) -> Position:
    """Return the position before the first entry of a page."""
    return Position(page.number - 1, page.before)


def entries_of(page: Page) -> list[tuple[Position, bytes]]:
    """Return the entries of a page, each with its position."""
    entries = zip(page.ids, page.entries, strict=True)
    return [(Position(number, id), item) for number, (id, item) in enumerate(entries, page.number)]


class RoomPages:
    """The last events of a room, as far as this process has them at hand, and the pages of its log.

    Args:
        read: reads a page of the log after a number.
    """

    def __init__(self, spawn: Spawn, read: Callable[[int], Coroutine[Any, Any, Page]]) -> None:
        self._read = read
        self._flights: SingleFlight[Page] = SingleFlight(spawn)
        """The pages that are being read, by the numbers after which they begin, and by how far others have got."""
        self._recent: list[tuple[Position, bytes]] = []
        """The last events, in order, after the position of the first one, which has no event."""
        self._bytes = 0

    def keep(self, before: Position, position: Position, item: bytes) -> None:
        """Have an event at hand, which follows the one at the position ``before``."""
        if not self._recent or self._recent[-1][0].number + 1 != position.number:
            # A log that begins anew does not go on from the position that was reached.
            self._recent, self._bytes = [(before, b"")] if before.number + 1 == position.number else [], 0
        self._recent.append((position, item))
        self._bytes += len(item) + QUEUED_ENTRY

    def half(self) -> int:
        """Return the number of the event in the middle of those at hand, or 0 if these are not too many."""
        return self._recent[len(self._recent) // 2][0].number if self._bytes > RECENT else 0

    def drop(self, before: float = inf) -> None:
        """Drop the events before a number from those at hand."""
        if before and self._recent:
            self._recent = [each for each in self._recent if each[0].number >= before]
            self._bytes = sum(len(item) + QUEUED_ENTRY for _, item in self._recent)

    async def read(self, after: Position, reached: Position | None) -> Page:
        """Return a page after a position, while the other members have got the events up to ``reached``.

        Many members read the same ones, for example after a restart of the server.
        """
        place = after.number - self._recent[0][0].number if self._recent else -1
        if place >= 0 and self._recent[place : place + 1] and self._recent[place][0] == after:
            some = self._recent[place + 1 : place + 1 + TOGETHER]
            items, ids = [item for _, item in some], [position.id or "" for position, _ in some]
            return Page(NOTHING.state, after.number + 1, after.id or "", items, ids)
        return await self._flights.do((after.number, reached), partial(self._read, after.number))
