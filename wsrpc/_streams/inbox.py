"""Queues of received messages: those of one reader, and those that arrived before anything listened."""

from __future__ import annotations

import asyncio
import enum
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol
from weakref import WeakSet

import msgspec
from msgspec import UNSET

from .._base.scheduler import Scheduler, Timer
from .._protocol.messages import WireMessage
from .._protocol.rejections import reason_from_wire
from ..errors import RemoteError, StreamOverflow
from ..limits import Limits
from .recipients import Decode, Recipient

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

    __slots__ = ("inboxes", "less", "limits", "loop", "used")

    def __init__(self, loop: Scheduler, limits: Limits) -> None:
        self.loop = loop
        self.limits = limits
        self.used = 0
        self.inboxes: WeakSet[Inbox] = WeakSet()
        """The queues of all readers that there are, those that receive nothing more included."""
        self.less: Callable[[], None] | None = None
        """Is called when less is used. None until the session is over, which keeps reading fast."""

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

    def release(self, size: int) -> None:
        """Stop counting ``size`` bytes: they were reserved, or a message of `ENTRY` bytes less was read or dropped."""
        self.used -= size
        if self.less is not None:
            self.less()

    def __str__(self) -> str:
        limit = self.limits.unread_bytes
        return f"unread messages on all channels took {self.used} bytes of memory (Limits.unread_bytes={limit})"


SMALLEST_SHARE = 32 * 1024
"""Bytes of one stream that may be in flight, however many streams there are. (Less makes them wait for credit.) Each
stream begins with these: how many others begin at the same time shows only later, and granted credit is never taken
back."""

LEAST_RESERVED = 4096
"""Bytes of messages for which memory is reserved at once."""

MOST_TOGETHER = 8192
"""Bytes of the largest message of several items for which there is always room within the credit. (wsrpc sends up to
4 KiB.) When the first one is read all of them are decoded."""


class Packed(bytes):
    """An encoded message of several items. In other messages an array is one item without a value."""


class MessageQueue:
    """Queue of received messages in arrival order. It counts the memory that they take.

    `Limits.stream_queue` bounds what waits here, and `Limits.unread_bytes` what waits on all channels together.
    """

    __slots__ = ("queue", "received_bytes", "taken_bytes", "unread")

    def __init__(self, unread: UnreadMemory) -> None:
        self.unread = unread
        self.queue: deque[tuple[Any, int, int | None, Decode | None]] = deque()
        """Value, encoded size, id of a request that is not answered yet, and how to decode a value that is encoded."""
        # Totals from the beginning, like credit. The difference is what waits here.
        self.received_bytes: int = 0
        self.taken_bytes: int = 0

    def keep(
        self, payload: bytes | bytearray, i: int | None, decode: Decode, *, granted: bool = False, large: bool = False
    ) -> StreamOverflow | None:
        """Append a message, encoded. Return the error if there is no room.

        There is if its place was ``granted``, unless the message is ``large`` and there is no memory for it.
        """
        unread, size, waiting = self.unread, len(payload), self.received_bytes - self.taken_bytes
        most = unread.limits.stream_queue
        if self.queue and waiting + size > most and not granted:
            return StreamOverflow(f"{waiting} bytes wait to be read (Limits.stream_queue={most})")
        if not unread.take(size, waiting + len(self.queue) * ENTRY, granted=granted and not large):
            return StreamOverflow(f"{unread} as this message came")
        self.queue.append((payload if isinstance(payload, bytes) else bytes(payload), size, i, decode))
        self.received_bytes += size
        return None

    def pop(self) -> tuple[Any, int | None, Decode | None]:
        """Take out the oldest message: its value, the id of an unanswered request, how to decode an encoded value."""
        value, size, i, decode = self.queue.popleft()
        self.taken_bytes += size
        if decode is not None:
            self.unread.release(size + ENTRY)
        return value, i, decode

    def take_request_ids(self) -> list[int]:
        """Return the ids of the requests that wait here, for the caller to answer. The requests wait on as events."""
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


