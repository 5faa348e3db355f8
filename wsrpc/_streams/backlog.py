"""Messages that came for a channel before anybody listened to it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from msgspec import UNSET

from .._base.scheduler import Scheduler, Timer
from .._protocol.messages import Inbound, place_on
from ..limits import Limits
from .inbox import Decode
from .memory import ENTRY, Unread

__all__ = ["Backlog"]

Entry = tuple[bytes, Decode, int | None]
"""A message, undecoded because that is smaller, how to decode it, and its id if it is a request."""


class Backlog:
    """Messages in arrival order, bounded by bytes and by time; ``overdue`` is called when nobody listens in time."""

    __slots__ = ("_bytes", "_entries", "_limit", "_loop", "_overdue", "_patience", "_timer", "_unread")

    def __init__(self, loop: Scheduler, limits: Limits, unread: Unread, overdue: Callable[[], None]) -> None:
        self._loop = loop
        self._limit = limits.stream_queue
        self._patience = limits.unread
        self._unread = unread
        self._overdue = overdue
        self._entries: deque[Entry] = deque()
        self._bytes = 0
        self._timer: Timer | None = None

    def __len__(self) -> int:
        return len(self._entries)

    def keep(self, message: Inbound, payload: bytes, decode: Decode) -> str | None:
        """Keep a message; returns which bound that would go over, if it would."""
        size = len(payload)
        if self._entries and self._bytes + size > self._limit:
            return f"{self._bytes} bytes wait there already (Limits.stream_queue={self._limit})"
        if not self._unread.take(size, self._bytes + len(self._entries) * ENTRY):
            return str(self._unread)
        self._append(message, payload, decode)
        if self._timer is None:
            self._timer = self._loop.call_at(self._loop.time() + self._patience, self._overdue)
        return None

    def add(self, message: Inbound, payload: bytes, decode: Decode) -> None:
        """Put a message behind those that are delivered in the next turn. One turn brings only so much."""
        self._unread.take(len(payload), 0, granted=True)
        self._append(message, payload, decode)

    def _append(self, message: Inbound, payload: bytes, decode: Decode) -> None:
        self._bytes += len(payload)
        self._entries.append((payload, decode, None if message.i is UNSET else message.i))

    def pop(self, h: int) -> tuple[Inbound, bytes, Decode]:
        """The oldest one, which came on channel ``h``."""
        payload, decode, i = self._entries.popleft()
        self._bytes -= len(payload)
        self._unread.give_back(len(payload))
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

    def drop_events(self) -> int:
        """Drop all events, keep the requests; returns how many events there were."""
        before = len(self._entries)
        dropped = sum(len(payload) for payload, _, i in self._entries if i is None)
        self._entries = deque(entry for entry in self._entries if entry[2] is not None)
        count = before - len(self._entries)
        self._bytes -= dropped
        self._unread.give_back(dropped, count)
        self.stop_timer()
        return count

    def clear(self) -> None:
        """Drop everything."""
        self._unread.give_back(self._bytes, len(self._entries))
        self._entries.clear()
        self._bytes = 0
        self.stop_timer()

    def stop_timer(self) -> None:
        """Somebody listens, or nobody will."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
