"""Queue of messages that arrived on a channel before anything listened to it."""

from __future__ import annotations

from collections.abc import Callable

from msgspec import UNSET

from .._base.queues import BoundedQueue
from .._base.scheduler import Timer
from .._protocol.messages import WireMessage, place_on
from .inbox import Decode
from .memory import ENTRY, UnreadMemory

__all__ = ["Backlog"]

Entry = tuple[bytes, Decode, int | None]
"""A message that is kept encoded because that is smaller, how to decode it, and its id if it is a request."""


def _size(entry: Entry) -> int:
    return len(entry[0])


class Backlog(BoundedQueue[Entry]):
    """Queue of undecoded messages, bounded by `Limits.stream_queue` and by the memory for unread messages.

    Args:
        overdue: called when nothing has listened for `Limits.unread` seconds.
    """

    __slots__ = ("_overdue", "_timer", "_unread")

    def __init__(self, unread: UnreadMemory, overdue: Callable[[], None]) -> None:
        super().__init__(_size, unread.limits.stream_queue)
        self._unread = unread
        self._overdue = overdue
        self._timer: Timer | None = None

    def keep(self, message: WireMessage, payload: bytes, decode: Decode) -> str | None:
        """Keep a message. If it does not fit, return which bound it would exceed."""
        size = len(payload)
        if self.items and not self.fits(size):
            return f"{self.size} bytes wait there already (Limits.stream_queue={self.max_size})"
        if not self._unread.take(size, self.size + len(self) * ENTRY):
            return str(self._unread)
        self._append(message, payload, decode)
        if self._timer is None:
            loop = self._unread.loop
            self._timer = loop.call_at(loop.time() + self._unread.limits.unread, self._overdue)
        return None

    def add(self, message: WireMessage, payload: bytes, decode: Decode) -> None:
        """Append a message to those that are delivered in the next turn of the event loop.

        It is not refused, because only so much arrives in one turn.
        """
        self._unread.take(len(payload), 0, granted=True)
        self._append(message, payload, decode)

    def _append(self, message: WireMessage, payload: bytes, decode: Decode) -> None:
        self.put((payload, decode, None if message.i is UNSET else message.i))

    def pop_message(self, h: int) -> tuple[WireMessage, bytes, Decode]:
        """Take out the oldest message, which arrived on channel ``h``."""
        payload, decode, i = self.pop()
        self._unread.give_back(len(payload))
        message = decode(payload)
        place_on(message, h)
        message.i = UNSET if i is None else i
        return message, payload, decode

    def take_request_ids(self) -> list[int]:
        """Return the ids of the requests that wait here, for the caller to answer. The requests wait on as events."""
        entries = self.clear()
        for payload, decode, _ in entries:
            self.put((payload, decode, None))
        return [i for _, _, i in entries if i is not None]

    def drop_events(self) -> int:
        """Drop all events and keep the requests. Return the number of events."""
        self.stop_timer()
        dropped = [(ticket, len(payload)) for ticket, (payload, _, i) in self.items.items() if i is None]
        for ticket, _ in dropped:
            self.take(ticket)
        self._unread.give_back(sum(size for _, size in dropped), len(dropped))
        return len(dropped)

    def discard(self) -> None:
        """Drop everything."""
        self.stop_timer()
        self._unread.give_back(self.size, len(self))
        self.clear()

    def stop_timer(self) -> None:
        """Stop waiting for a listener: one has come, or none will."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