class ReadableChannel(Protocol):
    """Channel of an `Inbox`.

    Implemented by `ChannelCore` of ``_channels.core`` for anonymous channels, and by `NamedChannel` of
    ``_channels.readers`` for the main channel and named ones, which have no credit and do not end.
    """

    @property
    def unread(self) -> UnreadMemory: ...

    @property
    def over(self) -> bool: ...

    @property
    def has_credit(self) -> bool:
        """Whether the remote peer keeps to credit."""
        ...

    @property
    def is_served(self) -> bool:
        """Whether the remote peer has opened it. It may open many, so that what their readers have taken counts."""
        ...

    @property
    def credit_share(self) -> int:
        """Bytes of one stream that may be in flight now."""
        ...

    def add_recipient(self, event: str, recipient: Recipient, /) -> None:
        """Pass the messages of that name to ``recipient``.

        Raises:
            RuntimeError: something receives them already and does not share them.
        """

    def remove_recipient(self, event: str, recipient: Recipient, /) -> None: ...

    def start_items(self, inbox: Inbox, /) -> None:
        """Tell the remote producer that it may start, after credit if it keeps to that."""

    def grant(self, items: int, size: int, /) -> None:
        """Tell the remote producer the totals of items and bytes up to which it may send."""

    def stop_items(self) -> None:
        """Tell the remote producer to stop."""

    def answer(self, i: int, value: object = None, /) -> None:
        """Resolve a request that arrived on the channel."""

    def overflowed(self, event: str, inbox: Inbox, error: StreamOverflow, /) -> None:
        """End what ``inbox`` reads, because more is unread than may be."""

    def count_misfit(self, event: str, why: Exception, /) -> None:
        """Count an event that was dropped because its arguments are not what its reader wants."""

    def count_dropped(self, count: int, /) -> None:
        """Count events that were dropped because nobody reads them any more."""

    def check_thread(self, coroutine: str, /) -> None:
        """Raise RuntimeError in another thread than the event loop's. ``coroutine`` is what was called there."""


class ReaderState(enum.Enum):
    """State of the reader of an `Inbox`."""

    PRESENT = "present"
    ABANDONED = "abandoned"
    """The stream was left or thrown away, and another stream may read on. Then the reader is present again."""
    LEFT = "left"
    """Nothing is read any more, and what was unread is dropped."""


class ProducerState(enum.Enum):
    """State of the remote producer of an `Inbox`. It is followed by the next one, or by the last one."""

    NOT_STARTED = "not started"
    """Nothing was read yet, so it was not told to start."""
    STARTED = "started"
    ENDED = "ended"
    """It has said that there are no more items."""


_LEFT = ReaderState.LEFT


