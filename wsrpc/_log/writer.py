"""`LogWriter`: adds the entries of one writer to a log, in order. Those that come meanwhile go together."""

from __future__ import annotations

import asyncio
from bisect import bisect
from collections.abc import Awaitable, Callable, Coroutine
from itertools import accumulate
from typing import Any, Generic, TypeVar

from msgspec import Struct

from ..errors import WsrpcError
from .contract import Appended

QUEUED_ENTRY = 192
"""Bytes for which an entry counts besides its own: what a process needs for one that waits."""
BATCH = 64 * 1024
"""Bytes of the entries that one step stores, at most, unless one has more. Readers get as many in one step, so a store
does not drop what others are about to read. `RedisStore` sends as many to them, so that they need no step."""


class Unstored(Struct, eq=False):
    """An entry that waits until those before it are stored."""

    entry: bytes

    @property
    def is_wanted(self) -> bool:
        """Whether somebody still wants it to be stored."""
        return True

    def failed(self, error: BaseException | None) -> None:
        """The entry could not be stored. None: nobody stores it any more."""


U = TypeVar("U", bound=Unstored)


class LogWriter(Generic[U]):
    """The queue of one writer.

    Args:
        name: the name of the writer in the log.
        append: adds some entries, of which the first has a sequence.
        stored: is told of entries that were added.
        wait: waits until there may be more entries, if the store can be too fast. Gets the bytes of the last batch.
    """

    def __init__(
        self,
        name: str,
        spawn: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]],
        append: Callable[[int, list[bytes]], Awaitable[Appended]],
        stored: Callable[[list[U], int, Appended], object],
        wait: Callable[[int], Awaitable[object]] | None = None,
    ) -> None:
        self.name = name
        self.sequence = 0
        """The sequence of the last entry that was added, or is being added."""
        self._spawn = spawn
        self._append = append
        self._stored = stored
        self._wait = wait
        self._queue: list[U] = []
        self._storing: asyncio.Task[None] | None = None
        """Stores the queue. None if it is empty."""

    def next_sequence(self) -> int | None:
        """Return the sequence for an entry that is added at once. None if others wait to be stored before it."""
        if self._queue:  # not `_storing`, which may only pause: a loop of entries that waited once would wait for ever
            return None
        self.sequence += 1
        return self.sequence

    def add(self, unstored: U) -> None:
        self._queue.append(unstored)
        if self._storing is None:
            self._storing = self._spawn(self._store_queue())
            self._storing.add_done_callback(self._ended)

    async def wait_stored(self) -> None:
        """Wait until the queue is empty. Cancelling is safe."""
        if self._storing is not None:
            await asyncio.wait((self._storing,))

    def stop(self) -> None:
        """Store nothing more. What waits fails."""
        if self._storing is not None:
            self._storing.cancel()

    async def _store_queue(self) -> None:
        size = 0
        while True:
            if self._wait is not None:
                await self._wait(size)
            self._queue = [each for each in self._queue if each.is_wanted]
            if not self._queue:
                break
            sizes = [*accumulate(len(each.entry) + QUEUED_ENTRY for each in self._queue[: BATCH // QUEUED_ENTRY])]
            batch = self._queue[: max(1, bisect(sizes, BATCH))]
            size = sizes[len(batch) - 1]
            sequence, self.sequence = self.sequence + 1, self.sequence + len(batch)
            try:
                self._stored(batch, sequence, await self._append(sequence, [each.entry for each in batch]))
            except WsrpcError as exc:
                for each in batch:
                    each.failed(exc)
            del self._queue[: len(batch)]
        self._storing = None

    def _ended(self, task: asyncio.Task[None]) -> None:
        """Fail the entries that are left because the task was cancelled, or the store has raised another error."""
        if self._storing is task:
            self._storing, left, self._queue = None, self._queue, []
            for each in left:
                each.failed(None if task.cancelled() else task.exception())
