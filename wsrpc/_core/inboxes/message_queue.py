"""`MessageQueue`: a queue of received messages. `UnreadMemory` counts the memory of all queues of a peer."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any
from weakref import WeakSet

from ..._base.scheduler import Scheduler
from ...errors import StreamOverflow
from ...limits import Limits
from ..wire.messages import Decode

BYTES_PER_UNREAD = 176
"""Bytes that an unread message takes besides its payload: its entry in a queue, and the headers of its objects.
(Measured with tracemalloc: 170 to 177 decoded, 81 to 181 encoded.)"""

DECODED_TIMES = 32
"""How many times its encoded size a decoded message may take. (Measured: 7 times for lists of objects, numbers or
words, 24 for empty JSON objects, 73 for empty MessagePack maps.)"""

ALWAYS_FREE = 4096
"""Bytes that each channel may take even when the limit is reached, so that one busy channel does not end the others."""


class UnreadMemory:
    """Counter of the bytes that unread messages take, up to `Limits.unread_bytes`.

    ``used`` is exact for messages that wait encoded. For decoded messages, readers reserve memory in advance, at most
    half of the limit. When no memory remains, messages wait encoded, because that is smaller. They are decoded again
    when they are read.

    Inboxes and anonymous channels also get the event loop and the limits from here.
    """

    __slots__ = ("inboxes", "limits", "loop", "on_release", "used")

    def __init__(self, loop: Scheduler, limits: Limits) -> None:
        self.loop = loop
        self.limits = limits
        self.used = 0
        self.inboxes: WeakSet[Any] = WeakSet()
        """The `Inbox` of each reader, also those that receive nothing more."""
        self.on_release: Callable[[], None] | None = None
        """Is called when memory is released. None until the session is over, which keeps reading fast."""

    def acquire(self, size: int, waiting: int, *, granted: bool = False) -> bool:
        """Count a message of ``size`` bytes on a channel where ``waiting`` bytes wait. Return False if it does not fit.

        The only message of all channels always fits. So does a message for which the remote peer was ``granted``
        credit, and a message on a channel where few bytes wait.
        """
        size += BYTES_PER_UNREAD
        if self.used + size > self.limits.unread_bytes and not granted and self.used and waiting + size > ALWAYS_FREE:
            return False
        self.used += size
        return True

    def reserve(self, size: int, *, granted: bool = False) -> bool:
        """Reserve ``size`` bytes for decoded messages. Return False if there is not enough memory for them.

        ``granted``: the messages were accepted before, so there is always enough.
        """
        if not granted and self.used + size > self.limits.unread_bytes // 2:
            return False
        self.used += size
        return True

    def release(self, size: int) -> None:
        """Stop counting ``size`` bytes: reserved bytes, or the size of a message and its `BYTES_PER_UNREAD`."""
        self.used -= size
        if self.on_release is not None:
            self.on_release()

    def __str__(self) -> str:
        limit = self.limits.unread_bytes
        return f"unread messages on all channels took {self.used} bytes of memory (Limits.unread_bytes={limit})"


class EncodedItems(bytes):
    """An encoded message of several items, in an array. In all other messages, an array is one item without a value."""


class MessageQueue:
    """Queue of received messages in arrival order. It counts the memory of these messages.

    `Limits.stream_queue_bytes` limits the messages in one queue, and `Limits.unread_bytes` those of all channels.
    """

    __slots__ = ("queue", "read_bytes", "received_bytes", "unread_memory")

    def __init__(self, memory: UnreadMemory) -> None:
        self.unread_memory = memory
        self.queue: deque[tuple[Any, int, int | None, Decode | None]] = deque()
        """Value, encoded size, id of a request that is not answered yet, and how to decode a value that is encoded."""
        # Totals since the beginning, like credit. The difference is the size of the queue.
        self.received_bytes: int = 0
        self.read_bytes: int = 0

    def keep(
        self, payload: bytes | bytearray, i: int | None, decode: Decode, *, granted: bool = False, large: bool = False
    ) -> StreamOverflow | None:
        """Append a message, encoded. Return the error if there is no room.

        A message for which this side has ``granted`` credit always has room, with one exception: a ``large`` message
        also needs free memory.
        """
        memory, size, waiting = self.unread_memory, len(payload), self.received_bytes - self.read_bytes
        most = memory.limits.stream_queue_bytes
        if self.queue and waiting + size > most and not granted:
            return StreamOverflow(f"{waiting} bytes wait to be read (Limits.stream_queue_bytes={most})")
        if not memory.acquire(size, waiting + len(self.queue) * BYTES_PER_UNREAD, granted=granted and not large):
            return StreamOverflow(f"{memory} when this message arrived")
        self.queue.append((payload if isinstance(payload, bytes) else bytes(payload), size, i, decode))
        self.received_bytes += size
        return None

    def pop(self) -> tuple[Any, int | None, Decode | None]:
        """Remove the oldest message. Return its value, the id of an unanswered request, and how to decode the value."""
        value, size, i, decode = self.queue.popleft()
        self.read_bytes += size
        if decode is not None:
            self.unread_memory.release(size + BYTES_PER_UNREAD)
        return value, i, decode

    def pop_request_ids(self) -> list[int]:
        """Return the ids of the requests in the queue. The caller answers them. The requests stay here as events."""
        entries = list(self.queue)
        self.queue = deque((value, size, None, decode) for value, size, _, decode in entries)
        return [i for _, _, i, _ in entries if i is not None]

    def drop_events(self) -> int:
        """Drop all events, and keep the requests. Return the number of events."""
        dropped = 0
        for _ in range(len(self.queue)):
            if self.queue[0][2] is None:
                self.pop()
                dropped += 1
            else:
                self.queue.rotate(-1)
        return dropped

    def drop_all(self) -> None:
        """Drop everything."""
        while self.queue:
            self.pop()
