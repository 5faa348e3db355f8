"""Messages that no connection has got yet."""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct

from ..errors import ConnectionLost

Told = Callable[[Exception | None], None]
"""Called with None when a message is sent, or with the error if it never will be."""


class WaitingMessage(Struct, eq=False):
    """One message that waits for a connection. It is also the ticket with which the message can be taken back."""

    payload: bytes
    text: bool
    told: Told | None = None
    outlives: bool = False
    """Whether it waits for the next session if this one ends: it was encoded before anything was agreed."""
    raw: bool = False
    bound: bool = False
    """Whether it is for the present connection only."""
    queue: WaitingQueue | None = None
    """The queue in which it waits. None if it was sent or taken back."""

    def take_back(self) -> bool:
        """Take the message back. Return False if it does not wait any more."""
        if self.queue is None:
            return False
        self.queue.remove(self)
        return True

    def was_sent(self) -> None:
        """Note that a connection has got the message."""
        self.take_back()
        if self.told is not None:
            self.told(None)

    def fail(self, why: ConnectionLost) -> None:
        """Drop the message, because it will not be sent."""
        self.take_back()
        if self.told is not None:
            self.told(why.for_outcome("not_sent"))


class WaitingQueue:
    """Messages that wait, in order.

    Args:
        removed: called when a message was taken out.
    """

    __slots__ = ("_items", "_removed", "outliving", "outliving_size", "size")

    def __init__(self, removed: Callable[[], None] = lambda: None) -> None:
        self._removed = removed
        self._items: dict[WaitingMessage, None] = {}
        self.size = 0
        """Bytes of all messages."""
        self.outliving = 0
        """How many messages outlive their session, and their bytes."""
        self.outliving_size = 0

    def __len__(self) -> int:
        return len(self._items)

    def all(self) -> list[WaitingMessage]:
        """Return the messages, oldest first."""
        return list(self._items)

    def add(self, message: WaitingMessage) -> None:
        """Append a message."""
        message.queue = self
        self._items[message] = None
        self._count(message, 1)

    def remove(self, message: WaitingMessage) -> None:
        """Take a message out."""
        message.queue = None
        del self._items[message]
        self._count(message, -1)
        self._removed()

    def _count(self, message: WaitingMessage, more: int) -> None:
        size = more * len(message.payload)
        self.size += size
        if message.outlives:
            self.outliving += more
            self.outliving_size += size
