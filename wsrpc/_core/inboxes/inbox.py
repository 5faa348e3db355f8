"""`Inbox`: the queue of one reader of a channel. ``event_inboxes`` and ``item_inboxes`` have its kinds."""

from __future__ import annotations

import asyncio
import enum
from functools import partial
from typing import Any, Protocol

from msgspec import UNSET

from ..._base.scheduler import Timer
from ...errors import ChannelClosed, StreamOverflow
from ..wire.messages import Decode
from .credit import SMALLEST_SHARE, GrantedCredit
from .message_queue import BYTES_PER_UNREAD, DECODED_TIMES, MessageQueue, UnreadMemory
from .recipients import Recipient

LEAST_RESERVED = 4096
"""Bytes of messages for which memory is reserved at once."""


class ReadableChannel(Protocol):
    """Channel of an `Inbox`.

    Implemented by `ChannelCore` of ``_core.channels.channel_core`` for anonymous channels. And by `NamedChannel` of
    ``_core.channels.named_channels`` for the main channel and named channels, which have no credit and do not end.
    """

    @property
    def unread_memory(self) -> UnreadMemory: ...

    @property
    def over(self) -> bool: ...

    def closed_error(self) -> ChannelClosed:
        """Return the error for a call after the end."""
        ...

    @property
    def has_credit(self) -> bool:
        """Whether the remote peer keeps to credit."""
        ...

    @property
    def is_served(self) -> bool:
        """Whether the remote peer has opened the channel. It may open many, so the message that a reader has counts."""
        ...

    def add_recipient(self, event: str, recipient: Recipient, /) -> None:
        """Pass the messages of the name ``event`` to ``recipient``.

        Raises:
            RuntimeError: another recipient gets these messages, and does not share them.
        """

    def remove_recipient(self, event: str, recipient: Recipient, /) -> None: ...

    def send_start(self, inbox: Inbox, /) -> None:
        """Send ``start`` to the remote producer. If the producer keeps to credit, first grant `Inbox.credit`."""

    def answer(self, i: int, value: object = None, /) -> None:
        """Resolve a request that arrived on the channel."""

    def inbox_overflowed(self, event: str, inbox: Inbox, error: StreamOverflow, /) -> None:
        """Stop the messages for ``inbox``, because more is unread than the limits allow."""

    def count_misfit(self, event: str, why: Exception, /) -> None:
        """Count an event that was dropped because its arguments do not fit the type that its reader wants."""

    def count_dropped(self, count: int, /) -> None:
        """Count events that were dropped because nobody will read them."""

    def check_thread(self, coroutine: str, /) -> None:
        """Raise RuntimeError in another thread than the event loop's. ``coroutine`` is what was called there."""


class ReaderState(enum.Enum):
    """State of the reader of an `Inbox`."""

    READING = "reading"
    ABANDONED = "abandoned"
    """The stream was closed or garbage-collected, and another stream may read on. Then the state is READING again."""
    STOPPED = "stopped"
    """Nothing is read any more, and what was unread is dropped."""


_STOPPED = ReaderState.STOPPED


