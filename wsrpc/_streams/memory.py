"""Bound for the memory that unread messages take on all channels of one peer."""

from __future__ import annotations

from .._base.scheduler import Scheduler
from ..limits import Limits

ENTRY = 176
"""Bytes that an unread message takes besides its payload: its entry in a queue, and the headers of the objects that it
consists of. (Measured with tracemalloc: 170 to 177 decoded, 81 to 181 encoded.)"""

DECODED = 32
"""How many times its encoded size a decoded message may take. (Measured: 7 times for lists of objects, numbers or
words, 24 for empty JSON objects, 73 for empty MessagePack maps.)"""

ALWAYS = 4096
"""Bytes that each channel may take even when the limit is reached, so that one busy channel does not end the others."""


class UnreadMemory:
    """Counter of the bytes that unread messages take, up to `Limits.unread_bytes`.

    ``used`` is exact for messages that wait encoded. For decoded messages readers reserve memory in advance, at most
    half of the limit. When none is left messages wait encoded, which is smaller, and are decoded again when they are
    read.

    Inboxes and anonymous channels also get the event loop and the limits from here.
    """

    __slots__ = ("limits", "loop", "used")

    def __init__(self, loop: Scheduler, limits: Limits) -> None:
        self.loop = loop
        self.limits = limits
        self.used = 0

    def take(self, size: int, waiting: int, *, granted: bool = False) -> bool:
        """Count a message of ``size`` bytes on a channel where ``waiting`` bytes wait; return False if it does not fit.

        A message that is the only one always fits. So do messages that the remote peer was ``granted`` credit for, and
        a few bytes on each channel.
        """
        size += ENTRY
        if self.used + size > self.limits.unread_bytes and not granted and self.used and waiting + size > ALWAYS:
            return False
        self.used += size
        return True

    def reserve(self, size: int, *, granted: bool = False) -> bool:
        """Reserve ``size`` bytes for decoded messages; return False if there is not enough memory for them.

        There is enough for messages that were accepted before, and were ``granted`` their place.
        """
        if not granted and self.used + size > self.limits.unread_bytes // 2:
            return False
        self.used += size
        return True

    def give_back(self, size: int, count: int = 1) -> None:
        """Stop counting ``count`` messages of ``size`` bytes, which were read or dropped."""
        self.used -= size + count * ENTRY

    def release(self, size: int) -> None:
        """Give back reserved bytes."""
        self.used -= size

    def __str__(self) -> str:
        limit = self.limits.unread_bytes
        return f"unread messages on all channels took {self.used} bytes of memory (Limits.unread_bytes={limit})"
