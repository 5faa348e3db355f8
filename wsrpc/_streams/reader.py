"""Readers of the messages on a channel: of items, of the events of one name, of what a caller uploads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from msgspec import UNSET

from .._protocol.messages import WireMessage
from .._protocol.rejections import reason_from_wire
from ..errors import RemoteError
from .inbox import Decode, Inbox
from .recipients import Recipient

__all__ = ["MismatchDetector", "ReadableChannel", "Reading", "Upload"]


class ReadableChannel(Protocol):
    """Channel that a `Reading` reads.

    Implemented by `ChannelCore` of ``_channels.core`` for anonymous channels, and by `ReadingPlace` of
    ``_channels.readers`` for the main channel and named ones.
    """

    @property
    def closed(self) -> bool: ...

    @property
    def has_credit(self) -> bool:
        """Whether the remote peer keeps to credit."""
        ...

    def add_recipient(self, event: str, recipient: Recipient, /) -> None:
        """Pass the messages of that name to ``recipient``.

        Raises:
            RuntimeError: something receives them already and does not share them.
        """

    def remove_recipient(self, event: str, recipient: Recipient, /) -> None: ...

    def start_items(self, inbox: Inbox, /) -> None:
        """Tell the remote producer that it may start."""

    def stop_items(self) -> None:
        """Tell the remote producer to stop."""

    def answer(self, i: int, value: object = None, /) -> None:
        """Resolve a request that arrived on the channel."""

    def abort(self, reason: object, /) -> None:
        """End the channel on both sides."""

    def finish_locally(self) -> None:
        """End the channel in good order. The remote peer knows that it has ended."""

    def call_soon(self, callback: Callable[[], None], /) -> None: ...

    def warn(self, text: str, /) -> None: ...

    def count_dropped(self, count: int, /) -> None:
        """Count events that were dropped because nobody reads them any more."""

    def check_thread(self, coroutine: str, /) -> None:
        """Raise RuntimeError in another thread than the event loop's. ``coroutine`` is what was called there."""


class Reading:
    """Reader of the items of ws-wrapper's iterator protocol, or of the events of one name.

    Args:
        event: the name of the messages that are read; ``next`` for items.
        owns: the channel was opened for this reading only, and ends with it.
    """

    __slots__ = (
        "_begun",
        "_event",
        "_left",
        "_owns",
        "abandoned",
        "channel",
        "ended",
        "inbox",
    )

    def __init__(self, channel: ReadableChannel, inbox: Inbox, event: str, *, owns: bool = False) -> None:
        self.channel = channel
        self._event = event
        self._owns = owns
        self._begun = False
        self._left = False
        self.abandoned = False
        """The stream was left or thrown away, and another stream may read on."""
        self.inbox = inbox
        self.ended = False
        """The remote producer has said that there are no more items."""
        channel.add_recipient(event, self)

    def __repr__(self) -> str:
        state = "left" if self._left else "abandoned" if self.abandoned else "begun" if self._begun else "not begun"
        return f"<{type(self).__name__} of {self._event!r} {state}, {self.inbox!r}>"

    def receive(self, message: WireMessage, payload: bytes | bytearray, decode: Decode) -> None:
        inbox = self.inbox
        if inbox.items:
            a = message.a
            # A truthy `done` counts, and no argument at all is an item without a value (JavaScript 4.3.1, observed).
            if len(a) > 1 and (item := a[1]).__class__ is dict:
                if item.get("done"):
                    self._items_ended(message.i, error_in(item))
                    return
                if message.i is UNSET and inbox.push_item(item.get("value"), len(payload)):
                    return
            elif len(a) > 1 and a[1].__class__ is list and message.i is UNSET and inbox.has_window:
                if not inbox.push_batch(a[1], payload, decode):
                    self.channel.abort(inbox.error)
                return
        if not inbox.push(message, payload, decode):
            self.channel.abort(inbox.error)

    def channel_ended(self, error: Exception | None) -> None:
        self.inbox.end(error)
        if self.abandoned:
            self.leave(None)  # nobody can read on

    @property
    def is_at_work(self) -> bool:
        """Whether something is unread, or the reader has taken a message and has not asked for the next one yet."""
        return not (self._left or self.abandoned) and self.inbox.is_at_work

    def take_request_ids(self) -> list[int]:
        return self.inbox.take_request_ids()

    def _items_ended(self, i: Any, error: RemoteError | None) -> None:
        again, self.ended = self.ended, True
        self.inbox.end(error)
        if i is not UNSET:
            self._answer_end(i, again)
        if self._owns:
            self.channel.finish_locally()

    def _answer_end(self, i: int, again: bool) -> None:
        """Answer request ``i``, which says that there are no more items. ``again``: not the first one to say so."""
        self.channel.answer(i)

    @property
    def is_awaited(self) -> bool:
        """Whether a remote producer waits, or will wait, for credit from this reading."""
        return self._begun and not self.ended and self.channel.has_credit

    @property
    def has_producer(self) -> bool:
        """Whether a remote producer was told to start and has not said that there are no more items."""
        return self._begun and self.inbox.items and not self.ended

    def begin(self) -> None:
        """Let the remote producer start, at the first read."""
        if self._begun:
            return
        self._begun = True
        if self.inbox.items and not self.channel.closed:
            self.channel.start_items(self.inbox)

    def leave(self, reason: object) -> None:
        """Stop reading, or let another stream read on. Idempotent.

        Another stream may read the items of a user's channel whose producer keeps to credit: the producer sends as far
        as its credit goes, so what is unread waits, and nothing is lost. In all other cases what is unread is dropped,
        and a channel that was opened for this reading ends.
        """
        if self._left:
            return
        inbox, channel = self.inbox, self.channel
        if not (self._owns or channel.closed) and inbox.items and inbox.has_more and channel.has_credit:
            self.abandoned = True
            inbox.wake()  # a read of the stream that was left, which must not take an item of the next one
            return
        self._left = True
        self.channel.remove_recipient(self._event, self)
        self.inbox.discard()
        if self._owns:
            self.channel.abort(reason)

    def read_on(self) -> None:
        """Go on for another stream than the one that was left."""
        self.abandoned = False

    def leave_soon(self, label: str) -> None:
        """Stop reading in the next turn of the event loop, because the stream was thrown away without being left.

        Python may throw it away in any thread and within any call.
        """
        if not self._left:
            self.abandoned = True
            self.channel.call_soon(lambda: self._leave_abandoned(label))

    def _leave_abandoned(self, label: str) -> None:
        if not self.abandoned:  # another stream reads on
            return
        if self._owns and not self.channel.closed:
            text = f"a stream of {label!r} was left without being closed, and is stopped"
            self.channel.warn(f"{text}: read it in a `with` (`async with`) block, or close it")
        unread = 0 if self.inbox.items or self.channel.closed else len(self.inbox.queue)
        self.leave(None)
        if unread:
            self.channel.count_dropped(unread)


