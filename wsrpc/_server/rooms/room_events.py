"""`RoomEvents`: the events of a room that keeps them, for code of the server."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Self

from msgspec import Struct

from ..._log.kept import UNREADABLE, read_kept
from ..._log.position import Position
from ...errors import ItemsGone
from .room_pages import entries_of, start_of
from .stored_event import StoredEvent

if TYPE_CHECKING:
    from .room_log import RoomLog


class RoomEvent(Struct, frozen=True):
    """An event of a room with ``keep=``, as `Room.events` yields it.

    Attributes:
        event: the name of the event.
        args: its arguments, as they were stored: plain values, without the types of your functions.
        position: the position of the event.
        channel: the named channel on which it was emitted. None for the main channel.
        metadata: what was passed as ``metadata=``.
    """

    event: str
    args: tuple[Any, ...]
    position: str
    channel: str | None = None
    metadata: dict[str, str] | None = None


class RoomEvents:
    """Async iterator over the events of a room with ``keep=``, of all processes, in order. `Room.events` returns it.

    It waits for further events, also while the store does not answer, and ends when the server is closed. Cancelling is
    safe: the next step continues where this one was. It also may continue after an error. The room is read as long as
    this object exists, or until `close`.

    Raises:
        ItemsGone: events after `position` are not kept any more, or could not be read. The next step continues with the
            first one that can be.
    """

    def __init__(self, log: RoomLog, after: Position, last: int | None) -> None:
        self._log = log
        self._after = self._next = after
        """The position of the last event that was yielded, and that after which the next step begins."""
        self._last = last
        self._events: list[tuple[Position, bytes]] = []
        self._reading: asyncio.Task[tuple[Position, list[tuple[Position, bytes]]]] | None = None
        """Waits for the next events, during a step."""
        log.readers.add(self)

    @property
    def position(self) -> str:
        """The position of the last event that was yielded, or before the first one.

        It moves with each event, and over a gap with the step after `ItemsGone`. So this position and a state to which
        you apply each event before you await anything else always fit: return both from ``state=`` of `Server.room`.
        """
        return str(self._after)

    def close(self) -> None:
        """Stop reading. A step that waits ends the iteration. Idempotent."""
        self._log.readers.discard(self)
        self._log.stop()
        if self._reading is not None:
            self._reading.cancel()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> RoomEvent:
        link = self._log.link
        self._after = self._next  # who goes on after `ItemsGone` has read again what was missed
        while True:
            while not self._events:
                if link.closed or self not in self._log.readers:
                    raise StopAsyncIteration
                if self._reading is not None:
                    raise RuntimeError("two tasks read the same events(): give each its own")
                task = self._reading = link.spawn(self._read())
                try:
                    await asyncio.wait((task,))
                finally:
                    self._reading = None
                    task.cancel()
                if not task.cancelled():
                    gone = self._next
                    self._next, self._events = task.result()
                    if self._next != gone:
                        raise ItemsGone(f"the events after {gone} are not kept any more")
            self._next, item = self._events.pop(0)
            try:
                stored = read_kept(item, StoredEvent)
            except UNREADABLE:
                raise ItemsGone(f"events before {self._next} could not be stored or read") from None
            self._after = self._next
            if stored.event:
                return RoomEvent(stored.event, tuple(stored.args), self.position, stored.channel, stored.metadata)

    async def _read(self) -> tuple[Position, list[tuple[Position, bytes]]]:
        """Wait for the next events. Return them, and the position before them, which is a later one if some are gone.

        A step that is cancelled does not get this, so only the step moves the position over a gap.
        """
        feed = self._log.feed
        while True:
            self._log.start()
            if (reached := feed.reached) is not None:
                if self._last is not None:
                    self._after = self._next = Position(max(0, reached.number - self._last), None)
                    self._last = None
                after = self._next
                if after != reached:
                    page = await feed.pages.read(after, reached)
                    if after.before(page) != "next":
                        first = reached if page.number > reached.number else start_of(page)
                        if after.id is not None:
                            return first, []
                        self._after = self._next = first
                    if found := [each for each in entries_of(page) if each[0].number <= reached.number]:
                        return self._next, found
                    if reached != feed.reached:
                        continue
            await feed.wait_moved()