class Inbox(MessageQueue, Recipient):
    """Queue of the messages for one reader: the items of a stream, or the events of one name.

    Either the remote producer keeps to the credit that it is given, or the bounds of a `MessageQueue` apply. Messages
    wait decoded as far as there is memory for that, and encoded otherwise, because that is smaller. A message that was
    a request is answered once there is room again. So a plain ws-wrapper peer, which requests instead of emitting,
    waits for the reader.

    Credit is counted in totals of items and bytes from the beginning of the stream. Granted credit is never taken back.

    The reader first looks whether there is something in ``queue``, then calls `wait` or `take`.

    Args:
        event: the name of the messages; ``next`` for items.
        items: whether the messages are a stream's items, of ws-wrapper's iterator protocol. Otherwise they are events.
        newest: keep at most one message; the next one takes its place.
    """

    __slots__ = (
        "__weakref__",
        "_event",
        "_granted",
        "_granted_bytes",
        "_in_hand",
        "_postponed",
        "_producer",
        "_reader",
        "_renew_at",
        "_renew_bytes_at",
        "_reserved",
        "_waiter",
        "_window_bytes",
        "channel",
        "error",
        "items",
        "newest",
        "over",
        "received",
        "taken",
    )

    def __init__(
        self,
        channel: ReadableChannel,
        event: str,
        *,
        items: bool = False,
        newest: bool = False,
    ) -> None:
        super().__init__(channel.unread)
        self.channel = channel
        self.items = items
        self.newest = newest
        self._event = event
        self._waiter: asyncio.Future[None] | None = None
        self.received = 0
        self.taken: int = 0
        """Number of messages, or of items. A message that made place for a newer one counts as not received."""
        self._granted: int = 0
        self._granted_bytes: int = 0
        """Totals that the producer may send. 0 if it has no credit."""
        self._renew_at: int = 0
        self._renew_bytes_at: int = 0
        """Totals at which half of the window is free, so that the producer gets more."""
        self._window_bytes = self.unread.limits.stream_window_bytes
        self._reserved = 0
        """Bytes that may wait here decoded, because memory is reserved for them."""
        self._in_hand = 0
        """Bytes that count for the message that the reader has taken last, until it asks for the next one."""
        self._postponed = False
        """Whether the producer gets credit when the reader asks for the next item."""
        self.over = False
        """Nothing more will arrive."""
        self.error: BaseException | None = None
        """The exception that the reader gets after the last message. None at a plain end."""
        self._producer = ProducerState.NOT_STARTED
        self._reader = ReaderState.PRESENT
        self.unread.inboxes.add(self)
        channel.add_recipient(event, self)

    def __repr__(self) -> str:
        present = self._reader is ReaderState.PRESENT
        state = ("over" if self.over else "open") if present else self._reader.value
        return f"<{type(self).__name__} of {self._event!r} {state}, {len(self.queue)} unread>"

    # ------------------------------------------------------------ arriving

    def receive(self, message: WireMessage, payload: bytes | bytearray, decode: Decode) -> None:
        """Keep a message. If there is no room, end with `StreamOverflow` and abort the channel."""
        a, i, size = message.a, message.i, len(payload)
        value: Any = a
        if self.items:
            # No argument at all is an item without a value, and a truthy `done` counts (JavaScript 4.3.1, observed).
            value = a[1] if len(a) > 1 else None
            if value.__class__ is dict:
                if value.get("done"):
                    self._items_ended(i, error_in(value))
                    return
                value = value.get("value")
            elif value.__class__ is list and i is UNSET and self._granted:
                self._receive_several(value, payload, decode)
                return
            else:
                value = None
        if self.over:
            if i is not UNSET:
                self.channel.answer(i)
            return
        queue, limits = self.queue, self.unread.limits
        if self.newest and queue:
            self._drop_oldest()
        needed = self.received_bytes - self.taken_bytes + size
        credited = self.received < self._granted and self.received_bytes < self._granted_bytes
        crowded = not credited and len(queue) >= limits.stream_window
        large = size > SMALLEST_SHARE and self.received_bytes + size > self._granted_bytes
        answered = False
        if i is UNSET:
            i = None
        elif not crowded and needed <= self._window_bytes:
            answered, i = True, None
        waiter = self._waiter
        if waiter is not None and waiter.done():
            waiter = None
        if waiter is not None:  # it is taken in the next turn of the event loop, so that it need not count as unread
            decoded = not (large and self.channel.is_served)
            if not decoded and self.unread.take(size, 0):
                decoded, self._in_hand = True, size + ENTRY
        elif credited or not (crowded or (queue and needed > limits.stream_queue)):
            decoded = needed <= self._reserved or self._reserve(needed)
        else:
            decoded = False
        if decoded:
            queue.append((value, size, i, None))
            self.received_bytes += size
        elif (error := self.keep(payload, i, decode, granted=credited, large=large)) is not None:
            self._overflow(error)
            return
        self.received += 1
        if answered:
            self.channel.answer(message.i)
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def _receive_several(self, values: list[Any], payload: bytes | bytearray, decode: Decode) -> None:
        """Keep the items of one message, which have to be within the credit."""
        size, count = len(payload), len(values)
        if self.over or not count:
            return
        if self.received + count > self._granted or self.received_bytes >= self._granted_bytes:
            self._overflow(StreamOverflow(f"{count} items came at once, and the producer had less credit"))
            return
        needed = self.received_bytes - self.taken_bytes + size
        if needed <= self._reserved or self._reserve(needed):
            # Each counts for as much of the message, and the first one for what is left over.
            share, rest = divmod(size, count)
            self.queue.append((values[0], share + rest, None, None))
            self.queue.extend([(value, share, None, None) for value in values[1:]])
            self.received_bytes += size
        else:
            error = self.keep(Packed(payload), None, decode, granted=True, large=size > MOST_TOGETHER)
            if error is not None:
                self._overflow(error)
                return
        self.received += count
        self.wake()

    def _reserve(self, needed: int) -> bool:
        """Return whether ``needed`` bytes may wait decoded. Those of the last message are not counted yet."""
        more = max(needed - self._reserved, LEAST_RESERVED)
        if not self.unread.reserve(more * DECODED):
            return False
        self._reserved += more
        return True

    def _overflow(self, error: StreamOverflow) -> None:
        self.end(error)
        self.channel.overflowed(self._event, self, error)

    def _items_ended(self, i: Any, error: RemoteError | None) -> None:
        again, self._producer = self.all_sent, ProducerState.ENDED
        self.end(error)
        if i is not UNSET:
            self._answer_end(i, again)

    def _answer_end(self, i: int, again: bool) -> None:
        """Answer request ``i``, which says that there are no more items. ``again``: not the first one to say so."""
        self.channel.answer(i)

    # ------------------------------------------------------------ the end

    def channel_ended(self, error: Exception | None) -> None:
        self.end(error)
        if self.abandoned:
            self.leave(None)  # nobody can read on

    def end(self, error: BaseException | None = None) -> None:
        """Receive nothing more. The reader gets the messages that wait here, and then ``error``."""
        if not self.over:
            self.over = True
            self.error = error
            if not self.queue:
                self._release()  # whoever holds the stream need not read on
            self.wake()

    def end_after(self, seconds: float, error: BaseException) -> Timer:
        """Call `end` after that many seconds, unless the returned timer is cancelled."""
        loop = self.unread.loop
        return loop.call_at(loop.time() + seconds, partial(self.end, error))

    # ------------------------------------------------------------ reading

    @property
    def is_at_work(self) -> bool:
        """Whether something is unread, or the reader has taken a message and has not asked for the next one yet."""
        at_work = bool(self.queue) or (self.taken > 0 and (self._waiter is None or self._waiter.done()))
        return at_work and self._reader is ReaderState.PRESENT

    @property
    def abandoned(self) -> bool:
        """Whether another stream may read on."""
        return self._reader is ReaderState.ABANDONED

    @property
    def all_sent(self) -> bool:
        """Whether the remote producer has said that there are no more items."""
        return self._producer is ProducerState.ENDED

    @property
    def has_more(self) -> bool:
        """Whether something is unread, or may still arrive."""
        return bool(self.queue) or not self.over

    @property
    def has_producer(self) -> bool:
        """Whether a remote producer was told to start and has not said that there are no more items."""
        return self.items and self._producer is ProducerState.STARTED

    def begin(self) -> None:
        """Let the remote producer start, at the first read."""
        if self._producer is ProducerState.NOT_STARTED:
            self._producer = ProducerState.STARTED
            if self.items and not (self.over or self.channel.over):
                self.channel.start_items(self)

    def wait(self) -> asyncio.Future[None]:
        """Return a future that is done once a message is there, or nothing more will come. It may be cancelled.

        Raises:
            RuntimeError: another task waits already.
        """
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            raise RuntimeError("two tasks read the same stream: give each its own, or let one read")
        if self._reserved or self._in_hand:
            self._release()
        if self._postponed:
            self.grant_credit()
        waiter = self._waiter = self.unread.loop.create_future()
        return waiter

    def wake(self) -> None:
        """End the wait of the reader, if it waits."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def forget_wait(self) -> None:
        """Wait no more, because the coroutine that waits was thrown away."""
        self._waiter = None

    def take(self) -> Any:
        """Return the oldest message's value. The producer gets more credit when half of the window is free."""
        value, size, i, decode = self.queue.popleft()
        if decode is not None:
            value, size = self._decoded(value, size, decode)
        taken = self.taken = self.taken + 1
        taken_bytes = self.taken_bytes = self.taken_bytes + size
        if i is not None:
            self.channel.answer(i)
        if self._granted and (taken >= self._renew_at or taken_bytes >= self._renew_bytes_at) and not self.over:
            if size > self._window_bytes:  # of such items one at a time is all that memory is counted for
                self._postponed = True
            else:
                self.grant_credit()
        return value

    def _decoded(self, payload: bytes, size: int, decode: Decode) -> tuple[Any, int]:
        """Return the value of a message that has waited encoded, and its size. Of several items return the first."""
        self.unread.release(self._in_hand)
        self._in_hand = size + ENTRY
        a = decode(payload).a
        if not self.items:
            return a, size
        item: Any = a[1] if len(a) > 1 else None
        if payload.__class__ is not Packed:
            return item.get("value") if item.__class__ is dict else None, size
        # The others wait decoded from now on. They were accepted, so there is room for them, whatever the limit.
        first, *others = item
        share = size // len(item)
        waiting = share * len(others)
        self.unread.reserve(waiting * DECODED, granted=True)
        self._reserved += waiting
        self.queue.extendleft((other, share, None, None) for other in reversed(others))
        return first, size - waiting

    def count_misfit(self, why: Exception) -> None:
        """Count an event that was taken, and is dropped because its arguments are not what the reader wants."""
        self.channel.count_misfit(self._event, why)

    def grant_credit(self) -> None:
        """Give the producer credit for a full window beyond what the reader has taken."""
        items, size = self.unread.limits.stream_window, self.channel.credit_share
        if not self._granted:
            size = min(size, SMALLEST_SHARE)
        self._window_bytes = size
        self._postponed = False
        self._granted = self.taken + items
        self._granted_bytes = max(self._granted_bytes, self.taken_bytes + size)
        self._renew_at = self.taken + (items + 1) // 2
        self._renew_bytes_at = self.taken_bytes + (size + 1) // 2
        self.channel.grant(self._granted, self._granted_bytes)

    def take_error(self) -> BaseException | None:
        """Return the exception that the reader gets after the last message, the first time. Then return None."""
        error, self.error = self.error, None
        self._release()
        return error

    # ------------------------------------------------------------ leaving

    def leave(self, reason: object) -> None:
        """Stop reading, or let another stream read on. Idempotent.

        Another stream may read the items of a user's channel whose producer keeps to credit: the producer sends as far
        as its credit goes, so what is unread waits, and nothing is lost. In all other cases what is unread is dropped.
        """
        if self._reader is _LEFT:
            return
        channel = self.channel
        if not channel.over and self.items and self.has_more and channel.has_credit:
            self._reader = ReaderState.ABANDONED
            self.wake()  # a read of the stream that was left, which must not take an item of the next one
            return
        self._stop_reading()

    def _stop_reading(self) -> None:
        self._reader = _LEFT
        self.channel.remove_recipient(self._event, self)
        self.drop_all()

    def read_on(self) -> None:
        """Go on for another stream than the one that was left."""
        self._reader = ReaderState.PRESENT

    def leave_soon(self, label: str) -> None:
        """Stop reading in the next turn of the event loop, because the stream was thrown away without being left.

        Python may throw it away in any thread and within any call.
        """
        if self._reader is not _LEFT:
            self._reader = ReaderState.ABANDONED
            self.unread.loop.call_soon(partial(self._leave_abandoned, label))

    def _leave_abandoned(self, label: str) -> None:
        if not self.abandoned:  # another stream reads on
            return
        unread = 0 if self.items or self.channel.over else len(self.queue)
        self.leave(None)
        if unread:
            self.channel.count_dropped(unread)

    def drop_all(self) -> None:
        """Drop what is unread, because nobody will read it."""
        self.end()
        while self.queue:
            self._drop_oldest()
        self.taken_bytes = self.received_bytes
        self._release()

    def _drop_oldest(self) -> None:
        _, i, _ = self.pop()
        self.received -= 1
        if i is not None:
            self.channel.answer(i)

    def _release(self) -> None:
        self.unread.release(self._in_hand + self._reserved * DECODED)
        self._in_hand = self._reserved = 0


