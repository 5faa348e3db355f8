"""The memory that unread messages take, over all anonymous channels of one connection."""

from __future__ import annotations

__all__ = ["DECODED", "ENTRY", "Unread"]

ENTRY = 176
"""Bytes that an unread message takes besides its own: its entry in a queue, and the headers of the objects that make it
up. (Measured with tracemalloc: 170 to 177 in a reader's queue, 99 to 137 in a backlog.)"""

DECODED = 32
"""How many times its encoded size a decoded message may take. (Measured: 7 times for lists of objects, numbers or
words, 24 for empty JSON objects, 73 for empty MessagePack maps.)"""

ALWAYS = 4096
"""Bytes that each channel may take although the limit is reached, so that one that hoards does not end the others."""


class Unread:
    """Counts bytes, up to ``limit``.

    ``used`` is exact for messages that wait encoded. For decoded ones readers reserve room in advance, at most half of
    the limit; where none is left messages wait encoded, which is smaller, and are decoded again when they are read.
    """

    __slots__ = ("limit", "used")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0

    def take(self, size: int, waiting: int, *, granted: bool = False) -> bool:
        """Count a message of ``size`` bytes on a channel where ``waiting`` bytes wait; False if that is too much.

        A message that is alone always fits, and so do what the other side was ``granted`` and a little on each channel.
        """
        size += ENTRY
        if self.used + size > self.limit and not granted and self.used and waiting + size > ALWAYS:
            return False
        self.used += size
        return True

    def reserve(self, size: int) -> bool:
        """Reserve ``size`` bytes for decoded messages; False if there is no room for them."""
        if self.used + size > self.limit // 2:
            return False
        self.used += size
        return True

    def give_back(self, size: int, count: int = 1) -> None:
        """``count`` messages of ``size`` bytes were read or dropped."""
        self.used -= size + count * ENTRY

    def release(self, size: int) -> None:
        """What was reserved is not needed any more."""
        self.used -= size

    def __str__(self) -> str:
        return f"unread messages on all channels took {self.used} bytes of memory (Limits.unread_bytes={self.limit})"
