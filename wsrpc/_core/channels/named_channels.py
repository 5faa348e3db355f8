"""`NamedChannels`: the main channel and the named channels of a peer, with their readers of events and of items."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

from msgspec import UNSET

from ..._base.names import ChannelRef
from ...errors import ChannelClosed, ConnectionLost, QueueFull, RpcError, StreamOverflow, as_text
from ..handlers.compiled import Handler
from ..inboxes.event_inboxes import EventInbox, NextEvent, ToValue, Waits
from ..inboxes.inbox import Inbox
from ..inboxes.item_inboxes import ItemInbox
from ..inboxes.recipients import Recipient, RecipientGroup, RecipientTable
from ..sending.checks import check_sending, check_thread, check_thread_of_plain
from ..sending.outbox import Outbox
from ..sending.session_writer import SessionWriter
from ..session.peer_host import PeerHost
from ..wire.messages import Decode, Resolution, WireMessage
from .mailbox import PeerUnreadMemory


def _read(*_: Any) -> None:
    """Do nothing, because the readers have received the event."""


FOR_READERS = Handler(_read)
"""The handler of an event that has readers and no handler, for middleware to run around."""


class NamedChannels:
    """The main channel and the named channels of one peer, while they have readers. Readers outlive sessions.

    Readers get a message when it arrives, before middleware and handlers, which may have to wait.

    Args:
        outbox: sends for the readers.
    """

    __slots__ = (
        "__weakref__",
        "_end_error",
        "_unread_memory",
        "channels",
        "host",
        "outbox",
    )

    def __init__(self, host: PeerHost, outbox: Outbox) -> None:
        self.host = host
        self.outbox = outbox
        self.channels: dict[ChannelRef, NamedChannel] = {}
        """Channels with recipients, by name. The name of the main channel is None."""
        self._unread_memory: PeerUnreadMemory | None = None
        self._end_error: Callable[[], Exception | None] | None = None
        """Set once reading is over. Makes the exception that a reader raises, or None for a plain end."""

    def __repr__(self) -> str:
        return f"<NamedChannels:  {len(self.channels)} channels{'' if self._end_error is None else ', over'}>"

    def reject(self, i: int, error: RpcError) -> None:
        """Reject a request of the remote peer."""
        self.host.current.dispatcher.answers.reject(i, error)

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
            self._unread_memory = PeerUnreadMemory(self.host.loop, self.host.settings.limits)
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
        else:
            occupied = f"{items}: 'next' cannot be read as events there, too"
            channel.recipients.add(event, recipient, RecipientGroup, occupied)
        self.channels[channel.name] = channel
        self.host.current.admission.recipient_added(channel.name, event, recipient)

    def removed(self, channel: NamedChannel) -> None:
        """Remove a channel that has no recipients any more."""
        if self.channels.get(channel.name) is channel:
            del self.channels[channel.name]
            self.host.current.admission.update()

    def reopen(self) -> None:
        """Allow new readers again, because there may be a connection."""
        self._end_error = None

    def end_session(self, error: ConnectionLost) -> None:
        """End the readers of items with ``error``, and those of events unless there may be another session."""
        if self._unread_memory is not None:
            self._unread_memory.drop_late_requests()
        if not self.host.options.keeps_offline:
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
            channel.end(error)
        self.host.current.admission.update()

    # ------------------------------------------------------------ messages

    def has_readers(self, channel: ChannelRef, event: str) -> bool:
        """Return whether the events of that name are being read."""
        found = self.channels.get(channel)
        return found is not None and isinstance(found.recipients.get(event), RecipientGroup)

    def is_of_stream(self, message: WireMessage) -> bool:
        """Return whether a message is for a reader of items."""
        channel = self.channels.get(message.c)
        return channel is not None and isinstance(channel.recipients.get(message.a[0]), ItemInbox)

    def has_handler(self, channel: ChannelRef, event: str) -> bool:
        """Return whether a handler or middleware will run for an event."""
        own, shared = self.host.options.own, self.host.options.shared
        return own.layered or shared.layered or own.has(channel, event) or shared.has(channel, event)

    def pass_on(self, message: WireMessage, payload: bytes | bytearray, decode: Decode) -> bool:
        """Pass a message to its readers. Return False if there are none, or if handlers are to get it."""
        channel = self.channels.get(message.c)
        return channel is not None and channel.pass_on(message, payload, decode)


class NamedChannel:
    """The main channel or a named channel, with the recipients of its messages. It has no credit, and does not end.

    `NamedChannels` has the object while the channel has recipients. After that, the next recipient gets a new object.
    """

    __slots__ = ("_owner", "name", "recipients", "unread_memory")

    has_credit = is_served = over = False

    def __init__(self, owner: NamedChannels, name: ChannelRef) -> None:
        self._owner = owner
        self.name = name
        self.unread_memory = owner.unread_memory()
        self.recipients = RecipientTable()

    def __repr__(self) -> str:
        return f"<NamedChannel {self.name!r}, {len(self.recipients)} recipients>"

    # ------------------------------------------------------------ recipients

    def add_recipient(self, event: str, recipient: Recipient) -> None:
        self._owner.add_recipient(self, event, recipient)

    def remove_recipient(self, event: str, recipient: Recipient) -> None:
        """Pass nothing more to ``recipient``. If it reads items, their producer learns that from its next item."""
        self.recipients.remove(event, recipient)
        if not self.recipients:
            self._owner.removed(self)

    def end_session(self, error: ConnectionLost) -> None:
        """End the reader of items. Readers of events stay."""
        reader = self.recipients.get("next")
        if isinstance(reader, ItemInbox):
            self.remove_recipient("next", reader)
            reader.pop_request_ids()  # in the next session, they are the ids of other requests
            reader.channel_ended(error.for_outcome("unknown"))

    def end(self, error: Callable[[], Exception | None]) -> None:
        """End all recipients."""
        recipients = self.recipients.each()
        self.recipients.clear()
        for recipient in recipients:
            self._answer_all(recipient)
            recipient.channel_ended(error())

    def _answer_all(self, recipient: Recipient) -> None:
        """Answer the requests in an inbox now. It may be read in the next session, where their ids mean others."""
        for i in recipient.pop_request_ids():
            self.answer(i)

    # ------------------------------------------------------------ messages

    def pass_on(self, message: WireMessage, payload: bytes | bytearray, decode: Decode) -> bool:
        """Pass a message to its recipients. Return False if there are none, or if handlers are to get it."""
        event, i, owner = message.a[0], message.i, self._owner
        recipient = self.recipients.get(event)
        if isinstance(recipient, ItemInbox):
            recipient.receive(message, payload, decode)
            if i is not UNSET and isinstance(recipient.error, StreamOverflow):
                owner.reject(i, RpcError(as_text(recipient.error)))
            return True
        if not isinstance(recipient, RecipientGroup) or i is not UNSET:  # a request is for a handler
            return False
        handled = owner.has_handler(self.name, event)
        recipient.pass_on(message, payload, decode, handled=handled)
        return not handled

    # ------------------------------------------------------------ what inboxes ask for

    def closed_error(self) -> ChannelClosed:
        return ChannelClosed(str(self.name), None)

    def send_start(self, inbox: Inbox) -> None:
        """Send ``start``."""
        try:
            check_thread_of_plain(self._owner.writer.thread, "channel.items")
            self._owner.outbox.send_event_nowait(self.name, "start", ())
        except (ConnectionLost, QueueFull) as exc:
            inbox.end(exc)

    def answer(self, i: int, value: object = None) -> None:
        """Resolve a request that arrived on the channel, unless its session is over."""
        writer = self._owner.writer
        if not writer.session.over:
            writer.reply(writer.terms.encode(Resolution(i, value)))

    def inbox_overflowed(self, event: str, inbox: Inbox, error: StreamOverflow) -> None:
        """Pass nothing more to ``inbox``. The channel stays."""
        self._answer_all(inbox)
        self.remove_recipient(event, inbox)

    def count_dropped(self, count: int) -> None: ...

    def count_misfit(self, event: str, why: Exception) -> None:
        label = event if self.name is None else f"{self.name}:{event}"
        self._owner.host.count_misfit("wrong arguments", label, why, call=lambda: {"event": label})

    def check_thread(self, coroutine: str) -> None:
        check_thread(self._owner.writer.thread, coroutine)
