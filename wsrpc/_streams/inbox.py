"""What has arrived for one reader: the items of a stream, or the events of one name on a channel."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

from msgspec import UNSET

from .._base.scheduler import Scheduler, Timer
from .._protocol.messages import Inbound
from ..errors import StreamOverflow
from ..limits import Limits
from .memory import DECODED, ENTRY, Unread

__all__ = ["Decode", "Inbox"]

LEAST_RESERVED = 4096
"""Bytes of messages for which room is reserved at once."""

Decode = Callable[[bytes | bytearray], Inbound]
Answer = Callable[[int], None]


class Inbox:
    """A queue with one reader, in arrival order, bounded.

    The other side keeps to the credit that it is given (``grant`` is called with totals of items and bytes), or it
    knows none: then ``Limits.stream_queue`` bounds what waits here, and ``unread`` what waits on all channels together.
    Messages wait decoded as far as there is room for that, the others encoded, because that is smaller. With
    ``newest`` at most one waits: the next one takes its place.
    ``answer`` is called with the id of each message that was a request, once there is room again: so a plain peer that
    requests instead of emitting goes no faster than the reader.

    The reader first looks whether there is something in `queue`, then waits with `wait` or takes with `take`.
    """

    __slots__ = (
        "_answer",
        "_decodes_until",
        "_grant",
        "_granted",
        "_granted_bytes",
        "_limit",
        "_loop",
        "_received_bytes",
        "_regrant_at",
        "_regrant_bytes_at",
        "_reserved",
        "_share",
        "_taken_bytes",
        "_unread",
        "_waiter",
        "_window",
        "_window_bytes",
        "error",
        "items",
        "newest",
        "over",
        "queue",
        "taken",
        "wanted",
    )

    def __init__(
        self,
        loop: Scheduler,
        limits: Limits,
        unread: Unread,
        *,
        items: bool,
        answer: Answer,
        newest: bool = False,
    ) -> None:
        self._loop = loop
        self.newest = newest
        self._unread = unread
        self._answer = answer
        self._window = limits.stream_window
        self._window_bytes = limits.stream_window_bytes
        self._limit = limits.stream_queue
        self.items = items
        """Whether what arrives is a stream's items, or else events."""
        self.queue: deque[tuple[Any, int, int | None, Decode | None]] = deque()
        """Value, encoded size, id if it was a request and not answered yet, how to decode it if it was not."""
        self._waiter: asyncio.Future[None] | None = None
        # Totals from the beginning, as credit counts: what is there is the difference.
        self._received_bytes = 0
        self._taken_bytes = 0
        self.taken = 0
        """How many the reader has taken."""
        self._share: Callable[[], int] = lambda: self._window_bytes
        self._grant: Callable[[int, int], None] | None = None
        self._granted = self._granted_bytes = 0
        self._regrant_at = self._regrant_bytes_at = 0
        self._reserved = 0
        """Bytes that may wait here decoded, for which ``unread`` has room."""
        self._decodes_until = 0
        """The total of bytes up to which messages are kept decoded, and credit is there, without another look."""
        self.over = False
        """Nothing more will arrive."""
        self.error: BaseException | None = None
        """What the reader gets after the last one, unless it is simply the end."""
        self.wanted: Callable[[Any], Any] | None = None
        """Makes the value of an event, if it fits; the reader leaves with the first that does. None: it stays."""

    # ------------------------------------------------------------ arriving

    def push(self, message: Inbound, payload: bytes | bytearray, decode: Decode) -> bool:
        """Keep what a message brings; False if that is too much, which ends the inbox with `StreamOverflow`."""
        size = len(payload)
        i = message.i
        if self.over:
            if i is not UNSET:
                self._answer(i)
            return True
        queue = self.queue
        if self.newest and queue:
            self._drop_oldest()
        waiting = self._received_bytes - self._taken_bytes
        credited = self._within_credit()
        if queue and waiting + size > self._limit and not credited:
            self.end(StreamOverflow(f"{waiting} bytes wait to be read (Limits.stream_queue={self._limit})"))
            return False
        crowded = len(queue) >= self._window
        if self._is_awaited or (
            (credited or not crowded) and (self._received_bytes + size <= self._decodes_until or self._reserve(size))
        ):
            value, kept = self._value(message), None
        elif self._unread.take(size, waiting + len(queue) * ENTRY, granted=credited):
            value, kept = bytes(payload), decode
        else:
            self.end(StreamOverflow(f"{self._unread} as this message came"))
            return False
        if i is UNSET:
            i = None
        elif not crowded and waiting + size <= self._window_bytes:
            self._answer(i)
            i = None
        self._received_bytes += size
        queue.append((value, size, i, kept))
        self._wake()
        return True

    def push_item(self, value: Any, size: int) -> bool:
        """Keep an item, the short way; False if it is not sure that there is room for it, so that `push` must look."""
        queue = self.queue
        if self.taken + len(queue) >= self._granted:
            return False
        received = self._received_bytes + size
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            if self._received_bytes >= self._granted_bytes:
                return False
            waiter.set_result(None)
        elif received > self._decodes_until:
            return False
        self._received_bytes = received
        queue.append((value, size, None, None))
        return True

    def _within_credit(self) -> bool:
        return self.taken + len(self.queue) < self._granted and self._received_bytes < self._granted_bytes

    def _reserve(self, size: int) -> bool:
        """Whether one more message of ``size`` bytes may wait decoded."""
        more = self._received_bytes - self._taken_bytes + size - self._reserved
        if more > 0:
            more = max(more, LEAST_RESERVED)
            if not self._unread.reserve(more * DECODED):
                return False
            self._reserved += more
        self._look_until()
        return self._taken_bytes + self._reserved >= self._received_bytes + size

    def _look_until(self) -> None:
        until = self._taken_bytes + self._reserved
        self._decodes_until = min(until, self._granted_bytes) if self._grant is not None else until

    def _release(self) -> None:
        self._unread.release(self._reserved * DECODED)
        self._reserved = self._decodes_until = 0

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    @property
    def _is_awaited(self) -> bool:
        """Whether the reader takes what comes in the next turn, so that it need not be counted."""
        return self._waiter is not None and not self._waiter.done()

    @property
    def is_at_work(self) -> bool:
        """Whether the reader is not waiting here: something is unread, or it has taken something last."""
        return bool(self.queue) or (self.taken > 0 and self._waiter is None)

    def _value(self, message: Inbound) -> Any:
        a = message.a
        if self.items:
            item: Any = a[1] if len(a) > 1 else None
            return item.get("value") if item.__class__ is dict else None
        return a

    def end(self, error: BaseException | None = None) -> None:
        """Nothing more will arrive; the reader learns why after what is there."""
        if self.over:
            return
        self.over = True
        self.error = error
        self._decodes_until = 0
        self._wake()

    def end_after(self, seconds: float, error: BaseException) -> Timer:
        """Call `end` in that many seconds, unless the timer is cancelled."""
        return self._loop.call_at(self._loop.time() + seconds, partial(self.end, error))

    # ------------------------------------------------------------ reading

    async def wait(self) -> None:
        """Wait until something is there or nothing more will come. Cancelling is safe: nothing is lost.

        Raises:
            RuntimeError: somebody else waits already.
        """
        if self._waiter is not None:
            raise RuntimeError("two tasks read the same stream: give each its own, or let one read")
        if self.queue or self.over:
            return
        self._release()
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def take(self) -> Any:
        """The next one. The other side is told that there is room for more when half of the window is free."""
        value, size, i, decode = self.queue.popleft()
        self.taken += 1
        self._taken_bytes += size
        if i is not None:
            self._answer(i)
        if decode is not None:
            self._unread.give_back(size)
            value = self._value(decode(value))
        if self._grant is not None and (self.taken >= self._regrant_at or self._taken_bytes >= self._regrant_bytes_at):
            self.give_credit(self._grant)
        return value

    def start_credit(self, grant: Callable[[int, int], None], share: Callable[[], int]) -> None:
        """Let the other side send a window, and more whenever half of it is free. ``share`` tells its bytes, which
        depend on how many streams are read."""
        self._share = share
        self.give_credit(grant)

    def give_credit(self, grant: Callable[[int, int], None]) -> None:
        """Let the other side send a full window from here."""
        self._grant = grant
        self._window_bytes = self._share()
        self._granted = self.taken + self._window
        # What was granted cannot be taken back.
        self._granted_bytes = max(self._granted_bytes, self._taken_bytes + self._window_bytes)
        self._regrant_at = self.taken + (self._window + 1) // 2
        self._regrant_bytes_at = self._taken_bytes + (self._window_bytes + 1) // 2
        if not self.over:
            self._look_until()
            grant(self._granted, self._granted_bytes)

    def take_ids(self) -> list[int]:
        """Forget which of what is there were requests; returns their ids. Nobody will answer them from here."""
        entries = list(self.queue)
        self.queue = deque((value, size, None, decode) for value, size, _, decode in entries)
        return [i for _, _, i, _ in entries if i is not None]

    def discard(self) -> None:
        """Nobody will read what is there."""
        self.end()
        self._grant = None
        while self.queue:
            self._drop_oldest()
        self._taken_bytes = self._received_bytes
        self._release()

    def _drop_oldest(self) -> None:
        _, size, i, decode = self.queue.popleft()
        self._taken_bytes += size
        if decode is not None:
            self._unread.give_back(size)
        if i is not None:
            self._answer(i)
