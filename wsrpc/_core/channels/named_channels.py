"""`NamedChannels`: the main channel and the named channels of a peer, with their readers of events and of items."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import partial
from typing import Any

from msgspec import UNSET

from ..._base.names import ChannelRef
from ...errors import ChannelClosed, ConnectionLost, QueueFull, RpcError, StreamOverflow, as_text
from ..handlers.compiled import Handler
from ..handlers.registry import Registry
from ..inboxes.event_inboxes import EventInbox, NextEvent, ToValue, Waits
from ..inboxes.inbox import Inbox
from ..inboxes.item_inboxes import ItemInbox
from ..inboxes.recipients import Decode, Recipient, RecipientGroup, RecipientTable
from ..sending.checks import check_sending, check_thread, check_thread_of_plain
from ..sending.outbox import Outbox, Outgoing
from ..sending.pending import Pending
from ..sending.session_writer import SessionWriter
from ..session.peer_host import PeerHost
from ..wire.messages import Event, RequestOptions, Resolution, WireMessage
from .mailbox import PeerUnreadMemory


def _read(*_: Any) -> None:
    """Do nothing, because the readers have received the event."""


FOR_READERS = Handler(_read)
"""The handler of an event that has readers and no handler, for middleware to run around."""


STOP = RequestOptions(within_call=True)
"""Options of the request ``stop``."""


class NamedChannels:
    """The main channel and the named channels of one peer, while they have readers. Readers outlive sessions.

    Readers get a message when it arrives, before middleware and handlers, which may have to wait.

    Args:
        registries: the peer's own registry and the shared registry. They know which events have handlers.
        outbox: sends for the readers.
        survives: readers of events stay when the session ends, because there may be another session.
    """

    __slots__ = (
        "__weakref__",
        "_end_error",
        "_limits",
        "_registries",
        "_survives",
        "_unread_memory",
        "channels",
        "host",
        "outbox",
        "read_before",
        "stops",
    )

    def __init__(
        self,
        host: PeerHost,
        registries: tuple[Registry, Registry],
        outbox: Outbox,
        *,
        survives: bool,
    ) -> None:
        self.host = host
        self.outbox = outbox
        self.channels: dict[ChannelRef, NamedChannel] = {}
        """Channels with recipients, by name. The name of the main channel is None."""
        self.read_before: dict[str, None] = {}
        """Named channels whose items are being read, or were read before."""
        self.stops: dict[str, Pending] = {}
        """By channel, the request ``stop`` of its last reader of items. Items that arrive before the answer belong to
        an earlier ``start``."""
        self._limits = host.settings.limits
        self._unread_memory: PeerUnreadMemory | None = None
        self._registries = registries
        self._survives = survives
        self._end_error: Callable[[], Exception | None] | None = None
        """Set once reading is over. Makes the exception that a reader raises, or None for a plain end."""

    def __repr__(self) -> str:
        return f"<NamedChannels:  {len(self.channels)} channels{'' if self._end_error is None else ', over'}>"

    def reject(self, i: int, error: RpcError) -> None:
        """Reject a request of the remote peer."""
        self.host.core.admission.dispatcher.answers.reject(i, error)

    @property
    def writer(self) -> SessionWriter:
        """The writer of the current session, see `PeerHost.current`."""
        return self.outbox.writer

    # ------------------------------------------------------------ reading

    @property
    def unread_bytes(self) -> int:
        """Bytes of memory that unread messages take."""
        return 0 if self._unread_memory is None else self._unread_memory.used

    def unread_memory(self) -> PeerUnreadMemory:
        """Return the counter of the memory of unread messages, on these channels and on anonymous ones."""
        if self._unread_memory is None:
            self._unread_memory = PeerUnreadMemory(self.writer.loop, self._limits)
        return self._unread_memory

    def read_events(self, channel: ChannelRef, event: str, convert: ToValue, keep: Waits) -> Inbox:
        """Read the events of one name. See `EventReader.events`."""
        check_sending(channel, event, None)
        check_thread_of_plain(self.writer.thread, "peer.events")
        if keep == "first":
            return NextEvent(self.channel(channel), event, convert)
        return EventInbox(self.channel(channel), event, newest=keep == "newest")

    def read_items(self, channel: str) -> Inbox:
        """Read the items of a named channel. See `Channel.items`."""
        check_thread_of_plain(self.writer.thread, "channel.items")
        return ItemInbox(self.channel(channel))

    # ------------------------------------------------------------ recipients

    def channel(self, name: ChannelRef) -> NamedChannel:
        """Return the main channel or a named channel, for a new recipient."""
        return self.channels.get(name) or NamedChannel(self, name)

    def add_recipient(self, channel: NamedChannel, event: str, recipient: Recipient) -> None:
        """Pass messages to ``recipient``, first those that are held back. Only readers of items do not share messages.

        Raises:
            RuntimeError: the items are being read already, or ``next`` as events.
        """
        if self._end_error is not None:
            recipient.channel_ended(self._end_error())
            return
        items = f"the items of channel {channel.name!r} are being read"
        if isinstance(recipient, ItemInbox):
            channel.recipients.add(event, recipient, None, f"{items} already: one reader at a time")
            self.read_before[str(channel.name)] = None
        else:
            occupied = f"{items}: 'next' cannot be read as events there, too"
            channel.recipients.add(event, recipient, RecipientGroup, occupied)
        self.channels[channel.name] = channel
        self.host.core.admission.recipient_added(channel.name, event, recipient)

    def removed(self, channel: NamedChannel) -> None:
        """Remove a channel that has no recipients any more."""
        if self.channels.get(channel.name) is channel:
            del self.channels[channel.name]
            self.host.core.admission.update()

    def reopen(self) -> None:
        """Allow new readers again, because there may be a connection."""
        self._end_error = None

    def end_session(self, error: ConnectionLost) -> None:
        """End the readers of items with ``error``. End readers of events, too, unless they survive."""
        if self._unread_memory is not None:
            self._unread_memory.drop_late_requests()
        if not self._survives:
            self.end(partial(ConnectionLost, error.code, error.reason))
            return
        for channel in list(self.channels.values()):
            channel.end_session(error)

    def loop_ended(self) -> None:
        """End all readers, because their event loop has ended."""
        with suppress(RuntimeError):  # the loop is closed, and a task still waits
            self.end(lambda: None)
        self.channels.clear()
        self.reopen()

    def end(self, error: Callable[[], Exception | None], name: str | None = None) -> None:
        """End all readers, or those of a named channel. ``error`` makes their exception, or None for a plain end."""
        if name is None:
            self._end_error = error
        ending = [channel for channel in self.channels.values() if name is None or channel.name == name]
        if not ending:
            return
        check_thread_of_plain(self.writer.thread, "channel.close")
        for channel in ending:
            del self.channels[channel.name]
        for channel in ending:
            channel.end(error, stops=name is not None)
        self.host.core.admission.update()

    # ------------------------------------------------------------ messages

    def has_readers(self, channel: ChannelRef, event: str) -> bool:
        """Return whether the events of that name are being read."""
        found = self.channels.get(channel)
        return found is not None and isinstance(found.recipients.get(event), RecipientGroup)

    def is_of_stream(self, message: WireMessage) -> bool:
        """Return whether a message belongs to a stream that is read or sent here."""
        channel = self.channels.get(message.c)
        recipient = None if channel is None else channel.recipients.get(message.a[0])
        if isinstance(recipient, RecipientGroup):
            return _has_producer(recipient)
        return recipient is not None

    def has_handler(self, channel: ChannelRef, event: str) -> bool:
        """Return whether a handler or middleware will run for an event."""
        own, shared = self._registries
        return own.layered or shared.layered or own.has(channel, event) or shared.has(channel, event)

    def pass_on(self, message: WireMessage, payload: bytes | bytearray, decode: Decode) -> bool:
        """Pass a message to its readers. Return False if there are none, or if handlers are to get it."""
        channel = self.channels.get(message.c)
        return channel is not None and channel.pass_on(message, payload, decode)


class NamedChannel:
    """The main channel or a named channel, with the recipients of its messages. It has no credit, and does not end.

    `NamedChannels` has the object while the channel has recipients. After that, the next recipient gets a new object.
    """

    __slots__ = ("_owner", "_start", "asked_in", "name", "recipients", "unread_memory")

    has_credit = is_served = over = False

    def __init__(self, owner: NamedChannels, name: ChannelRef) -> None:
        self._owner = owner
        self.name = name
        self.unread_memory = owner.unread_memory()
        self.recipients = RecipientTable()
        self._start: Outgoing | None = None
        """The message that asks for items. It may wait in the queue."""
        self.asked_in: SessionWriter | None = None
        """The sending half of the session in which the last item arrived as a request. None before the first one."""

    def __repr__(self) -> str:
        return f"<NamedChannel {self.name!r}, {len(self.recipients)} recipients>"

    @property
    def writer(self) -> SessionWriter:
        """The writer of the current session, see `PeerHost.current`."""
        return self._owner.writer

    # ------------------------------------------------------------ recipients

    def add_recipient(self, event: str, recipient: Recipient) -> None:
        self._owner.add_recipient(self, event, recipient)

    def remove_recipient(self, event: str, recipient: Recipient) -> None:
        """Pass nothing more to ``recipient``. Send ``stop`` to the remote producer of its items."""
        is_read = self.recipients.get(event) is recipient  # the channel and the session are not over
        self._remove(event, recipient)
        if is_read and isinstance(recipient, ItemInbox):
            self._stop_producer(recipient)

    def _remove(self, event: str, recipient: Recipient) -> None:
        self.recipients.remove(event, recipient)
        if not self.recipients:
            self._owner.removed(self)

    def _stop_producer(self, inbox: ItemInbox) -> None:
        """Send ``stop``, unless ``start`` still waits in the queue. Then it is withdrawn."""
        if not self._owner.outbox.withdraw(self._start) and inbox.producer_runs:
            self.send_stop()

    def end_session(self, error: ConnectionLost) -> None:
        """End all recipients except readers of events."""
        for event in list(self.recipients):
            for recipient in self.recipients.of(event):
                if not isinstance(recipient, EventInbox):
                    self._remove(event, recipient)
                    self._owner.outbox.withdraw(self._start)  # otherwise the next session would begin with it
                    self.asked_in = None
                    recipient.pop_request_ids()  # in the next session, they are the ids of other requests
                    recipient.channel_ended(error.for_outcome("unknown"))

    def end(self, error: Callable[[], Exception | None], *, stops: bool) -> None:
        """End all recipients. ``stops``: send ``stop`` to a remote producer of items."""
        recipients = self.recipients.each()
        self.recipients.clear()
        for recipient in recipients:
            if stops and isinstance(recipient, ItemInbox):
                self._stop_producer(recipient)
            recipient.channel_ended(error())

    # ------------------------------------------------------------ messages

    def pass_on(self, message: WireMessage, payload: bytes | bytearray, decode: Decode) -> bool:
        """Pass a message to its recipients. Return False if there are none, or if handlers are to get it."""
        event, i, owner = message.a[0], message.i, self._owner
        recipient = self.recipients.get(event)
        if recipient is None:
            return False
        if not isinstance(recipient, RecipientGroup):
            if owner.stops and event == "next" and self._precedes_stop():
                return False
            if i is not UNSET:
                self.asked_in = self.writer
            recipient.receive(message, payload, decode)
            error = recipient.error if isinstance(recipient, Inbox) else None
            if i is not UNSET and isinstance(error, StreamOverflow):
                owner.reject(i, RpcError(as_text(error)))
            return True
        if i is not UNSET and not _has_producer(recipient):
            return False  # a request is for a handler
        handled = owner.has_handler(self.name, event)
        message.i = UNSET  # so that readers and producers do not answer
        recipient.pass_on(message, payload, decode, handled=handled)
        message.i = i
        if i is not UNSET and not handled:
            self._resolve(i, None)
        return not handled

    def _precedes_stop(self) -> bool:
        """Return whether the remote peer sent this item before it read the last ``stop``."""
        stops = self._owner.stops
        stop = stops.get(str(self.name))
        if stop is not None and stop.future.done():
            del stops[str(self.name)]
            return False
        return stop is not None

    def _resolve(self, i: int, value: object) -> None:
        self.writer.reply(self.writer.terms.encode(Resolution(i, value)))

    # ------------------------------------------------------------ what inboxes and producers ask for

    def closed_error(self) -> ChannelClosed:
        return ChannelClosed(str(self.name), None)

    def post(self, event: str, args: tuple[Any, ...]) -> Coroutine[Any, Any, int]:
        """Send an event of a producer once the connection has room. Return its size."""
        message = Event((event, *args), str(self.name))
        return self._owner.outbox.post(message, started_in=self.writer)

    def send_start(self, inbox: Inbox) -> None:
        """Send ``start``."""
        try:
            check_thread_of_plain(self.writer.thread, "channel.items")
            self._start = self._owner.outbox.send_start(str(self.name))
        except (ConnectionLost, QueueFull) as exc:
            inbox.end(exc)

    def send_stop(self) -> None:
        """Send ``stop`` to the remote producer. Until it answers, no reader gets its items.

        The answer arrives after the last item of this ``start``, and before the first item of the next ``start``. If
        the remote peer does not understand ``stop``, nothing is sent, and its next item is rejected.
        """
        writer, name = self.writer, str(self.name)
        terms = writer.terms
        if terms.stop:
            self._owner.stops[name] = pending = writer.requests.add(name, "stop", None, STOP)
            payload = terms.encode(STOP.message(pending.id, name, ("stop",)))
            writer.reply(payload)  # now, because the next `start` does not wait
            writer.requests.was_sent(pending, len(payload))

    def answer(self, i: int, value: object = None) -> None:
        """Resolve a request that arrived on the channel, unless its session is over."""
        if self.asked_in is self.writer:  # in another session, the id is that of another request
            self._resolve(i, value)

    def inbox_overflowed(self, event: str, inbox: Inbox, error: StreamOverflow) -> None:
        """Pass nothing more to ``inbox``, and answer the requests in it. The channel stays.

        They are answered now, because the inbox may be read in the next session, where their ids mean other requests.
        """
        for i in inbox.pop_request_ids():
            self.answer(i)
        self.remove_recipient(event, inbox)

    def count_dropped(self, count: int) -> None: ...

    def count_misfit(self, event: str, why: Exception) -> None:
        label = event if self.name is None else f"{self.name}:{event}"
        self._owner.host.count_misfit("wrong arguments", label, why, call=lambda: {"event": label})

    def check_thread(self, coroutine: str) -> None:
        check_thread(self.writer.thread, coroutine)


def _has_producer(recipient: RecipientGroup) -> bool:
    """Return whether a producer of items is among the recipients, so that the message is its ``stop``."""
    return not all(isinstance(member, Inbox) for member in recipient.members)
