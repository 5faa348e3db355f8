"""What was accepted while there is no connection, in order, bounded."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator

from .errors import QueueFull

__all__ = ["Outbox"]


class Outbox:
    """Encoded messages by ticket; a request's ticket lets it be taken back when its caller gives up."""

    __slots__ = ("_bytes", "_max_bytes", "_max_messages", "_messages", "_next")

    def __init__(self, max_messages: int, max_bytes: int) -> None:
        self._messages: OrderedDict[int, bytes] = OrderedDict()
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self._bytes = 0
        self._next = 0

    def __len__(self) -> int:
        return len(self._messages)

    def put(self, payload: bytes) -> int:
        """Keep ``payload`` and return its ticket.

        Raises:
            QueueFull: if that would go over a bound.
        """
        if len(self._messages) >= self._max_messages or self._bytes + len(payload) > self._max_bytes:
            raise QueueFull(
                f"not connected, and {len(self._messages)} messages ({self._bytes} bytes) wait already "
                f"(Limits.offline={self._max_messages}, Limits.offline_bytes={self._max_bytes})"
            )
        self._next += 1
        self._messages[self._next] = payload
        self._bytes += len(payload)
        return self._next

    def remove(self, ticket: int) -> bool:
        """Take a message back; False if it has left."""
        payload = self._messages.pop(ticket, None)
        if payload is None:
            return False
        self._bytes -= len(payload)
        return True

    def drain(self) -> Iterator[bytes]:
        """Hand out everything, oldest first; what is handed out is gone, the rest stays if the taker fails."""
        while self._messages:
            _, payload = self._messages.popitem(last=False)
            self._bytes -= len(payload)
            yield payload

    def clear(self) -> int:
        """Throw everything away; says how many messages that were."""
        count = len(self._messages)
        self._messages.clear()
        self._bytes = 0
        return count
