"""The messages of an `EngineTransport` that are not published yet, or not received yet, and its flow control."""

from __future__ import annotations

import asyncio
import math
from collections import deque

from .wire import Data

BATCH_BYTES = 32 * 1024
"""Maximum bytes of a batch of messages, unless one message is larger or the engine accepts less."""

AROUND_EACH = 10
"""Maximum bytes that a batch adds to each message: the length, and the number of a binary message."""


class MessageBatch:
    """Messages that are published together."""

    __slots__ = ("binary", "messages", "more", "size")

    def __init__(self) -> None:
        self.messages: list[bytes] = []
        self.binary: list[int] = []
        """The indices of the binary messages."""
        self.more = False
        """Whether the last message continues in the next batch."""
        self.size = 0
        """Bytes of all messages, with `AROUND_EACH` for each."""

    def add(self, payload: bytes, text: bool) -> None:
        if not text:
            self.binary.append(len(self.messages))
        self.messages.append(payload)
        self.size += len(payload) + AROUND_EACH


class SendBuffer:
    """What this side sends, until it is published.

    Attributes:
        largest: maximum bytes of a message. A larger one travels in pieces.
        published: number of published messages and pieces.
    """

    __slots__ = ("batch", "largest", "published")

    def __init__(self, largest: int) -> None:
        self.batch = MessageBatch()
        self.largest = largest
        self.published = 0

    def fits(self, size: int) -> bool:
        """Return whether a message may be added to the batch. One of the largest size travels alone."""
        return self.batch.size + size <= min(BATCH_BYTES, self.largest)


class ReceiveBuffer:
    """What the other side has sent, until the receiver gets it."""

    __slots__ = ("count", "is_paused", "messages", "pieces")

    def __init__(self) -> None:
        self.is_paused = False
        self.count = 0
        """Number of messages and pieces that have arrived."""
        self.messages: deque[tuple[bytes, bool]] = deque()
        """Whole messages, each with whether it is text."""
        self.pieces: list[bytes] = []
        """Pieces of a message of which more will arrive."""

    def lost(self, last: int) -> str:
        """Return which messages were lost, if the other side has sent as many as ``last``. Empty if all are here."""
        return f"messages {self.count + 1} to {last} were lost" if last > self.count else ""

    def add(self, data: Data) -> None:
        self.count += len(data.messages)
        messages, binary = data.messages, set(data.binary)
        if self.pieces or data.more:
            self.pieces.append(messages[0])
            if data.more:
                return  # a piece of which more will arrive travels alone
            messages[0] = b"".join(self.pieces)
            self.pieces.clear()
        self.messages.extend((payload, index not in binary) for index, payload in enumerate(messages))


class Window:
    """How many bytes each side of a connection has sent, and how many of them the other side has passed on."""

    __slots__ = ("_changed", "passed_on", "reported", "sent", "size", "unread")

    def __init__(self) -> None:
        self._changed = asyncio.Event()
        self.size = math.inf
        """Number of bytes that the other side has not passed on, above which senders wait."""
        self.sent = 0
        self.unread = 0
        """Bytes sent that the other side has not passed on, as far as is known."""
        self.passed_on = 0
        """Bytes that the receiver has got."""
        self.reported = 0
        """How many of these were reported to the other side."""

    def add(self, size: int) -> None:
        self.sent += size
        self.unread += size

    def was_reported(self, read: int) -> None:
        """The other side has passed on as many bytes."""
        self.unread = self.sent - read
        self._changed.set()

    async def wait_room(self) -> None:
        """Wait until the other side has passed on enough. `end` ends this."""
        while self.unread > self.size / 2:
            self._changed.clear()
            await self._changed.wait()

    def end(self) -> None:
        self.unread = 0
        self._changed.set()

    @property
    def is_due(self) -> bool:
        """Whether a report to the other side is due."""
        return self.passed_on - self.reported > self.size / 4
