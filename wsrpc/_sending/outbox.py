"""What was accepted while there is no connection, in order, bounded."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from msgspec import Struct

from ..errors import QueueFull

__all__ = ["Outbox", "Told"]

Told = Callable[[Exception | None], None]
"""Whoever sent a message: told None when it leaves, else why it never will."""


class Entry(Struct, frozen=True):
    payload: bytes
    told: Told | None
    bound: bool
    text: bool | None


class Outbox:
    """Encoded messages by ticket; a request's ticket lets it be taken back when its caller gives up."""

    __slots__ = ("_bytes", "_max_bytes", "_max_messages", "_messages", "_next")

    def __init__(self, max_messages: int, max_bytes: int) -> None:
        self._messages: OrderedDict[int, Entry] = OrderedDict()
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self._bytes = 0
        self._next = 0

    def __len__(self) -> int:
        return len(self._messages)

    def put(self, payload: bytes, told: Told | None = None, *, bound: bool = False, text: bool | None = None) -> int:
        """Keep ``payload`` and return its ticket; ``bound`` to the present connection, it does not outlive that.

        ``text``: of a raw message, whether it is that.

        Raises:
            QueueFull: if that would go over a bound.
        """
        if len(self._messages) >= self._max_messages or self._bytes + len(payload) > self._max_bytes:
            raise QueueFull(
                f"not connected, and {len(self._messages)} messages ({self._bytes} bytes) wait already "
                f"(Limits.offline={self._max_messages}, Limits.offline_bytes={self._max_bytes})"
            )
        self._next += 1
        self._messages[self._next] = Entry(payload, told, bound, text)
        self._bytes += len(payload)
        return self._next

    def remove(self, ticket: int) -> bool:
        """Take a message back; False if it has left."""
        entry = self._messages.pop(ticket, None)
        if entry is None:
            return False
        self._bytes -= len(entry.payload)
        return True

    def flush(self, send: Callable[[bytes, bool | None], None]) -> None:
        """Send everything, oldest first, with what `put` was told of its kind.

        What ``send`` raises goes on to the caller; that message and those behind it stay.
        """
        while self._messages:
            ticket, entry = next(iter(self._messages.items()))
            send(entry.payload, entry.text)
            self.remove(ticket)
            if entry.told is not None:
                entry.told(None)

    def larger_than(self, size: int) -> list[tuple[int, bytes, bool]]:
        """The messages of more than ``size`` bytes: their tickets, their payloads, and whether they are raw."""
        entries = self._messages.items()
        return [(ticket, at.payload, at.text is not None) for ticket, at in entries if len(at.payload) > size]

    def bound(self) -> list[int]:
        """Tickets of what does not outlive the present connection."""
        return [ticket for ticket, entry in self._messages.items() if entry.bound]

    def refuse(self, ticket: int, error: Exception) -> bool:
        """Throw a message away; False if there was nobody to tell."""
        entry = self._messages[ticket]
        self.remove(ticket)
        if entry.told is not None:
            entry.told(error)
        return entry.told is not None

    def clear(self) -> int:
        """Throw everything away; says how many messages that were."""
        count = len(self._messages)
        self._messages.clear()
        self._bytes = 0
        return count
