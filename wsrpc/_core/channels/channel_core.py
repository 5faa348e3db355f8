"""`ChannelCore`: one side of an anonymous channel. `StreamInbox`: the items of a channel that one stream has alone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from msgspec import UNSET

from ..._base.scheduler import Timer
from ...errors import ChannelClosed, ChannelNotReady, RemoteError, RpcError, StreamOverflow, as_text
from ..handlers.registry import Registry
from ..inboxes.event_inboxes import EventInbox, Waits
from ..inboxes.inbox import Inbox
from ..inboxes.item_inboxes import ItemInbox
from ..inboxes.recipients import Recipient, RecipientGroup
from ..sending.checks import check_thread, check_thread_of_plain
from ..sending.sender import RefusingSender, Sender
from ..wire.messages import Decode, Event, Resolution, WireMessage
from ..wire.nodes import ENDED_BY_CALLER
from ..wire.rejections import FINISHED_REASON
from .channel_states import TABLE, ChannelInput, ChannelState
from .mailbox import IS_DUE, OVER, Mailbox

if TYPE_CHECKING:
    from .channel_table import ChannelTable


class _Finished:
    """Reason of a channel that has ended in good order."""

    def __repr__(self) -> str:
        return "finished"


FINISHED: Any = _Finished()

_NOT_READY = (
    "channel {} is not delivered yet: return it first, and send from a handler on it, a task or when it is read; a "
    "handler with an AnonymousChannel parameter runs once it is"
)

_NO_HANDLERS = Registry()
"""The registry of channels without handlers, for example those of streams."""


# Constants, because Python 3.11 looks members of an enum up slowly.
_NEW, _OPEN, _ENDED, _ENDED_HERE = ChannelState
_OPENS, _ENDS, _ENDS_HERE = ChannelInput
_IS_OVER = frozenset({_ENDED, _ENDED_HERE})


class Producing(Protocol):
    """Object that sends items on a channel: a `Producer`, or the `ItemForwarder` of a node."""

    def credit_received(self, n: int, size: int, /) -> None:
        """Send up to the credit that the remote peer has granted: totals of items and of bytes."""

    def stop_sending(self) -> None:
        """Send nothing more."""


class RecipientsAndHandler(RecipientGroup):
    """The recipients of one event name on an anonymous channel. The handler of that name gets each event, too."""

    __slots__ = ("_channel",)

    def __init__(self, channel: ChannelCore) -> None:
        super().__init__()
        self._channel = channel

    def receive(self, message: WireMessage, payload: bytes | bytearray, decode: Decode) -> None:
        handled = self._channel.registry.has(self._channel.id, message.a[0])
        if not handled or message.i is UNSET:  # a request is for the handler alone, which answers it
            self.pass_on(message, payload, decode, handled=handled)
        if handled:
            message.c = None  # an anonymous channel has no name, see `place_on`
            self._channel.handle(message, payload, decode)


class ChannelCore:
    """One side of an anonymous channel, from the request that opens it until all its messages are delivered.

    Messages that arrive on the channel go through its ``mailbox``. Readers first get all messages that arrived before
    the end, however the channel ends. `TABLE` of ``_core.channels.channel_states`` has the states.

    Users hold an `AnonymousChannel`, which refers to this object. A channel for a single stream has only this object.
    """

    __slots__ = (
        "_closed",
        "_credit",
        "_timer",
        "error",
        "id",
        "is_served",
        "mailbox",
        "on_end",
        "owner",
        "producer",
        "reason",
        "registry",
        "sender",
        "state",
        "unread_memory",
        "writer",
    )

    def __init__(self, id: int, owner: ChannelTable, *, served: bool = False) -> None:
        self.id = id
        """The id of the request that opened the channel. It is the channel's name on the wire."""
        self.is_served = served
        self.owner = owner
        self.writer = owner.writer
        self.state = _NEW
        self.reason: Any = None
        """Why the channel has ended."""
        self.error: Exception | None = None
        """The exception that readers get after the last message. None at a good end."""
        self.registry = _NO_HANDLERS
        self.sender: Sender | None = None
        """Sends for the user, from the first message of the user until the end. See `start_sending`."""
        self.unread_memory = owner.unread_memory
        self.mailbox = Mailbox(self)
        self._timer: Timer | None = None
        """See `abort_after`."""
        self._closed: asyncio.Future[None] | None = None
        self.on_end: tuple[Callable[[], object], ...] = ()
        """Functions that are called once, when the channel has ended."""
        self.producer: Producing | None = None
        """Sends the items of this side. None if this side does not produce, and after the end."""
        self._credit: tuple[int, int] | None = None
        """Credit that arrived before there was a producer."""

    def __repr__(self) -> str:
        return f"<ChannelCore {self.id} {self.state.value}, {self.mailbox!r}>"

    # ------------------------------------------------------------ state

    @property
    def over(self) -> bool:
        """Whether the channel has ended, on either side."""
        return self.state in _IS_OVER

    @property
    def ended_here(self) -> bool:
        """Whether this side has ended the channel. The remote peer may have ended it before."""
        return self.state is _ENDED_HERE

    @property
    def close_reason(self) -> Any:
        return None if self.reason is FINISHED else self.reason

    def check_open(self) -> None:
        """Raise `ChannelClosed` if a new handler or reader would get nothing."""
        if self.mailbox.state is OVER:
            raise self.closed_error()

    def check_thread(self, coroutine: str | None = None) -> None:
        """Raise RuntimeError in another thread than the event loop's, while the channel is open.

        Args:
            coroutine: what was called. None for a plain function.
        """
        if not self.over:
            if coroutine is None:
                check_thread_of_plain(self.writer.thread, "function")
            else:
                check_thread(self.writer.thread, coroutine)

    def closed_error(self) -> ChannelClosed:
        """Return the error for a call on a channel that has ended."""
        return ChannelClosed(str(self.id), self.close_reason)

    async def wait_closed(self) -> None:
        """Wait until the channel is over and handlers have got the messages before its end. Cancelling is safe."""
        if not self.over:
            self.check_thread("channel.wait_closed()")
            if self._closed is None:
                self._closed = self.unread_memory.loop.create_future()
            await asyncio.shield(self._closed)
        if self.mailbox.state in IS_DUE:
            await asyncio.sleep(0)  # the handlers get the messages in the next turn of the event loop

    def when_ended(self, function: Callable[[], object]) -> None:
        """Call ``function`` when the channel has ended, or now."""
        if self.over:
            function()
        else:
            self.on_end += (function,)

    # ------------------------------------------------------------ opening

    def opened(self) -> None:
        """Open the channel: the remote peer knows of it from now on."""
        self.state = TABLE[self.state][_OPENS][0]

    def start_sending(self) -> Sender:
        """Return the sender for the user's messages on the channel. It refuses them unless the channel is open."""
        if self.state is _OPEN:
            sender = self.sender = self.owner.sender
            return sender
        return RefusingSender(self.closed_error if self.over else lambda: ChannelNotReady(_NOT_READY.format(self.id)))

    # ------------------------------------------------------------ reading

    def read_items(self) -> Inbox:
        """Read the items of ws-wrapper's iterator protocol. See `AnonymousChannel.items`."""
        self.check_open()
        self.check_thread()
        return self.mailbox.resume_abandoned("next", lambda one: isinstance(one, ItemInbox)) or ItemInbox(self)

    def read_events(self, event: str, keep: Waits) -> Inbox:
        """Read the events of one name. See `EventReader.events`."""
        newest = keep == "newest"
        self.check_open()
        self.check_thread()
        left = self.mailbox.resume_abandoned(event, lambda one: isinstance(one, EventInbox) and one.newest is newest)
        return left or EventInbox(self, event, newest=newest)

    def add_recipient(self, event: str, recipient: Recipient) -> None:
        """Pass the messages of the name ``event`` to ``recipient``. Readers of events share them with each other.

        Raises:
            RuntimeError: another recipient gets these messages, and one of the two does not share them.
        """
        mailbox = self.mailbox
        if mailbox.state is OVER:
            recipient.channel_ended(self.error)
            return
        if isinstance(recipient, EventInbox):
            occupied = f"{event!r} belongs to a stream on this channel: it cannot be read as events, too"
            mailbox.recipients.add(event, recipient, lambda: RecipientsAndHandler(self), occupied)
        else:
            occupied = f"{event!r} is being read on this channel already: one reader at a time"
            mailbox.recipients.add(event, recipient, None, occupied)
        mailbox.listen()

    def remove_recipient(self, event: str, recipient: Recipient) -> None:
        """Pass nothing more to ``recipient``."""
        self.mailbox.remove(event, recipient)

    # ------------------------------------------------------------ what inboxes and producers ask for

    @property
    def has_credit(self) -> bool:
        """Whether the remote peer keeps to credit when it produces."""
        return not self.writer.terms.plain

    def send_start(self, inbox: Inbox) -> None:
        """Send ``start``. Send credit first, if the remote peer keeps to credit."""
        if self.has_credit:
            inbox.credit = self.owner.credit_for(self.id)
            inbox.credit.renew(inbox.read_count, inbox.read_bytes)
        self._send(Event(("start",), h=self.id))

    def send_stop(self) -> None:
        """Send ``stop``."""
        self._send(Event(("stop",), h=self.id))

    def answer(self, i: int, value: object = None) -> None:
        """Resolve a request that arrived on the channel, unless its session is over."""
        if not self.writer.session.over:
            self._send(Resolution(i, value))

    def _send(self, message: Event | Resolution) -> None:
        writer = self.writer
        writer.reply(writer.terms.encode(message))

    def refuse(self, i: int, error: Exception) -> None:
        """Reject a request that arrived on the channel, unless its session is over."""
        if not self.writer.session.over:
            self.owner.answers.reject(i, error if isinstance(error, RpcError) else RpcError(as_text(error)))

    def count_misfit(self, event: str, why: Exception) -> None:
        self.owner.answers.host.count_misfit("wrong arguments", event, why, call=lambda: {"event": event})

    def count_dropped(self, count: int) -> None:
        text = f"events on channel {self.id} were dropped, because nobody listens to them"
        self.owner.answers.host.count("unread event", text, count)

    def inbox_overflowed(self, event: str, inbox: Inbox, error: StreamOverflow) -> None:
        self.abort(error)

    def set_producer(self, producer: Producing) -> None:
        """Notify ``producer`` of the end, and of credit, also of credit that has arrived before."""
        if self.over:
            producer.stop_sending()
            return
        self.producer = producer
        if self._credit is not None:
            producer.credit_received(*self._credit)

    def credit_received(self, n: int, size: int) -> None:
        """Pass credit on to the producer: totals of items and of bytes."""
        if self.producer is not None:
            self.producer.credit_received(n, size)
        else:
            self._credit = (n, size)

    # ------------------------------------------------------------ handlers

    def own_registry(self) -> Registry:
        """Return the channel's own registry."""
        if self.registry is _NO_HANDLERS:
            self.registry = self.owner.registry.for_channel()
        return self.registry

    def handle(self, message: WireMessage, payload: bytes | bytearray, decode: Decode) -> None:
        dispatcher = self.owner.dispatcher
        dispatcher.admission.arrived(dispatcher, message, payload, None, decode, self)

    # ------------------------------------------------------------ the end
    #
    # called           sends an abort                     reason    readers here get, after what has arrived
    # close            only if a producer waits for       given     ChannelClosed
    #                  credit, as it never sends again
    # abort            yes, with the reason               given     ChannelClosed, StreamOverflow or the error given
    # finish           yes, with `FINISHED_REASON`        FINISHED  the end of the items
    # finish_locally   no: the remote peer knows          FINISHED  the end of the items
    # by remote peer   no                                 received  the error that it stands for, or the end
    #
    # Between two nodes of a cluster, `close` and `finish_locally` send an abort, too: `ENDED_BY_CALLER`.

    def close(self, reason: object = None) -> None:
        """End the channel on this side. See `AnonymousChannel.close`."""
        self.writer.session.send_held_back()
        reading = self.mailbox.recipients.get("next")
        if isinstance(reading, ItemInbox) and reading.producer_runs and self.has_credit:
            self._send_end(reason)
        self.end(reason, ChannelClosed(str(self.id), reason))

    def abort(self, reason: object, error: Exception | None = None) -> None:
        """End the channel on both sides.

        Args:
            error: the exception that readers on this side get. None: an exception made of ``reason``.
        """
        self._send_end(reason)
        if error is None:
            error = reason if isinstance(reason, StreamOverflow) else ChannelClosed(str(self.id), reason)
        self.end(reason, error)

    def finish(self) -> None:
        """End the channel in good order on both sides."""
        self._send_end(FINISHED_REASON)
        self.finish_locally()

    def drop_error(self) -> None:
        self.reason = self.error = None

    def finish_locally(self) -> None:
        """End the channel in good order. The remote peer knows of the end already."""
        self.end(FINISHED, None)

    def _send_end(self, reason: object) -> None:
        """Send an abort, if the remote peer knows of the channel."""
        if self.state is not _OPEN:
            return
        if isinstance(reason, StreamOverflow):
            reason = RpcError(as_text(reason))
        (self.owner.delay_abort if self.delays_abort else self.owner.send_abort)(self.id, reason)

    @property
    def delays_abort(self) -> bool:
        """Whether an abort waits, because this side produces for a peer that is not wsrpc and has sent nothing yet.

        If the abort arrives before JavaScript's loop starts, the loop sees a stream without items. If it arrives after
        the loop has sent ``start``, the loop throws (4.3.1, observed).
        """
        return self.producer is not None and not self.mailbox.has_received and self.writer.terms.plain

    def end(self, reason: object, error: Exception | None, *, by_other: bool = False) -> None:
        """End the channel on this side, with everything that belongs to it. All other ways to end it call this method.

        The producer and ``on_end`` are notified once, and at once. The latter cancels the task of a handler that
        streams, or of ``stream(send=)``. The mailbox notifies readers, after the messages before.

        Args:
            error: the exception that readers get after the messages that have arrived. None at a good end.
            by_other: the remote peer has ended the channel, or the session is over. A handler or reader that is added
                later still gets the messages that arrived before.
        """
        before = self.state
        self.state = TABLE[before][_ENDS if by_other else _ENDS_HERE][0]
        if before in _IS_OVER:
            if not by_other:
                self.mailbox.close()  # nothing will listen from now on
            return
        if (
            before is _OPEN and not by_other and self.writer.settings.between_nodes
        ):  # the other node has to know of each end
            self.owner.send_abort(self.id, ENDED_BY_CALLER)
        self.reason = reason
        self.error = error
        self.sender = None
        self.stop_abort_timer()
        producer, self.producer = self.producer, None
        if producer is not None:
            producer.stop_sending()
        self.owner.remove(self, produced=producer is not None)
        if before is _OPEN:
            self.owner.end_requests_on(self, by_other=by_other)
        if by_other:
            self.mailbox.end()
        else:
            if reason is not FINISHED:  # after a good end, the reader reads on, and answers the requests
                for i in self.mailbox.pop_request_ids():
                    self.refuse(i, self.closed_error())
            self.mailbox.close()
        if self._closed is not None and not self._closed.done():
            self._closed.set_result(None)
        on_end, self.on_end = self.on_end, ()
        for function in on_end:
            function()

    def abort_after(self, seconds: float, error: Exception, sent: int | None = None) -> None:
        """Abort the channel after ``seconds``. Readers on this side get ``error``.

        The time begins again if the first ``sent`` messages have not arrived then, because the remote peer may not know
        of the channel, or if what it has sent on a lost connection may still arrive. None: all that were sent then.
        """
        loop, replay = self.unread_memory.loop, self.writer.session.replay
        expired = partial(self._abort_if_arrived, seconds, error, sent, None if replay is None else replay.received)
        self._timer = loop.call_at(loop.time() + seconds, expired)

    def _abort_if_arrived(self, seconds: float, error: Exception, sent: int | None, since: object) -> None:
        replay = self.writer.session.replay
        if replay is not None and (replay.acknowledged < (sent := sent or replay.sent) or replay.remote_repeats(since)):
            self.abort_after(seconds, error, sent)
        else:
            self.abort(error if isinstance(error, RpcError) else None, error)

    def stop_abort_timer(self) -> None:
        """Cancel the timer of `abort_after`."""
        if self._timer is not None:
            self._timer.cancel()