def error_in(end: dict[str, Any]) -> RemoteError | None:
    """Return what a producer failed with, if its last ``next`` says so."""
    if "e" not in end:
        return None
    reason = reason_from_wire(end["e"], end.get("_", UNSET))
    return reason if isinstance(reason, RemoteError) else RemoteError.of_value(reason)


class Upload(Reading):
    """Reader of the items that a caller sends to a handler. The call's result answers the end of the items.

    It receives until the channel ends, also after the handler has stopped reading.
    """

    __slots__ = ("_end_id", "on_end")

    def __init__(self, channel: ReadableChannel, inbox: Inbox) -> None:
        self._end_id: int | None = None
        """The id of the request that said that there are no more items, and that has no answer yet."""
        self.on_end: Callable[[int], None] | None = None
        """Answers that request, if the call has ended before the request arrives."""
        super().__init__(channel, inbox, "next")

    def _answer_end(self, i: int, again: bool) -> None:
        if again:
            self.channel.answer(i)
        elif self.on_end is not None:
            self.on_end(i)
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
        if self._left and not self.ended and message.i is not UNSET:
            # JavaScript that gets the channel and `stop` in one read misses the `stop` (ws in Node, observed).
            self.channel.stop_items()

    def leave(self, reason: object) -> None:
        """Stop reading: the caller need send no more items. The channel stays for the call's result. Idempotent."""
        if self._left:
            return
        self._left = True
        self.inbox.discard()
        if not self.ended and not self.channel.closed:
            self.channel.stop_items()  # the handler may run on for long

    def answer_end(self, answer: Callable[[int], None]) -> None:
        """Stop reading, and call ``answer`` with the id of the request that ends the items once it arrives."""
        self.on_end = answer
        self.leave(None)


class MismatchDetector:
    """Recipient of messages which show that the two sides expect different things of a channel.

    Without it both sides would wait for each other without a limit.
    """

    __slots__ = ("_detected",)

    def __init__(self, channel: ReadableChannel, events: tuple[str, ...], detected: Callable[[], None]) -> None:
        self._detected = detected
        for event in events:
            channel.add_recipient(event, self)

    def receive(self, message: WireMessage, payload: bytes | bytearray, decode: Decode) -> None:
        self._detected()

    def channel_ended(self, error: Exception | None) -> None:
        """Do nothing."""

    def take_request_ids(self) -> list[int]:
        return []
