"""Inboxes of items: `ItemInbox` for a stream on a user's channel, and `UploadInbox`.

Items arrive as in ws-wrapper's iterator protocol, in events or requests ``next``. The inbox of a stream that has its
own channel is `StreamInbox` of ``_core.channels.channel_core``, because it ends the channel.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Any, Protocol

from msgspec import UNSET

from ...errors import RemoteError, StreamOverflow
from ..wire.messages import Decode, WireMessage
from ..wire.rejections import reason_from_wire
from .credit import GrantedCredit
from .inbox import Inbox, ReadableChannel, ReaderState
from .message_queue import DECODED_TIMES, EncodedItems

LARGEST_BATCH = 8192
"""Bytes of the largest message of several items for which there is always room within the credit. (wsrpc sends up to
4 KiB.) When the first item is read, all items of the message are decoded."""

_STOPPED = ReaderState.STOPPED


class ProducerState(enum.Enum):
    """State of the remote producer of an `ItemInbox`. Each state is followed by the next state, or by ENDED."""

    NOT_STARTED = "not started"
    """Nothing was read yet, so no ``start`` was sent."""
    STARTED = "started"
    ENDED = "ended"
    """The producer has sent that there are no more items."""


class ItemInbox(Inbox):
    """Queue of the items of one stream. It starts and stops the remote producer."""

    __slots__ = ("_producer",)

    def __init__(self, channel: ReadableChannel) -> None:
        self._producer = ProducerState.NOT_STARTED
        super().__init__(channel, "next")

    # ------------------------------------------------------------ arriving

    def receive(self, message: WireMessage, payload: bytes | bytearray, decode: Decode) -> None:
        """Keep one item or several, or record the end of the items."""
        a, i = message.a, message.i
        # A message without arguments is an item without a value. A truthy `done` counts (JavaScript 4.3.1, observed).
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
            self._overflow(StreamOverflow(f"{count} items arrived in one message, and the producer had less credit"))
            return
        if self._reserve(size):
            # Each item counts for an equal share of the message's bytes. The first item counts for the rest, too.
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
        """Answer request ``i``, which says that there are no more items. ``again``: an earlier message has said so."""
        self.channel.answer(i)

    # ------------------------------------------------------------ reading

    @property
    def all_sent(self) -> bool:
        """Whether the remote producer has sent all items, and the end of the items."""
        return self._producer is ProducerState.ENDED

    @property
    def producer_runs(self) -> bool:
        """Whether ``start`` was sent, and the remote producer may send more items."""
        return self._producer is ProducerState.STARTED

    def start_producer(self) -> None:
        if self._producer is ProducerState.NOT_STARTED:
            self._producer = ProducerState.STARTED
            if not (self.over or self.channel.over):
                self.channel.send_start(self)

    def _decoded(self, payload: bytes, size: int, decode: Decode) -> tuple[Any, int]:
        """Return the item of a message that has waited encoded, and the size of the item.

        If the message has several items, return the first item. The other items are decoded, too, and wait.
        """
        a, size = super()._decoded(payload, size, decode)
        item: Any = a[1] if len(a) > 1 else None
        if payload.__class__ is not EncodedItems:
            return item.get("value") if item.__class__ is dict else None, size
        # The message was accepted, so there is room for its items, whatever the limit.
        first, *others = item
        share = size // len(item)
        waiting = share * len(others)
        self.unread_memory.reserve(waiting * DECODED_TIMES, granted=True)
        self._reserved += waiting
        self.queue.extendleft((other, share, None, None) for other in reversed(others))
        return first, size - waiting

    # ------------------------------------------------------------ the end of reading

    def _stop_reading(self, reason: object) -> None:
        """Stop reading, but keep the items if another stream may read on.

        That is so on a user's channel whose producer keeps to credit. The producer sends no more than its credit
        allows, so the unread items wait, and no item is lost.
        """
        has_more = bool(self.queue) or not self.over
        if has_more and self.channel.has_credit and not self.channel.over:
            self._reader = ReaderState.ABANDONED
            self.wake()  # ends a read of the old stream, which must not get an item of the next stream
        else:
            self._detach()


class UploadChannel(ReadableChannel, Protocol):
    """Channel of an `UploadInbox`."""

    def send_stop(self) -> None:
        """Send ``stop`` to the remote producer."""


class UploadInbox(ItemInbox):
    """Queue of the items that a caller sends to a handler. The result of the call answers the end of the items.

    The inbox receives until the channel ends, also after the handler has stopped reading.
    """

    __slots__ = ("_end_id", "_on_end")

    channel: UploadChannel

    def __init__(self, channel: UploadChannel) -> None:
        self._end_id: int | None = None
        """The id of the request that ended the items, until it is answered."""
        self._on_end: Callable[[int], None] | None = None
        """Answers the request that ends the items. Set if the call has ended before this request arrives."""
        super().__init__(channel)

    def _answer_end(self, i: int, again: bool) -> None:
        if again:
            self.channel.answer(i)
        elif self._on_end is not None:
            self._on_end(i)
        else:
            self._end_id = i

    def pop_end_id(self) -> int | None:
        """Return the id of the request that ended the items, if it has no answer yet. The caller answers it."""
        i, self._end_id = self._end_id, None
        return i

    def pop_request_ids(self) -> list[int]:
        i = self.pop_end_id()
        return [*([] if i is None else [i]), *super().pop_request_ids()]

    def receive(self, message: WireMessage, payload: bytes | bytearray, decode: Decode) -> None:
        super().receive(message, payload, decode)
        if self._reader is _STOPPED and not self.all_sent and message.i is not UNSET:
            # JavaScript misses a `stop` that it gets in the same read as the channel (ws in Node, observed).
            self.channel.send_stop()

    def _stop_reading(self, reason: object) -> None:
        self._reader = _STOPPED  # without `_detach`, because the inbox still receives
        self.drop_all()
        if not self.all_sent and not self.channel.over:
            self.channel.send_stop()  # because the handler may run for long

    def answer_end(self, answer: Callable[[int], None]) -> None:
        """Stop reading, and call ``answer`` with the id of the request that ends the items once it arrives."""
        self._on_end = answer
        self.stop_reading(None)


def error_in(end: dict[str, Any]) -> RemoteError | None:
    """Return the error of the producer, if its last ``next`` has one."""
    if "e" not in end:
        return None
    reason = reason_from_wire(end["e"], end.get("_", UNSET))
    return reason if isinstance(reason, RemoteError) else RemoteError.of_value(reason)
