"""Delivery of the messages of one anonymous channel."""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Protocol

from msgspec import UNSET

from .._base.scheduler import Scheduler, Timer
from .._protocol.messages import WireMessage
from ..errors import StreamOverflow
from ..limits import Limits
from .backlog import Backlog
from .inbox import Decode
from .memory import UnreadMemory
from .reader import Reading
from .recipients import FanOut, Recipient, add, each_of, remove

__all__ = ["DELIVERY", "Act", "Delivery", "Mailbox", "UnreadMessages"]

_NOBODY: dict[str, Recipient] = {}


class Delivery(enum.Enum):
    """State of the delivery of a channel's messages."""

    __hash__ = object.__hash__  # that of Enum is a Python function, and the table is asked often

    KEEPING = "nothing listens yet: messages are kept"
    DELIVERING = "something listens: it gets the kept messages in the next turn of the event loop"
    LIVE = "messages are delivered at once"
    KEPT = "the channel ended before anything listened: the messages that came before are kept"
    ENDING = "the channel has ended: what listens gets the kept messages in the next turn of the event loop"
    OVER = "the channel has ended: all messages were delivered or dropped"


class Act(enum.Enum):
    """Event that may change the state of the delivery."""

    __hash__ = object.__hash__  # that of Enum is a Python function, and the table is asked often

    LISTENED = "the first handler or reader is there"
    DELIVERED = "the kept messages were delivered"
    ENDED = "the remote peer ended the channel, or the session ended"
    LEFT = "this side ended the channel, or will not listen to it"


DELIVERY = {
    (Delivery.KEEPING, Act.LISTENED): Delivery.DELIVERING,
    (Delivery.KEEPING, Act.ENDED): Delivery.KEPT,
    (Delivery.KEEPING, Act.LEFT): Delivery.OVER,
    (Delivery.DELIVERING, Act.DELIVERED): Delivery.LIVE,
    (Delivery.DELIVERING, Act.ENDED): Delivery.ENDING,
    (Delivery.DELIVERING, Act.LEFT): Delivery.OVER,
    (Delivery.LIVE, Act.ENDED): Delivery.OVER,
    (Delivery.LIVE, Act.LEFT): Delivery.OVER,
    (Delivery.KEPT, Act.LISTENED): Delivery.ENDING,
    (Delivery.KEPT, Act.LEFT): Delivery.OVER,
    (Delivery.ENDING, Act.DELIVERED): Delivery.OVER,
    (Delivery.ENDING, Act.LEFT): Delivery.OVER,
}
"""The next state for each state and act. An act that is in no cell changes nothing."""


class Listener(Protocol):
    """Channel that owns a mailbox, as the mailbox sees it. Implemented by `ChannelCore` of ``_channels.core``."""

    id: int

    @property
    def in_use(self) -> bool:
        """Whether this side has sent something on the channel, which is open."""
        ...

    def has_handler(self, event: str, /) -> bool:
        """Return whether a handler is registered for messages of that name."""
        ...

    def handle(self, message: WireMessage, payload: bytes | bytearray, decode: Decode, /) -> None:
        """Run the handler of a message."""

    def abort(self, reason: StreamOverflow, /) -> None:
        """End the channel: nothing listened in time, or too much was kept."""

    def count_dropped(self, count: int, /) -> None:
        """Count events that were dropped because nothing listens."""


class UnreadMessages(UnreadMemory):
    """Memory that unread messages take on all channels of one peer, and the mailboxes that outlive their channels.

    A mailbox is late if its channel has ended while it still keeps messages for a future handler or reader.
    """

    __slots__ = ("_late", "_late_served")

    def __init__(self, loop: Scheduler, limits: Limits) -> None:
        super().__init__(loop, limits)
        self._late: dict[Mailbox, bool] = {}
        """Late mailboxes, oldest first, and whether the remote peer had opened their channels."""
        self._late_served = 0

    def keep_late(self, mailbox: Mailbox, served: bool) -> None:
        """Remember a late mailbox. ``served``: the remote peer had opened its channel."""
        self._late[mailbox] = served
        self._late_served += served
        if self._late_served > self.limits.channels:
            # Late mailboxes do not count as open channels. They are bounded here: the oldest one is dropped.
            next(late for late, served in self._late.items() if served).leave()

    def forget_late(self, mailbox: Mailbox) -> None:
        """Forget a mailbox that keeps nothing any more."""
        self._late_served -= self._late.pop(mailbox, False)

    def forget_late_requests(self) -> None:
        """Turn the requests in late mailboxes into events: their session is over, and nobody can answer them."""
        for mailbox in self._late:
            mailbox.take_request_ids()

    def leave_late(self) -> None:
        """Drop the messages in all late mailboxes."""
        for mailbox in list(self._late):
            mailbox.leave()