def error_in(end: dict[str, Any]) -> RemoteError | None:
    """Return what a producer failed with, if its last ``next`` says so."""
    if "e" not in end:
        return None
    reason = reason_from_wire(end["e"], end.get("_", UNSET))
    return reason if isinstance(reason, RemoteError) else RemoteError.of_value(reason)


class NextEvent(Inbox):
    """Queue of a reader that wants one event. It receives nothing after the first event that fits.

    Args:
        value_of: makes the value of an event.
    """

    __slots__ = ("_value_of",)

    def __init__(self, channel: ReadableChannel, event: str, value_of: Callable[[list[Any]], Any]) -> None:
        self._value_of = value_of
        super().__init__(channel, event)

    def receive(self, message: WireMessage, payload: bytes | bytearray, decode: Decode) -> None:
        super().receive(message, payload, decode)
        if not self.over and self._fits(message.a):
            # Now, not when it is read: further events may have arrived with this one, and are for the next reader.
            self.end()
            self.channel.remove_recipient(self._event, self)

    def _fits(self, a: list[Any]) -> bool:
        try:
            self._value_of(a)
        except msgspec.ValidationError:
            return False
        return True


class Upload(Inbox):
    """Queue of the items that a caller sends to a handler. The call's result answers the end of the items.

    It receives until the channel ends, also after the handler has stopped reading.
    """

    __slots__ = ("_end_id", "_on_end")

    def __init__(self, channel: ReadableChannel) -> None:
        self._end_id: int | None = None
        """The id of the request that said that there are no more items, and that has no answer yet."""
        self._on_end: Callable[[int], None] | None = None
        """Answers that request, if the call has ended before the request arrives."""
        super().__init__(channel, "next", items=True)

    def _answer_end(self, i: int, again: bool) -> None:
        if again:
            self.channel.answer(i)
        elif self._on_end is not None:
            self._on_end(i)
        else:
            self._end_id = i

    def take_end_id(self) -> int | None:
        """Return the id of the request that said that there are no more items. The caller answers it."""
        i, self._end_id = self._end_id, None
        return i

    def take_request_ids(self) -> list[int]:
        i = self.take_end_id()
        return [*([] if i is None else [i]), *super().take_request_ids()]

    def receive(self, message: WireMessage, payload: bytes | bytearray, decode: Decode) -> None:
        super().receive(message, payload, decode)
        if self._reader is _LEFT and not self.all_sent and message.i is not UNSET:
            # JavaScript that gets the channel and `stop` in one read misses the `stop` (ws in Node, observed).
            self.channel.stop_items()

    def leave(self, reason: object) -> None:
        """Stop reading: the caller need send no more items. The channel stays for the call's result. Idempotent."""
        if self._reader is _LEFT:
            return
        self._reader = _LEFT
        self.drop_all()
        if not self.all_sent and not self.channel.over:
            self.channel.stop_items()  # the handler may run on for long

    def answer_end(self, answer: Callable[[int], None]) -> None:
        """Stop reading, and call ``answer`` with the id of the request that ends the items once it arrives."""
        self._on_end = answer
        self.leave(None)
