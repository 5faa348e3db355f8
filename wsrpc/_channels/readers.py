"""Readers of the main channel and of named channels: of events, and of the items of ws-wrapper's iterator."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, Protocol

from msgspec import UNSET

from .._base.names import ChannelRef
from .._handlers.compiled import Handler
from .._handlers.registry import Registry
from .._protocol.messages import Event, Request, Resolution, WireMessage
from .._sending.checks import check_sending, check_thread, check_thread_of_plain
from .._sending.outbound import Outbound
from .._sending.pending import Pending, RequestOptions
from .._streams.event_values import Waits, value_of
from .._streams.inbox import Inbox
from .._streams.recipients import Decode, FanOut, Recipient, add, each_of, remove
from .._streams.stream import Stream
from ..errors import ConnectionLost, QueueFull, RpcError, StreamOverflow, as_text, short
from ..limits import Limits
from .core import UnreadMessages

__all__ = ["FOR_READERS", "ReaderListener", "Readers"]

Key = tuple[ChannelRef, str]
"""A channel, None for the main one, and the name of an event."""


def _read(*_: Any) -> None:
    """Do nothing: the readers of the event have received it."""


FOR_READERS = Handler(_read)
"""The handler that middleware runs around, for an event that has readers and no handler."""


STOP = RequestOptions(within_call=True)
"""Options of the request ``stop``."""


class ReaderListener(Protocol):
    """Part of a session that holds messages back. Readers report to it. Implemented by `Admission` of ``_peer``."""

    def begin_reading(self, channel: ChannelRef, event: str, recipient: Recipient, /) -> None:
        """Pass the messages that are held back to a new recipient."""

    def update(self) -> None:
        """Notice that the last reader of an event has left."""


class Readers:
    """Readers of one peer, on its main channel and on named ones. They outlive connections, and so does this.

    Readers get a message when it arrives: before middleware and handlers, which may have to wait.

    Args:
        limits: the limits of the peer.
        registries: the peer's own registry and the shared one, which tell whether an event has a handler.
        count: counts, by kind, events that do not fit their reader.
        reject: rejects a request of the remote peer.
        warn: writes a line into the log.
        survives: readers of events stay when the connection ends, because another one may come.
    """

    __slots__ = (
        "_count",
        "_end_error",
        "_limits",
        "_listener",
        "_registries",
        "_reject",
        "_stops",
        "_survives",
        "_unread",
        "connections_lost",
        "out",
        "read_before",
        "recipients",
        "warn",
    )

    def __init__(
        self,
        out: Outbound,
        limits: Limits,
        registries: tuple[Registry, Registry],
        *,
        count: Callable[[str, str], None],
        reject: Callable[[int, RpcError], None],
        warn: Callable[[str], None],
        survives: bool,
    ) -> None:
        self.out = out
        self.warn = warn
        self.recipients: dict[Key, Recipient] = {}
        self.read_before: dict[str, None] = {}
        """Named channels whose items are being read, or were read before."""
        self._limits = limits
        self._stops: dict[str, Pending] = {}
        """By channel, the request ``stop`` of its last reader of items. What comes before the answer is of an earlier
        ``start``."""
        self._unread: UnreadMessages | None = None
        self._registries = registries
        self._count = count
        self._reject = reject
        self._survives = survives
        self._listener: ReaderListener | None = None
        """Of the present session, or of the last one."""
        self.connections_lost = 0
        self._end_error: Callable[[], Exception | None] | None = None
        """Once reading is over: makes what a reader raises. It makes None for a plain end."""

    def __repr__(self) -> str:
        return f"<Readers of {len(self.recipients)} events{'' if self._end_error is None else ', over'}>"

    # ------------------------------------------------------------ reading

    @property
    def memory(self) -> UnreadMessages | None:
        """The counter that `unread` returns, if there is one yet."""
        return self._unread

    def unread(self) -> UnreadMessages:
        """Return the counter of the memory of unread messages, on these channels and on anonymous ones."""
        if self._unread is None:
            self._unread = UnreadMessages(self.out.loop, self._limits)
        return self._unread

    def read_events(self, channel: ChannelRef, event: str, returns: Any, keep: Waits) -> Stream[Any]:
        """Read the events of one name. See `EventReader.events`."""
        check_sending(channel, event, None)
        check_thread_of_plain(self.out.thread, "peer.events")
        convert = value_of(returns, self._registries[0].converter)
        label = event if channel is None else f"{channel}:{event}"
        place = ReadingPlace(self, channel, event)
        inbox = Inbox(place, event, newest=keep == "newest", wanted=convert if keep == "first" else None)
        return Stream(label, convert, reading=inbox, misfit=partial(self._count_misfit, f"event {short(label)}"))

    def read_items(self, channel: str, returns: Any) -> Stream[Any]:
        """Read the items of a named channel. See `Channel.items`."""
        check_thread_of_plain(self.out.thread, "channel.items")
        convert = None if returns is UNSET else self._registries[0].converter(returns)
        return Stream(channel, convert, reading=Inbox(ReadingPlace(self, channel, "next"), "next", items=True))

    def _count_misfit(self, what: str, why: Exception) -> None:
        self._count("wrong arguments", f"{what} was dropped: {why}")

    # ------------------------------------------------------------ coming and going

    def add_recipient(self, key: Key, recipient: Recipient) -> None:
        """Pass the messages of that name on that channel to ``recipient``.

        Raises:
            RuntimeError: something receives them already and does not share them.
        """
        if self._end_error is not None:
            recipient.channel_ended(self._end_error())
            return
        items = f"the items of channel {key[0]!r} are being read"
        if isinstance(recipient, Inbox) and recipient.items:
            add(self.recipients, key, recipient, None, f"{items} already: one reader at a time")
            self.read_before[str(key[0])] = None
        else:
            add(self.recipients, key, recipient, FanOut, f"{items}: 'next' cannot be read as events there, too")
        if self._listener is not None:
            self._listener.begin_reading(*key, recipient)

    def remove_recipient(self, key: Key, recipient: Recipient) -> None:
        """Pass nothing more to ``recipient``."""
        remove(self.recipients, key, recipient)
        if key not in self.recipients:
            self._update()

    def _update(self) -> None:
        if self._listener is not None:
            self._listener.update()

    def reopen(self) -> None:
        """Let new readers in again: there may be a connection."""
        self._end_error = None

    def session_started(self, listener: ReaderListener) -> None:
        """Let new readers in again, and tell ``listener`` of them from now on."""
        self._listener = listener
        self._end_error = None

    def connection_lost(self, error: ConnectionLost) -> None:
        """End the readers of items with ``error``, and those of events unless they survive."""
        self.connections_lost += 1
        if self._unread is not None:
            self._unread.forget_late_requests()
        if not self._survives:
            self.end(partial(ConnectionLost, error.code, error.reason))
            return
        for key, present in list(self.recipients.items()):
            for recipient in each_of([present]):
                if not isinstance(recipient, Inbox) or recipient.items:
                    self.remove_recipient(key, recipient)
                    recipient.channel_ended(error.for_outcome("unknown"))

    def end_late(self) -> None:
        """Drop what nobody has read on channels that are over, because the peer ends, too."""
        if self._unread is not None:
            self._unread.leave_late()

    def leave_loop(self) -> None:
        """End all readers, because their event loop has ended."""
        with suppress(RuntimeError):  # of a closed loop, where a task still waits
            self.end(lambda: None)
        self.recipients.clear()
        self.reopen()

    def end(self, error: Callable[[], Exception | None], channel: str | None = None) -> None:
        """End all readers, or those of a named ``channel``. ``error`` makes what they raise; None for a plain end."""
        if channel is None:
            self._end_error = error
        keys = [key for key in self.recipients if channel is None or key[0] == channel]
        if not keys:
            return
        check_thread_of_plain(self.out.thread, "channel.close")
        for recipient in each_of([self.recipients.pop(key) for key in keys]):
            if channel is not None and isinstance(recipient, Inbox) and recipient.has_producer:
                self.stop_items(channel)
            recipient.channel_ended(error())
        self._update()

    # ------------------------------------------------------------ messages

    def has_readers(self, channel: ChannelRef, event: str) -> bool:
        """Return whether the events of that name are being read."""
        return isinstance(self.recipients.get((channel, event)), FanOut)

    def is_of_stream(self, message: WireMessage) -> bool:
        """Return whether a message belongs to a stream that is read or sent here."""
        recipient = self.recipients.get((message.c, message.a[0]))
        if isinstance(recipient, FanOut):
            return _has_producer(recipient)
        return recipient is not None

    def stop_items(self, channel: str) -> None:
        """Tell the producer on a named channel to stop. Until it answers, no reader gets what it sends.

        Its answer comes behind its last item, and before the first one of the next ``start``. Plain peers do not
        understand ``stop``: their next item is rejected.
        """
        out = self.out
        terms = out.terms
        if terms.stop:
            self._stops[channel] = pending = out.requests.open("stop", None, None, STOP)
            payload = terms.encode(Request(pending.id, ("stop",), channel))
            out.reply(payload)  # now, because the next `start` does not wait either
            out.requests.was_sent(pending, len(payload))
        elif not terms.plain:  # wsrpc 0.2
            out.reply(terms.encode(Event(("stop",), channel)))

    def _precedes_stop(self, channel: ChannelRef) -> bool:
        """Return whether an item that has arrived was sent before the remote peer has read the last ``stop``."""
        stop = self._stops.get(channel) if isinstance(channel, str) else None
        if stop is not None and stop.future.done():
            del self._stops[str(channel)]
            return False
        return stop is not None

    def has_handler(self, channel: ChannelRef, event: str) -> bool:
        """Return whether anything is to run for an event: a handler, or middleware."""
        own, shared = self._registries
        return own.layered or shared.layered or own.has(channel, event) or shared.has(channel, event)

    def take(self, message: WireMessage, payload: bytes | bytearray, decode: Decode) -> bool:
        """Pass a message to its readers. Return False if there are none, or if handlers are to get it."""
        event = message.a[0]
        recipient = self.recipients.get((message.c, event))
        if recipient is None:
            return False
        i = message.i
        if not isinstance(recipient, FanOut):
            if self._stops and event == "next" and self._precedes_stop(message.c):
                return False
            recipient.receive(message, payload, decode)
            error = recipient.error if isinstance(recipient, Inbox) else None
            if i is not UNSET and isinstance(error, StreamOverflow):
                self._reject(i, RpcError(as_text(error)))
            return True
        if i is not UNSET and not _has_producer(recipient):
            return False  # a request is for a handler
        handled = self.has_handler(message.c, event)
        message.i = UNSET  # readers and producers answer nothing
        recipient.pass_on(message, payload, decode, handled=handled)
        message.i = i
        if i is not UNSET and not handled:
            self.out.reply(self.out.terms.encode(Resolution(i, None)))
        return not handled


def _has_producer(recipient: FanOut) -> bool:
    """Return whether a producer of items is among the recipients, so that the message is its ``stop``."""
    return not all(isinstance(member, Inbox) for member in recipient.members)


class ReadingPlace:
    """The main channel or a named one, as one inbox sees it. It has no credit, and does not end."""

    __slots__ = ("_connections_lost", "_key", "_readers", "_recipient", "unread")

    def __init__(self, readers: Readers, name: ChannelRef, event: str) -> None:
        self._readers = readers
        self._key: Key = (name, event)
        self._recipient: Recipient | None = None
        self._connections_lost = readers.connections_lost
        self.unread = readers.unread()

    has_credit = False
    credit_share = 0

    def __repr__(self) -> str:
        return f"<ReadingPlace {self._key!r} {'closed' if self.closed else 'open'}>"

    @property
    def closed(self) -> bool:
        return self._recipient is None

    def add_recipient(self, event: str, recipient: Recipient) -> None:
        self._recipient = recipient
        self._readers.add_recipient(self._key, recipient)

    def remove_recipient(self, event: str, recipient: Recipient) -> None:
        self._recipient = None
        is_read = self._readers.recipients.get(self._key) is recipient  # the channel and the session are not over
        self._readers.remove_recipient(self._key, recipient)
        if is_read and isinstance(recipient, Inbox) and recipient.has_producer:
            self.stop_items()

    def start_items(self, inbox: Inbox) -> None:
        try:
            self._readers.out.send_event_nowait(self._key[0], "start", ())
        except (ConnectionLost, QueueFull) as exc:
            inbox.end(exc)

    def grant(self, items: int, size: int) -> None: ...

    def finish_locally(self) -> None: ...

    def count_dropped(self, count: int) -> None: ...

    def stop_items(self) -> None:
        self._readers.stop_items(str(self._key[0]))

    def answer(self, i: int, value: object = None) -> None:
        # In another session than the one that the reading began in an id is that of another request.
        if self._connections_lost == self._readers.connections_lost:
            out = self._readers.out
            out.reply(out.terms.encode(Resolution(i, value)))

    def abort(self, reason: object) -> None:
        """End the reading, because too much is unread. The channel stays."""
        if self._recipient is not None:
            self.remove_recipient(self._key[1], self._recipient)

    def warn(self, text: str) -> None:
        self._readers.warn(text)

    def check_thread(self, coroutine: str) -> None:
        check_thread(self._readers.out.thread, coroutine)
