"""Queue of the messages that have arrived for one reader: the items of a stream, or the events of one name."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

from msgspec import UNSET

from .._base.scheduler import Timer
from .._protocol.messages import WireMessage
from ..errors import StreamOverflow
from ..limits import Limits
from .memory import DECODED, ENTRY, UnreadMemory

__all__ = ["SMALLEST_SHARE", "Decode", "Inbox"]

SMALLEST_SHARE = 32 * 1024
"""Bytes of one stream that may be in flight, however many streams there are. (Less makes them wait for credit.) Each
stream begins with these: how many others begin at the same time shows only later, and granted credit is never taken
back."""

LEAST_RESERVED = 4096
"""Bytes of messages for which memory is reserved at once."""

Decode = Callable[[bytes | bytearray], WireMessage]


class Packed(bytes):
    """An encoded message of several items. In other messages an array is one item without a value."""


class Window:
    """How far ahead of its reader a producer may send, and when it gets more credit.

    Credit is counted in totals of items and bytes from the beginning of the stream. Granted credit is never taken back.

    Args:
        grant: tells the producer the totals up to which it may send.
        share: returns the bytes of one stream's window, which depend on how many streams are read.
    """

    __slots__ = ("_share", "bytes", "grant", "granted", "granted_bytes", "packed", "renew_at", "renew_bytes_at")

    def __init__(self, grant: Callable[[int, int], None], share: Callable[[], int]) -> None:
        self._share = share
        self.grant = grant
        self.granted = self.granted_bytes = self.bytes = 0
        self.packed = 0
        """Number of items in encoded messages of several that wait, without one item for each such message."""
        self.renew_at = self.renew_bytes_at = 0
        """Totals at which half of the window is free, so that the producer gets more."""

    def pack(self, count: int) -> None:
        """Note that a message of ``count`` items waits encoded. It counts as one item where messages are counted."""
        self.packed += count - 1

    def unpack(self, count: int) -> None:
        """Note that these items wait by themselves from now on."""
        self.packed -= count - 1

    def renew(self, taken: int, taken_bytes: int, limits: Limits) -> None:
        """Extend the credit to a full window beyond the totals that the reader has taken."""
        items = limits.stream_window
        size = self.bytes = self._share() if self.granted else min(self._share(), SMALLEST_SHARE)
        self.granted = taken + items
        self.granted_bytes = max(self.granted_bytes, taken_bytes + size)
        self.renew_at = taken + (items + 1) // 2
        self.renew_bytes_at = taken_bytes + (size + 1) // 2


class Inbox:
    """Bounded queue of messages with one reader, in arrival order.

    Either the remote peer keeps to the credit that it is given, or `Limits.stream_queue` bounds what waits here. The
    memory is bounded for all channels together. Messages wait decoded as far as there is memory for that, and encoded
    otherwise, because that is smaller.

    The reader first looks whether there is something in ``queue``, then calls `wait` or `take`.

    Args:
        items: whether the messages are a stream's items; otherwise they are events.
        answer: called with the id of each message that was a request, once there is room again. So a plain
            ws-wrapper peer, which requests instead of emitting, waits for the reader.
        newest: keep at most one message; the next one takes its place.
        wanted: makes the value of an event if its arguments fit. The reader leaves after the first event that fits.
            None if it stays.
    """

    __slots__ = (
        "_answer",
        "_decodes_until",
        "_received_bytes",
        "_reserved",
        "_taken_bytes",
        "_unread",
        "_waiter",
        "_window",
        "error",
        "items",
        "newest",
        "over",
        "queue",
        "taken",
        "wanted",
    )

    def __init__(
        self,
        unread: UnreadMemory,
        *,
        items: bool,
        answer: Callable[[int], None],
        newest: bool = False,
        wanted: Callable[[list[Any]], Any] | None = None,
    ) -> None:
        self.items = items
        self.newest = newest
        self.wanted = wanted
        self._unread = unread
        self._answer = answer
        self._window: Window | None = None
        self.queue: deque[tuple[Any, int, int | None, Decode | None]] = deque()
        """Value, encoded size, id of a request that is not answered yet, and how to decode a value that is encoded."""
        self._waiter: asyncio.Future[None] | None = None
        # Totals from the beginning, like credit. The difference is what waits here.
        self._received_bytes = 0
        self._taken_bytes = 0
        self.taken = 0
        """Number of messages that the reader has taken."""
        self._reserved = 0
        """Bytes that may wait here decoded, because memory is reserved for them."""
        self._decodes_until = 0
        """Total of bytes up to which messages are kept decoded, and are within credit, without another check."""
        self.over = False
        """Nothing more will arrive."""
        self.error: BaseException | None = None
        """The exception that the reader gets after the last message. None at a plain end."""

    def __repr__(self) -> str:
        return f"<Inbox {len(self.queue)} unread, {'over' if self.over else 'open'}>"

    # ------------------------------------------------------------ arriving

    def push(self, message: WireMessage, payload: bytes | bytearray, decode: Decode) -> bool:
        """Keep a message. If it does not fit, end the inbox with `StreamOverflow` and return False."""
        size = len(payload)
        i = message.i
        if self.over:
            if i is not UNSET:
                self._answer(i)
            return True
        queue = self.queue
        if self.newest and queue:
            self._drop_oldest()
        limits = self._unread.limits
        waiting = self._received_bytes - self._taken_bytes
        credited = self._is_within_credit()
        if queue and waiting + size > limits.stream_queue and not credited:
            self.end(StreamOverflow(f"{waiting} bytes wait to be read (Limits.stream_queue={limits.stream_queue})"))
            return False
        crowded = len(queue) >= limits.stream_window
        if self._is_awaited or (
            (credited or not crowded) and (self._received_bytes + size <= self._decodes_until or self._reserve(size))
        ):
            value, kept = self._value(message), None
        elif self._unread.take(size, waiting + len(queue) * ENTRY, granted=credited):
            value, kept = bytes(payload), decode
        else:
            self.end(StreamOverflow(f"{self._unread} as this message came"))
            return False
        if i is UNSET:
            i = None
        elif not crowded and waiting + size <= self._window_bytes:
            self._answer(i)
            i = None
        self._received_bytes += size
        queue.append((value, size, i, kept))
        self.wake()
        return True

    def push_item(self, value: Any, size: int) -> bool:
        """Keep an item that clearly fits. Return False if `push` has to check that.

        It leaves out the checks of `push` for requests, for `newest` and for items beyond credit or memory.
        """
        window, queue = self._window, self.queue
        if window is None or self.taken + len(queue) >= window.granted:
            return False
        received = self._received_bytes + size
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            if self._received_bytes >= window.granted_bytes:
                return False
            waiter.set_result(None)
        elif received > self._decodes_until and not (self._reserve(size) and received <= self._decodes_until):
            return False
        self._received_bytes = received
        queue.append((value, size, None, None))
        return True

    def push_batch(self, values: list[Any], payload: bytes | bytearray, decode: Decode) -> bool:
        """Keep the items of one message. If they exceed the credit, end the inbox and return False."""
        window, queue, size, count = self._window, self.queue, len(payload), len(values)
        if self.over or window is None or not count:
            return True
        if (
            self.taken + len(queue) + window.packed + count > window.granted
            or self._received_bytes >= window.granted_bytes
        ):
            self.end(StreamOverflow(f"{count} items came at once, and the producer had less credit"))
            return False
        if self._received_bytes + size <= self._decodes_until or self._reserve(size):
            # Each counts for as much of the message, and the first one for what is left over.
            share = size // count
            entries = iter([(value, share, None, None) for value in values])
            value, share, _, _ = next(entries)
            queue.append((value, size - share * (count - 1), None, None))
            queue.extend(entries)
        else:
            self._unread.take(size, 0, granted=True)
            window.pack(count)
            queue.append((Packed(payload), size, None, decode))
        self._received_bytes += size
        self.wake()
        return True

    def _unpack(self, payload: bytes, size: int, decode: Decode) -> tuple[Any, int]:
        """Return the value of a message that has waited encoded, and its size. Of several items return the first."""
        self._unread.give_back(size)
        message = decode(payload)
        a, window = message.a, self._window
        if window is None or payload.__class__ is not Packed:
            return self._value(message), size
        # The others wait decoded from now on. They were accepted, so there is room for them, whatever the limit.
        first, *others = a[1]
        window.unpack(len(a[1]))
        share = size // len(a[1])
        waiting = share * len(others)
        self._unread.reserve(waiting * DECODED, granted=True)
        self._reserved += waiting
        self.queue.extendleft((other, share, None, None) for other in reversed(others))
        return first, size - waiting

    @property
    def has_window(self) -> bool:
        """Whether the producer keeps to credit, so that it may send several items in one message."""
        return self._window is not None

    def _is_within_credit(self) -> bool:
        window = self._window
        return (
            window is not None
            and self.taken + len(self.queue) + window.packed < window.granted
            and self._received_bytes < window.granted_bytes
        )

    @property
    def _window_bytes(self) -> int:
        return self._unread.limits.stream_window_bytes if self._window is None else self._window.bytes

    def _reserve(self, size: int) -> bool:
        """Return whether one more message of ``size`` bytes may wait decoded."""
        more = self._received_bytes - self._taken_bytes + size - self._reserved
        if more > 0:
            more = max(more, LEAST_RESERVED)
            if not self._unread.reserve(more * DECODED):
                return False
            self._reserved += more
        until = self._taken_bytes + self._reserved
        self._decodes_until = until if self._window is None else min(until, self._window.granted_bytes)
        return until >= self._received_bytes + size

    def _release(self) -> None:
        self._unread.release(self._reserved * DECODED)
        self._reserved = self._decodes_until = 0

    def wake(self) -> None:
        """End the wait of the reader, if it waits."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    @property
    def _is_awaited(self) -> bool:
        """Whether the reader takes the next message in the next turn of the event loop, so that it need not count."""
        return self._waiter is not None and not self._waiter.done()

    @property
    def has_more(self) -> bool:
        """Whether something is unread, or may still arrive."""
        return bool(self.queue) or not self.over

    @property
    def is_at_work(self) -> bool:
        """Whether something is unread, or the reader has taken a message and does not wait for the next one yet."""
        return bool(self.queue) or (self.taken > 0 and self._waiter is None)

    def _value(self, message: WireMessage) -> Any:
        a = message.a
        if self.items:
            item: Any = a[1] if len(a) > 1 else None
            return item.get("value") if item.__class__ is dict else None
        return a

    def end(self, error: BaseException | None = None) -> None:
        """Receive nothing more. The reader gets the messages that wait here, and then ``error``."""
        if self.over:
            return
        self.over = True
        self.error = error
        self._decodes_until = 0
        self.wake()

    def end_after(self, seconds: float, error: BaseException) -> Timer:
        """Call `end` after that many seconds, unless the returned timer is cancelled."""
        loop = self._unread.loop
        return loop.call_at(loop.time() + seconds, partial(self.end, error))

    # ------------------------------------------------------------ reading

    def take_error(self) -> BaseException | None:
        """Return the exception that the reader gets after the last message, the first time. Then return None."""
        error, self.error = self.error, None
        return error

    async def wait(self) -> None:
        """Wait until a message is there, or nothing more will come. Cancelling is safe: no message is lost.

        Raises:
            RuntimeError: another task waits already.
        """
        if self._waiter is not None:
            raise RuntimeError("two tasks read the same stream: give each its own, or let one read")
        if self.queue or self.over:
            return
        if self._reserved:
            self._release()
        self._waiter = self._unread.loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def take(self) -> Any:
        """Return the oldest message's value. The producer gets more credit when half of the window is free."""
        value, size, i, decode = self.queue.popleft()
        if decode is not None:
            value, size = self._unpack(value, size, decode)
        taken = self.taken = self.taken + 1
        taken_bytes = self._taken_bytes = self._taken_bytes + size
        if i is not None:
            self._answer(i)
        window = self._window
        if window is not None and (taken >= window.renew_at or taken_bytes >= window.renew_bytes_at):
            self._renew(window)
        return value

    def start_credit(self, grant: Callable[[int, int], None], share: Callable[[], int]) -> None:
        """Give the producer credit for a window, and more whenever half of it is free. See `Window`."""
        self._window = Window(grant, share)
        self._renew(self._window)

    def _renew(self, window: Window) -> None:
        window.renew(self.taken, self._taken_bytes, self._unread.limits)
        if not self.over:
            self._decodes_until = min(self._taken_bytes + self._reserved, window.granted_bytes)
            window.grant(window.granted, window.granted_bytes)

    def take_request_ids(self) -> list[int]:
        """Return the ids of the requests that wait here, for the caller to answer. The requests wait on as events."""
        entries = list(self.queue)
        self.queue = deque((value, size, None, decode) for value, size, _, decode in entries)
        return [i for _, _, i, _ in entries if i is not None]

    def discard(self) -> None:
        """Drop what is unread, because nobody will read it."""
        self.end()
        self._window = None
        while self.queue:
            self._drop_oldest()
        self._taken_bytes = self._received_bytes
        self._release()

    def _drop_oldest(self) -> None:
        _, size, i, decode = self.queue.popleft()
        self._taken_bytes += size
        if decode is not None:
            self._unread.give_back(size)
        if i is not None:
            self._answer(i)
