"""`RoomEvents`: the events of a room that keeps them, for code of the server."""

from __future__ import annotations

import asyncio
import weakref
from typing import TYPE_CHECKING, Any, Self

from msgspec import Struct

from .._log.kept import UNREADABLE, read_kept
from .._log.position import Position
from ..errors import ItemsGone
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
        needed = log.needed()
        needed.__enter__()
        self._release = weakref.finalize(self, needed.__exit__, None, None, None)
        self._release.atexit = False

    @property
    def position(self) -> str:
        """The position of the last event that was yielded, or before the first one.

        It moves with each event, and not with an error. So this position and a state to which you apply each event
        before you await anything else always fit: return both from ``state=`` of `Server.room`.
        """
        return str(self._after)

    def close(self) -> None:
        """Stop reading. Idempotent."""
        self._release()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> RoomEvent:
        link = self._log.link
        while True:
            while not self._events:
                if link.closed or not self._release.alive:
                    raise StopAsyncIteration
                task = link.spawn(self._read())
                try:
                    await asyncio.wait((task,))
                finally:
                    task.cancel()
                if not task.cancelled():
                    self._events = task.result()
            self._next, item = self._events.pop(0)
            try:
                stored = read_kept(item, StoredEvent)
            except UNREADABLE:
                raise ItemsGone(f"events before {self._next} could not be stored or read") from None
            self._after = self._next
            if stored.event:
                return RoomEvent(stored.event, tuple(stored.args), self.position, stored.channel, stored.metadata)

    async def _read(self) -> list[tuple[Position, bytes]]:
        """Wait for the next events, and return them.

        Raises:
            ItemsGone: they are not kept any more.
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
                        self._next = reached if page.number > reached.number else Position(page.number - 1, page.before)
                        if after.id is not None:
                            raise ItemsGone(f"the events after {after} are not kept any more")
                        self._after = self._next
                    entries = zip(page.ids, page.entries, strict=True)
                    found = [(Position(n, id), item) for n, (id, item) in enumerate(entries, page.number)]
                    if found := [each for each in found if each[0].number <= reached.number]:
                        return found
                    if reached != feed.reached:
                        continue
            await feed.wait_moved()
