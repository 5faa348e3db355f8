"""What has come for a channel before anybody listened to it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from msgspec import UNSET

from ._inbox import Decode
from ._messages import Inbound
from ._scheduler import Scheduler, Timer
from .limits import Limits

__all__ = ["Backlog"]

Entry = tuple[Inbound, bytes, Decode]


class Backlog:
    """Messages in arrival order, bounded by bytes and by time; ``overdue`` is called when nobody has come in time."""

    __slots__ = ("_bytes", "_entries", "_limit", "_loop", "_overdue", "_patience", "_timer")

    def __init__(self, loop: Scheduler, limits: Limits, overdue: Callable[[], None]) -> None:
        self._loop = loop
        self._limit = limits.stream_queue
        self._patience = limits.unread
        self._overdue = overdue
        self._entries: deque[Entry] = deque()
        self._bytes = 0
        self._timer: Timer | None = None

    def __len__(self) -> int:
        return len(self._entries)

    def keep(self, message: Inbound, payload: bytes, decode: Decode) -> bool:
        """Keep a message; False if that would be too much."""
        if self._entries and self._bytes + len(payload) > self._limit:
            return False
        self._entries.append((message, payload, decode))
        self._bytes += len(payload)
        if self._timer is None:
            self._timer = self._loop.call_at(self._loop.time() + self._patience, self._overdue)
        return True

    def add(self, message: Inbound, payload: bytes, decode: Decode) -> None:
        """Put a message behind what is about to be delivered."""
        self._entries.append((message, payload, decode))

    def pop(self) -> Entry:
        """The oldest one."""
        return self._entries.popleft()

    def take_ids(self) -> list[int]:
        """Make events of the requests, which nobody will answer from here; returns their ids."""
        requests = [message for message, _, _ in self._entries if message.i is not UNSET]
        ids = [message.i for message in requests]
        for message in requests:
            message.i = UNSET
        return ids

    def clear(self) -> None:
        """Throw everything away."""
        self._entries.clear()
        self.stop_timer()

    def stop_timer(self) -> None:
        """Somebody listens, or nobody will."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
