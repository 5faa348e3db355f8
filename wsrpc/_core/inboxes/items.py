"""Inboxes of items, of ws-wrapper's iterator protocol: those of a stream, and those that a caller sends."""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Any

from msgspec import UNSET

from ...errors import RemoteError, StreamOverflow
from ..wire.messages import WireMessage
from ..wire.rejections import reason_from_wire
from .credit import GrantedCredit
from .inbox import DECODED, EncodedItems, Inbox, ReadableChannel, ReaderState
from .recipients import Decode

LARGEST_BATCH = 8192
"""Bytes of the largest message of several items for which there is always room within the credit. (wsrpc sends up to
4 KiB.) When the first one is read all of them are decoded."""

_STOPPED = ReaderState.STOPPED


class ProducerState(enum.Enum):
    """State of the remote producer of an `ItemInbox`. It is followed by the next one, or by the last one."""

    NOT_STARTED = "not started"
    """Nothing was read yet, so it was not told to start."""
    STARTED = "started"
    ENDED = "ended"
    """It has said that there are no more items."""


class ItemInbox(Inbox):
    """Queue of the items of one stream, and what its remote producer is told."""

    __slots__ = ("_producer",)

    def __init__(self, channel: ReadableChannel) -> None:
        self._producer = ProducerState.NOT_STARTED
        super().__init__(channel, "next")

    # ------------------------------------------------------------ arriving

    def receive(self, message: WireMessage, payload: bytes | bytearray, decode: Decode) -> None:
        """Keep one item or several, or take note of the last one."""
        a, i = message.a, message.i
        # No argument at all is an item without a value, and a truthy `done` counts (JavaScript 4.3.1, observed).
        item: Any = a[1] if len(a) > 1 else None
        if item.__class__ is dict:
            if item.get("done"):
                self._items_ended(i, error_in(item))
            else:
                self._add(item.get("value"), i, payload, decode)
        elif item.__class__ is list and i is UNSET and self.credit is not None:
            self._add_several(item, self.credit, payload, decode)
        else:
            self._add(None, i, payload, decode)

    def _add_several(
        self, values: list[Any], credit: GrantedCredit, payload: bytes | bytearray, decode: Decode
    ) -> None:
        """Keep the items of one message, which have to be within the credit."""
        size, count = len(payload), len(values)
        if self.over or not count:
            return
        if not credit.covers(self.received_count + count - 1, self.received_bytes):
            self._overflow(StreamOverflow(f"{count} items came at once, and the producer had less credit"))
            return
        if self._reserve(size):
            # Each counts for as much of the message, and the first one for what is left over.
            share, rest = divmod(size, count)
            self.queue.append((values[0], share + rest, None, None))
            self.queue.extend([(value, share, None, None) for value in values[1:]])
            self.received_bytes += size
        else:
            error = self.keep(EncodedItems(payload), None, decode, granted=True, large=size > LARGEST_BATCH)
            if error is not None:
                self._overflow(error)
                return
        self.received_count += count
        self.wake()

    def _items_ended(self, i: Any, error: RemoteError | None) -> None:
        again, self._producer = self.all_sent, ProducerState.ENDED
        self.end(error)
        if i is not UNSET:
            self._answer_end(i, again)

    def _answer_end(self, i: int, again: bool) -> None:
        """Answer request ``i``, which says that there are no more items. ``again``: not the first one to say so."""
        self.channel.answer(i)

    # ------------------------------------------------------------ reading

    @property
    def all_sent(self) -> bool:
        """Whether the remote producer has said that there are no more items."""
        return self._producer is ProducerState.ENDED

    @property
    def has_producer(self) -> bool:
        """Whether a remote producer was told to start and has not said that there are no more items."""
        return self._producer is ProducerState.STARTED

    def start_producer(self) -> None:
        if self._producer is ProducerState.NOT_STARTED:
            self._producer = ProducerState.STARTED
            if not (self.over or self.channel.over):
                self.channel.send_start(self)

    def _decoded(self, payload: bytes, size: int, decode: Decode) -> tuple[Any, int]:
        """Return the item of a message that has waited encoded, and its size. Of several items return the first."""
        a, size = super()._decoded(payload, size, decode)
        item: Any = a[1] if len(a) > 1 else None
        if payload.__class__ is not EncodedItems:
            return item.get("value") if item.__class__ is dict else None, size
        # The others wait decoded from now on. They were accepted, so there is room for them, whatever the limit.
        first, *others = item
        share = size // len(item)
        waiting = share * len(others)
        self.unread_memory.reserve(waiting * DECODED, granted=True)
        self._reserved += waiting
        self.queue.extendleft((other, share, None, None) for other in reversed(others))
        return first, size - waiting

    # ------------------------------------------------------------ leaving

    def _stop_reading(self, reason: object) -> None:
        """Stop reading, or let another stream read on.

        Another stream may read the items of a user's channel whose producer keeps to credit: the producer sends as far
        as its credit goes, so what is unread waits, and nothing is lost.
        """
        has_more = bool(self.queue) or not self.over
        if has_more and self.channel.has_credit and not self.channel.over:
            self._reader = ReaderState.ABANDONED
            self.wake()  # a read of the stream that was left, which must not take an item of the next one
        else:
            self._detach()


class Upload(ItemInbox):
    """Queue of the items that a caller sends to a handler. The call's result answers the end of the items.

    It receives until the channel ends, also after the handler has stopped reading.
    """

    __slots__ = ("_end_id", "_on_end")

    def __init__(self, channel: ReadableChannel) -> None:
        self._end_id: int | None = None
        """The id of the request that said that there are no more items, and that has no answer yet."""
        self._on_end: Callable[[int], None] | None = None
        """Answers that request, if the call has ended before the request arrives."""
        super().__init__(channel)

    def _answer_end(self, i: int, again: bool) -> None:
        if again:
            self.channel.answer(i)
        elif self._on_end is not None:
            self._on_end(i)
        else:
            self._end_id = i

    def pop_end_id(self) -> int | None:
        """Return the id of the request that said that there are no more items. The caller answers it."""
        i, self._end_id = self._end_id, None
        return i

    def pop_request_ids(self) -> list[int]:
        i = self.pop_end_id()
        return [*([] if i is None else [i]), *super().pop_request_ids()]

    def receive(self, message: WireMessage, payload: bytes | bytearray, decode: Decode) -> None:
        super().receive(message, payload, decode)
        if self._reader is _STOPPED and not self.all_sent and message.i is not UNSET:
            # JavaScript that gets the channel and `stop` in one read misses the `stop` (ws in Node, observed).
            self.channel.send_stop()

    def _stop_reading(self, reason: object) -> None:
        self._reader = _STOPPED  # but it still receives, see above
        self.drop_all()
        if not self.all_sent and not self.channel.over:
            self.channel.send_stop()  # the handler may run on for long

    def answer_end(self, answer: Callable[[int], None]) -> None:
        """Stop reading, and call ``answer`` with the id of the request that ends the items once it arrives."""
        self._on_end = answer
        self.stop_reading(None)


def error_in(end: dict[str, Any]) -> RemoteError | None:
    """Return what a producer failed with, if its last ``next`` says so."""
    if "e" not in end:
        return None
    reason = reason_from_wire(end["e"], end.get("_", UNSET))
    return reason if isinstance(reason, RemoteError) else RemoteError.of_value(reason)
