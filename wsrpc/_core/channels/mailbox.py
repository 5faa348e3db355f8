"""`Mailbox`: delivers the messages of an anonymous channel, and keeps those that arrive before anything listens."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from msgspec import UNSET

from ..._base.scheduler import Scheduler, Timer
from ...errors import StreamOverflow
from ...limits import Limits
from ..inboxes.inbox import Inbox
from ..inboxes.message_queue import MessageQueue, UnreadMemory
from ..inboxes.recipients import Recipient, RecipientTable
from ..wire.messages import Decode, WireMessage, aging, place_on
from .channel_states import MAILBOX, MailboxInput, MailboxState

if TYPE_CHECKING:
    from .channel_core import ChannelCore

# Constants, because Python 3.11 looks members of an enum up slowly.
KEEPING, DUE, LIVE, LATE, LAST, OVER = MailboxState
LISTENED, DELIVERED, ENDED, CLOSED = MailboxInput
IS_DUE = frozenset({DUE, LAST})


class PeerUnreadMemory(UnreadMemory):
    """Counter of the memory that unread messages take on all channels of one peer. It has the peer's late mailboxes.

    A mailbox is late if its channel has ended, and the mailbox still keeps messages for a future handler or reader.
    """

    __slots__ = ("_late", "_late_served")

    def __init__(self, loop: Scheduler, limits: Limits) -> None:
        super().__init__(loop, limits)
        self._late: dict[Mailbox, bool] = {}
        """Late mailboxes, oldest first, and whether the remote peer had opened their channels."""
        self._late_served = 0

    def add_late(self, mailbox: Mailbox, served: bool) -> None:
        """Add a late mailbox. ``served``: the remote peer had opened its channel."""
        self._late[mailbox] = served
        self._late_served += served
        if self._late_served > self.limits.channels:
            # Late mailboxes do not count as open channels. So this limits their number: the oldest drops its messages.
            next(late for late, served in self._late.items() if served).close()

    def remove_late(self, mailbox: Mailbox) -> None:
        """Remove a mailbox that keeps nothing any more. A mailbox that is not late changes nothing."""
        self._late_served -= self._late.pop(mailbox, False)

    def drop_late_requests(self) -> None:
        """Turn the requests in late mailboxes into events: the session is over, so nobody can answer the requests."""
        for mailbox in self._late:
            mailbox.pop_request_ids()

    def close_late(self) -> None:
        """Drop the messages in all late mailboxes."""
        for mailbox in list(self._late):
            mailbox.close()

    def drop_all(self, why: str) -> None:
        """Drop all messages that are unread after the end. Their readers get `StreamOverflow`."""
        self.close_late()
        for inbox in [each for each in self.inboxes if each.queue]:
            inbox.drop_all()
            inbox.error = StreamOverflow(f"unread messages were dropped: {why}")


class Mailbox:
    """Delivers the messages of an anonymous channel, each to the recipient of its event name, or else to the handlers.

    Messages that arrive before anything listens are kept for the first recipient or handler. They are kept after the
    end of the channel, too, unless this side has ended it. `MAILBOX` of ``_core.channels.channel_states`` has the
    states.
    """

    __slots__ = (
        "_channel",
        "_early",
        "_early_timer",
        "_on_read",
        "_read_timer",
        "_unread_by",
        "_unread_memory",
        "has_received",
        "recipients",
        "state",
    )

    def __init__(self, channel: ChannelCore) -> None:
        self._channel = channel
        """Deleted when the mailbox is over, because the channel refers to the mailbox."""
        self._unread_memory = channel.unread_memory
        self.state = KEEPING
        self.recipients = RecipientTable()
        self._early: MessageQueue | None = None
        """The messages that arrived before anything listened."""
        self._early_timer: Timer | None = None
        self.has_received = False
        """Whether the remote peer has sent an event or a request on the channel."""
        self._unread_by: frozenset[Recipient] = frozenset()
        """The readers that have not read everything yet, once the mailbox is over."""
        self._on_read: Callable[[], None] | None = None
        """See `when_read`."""
        self._read_timer: Timer | None = None
        """Ends the wait of `when_read`."""

    def __repr__(self) -> str:
        kept = 0 if self._early is None else len(self._early.queue)
        return f"<Mailbox {self.state.value}, {kept} kept, {len(self.recipients)} recipients>"

    def _follow(self, happened: MailboxInput) -> MailboxState:
        self.state = MAILBOX[self.state][happened][0]
        return self.state

    # ------------------------------------------------------------ messages

    def receive(self, message: WireMessage, payload: bytes | bytearray, decode: Decode) -> None:
        """Deliver or keep an event or a request. Its ``a`` is a list that begins with a str."""
        self.has_received = True
        if self.state is LIVE:
            self._deliver(message, payload, decode)
        else:
            self._keep(message, payload, decode)

    def _deliver(self, message: WireMessage, payload: bytes | bytearray, decode: Decode) -> None:
        recipient = self.recipients.get(message.a[0])
        if recipient is not None:
            recipient.receive(message, payload, decode)
        else:
            self._channel.handle(message, payload, decode)

    def _keep(self, message: WireMessage, payload: bytes | bytearray, decode: Decode) -> None:
        if self._early is None:
            self._early = MessageQueue(self._unread_memory)
            loop = self._unread_memory.loop
            self._early_timer = loop.call_at(loop.time() + self._unread_memory.limits.unread_timeout, self._overdue)
        # While delivery is due, no message is refused, because few messages arrive in one turn of the event loop.
        due = self.state is DUE
        decode = aging(message, decode, self._unread_memory.loop.time)
        error = self._early.keep(payload, None if message.i is UNSET else message.i, decode, granted=due)
        if error is None:
            return
        channel = self._channel
        if channel.sender is not None:
            self._drop_events(self._early)
            # A kept request, which is delivered first, may have ended the channel.
            (self._deliver if self.state is LIVE else channel.handle)(message, payload, decode)
        else:
            channel.abort(StreamOverflow(f"nobody reads channel {channel.id}, and {error}"))

    def _overdue(self) -> None:
        """Keep the messages no longer: nothing has listened in time."""
        channel = self._channel
        if self.state is LATE:
            self.close()
        elif channel.sender is not None:
            assert self._early is not None
            self._drop_events(self._early)
        else:
            seconds = self._unread_memory.limits.unread_timeout
            channel.abort(
                StreamOverflow(f"nobody has read channel {channel.id} within {seconds:g} s (Limits.unread_timeout)")
            )

    def _drop_events(self, early: MessageQueue) -> None:
        """Drop the kept events: this side uses the channel and does not listen to them, as JavaScript and Go may."""
        self._channel.count_dropped(early.drop_events())
        self._stop_timer()
        self._follow(LISTENED)
        self._deliver_kept()

    def _stop_timer(self) -> None:
        if self._early_timer is not None:
            self._early_timer.cancel()

    def _pop(self, early: MessageQueue) -> tuple[WireMessage, bytes, Decode]:
        payload, i, decode = early.pop()
        assert decode is not None
        message = decode(payload)
        place_on(message, self._channel.id)
        message.i = UNSET if i is None else i
        return message, payload, decode

    def pop_request_ids(self) -> list[int]:
        """Return the ids of the requests in the mailbox. The caller answers them. The requests stay here as events."""
        ids = [] if self._early is None else self._early.pop_request_ids()
        return ids + self.recipients.pop_request_ids()

    # ------------------------------------------------------------ listening

    def remove(self, event: str, recipient: Recipient) -> None:
        """Pass nothing more to ``recipient``."""
        self.recipients.remove(event, recipient)
        if self._unread_by:
            self._unread_by = self._unread_by - {recipient}
            self._check_read()

    def resume_abandoned(self, event: str, fits: Callable[[Inbox], bool]) -> Inbox | None:
        """Return the inbox that an earlier stream has abandoned, or None. If the inbox does not fit, drop it."""
        for one in self.recipients.of(event):
            if isinstance(one, Inbox) and one.abandoned:
                if fits(one):
                    one.resume_reading()
                    return one
                one.stop_reading(None)
                break
        return None

    def listen(self) -> None:
        """Deliver the kept messages, because a handler or reader was added.

        They are delivered in the next turn of the event loop, so that the code that runs now can add more handlers.
        """
        before = self.state
        if self._follow(LISTENED) is not before:
            self._stop_timer()
            if self._early is not None or self.state is LAST:
                self._unread_memory.loop.call_soon(self._deliver_kept)
            else:
                self._deliver_kept()

    def _deliver_kept(self) -> None:
        while (early := self._early) is not None and self.state in IS_DUE:
            if early.queue:
                self._deliver(*self._pop(early))
            else:
                self._early = None
        if self.state in IS_DUE and self._follow(DELIVERED) is OVER:
            self._notify_recipients()

    # ------------------------------------------------------------ the end

    def end(self) -> None:
        """End delivery after the kept messages, because the channel has ended."""
        if self._follow(ENDED) is OVER:
            self._notify_recipients()
        elif self._early is not None:
            self._unread_memory.add_late(self, self._channel.is_served)

    def close(self) -> None:
        """End delivery, because nothing will listen any more. Idempotent.

        Handlers get nothing more. Readers get the kept messages of their event names, then the error.
        """
        if self.state is not OVER:
            self._follow(CLOSED)
            while self._early is not None and self._early.queue and self.recipients:
                message, payload, decode = self._pop(self._early)
                recipient = self.recipients.get(message.a[0])
                if recipient is not None:
                    recipient.receive(message, payload, decode)
            self._notify_recipients()
        self._unread_by = frozenset[Recipient]()
        self._check_read()

    def _notify_recipients(self) -> None:
        """Notify all recipients that nothing more arrives, and drop the messages that are still kept."""
        if self._early is not None:
            self._stop_timer()
            self._early.drop_all()
            self._early = None
        recipients = self.recipients.each()
        self.recipients.clear()
        self._unread_memory.remove_late(self)
        self._unread_by = frozenset[Recipient](one for one in recipients if isinstance(one, Inbox) and one.is_busy)
        error = self._channel.error
        del self._channel
        for recipient in recipients:
            recipient.channel_ended(error)
        self._check_read()

    def when_read(self, then: Callable[[], None]) -> None:
        """Call ``then`` when all messages before the end were read, or after `Limits.unread_timeout` seconds."""
        self._on_read = then
        self._check_read()
        if self._on_read is not None:
            loop = self._unread_memory.loop
            self._read_timer = loop.call_at(
                loop.time() + self._unread_memory.limits.unread_timeout, self.call_when_read
            )

    def call_when_read(self) -> None:
        """Call the callback of `when_read` now, even if not everything was read."""
        if self._read_timer is not None:
            self._read_timer.cancel()
        then, self._on_read = self._on_read, None
        if then is not None:
            then()

    def _check_read(self) -> None:
        kept = self._early is not None or self.state is LAST
        if self._on_read is not None and not self._unread_by and not kept:
            self.call_when_read()
