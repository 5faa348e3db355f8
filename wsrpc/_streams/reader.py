"""One reading of an anonymous channel: where what it brings is kept, how it begins and how it ends."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from msgspec import UNSET

from .._protocol.counting import decode_any
from .._protocol.messages import Inbound
from .._protocol.rejections import reason_from_wire
from ..errors import RemoteError
from .inbox import Decode, Inbox

__all__ = ["Misdirected", "Observers", "Readable", "Reading", "Tap", "Upload"]


class Tap(Protocol):
    """Takes the messages of one event's name past the handlers."""

    def arrived(self, message: Inbound, payload: bytes | bytearray, decode: Decode, /) -> None: ...

    def channel_over(self, error: Exception | None, /) -> None:
        """Nothing more will arrive; ``error`` says why, None that all is well."""

    def take_ids(self) -> list[int]:
        """The ids of the requests that it has not answered, and now will not."""
        ...


class Readable(Protocol):
    """What a reading needs of its channel."""

    @property
    def closed(self) -> bool: ...

    def _tap(self, event: str, tap: Tap, /) -> None:
        """Let ``tap`` have the messages of that name; RuntimeError if somebody has them already."""

    def _untap(self, event: str, tap: Tap, /) -> None: ...

    @property
    def _has_credit(self) -> bool: ...

    def _start_items(self, inbox: Inbox, /) -> None:
        """Tell the producer on the other side that it may begin."""

    def _answer(self, i: int, value: object, /) -> None: ...

    def _say_stop(self) -> None: ...

    def _abort(self, reason: object, /) -> None: ...

    def _end_well(self) -> None: ...

    def _soon(self, callback: Callable[[], None], /) -> None: ...

    def _warn(self, text: str, /) -> None: ...

    def _dropped(self, count: int, /) -> None:
        """So many events were dropped, because nobody reads them any more."""

    def _check_thread(self, coroutine: str, /) -> None: ...