class StreamInbox(ItemInbox):
    """Queue of the items on a channel that was opened for one stream alone. The channel ends with the stream."""

    __slots__ = ()

    channel: ChannelCore

    def __init__(self, channel: ChannelCore) -> None:
        super().__init__(channel)

    def _items_ended(self, i: Any, error: RemoteError | None) -> None:
        super()._items_ended(i, error)
        self.channel.finish_locally()

    def channel_ended(self, error: Exception | None) -> None:
        if error is None and not self.over:  # the handler holds a conversation, for example
            error = ChannelClosed(str(self.channel.id), "the handler ended it before the end of the items")
        super().channel_ended(error)
        self.channel.drop_error()  # the inbox keeps the error, for the only reader

    def _stop_reading(self, reason: object) -> None:
        """Stop reading, and end the channel."""
        channel = self.channel
        if channel.delays_abort:
            self.start_producer()  # the abort waits for a message of JavaScript's producer, which waits for `start`
        self._detach()
        channel.abort(reason)

    def _stop_if_abandoned(self, label: str) -> None:
        if self.abandoned and not self.channel.over:
            text = f"a stream of {label!r} was left without being closed, and is stopped"
            self.channel.owner.warn(f"{text}: read it in a `with` (`async with`) block, or close it")
        super()._stop_if_abandoned(label)