class ChannelFanOut(FanOut):
    """All readers of one event name on an anonymous channel. The handler of that name gets each event, too."""

    __slots__ = ("_mailbox",)

    def __init__(self, mailbox: Mailbox) -> None:
        super().__init__()
        self._mailbox = mailbox

    def receive(self, message: WireMessage, payload: bytes | bytearray, decode: Decode) -> None:
        channel = self._mailbox.channel
        handler = channel if channel is not None and channel.has_handler(message.a[0]) else None
        if handler is None or message.i is UNSET:  # a request is for the handler alone, which answers it
            self.pass_on(message, payload, decode, handled=handler is not None)
        if handler is not None:
            message.c = None  # an anonymous channel has no name, see `place_on`
            handler.handle(message, payload, decode)


class Mailbox:
    """Delivers a channel's messages to the recipient of their event name, or else to the handlers.

    Messages that arrive before anything listens are kept for the first recipient or handler. If the remote peer ends
    the channel, or its session ends, they are kept beyond that end. However the channel ends, readers get the messages
    that arrived before the end first.
    """

    __slots__ = (
        "_backlog",
        "_error",
        "_then",
        "_timer",
        "_unread",
        "_unread_by",
        "channel",
        "heard",
        "live",
        "recipients",
        "state",
    )

    def __init__(self, channel: Listener, unread: UnreadMessages) -> None:
        self.channel: Listener | None = channel
        """The owner. None once everything was delivered, so that the two no longer refer to each other."""
        self.state = Delivery.KEEPING
        self._unread = unread
        self._backlog: Backlog | None = None
        self._error: Exception | None = None
        self._unread_by: set[Recipient] = set()
        """Readers of a channel that is over which have not read everything yet."""
        self._then: Callable[[], None] | None = None
        self._timer: Timer | None = None
        self.heard = False
        """The remote peer has sent an event or a request on the channel."""
        self.recipients: dict[str, Recipient] = {}
        """By event name."""
        self.live: dict[str, Recipient] = _NOBODY
        """The same while messages are delivered at once, from the second one on. Otherwise it is empty."""

    def __repr__(self) -> str:
        kept = 0 if self._backlog is None else len(self._backlog)
        return f"<Mailbox {self.state.name.lower()}, {kept} kept, {len(self.recipients)} recipients>"

    @property
    def can_listen(self) -> bool:
        """Whether a new handler or reader gets anything: the channel is open, or messages were kept beyond its end."""
        return self.state is not Delivery.OVER

    @property
    def is_ending(self) -> bool:
        """Whether the channel is over, and the kept messages are delivered in the next turn of the event loop."""
        return self.state is Delivery.ENDING

    # ------------------------------------------------------------ listening

    def add_recipient(self, event: str, recipient: Recipient) -> None:
        """Pass the messages of that name to ``recipient``. Readers of events share them with each other.

        Raises:
            RuntimeError: something receives them already and does not share them.
        """
        if self.state is Delivery.OVER:
            recipient.channel_ended(self._error)
            return
        if isinstance(recipient, Reading) and not recipient.inbox.items:
            taken = f"{event!r} belongs to a stream on this channel: it cannot be read as events, too"
            add(self.recipients, event, recipient, lambda: ChannelFanOut(self), taken)
        else:
            taken = f"{event!r} is being read on this channel already: one reader at a time"
            add(self.recipients, event, recipient, None, taken)
        self.listen()

    def remove_recipient(self, event: str, recipient: Recipient) -> None:
        """Pass nothing more to ``recipient``."""
        remove(self.recipients, event, recipient)
        if self._unread_by:
            self._unread_by.discard(recipient)
            self._check_read()

    def reading(self, event: str) -> Reading | None:
        """Return the reader of the items of a stream, or one of the abandoned readers of an event."""
        recipient = self.recipients.get(event)
        if isinstance(recipient, FanOut):
            readings = (each for each in recipient.members if isinstance(each, Reading) and each.abandoned)
            return next(readings, None)
        return recipient if isinstance(recipient, Reading) else None

    def listen(self) -> None:
        """Take note that a handler or reader was added, and deliver the kept messages to it.

        They are delivered in the next turn of the event loop, so that the code that runs now can add others first.
        """
        if not self._move(Act.LISTENED):
            return
        if self._backlog is not None:
            self._backlog.stop_timer()
        if self._backlog or self.state is Delivery.ENDING:
            self._unread.loop.call_soon(self._deliver_backlog)
        else:
            self._deliver_backlog()

    # ------------------------------------------------------------ messages

    def receive(self, message: WireMessage, payload: bytes | bytearray, decode: Decode) -> None:
        """Deliver or keep an event or a request. Its ``a`` is a list that begins with a str."""
        self.heard = True
        if self.state is Delivery.LIVE:
            self.live = self.recipients
            self._deliver(message, payload, decode)
        elif self.state is Delivery.KEEPING:
            self._keep(message, bytes(payload), decode)
        elif self._backlog is not None:  # behind those that are delivered in the next turn
            self._backlog.add(message, bytes(payload), decode)

    def _deliver(self, message: WireMessage, payload: bytes | bytearray, decode: Decode) -> None:
        recipient = self.recipients.get(message.a[0])
        if recipient is not None:
            recipient.receive(message, payload, decode)
        elif self.channel is not None:
            self.channel.handle(message, payload, decode)

    def _keep(self, message: WireMessage, payload: bytes, decode: Decode) -> None:
        if self._backlog is None:
            self._backlog = Backlog(self._unread, self._overdue)
        exceeded = self._backlog.keep(message, payload, decode)
        if exceeded is None or self.channel is None:
            return
        if self.channel.in_use:
            self._drop_unread(self.channel)
            self._deliver(message, payload, decode)
        else:
            self.channel.abort(StreamOverflow(f"nobody reads channel {self.channel.id}, and {exceeded}"))

    def _overdue(self) -> None:
        """Give up waiting for something to listen."""
        if self.state is not Delivery.KEEPING or self.channel is None:
            self.leave()
        elif self.channel.in_use:
            self._drop_unread(self.channel)
        else:
            seconds = self._unread.limits.unread
            text = f"nobody has read channel {self.channel.id} within {seconds:g} s (Limits.unread)"
            self.channel.abort(StreamOverflow(text))

    def _drop_unread(self, channel: Listener) -> None:
        """Stop keeping: this side uses the channel without listening to these events, as JavaScript and Go may."""
        assert self._backlog is not None
        channel.count_dropped(self._backlog.drop_events())
        self._move(Act.LISTENED)
        self._deliver_backlog()

    def _deliver_backlog(self) -> None:
        assert self.channel is not None or self.state is Delivery.OVER
        while self._backlog and self.channel is not None:
            self._deliver(*self._backlog.pop_message(self.channel.id))
        if self._move(Act.DELIVERED):
            if self.state is not Delivery.LIVE:
                self._end_recipients()
            elif self.heard:
                self.live = self.recipients

    # ------------------------------------------------------------ the end

    def end(self, error: Exception | None, served: bool) -> None:
        """Deliver what is kept, then end: the remote peer has ended the channel, or the session is over.

        Args:
            error: the exception that readers get after the last message. None at a good end.
            served: the remote peer had opened the channel.
        """
        self._error = error
        if not self._move(Act.ENDED):
            return
        self.live = _NOBODY
        if self.state is Delivery.OVER:
            self._end_recipients()
        elif self._backlog:
            self._unread.keep_late(self, served)

    def leave(self, error: Exception | None = None) -> None:
        """End delivery: this side has ended the channel, or nothing will listen to the kept messages.

        Handlers get nothing more. Readers get the messages that are there for them, then ``error``.
        """
        if self.state in (Delivery.KEEPING, Delivery.DELIVERING, Delivery.LIVE):
            self._error = error
        if self._move(Act.LEFT):
            while self._backlog and self.recipients and self.channel is not None:
                message, payload, decode = self._backlog.pop_message(self.channel.id)
                recipient = self.recipients.get(message.a[0])
                if recipient is not None:
                    recipient.receive(message, payload, decode)
            self._end_recipients()
        self._unread_by.clear()
        self._check_read()

    def when_read(self, then: Callable[[], None]) -> None:
        """Call ``then`` once everything that came before the end was read, or after `Limits.unread` seconds."""
        self._then = then
        self._check_read()
        if self._then is not None:
            loop = self._unread.loop
            self._timer = loop.call_at(loop.time() + self._unread.limits.unread, self.notice_end)

    def take_request_ids(self) -> list[int]:
        """Return the ids of the requests that wait here, for the caller to answer. The requests wait on as events."""
        ids = [] if self._backlog is None else self._backlog.take_request_ids()
        return ids + [i for each in dict.fromkeys(self.recipients.values()) for i in each.take_request_ids()]

    def _move(self, act: Act) -> bool:
        """Enter the next state, and return True, if the table has one."""
        state = DELIVERY.get((self.state, act))
        if state is None:
            return False
        self.state = state
        return True

    def _end_recipients(self) -> None:
        """Tell all recipients that nothing more arrives, and drop what is still kept."""
        if self._backlog is not None:
            self._backlog.discard()
            self._backlog = None
        recipients, self.recipients = self.recipients, {}
        self.live = _NOBODY
        self.channel = None
        self._unread.forget_late(self)
        each = each_of(recipients.values())
        self._unread_by = {one for one in each if isinstance(one, Reading) and one.is_at_work}
        for recipient in recipients.values():
            recipient.channel_ended(self._error)
        self._check_read()

    def _check_read(self) -> None:
        if self._then is None or self._unread_by or self.state is Delivery.ENDING:
            return
        if not (self.state is Delivery.KEPT and self._backlog):
            self.notice_end()

    def notice_end(self) -> None:
        """Call the callback of `when_read` now, whether everything was read or not."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        then, self._then = self._then, None
        if then is not None:
            then()