class Reading:
    """Reads the items of ws-wrapper's iterator protocol (``event`` is ``next``), or the events of one name.

    ``owns``: the channel is there for this reading only and ends with it.
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

    def __init__(self, channel: Readable, inbox: Inbox, event: str, *, owns: bool = False) -> None:
        self.channel = channel
        self._event = event
        self._owns = owns
        self._begun = False
        self._left = False
        self.abandoned = False
        """Its stream was thrown away; somebody else may read on."""
        self.inbox = inbox
        self.ended = False
        """The other side has said that there are no more items."""
        self.end_id: int | None = None
        """The id of the request by which the other side said that there are no more items."""
        self.on_end: Callable[[int], None] | None = None
        """Answers that request, where the answer is known before it comes."""
        channel._tap(event, self)

    def arrived(self, message: Inbound, payload: bytes | bytearray, decode: Decode) -> None:
        inbox = self.inbox
        if inbox.items:
            a = message.a
            # A truthy `done` counts, and no argument at all is an item without a value (JavaScript 4.3.1, observed).
            if len(a) > 1 and (item := a[1]).__class__ is dict:
                if item.get("done"):
                    self._items_end(message.i, error_in(item))
                    return
                if message.i is UNSET and inbox.push_item(item.get("value"), len(payload)):
                    return
        if not inbox.push(message, payload, decode):
            self.channel._abort(inbox.error)

    def channel_over(self, error: Exception | None) -> None:
        self.inbox.end(error)
        if self.abandoned:
            self.leave(None)  # nobody can read on

    @property
    def is_at_work(self) -> bool:
        """Whether something is unread, or the reader has taken something and has not asked for more yet."""
        return not (self._left or self.abandoned) and self.inbox.is_at_work

    def take_ids(self) -> list[int]:
        i = self.take_end()
        return [*([] if i is None else [i]), *self.inbox.take_ids()]

    def take_end(self) -> int | None:
        """The id of the request that said that there are no more items, for whoever answers it now."""
        i, self.end_id = self.end_id, None
        return i

    def _items_end(self, i: Any, error: RemoteError | None) -> None:
        again, self.ended = self.ended, True
        self.inbox.end(error)
        if i is not UNSET:
            if again or not self._keeps_end():
                self.channel._answer(i, None)
            elif self.on_end is not None:
                self.on_end(i)
            else:
                self.end_id = i
        if self._owns:
            self.channel._end_well()

    def _keeps_end(self) -> bool:
        return False

    @property
    def is_awaited(self) -> bool:
        """Whether a producer waits, or will, for credit from here."""
        return self._begun and not self.ended and self.has_credit

    @property
    def has_producer(self) -> bool:
        """Whether a producer on the other side has been told to begin, and has not come to its end."""
        return self._begun and self.inbox.items and not self.inbox.over

    @property
    def has_credit(self) -> bool:
        """Whether the producer on the other side keeps to credit."""
        return self.channel._has_credit

    def begin(self) -> None:
        """The first read: the producer on the other side may start."""
        if self._begun:
            return
        self._begun = True
        if self.inbox.items and not self.channel.closed:
            self.channel._start_items(self.inbox)

    def leave(self, reason: object) -> None:
        """Nobody reads any more. Idempotent."""
        if self._left:
            return
        if not self._owns and self.inbox.items and not self.inbox.over and self.has_credit:
            # The producer goes on as far as its credit goes, so whoever reads next goes on from here and loses nothing.
            self.abandoned = True
            return
        self._left = True
        self.channel._untap(self._event, self)
        self.inbox.discard()
        if self._owns:
            self.channel._abort(reason)

    def leave_soon(self, warning: str) -> None:
        """The same for a stream that was thrown away: that may happen in any thread, and in the midst of anything."""
        if not self._left:
            self.abandoned = True
            self.channel._soon(lambda: self._left_behind(warning))

    def _left_behind(self, warning: str) -> None:
        if not self.abandoned:  # another stream reads on
            return
        if warning and not self.channel.closed:
            self.channel._warn(warning)
        unread = 0 if self.inbox.items or self.channel.closed else len(self.inbox.queue)
        self.leave(None)
        if unread:
            self.channel._dropped(unread)


def error_in(end: dict[str, Any]) -> RemoteError | None:
    """What a producer failed with, if its last ``next`` says so."""
    if "e" not in end:
        return None
    reason = reason_from_wire(end["e"], end.get("_", UNSET))
    return reason if isinstance(reason, RemoteError) else RemoteError.of_value(reason)


class Observers:
    """The readers of one event's name: each of them gets every event."""

    __slots__ = ("taps",)

    def __init__(self) -> None:
        self.taps: list[Tap] = []

    def arrived(self, message: Inbound, payload: bytes | bytearray, decode: Decode) -> None:
        self.give(message, payload, decode, handled=False)

    def give(self, message: Inbound, payload: bytes | bytearray, decode: Decode, *, handled: bool) -> None:
        """Hand a message to all of them; ``handled``: a handler gets it, too."""
        taps = self.taps
        if len(taps) == 1 and not handled:
            taps[0].arrived(message, payload, decode)
            return
        i = message.i
        for tap in tuple(taps):
            own = decode_any(decode, payload)  # what one of them changes in its values is not seen by the others
            own.i, i = i, UNSET  # one answer will do
            tap.arrived(own, payload, decode)

    def channel_over(self, error: Exception | None) -> None:
        for tap in tuple(self.taps):
            tap.channel_over(error)

    def take_ids(self) -> list[int]:
        return [i for tap in self.taps for i in tap.take_ids()]


class Upload(Reading):
    """The items that a handler reads from whoever calls it; the call's result answers their end.

    It takes what comes until the channel is over, also when the handler has stopped reading.
    """

    __slots__ = ()

    def _keeps_end(self) -> bool:
        return True

    def arrived(self, message: Inbound, payload: bytes | bytearray, decode: Decode) -> None:
        super().arrived(message, payload, decode)
        if self._left and not self.ended and message.i is not UNSET:
            # JavaScript that gets the channel and `stop` in one read cannot hear it yet (ws in Node, observed).
            self.channel._say_stop()

    def leave(self, reason: object) -> None:
        if self._left:
            return
        self._left = True
        self.inbox.discard()
        if not self.ended and not self.channel.closed:
            self.channel._say_stop()  # the handler may go on for long, and the caller need not


class Misdirected:
    """Takes what tells that the two sides expect different things of a channel, where both would wait for ever."""

    __slots__ = ("_told",)

    def __init__(self, channel: Readable, events: tuple[str, ...], told: Callable[[], None]) -> None:
        self._told = told
        for event in events:
            channel._tap(event, self)

    def arrived(self, message: Inbound, payload: bytes | bytearray, decode: Decode) -> None:
        self._told()

    def channel_over(self, error: Exception | None) -> None:
        """Nothing to do."""

    def take_ids(self) -> list[int]:
        return []
