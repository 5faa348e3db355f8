"""What has come for a channel before anybody listened to it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from msgspec import UNSET

from ._inbox import Decode
from ._messages import Inbound, place_on
from ._scheduler import Scheduler, Timer
from .limits import Limits

__all__ = ["Backlog"]

Entry = tuple[bytes, Decode, int | None]
"""A message, undecoded because that is smaller, how to decode it, and its id if it is a request."""


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
        self.add(message, payload, decode)
        self._bytes += len(payload)
        if self._timer is None:
            self._timer = self._loop.call_at(self._loop.time() + self._patience, self._overdue)
        return True

    def add(self, message: Inbound, payload: bytes, decode: Decode) -> None:
        """Put a message behind what is about to be delivered."""
        self._entries.append((payload, decode, None if message.i is UNSET else message.i))

    def pop(self, h: int) -> tuple[Inbound, bytes, Decode]:
        """The oldest one, which came on channel ``h``."""
        payload, decode, i = self._entries.popleft()
        message = decode(payload)
        place_on(message, h)
        message.i = UNSET if i is None else i
        return message, payload, decode

    def take_ids(self) -> list[int]:
        """Make events of the requests, which nobody will answer from here; returns their ids."""
        ids = [i for _, _, i in self._entries if i is not None]
        if ids:
            self._entries = deque((payload, decode, None) for payload, decode, _ in self._entries)
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
