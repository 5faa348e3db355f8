"""One reading of a channel: how it begins, what it receives and how it ends."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from msgspec import UNSET

from .._protocol.counting import decode_any
from .._protocol.messages import WireMessage
from .._protocol.rejections import reason_from_wire
from ..errors import RemoteError
from .inbox import Decode, Inbox

__all__ = ["EventReaders", "MismatchDetector", "ReadableChannel", "Reading", "Recipient", "Upload"]


class Recipient(Protocol):
    """Receives the messages of one event name on a channel, in place of the handlers."""

    def receive(self, message: WireMessage, payload: bytes | bytearray, decode: Decode, /) -> None: ...

    def channel_ended(self, error: Exception | None, /) -> None:
        """Nothing more will arrive. ``error`` says why; None at a good end."""

    def take_request_ids(self) -> list[int]:
        """Return the ids of requests that have no answer yet, and forget them: they will not be answered from here."""
        ...


class ReadableChannel(Protocol):
    """Channel that a `Reading` reads: an anonymous channel, a named one, or the main one."""

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

    def answer(self, i: int, value: object, /) -> None:
        """Resolve a request that arrived on the channel."""

    def abort(self, reason: object, /) -> None:
        """End the channel on both sides."""

    def finish_locally(self) -> None:
        """End the channel in good order. The remote peer knows that it has ended."""

    def call_soon(self, callback: Callable[[], None], /) -> None: ...

    def warn(self, text: str, /) -> None: ...

    def count_dropped(self, count: int, /) -> None:
        """Count events that were dropped because nobody reads them any more."""

    def check_thread(self, coroutine: str | None = None, /) -> None:
        """Raise RuntimeError in another thread than the event loop's."""


class Reading:
    """Reader of the items of ws-wrapper's iterator protocol, or of the events of one name.

    Args:
        event: the name of the messages that are read; ``next`` for items.
        owns: the channel was opened for this reading only, and ends with it.
    """

    __slots__ = (
        "__weakref__",
        "_begun",
        "_event",
        "_left",
        "_owns",
        "abandoned",
        "channel",
        "end_id",
        "ended",
        "inbox",
        "on_end",
    )

    def __init__(self, channel: ReadableChannel, inbox: Inbox, event: str, *, owns: bool = False) -> None:
        self.channel = channel
        self._event = event
        self._owns = owns
        self._begun = False
        self._left = False
        self.abandoned = False
        """The stream was thrown away. Another stream may read on."""
        self.inbox = inbox
        self.ended = False
        """The remote producer has said that there are no more items."""
        self.end_id: int | None = None
        """The id of the request by which it has said so."""
        self.on_end: Callable[[int], None] | None = None
        """Answers that request, if the answer is known before the request arrives."""
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
        i = self.take_end_id()
        return [*([] if i is None else [i]), *self.inbox.take_request_ids()]

    def take_end_id(self) -> int | None:
        """Return the id of the request that said that there are no more items. The caller answers it."""
        i, self.end_id = self.end_id, None
        return i

    def _items_ended(self, i: Any, error: RemoteError | None) -> None:
        again, self.ended = self.ended, True
        self.inbox.end(error)
        if i is not UNSET:
            if again or not self._keeps_end():
                self.channel.answer(i, None)
            elif self.on_end is not None:
                self.on_end(i)
            else:
                self.end_id = i
        if self._owns:
            self.channel.finish_locally()

    def _keeps_end(self) -> bool:
        """Return whether the request that ends the items is answered later."""
        return False

    @property
    def is_awaited(self) -> bool:
        """Whether a remote producer waits, or will wait, for credit from this reading."""
        return self._begun and not self.ended and self.has_credit

    @property
    def has_producer(self) -> bool:
        """Whether a remote producer was told to start and has not ended yet."""
        return self._begun and self.inbox.items and not self.inbox.over

    @property
    def has_credit(self) -> bool:
        """Whether the remote producer keeps to credit."""
        return self.channel.has_credit

    def begin(self) -> None:
        """Let the remote producer start, at the first read."""
        if self._begun:
            return
        self._begun = True
        if self.inbox.items and not self.channel.closed:
            self.channel.start_items(self.inbox)

    def leave(self, reason: object) -> None:
        """Stop reading. Idempotent."""
        if self._left:
            return
        if not self._owns and self.inbox.items and not self.inbox.over and self.has_credit:
            # The producer sends as far as its credit goes, so the next reader continues from here and loses nothing.
            self.abandoned = True
            return
        self._left = True
        self.channel.remove_recipient(self._event, self)
        self.inbox.discard()
        if self._owns:
            self.channel.abort(reason)

    def leave_soon(self, warning: str) -> None:
        """Stop reading in the next turn of the event loop, because the stream was thrown away.

        That may happen in any thread and within any call.
        """
        if not self._left:
            self.abandoned = True
            self.channel.call_soon(lambda: self._leave_abandoned(warning))

    def _leave_abandoned(self, warning: str) -> None:
        if not self.abandoned:  # another stream reads on
            return
        if warning and not self.channel.closed:
            self.channel.warn(warning)
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


class EventReaders:
    """All readers of one event name on a channel. Each of them gets every event."""

    __slots__ = ("members",)

    def __init__(self) -> None:
        self.members: list[Recipient] = []

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.members!r}>"

    def receive(self, message: WireMessage, payload: bytes | bytearray, decode: Decode) -> None:
        self.pass_on(message, payload, decode, handled=False)

    def pass_on(self, message: WireMessage, payload: bytes | bytearray, decode: Decode, *, handled: bool) -> None:
        """Pass a message to all readers. ``handled`` says whether a handler gets it, too."""
        members = self.members
        if len(members) == 1 and not handled:
            members[0].receive(message, payload, decode)
            return
        i = message.i
        for member in tuple(members):
            own = decode_any(decode, payload)  # a reader that changes its values does not change those of the others
            own.i, i = i, UNSET  # only the first one answers
            member.receive(own, payload, decode)

    def channel_ended(self, error: Exception | None) -> None:
        for member in tuple(self.members):
            member.channel_ended(error)

    def take_request_ids(self) -> list[int]:
        return [i for member in self.members for i in member.take_request_ids()]


class Upload(Reading):
    """Reader of the items that a caller sends to a handler. The call's result answers the end of the items.

    It receives until the channel ends, also after the handler has stopped reading.
    """

    __slots__ = ()

    def _keeps_end(self) -> bool:
        return True

    def receive(self, message: WireMessage, payload: bytes | bytearray, decode: Decode) -> None:
        super().receive(message, payload, decode)
        if self._left and not self.ended and message.i is not UNSET:
            # JavaScript that gets the channel and `stop` in one read does not hear the `stop` (ws in Node, observed).
            self.channel.stop_items()

    def leave(self, reason: object) -> None:
        if self._left:
            return
        self._left = True
        self.inbox.discard()
        if not self.ended and not self.channel.closed:
            self.channel.stop_items()  # the handler may go on for long, and the caller need not

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