class Inbox(MessageQueue, Recipient):
    """Queue of the messages for one reader: an `EventInbox`, or an `ItemInbox`.

    If the remote producer keeps to credit, its credit limits the queue. Otherwise the limits of a `MessageQueue` apply.

    Messages wait decoded while there is memory for that, and encoded otherwise, because that is smaller. A message that
    was a request is answered once there is room again. So a plain ws-wrapper peer, which requests instead of emitting,
    waits for the reader.

    The reader checks whether ``queue`` is empty, and then calls `wait` or `read`.

    Args:
        event: the name of the messages; ``next`` for items.
    """

    __slots__ = (
        "__weakref__",
        "_event",
        "_in_hand",
        "_reader",
        "_reserved",
        "_waiter",
        "channel",
        "credit",
        "error",
        "over",
        "read_count",
        "received_count",
    )

    def __init__(self, channel: ReadableChannel, event: str) -> None:
        super().__init__(channel.unread_memory)
        self.channel = channel
        self._event = event
        self._waiter: asyncio.Future[None] | None = None
        self.received_count = 0
        self.read_count: int = 0
        """Numbers of messages, or of items. A message that was dropped for a newer message counts as not received."""
        self.credit: GrantedCredit | None = None
        """What the remote producer may send. None if the producer has no credit, as before its start."""
        self._reserved = 0
        """Bytes of messages that may wait decoded, because memory is reserved for them."""
        self._in_hand = 0
        """Memory that counts for the message that was read last, until the reader asks for the next message."""
        self.over = False
        """Nothing more will arrive."""
        self.error: BaseException | None = None
        """The exception that the reader gets after the last message. None at a plain end."""
        self._reader = ReaderState.READING
        self.unread_memory.inboxes.add(self)
        channel.add_recipient(event, self)

    def __repr__(self) -> str:
        present = self._reader is ReaderState.READING
        state = ("over" if self.over else "open") if present else self._reader.value
        return f"<{type(self).__name__} of {self._event!r} {state}, {len(self.queue)} unread>"

    # ------------------------------------------------------------ arriving

    def _add(self, value: Any, i: Any, payload: bytes | bytearray, decode: Decode) -> None:
        """Keep the value of a message. If there is no room, end with `StreamOverflow`."""
        if self.over:
            if i is not UNSET:
                self.channel.answer(i)
            return
        size = len(payload)
        request: int | None = None if i is UNSET else i
        at_once = request is not None and self._has_room(size)
        unanswered = None if at_once else request
        if self._may_wait_decoded(size):
            self.queue.append((value, size, unanswered, None))
            self.received_bytes += size
        else:
            error = self.keep(payload, unanswered, decode, granted=self._is_granted, large=self._is_large(size))
            if error is not None:
                self._overflow(error)
                return
        self.received_count += 1
        if request is not None and at_once:
            self.channel.answer(request)
        self.wake()

    def _has_room(self, size: int) -> bool:
        """Return whether there is room for more messages after one of ``size`` bytes. Then that one is answered now."""
        limits = self.unread_memory.limits
        crowded = not self._is_granted and len(self.queue) >= limits.stream_window
        return not crowded and self.received_bytes - self.read_bytes + size <= limits.stream_window_bytes

    def _may_wait_decoded(self, size: int) -> bool:
        """Return whether a message of ``size`` bytes, encoded, may wait decoded, and count its memory."""
        if self._waiter is not None and not self._waiter.done():
            # The reader gets the message in the next turn of the event loop, so the message need not count as unread.
            if not (self.channel.is_served and self._is_large(size)):
                return True
            if not self.unread_memory.acquire(size, 0):
                return False
            self._in_hand = size + BYTES_PER_UNREAD
            return True
        queue, limits = self.queue, self.unread_memory.limits
        if queue and not self._is_granted:
            waiting = self.received_bytes - self.read_bytes + size
            if len(queue) >= limits.stream_window or waiting > limits.stream_queue_bytes:
                return False
        return self._reserve(size)

    @property
    def _is_granted(self) -> bool:
        """Whether the producer has credit for the next message, so that the message has its place."""
        return self.credit is not None and self.credit.covers(self.received_count, self.received_bytes)

    def _is_large(self, size: int) -> bool:
        """Return whether a message of ``size`` bytes takes more memory than is counted for it in advance."""
        granted = 0 if self.credit is None else self.credit.bytes
        return size > SMALLEST_SHARE and self.received_bytes + size > granted

    def _reserve(self, size: int) -> bool:
        """Return whether ``size`` more bytes may wait decoded, and reserve memory for them."""
        needed = self.received_bytes - self.read_bytes + size
        if needed > self._reserved:
            more = max(needed - self._reserved, LEAST_RESERVED)
            if not self.unread_memory.reserve(more * DECODED_TIMES):
                return False
            self._reserved += more
        return True

    def _overflow(self, error: StreamOverflow) -> None:
        self.end(error)
        self.channel.inbox_overflowed(self._event, self, error)

    # ------------------------------------------------------------ the end

    def channel_ended(self, error: Exception | None) -> None:
        self.end(error)
        if self.abandoned:
            self.stop_reading(None)  # nobody can read on

    def end(self, error: BaseException | None = None) -> None:
        """Receive nothing more. The reader gets the messages in the queue, and then ``error``."""
        if not self.over:
            self.over = True
            self.error = error
            if not self.queue:
                self._release()  # now, because the holder of the stream need not read again
            self.wake()

    def end_after(self, seconds: float, error: BaseException) -> Timer:
        """Call `end` after that many seconds, unless the returned timer is cancelled."""
        loop = self.unread_memory.loop
        return loop.call_at(loop.time() + seconds, partial(self.end, error))

    # ------------------------------------------------------------ reading

    @property
    def is_busy(self) -> bool:
        """Whether a message is unread, or the reader has a message and has not asked for the next message yet."""
        busy = bool(self.queue) or (self.read_count > 0 and (self._waiter is None or self._waiter.done()))
        return busy and self._reader is ReaderState.READING

    @property
    def abandoned(self) -> bool:
        """Whether another stream may read on."""
        return self._reader is ReaderState.ABANDONED

    def start_producer(self) -> None:
        """Let the remote producer start, at the first read. An inbox of events has none."""

    def wait(self) -> asyncio.Future[None]:
        """Return a future that is done once a message has arrived, or the inbox is over. It may be cancelled.

        Raises:
            RuntimeError: another task waits already.
        """
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            raise RuntimeError("two tasks read the same stream: give each its own, or let one read")
        if self._reserved or self._in_hand:
            self._release()
        if self.credit is not None and not self.over and self.credit.is_due(self.read_count, self.read_bytes):
            self.credit.renew(self.read_count, self.read_bytes)
        waiter = self._waiter = self.unread_memory.loop.create_future()
        return waiter

    def wake(self) -> None:
        """End the wait of the reader, if it waits."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def stop_waiting(self) -> None:
        """Wait no more, because the coroutine that waits was closed."""
        self._waiter = None

    def read(self) -> Any:
        """Return the value of the oldest message, and grant the producer more credit if that is due.

        Exception: after an item that is larger than the window, credit is granted only in the next `wait`, so that the
        producer sends one such item at a time.
        """
        value, size, i, decode = self.queue.popleft()
        if decode is not None:
            value, size = self._decoded(value, size, decode)
        read_count = self.read_count = self.read_count + 1
        read_bytes = self.read_bytes = self.read_bytes + size
        if i is not None:
            self.channel.answer(i)
        credit = self.credit
        if (  # the first lines are `GrantedCredit.is_due` without a call, because this runs for each item
            credit is not None
            and (read_count >= credit.renew_at or read_bytes >= credit.renew_bytes_at)
            and size <= credit.window_bytes
            and not self.over
        ):
            credit.renew(read_count, read_bytes)
        return value

    def _decoded(self, payload: bytes, size: int, decode: Decode) -> tuple[Any, int]:
        """Return the value of a message that has waited encoded, and its size."""
        self.unread_memory.release(self._in_hand)
        self._in_hand = size + BYTES_PER_UNREAD
        return decode(payload).a, size

    def pop_error(self) -> BaseException | None:
        """Return the exception that the reader gets after the last message. Later calls return None."""
        error, self.error = self.error, None
        self._release()
        return error

    # ------------------------------------------------------------ the end of reading
    #
    # inbox                    drops what is unread    sends                               channel afterwards
    # EventInbox               yes                     nothing                             open
    # ItemInbox, with credit   no: another stream      nothing                             open
    #                          may read on
    # ItemInbox, without       yes                     `stop`, if the channel is a named   open
    #                                                  one and its producer has started
    # StreamInbox              yes                     an abort, with the reason           over
    # UploadInbox              yes                     `stop`, unless all was sent         open, for the result
    #
    # An ItemInbox that is empty and over is treated as one without credit. A dropped request is answered. On a channel
    # that is over, nothing else is sent.

    def stop_reading(self, reason: object) -> None:
        """Stop reading, as the table says. Idempotent. Only a `StreamInbox` sends the ``reason``."""
        if self._reader is not _STOPPED:
            self._stop_reading(reason)

    def _stop_reading(self, reason: object) -> None:
        self._detach()

    def _detach(self) -> None:
        """Stop receiving, and drop what is unread."""
        self._reader = _STOPPED
        self.channel.remove_recipient(self._event, self)
        self.drop_all()

    def resume_reading(self) -> None:
        """Continue for a new stream, in place of the abandoned one."""
        self._reader = ReaderState.READING

    def stream_collected(self, label: str) -> None:
        """Stop reading in the next turn of the event loop, because the stream was garbage-collected and not closed.

        Python may collect a stream in any thread and within any call.
        """
        if self._reader is not _STOPPED:
            self._reader = ReaderState.ABANDONED
            self.unread_memory.loop.call_soon(partial(self._stop_if_abandoned, label))

    def _stop_if_abandoned(self, label: str) -> None:
        if self.abandoned:  # otherwise another stream reads on
            self.stop_reading(None)

    def drop_all(self) -> None:
        """Drop what is unread, because nobody will read it."""
        self.end()
        while self.queue:
            self._drop_oldest()
        self.read_bytes = self.received_bytes
        self._release()

    def _drop_oldest(self) -> None:
        _, i, _ = self.pop()
        self.received_count -= 1
        if i is not None:
            self.channel.answer(i)

    def _release(self) -> None:
        self.unread_memory.release(self._in_hand + self._reserved * DECODED_TIMES)
        self._in_hand = self._reserved = 0
