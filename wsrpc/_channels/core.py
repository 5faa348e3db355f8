"""`ChannelCore`: one side of an anonymous channel."""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Protocol

from msgspec import UNSET

from .._base.scheduler import Scheduler, Timer
from .._handlers.registry import Registry
from .._protocol.messages import Event, RequestOptions, Resolution, WireMessage, place_on
from .._protocol.nodes import ENDED_BY_CALLER
from .._protocol.rejections import FINISHED_REASON
from .._sending.answers import Answers
from .._sending.checks import check_thread, check_thread_of_plain
from .._sending.outbound import Outbound
from .._sending.outbox import Outbox
from .._sending.sender import RefusingSender, Sender
from .._streams.event_values import Waits
from .._streams.inbox import Inbox, MessageQueue, UnreadMemory, Upload
from .._streams.recipients import Decode, FanOut, Recipient, add, each_of, remove
from ..errors import (
    ChannelClosed,
    ChannelNotReady,
    RpcError,
    StreamOverflow,
    as_text,
    short,
)
from ..limits import Limits


class ChannelState(enum.Enum):
    """State of an anonymous channel on one side. It is followed by the next one, or by the last one."""

    NEW = "new"
    """A handler has made it. The remote peer does not know of it yet."""
    OPEN = "open"
    CLOSED = "closed"


class DeliveryState(enum.Enum):
    """State of the delivery of a channel's messages. Each state is followed by the next one, or by the last one.

    Messages that arrive before anything listens are kept for the first recipient or handler. If the remote peer ends
    the channel, or its session ends, they are kept beyond that end.
    """

    KEEPING = "nothing listens yet: messages are kept"
    DUE = "something listens: it gets the kept messages in the next turn of the event loop"
    LIVE = "messages are delivered at once"
    OVER = "the channel has ended: all messages were delivered or dropped"


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


class ChannelListener(Protocol):
    """Part of the peer that runs the handlers of channels. Implemented by `Dispatcher` of ``_peer``."""

    def arrived(
        self,
        message: WireMessage,
        payload: bytes | bytearray,
        view: Any,
        decode: Decode,
        channel: ChannelCore,
        /,
    ) -> None:
        """Run the handler of a message, now or when there is room."""

    def cancel_requests_on(self, h: int, reason: object, /) -> None:
        """Cancel the handlers of requests that arrived on channel ``h``, which is over: nobody waits for them."""


class ChannelOwner(Protocol):
    """What a channel has from its session, and reports to it. Implemented by `ChannelTable` of ``_channels.table``."""

    out: Outbound
    outbox: Outbox
    registry: Registry
    sender: Sender
    """Sends for the users of channels."""
    answers: Answers
    listener: ChannelListener
    warn: Callable[..., None]

    @property
    def unread(self) -> UnreadMessages: ...

    @property
    def credit_share(self) -> int:
        """Bytes of one stream that may be in flight now."""
        ...

    def credit_begins(self, h: int, /) -> None:
        """Take note that the items of channel ``h`` are read, by credit."""

    def send_abort(self, h: int, reason: object, /) -> None:
        """Abort a channel, unless this side has done so already."""

    def abort_when_used(self, h: int, reason: object, /) -> None:
        """Abort a channel when the remote peer sends something on it."""

    def forget(self, channel: ChannelCore, reason: object, /, *, by_other: bool) -> bool:
        """Drop a channel that has ended, with all requests on it. Return whether the remote peer had opened it."""
        ...


class UnreadMessages(UnreadMemory):
    """Memory that unread messages take on all channels of one peer, and the late channels of that peer.

    A channel is late if it has ended while it still keeps messages for a future handler or reader.
    """

    __slots__ = ("_late", "_late_served")

    def __init__(self, loop: Scheduler, limits: Limits) -> None:
        super().__init__(loop, limits)
        self._late: dict[ChannelCore, bool] = {}
        """Late channels, oldest first, and whether the remote peer had opened them."""
        self._late_served = 0

    def keep_late(self, channel: ChannelCore, served: bool) -> None:
        """Remember a late channel. ``served``: the remote peer had opened it."""
        self._late[channel] = served
        self._late_served += served
        if self._late_served > self.limits.channels:
            # Late channels do not count as open ones. They are bounded here: the oldest one drops its messages.
            next(late for late, served in self._late.items() if served).stop_listening()

    def forget_late(self, channel: ChannelCore) -> None:
        """Forget a channel that keeps nothing any more."""
        self._late_served -= self._late.pop(channel, False)

    def forget_late_requests(self) -> None:
        """Turn the requests on late channels into events: their session is over, and nobody can answer them."""
        for channel in self._late:
            channel.take_request_ids()

    def leave_late(self) -> None:
        """Drop the messages on all late channels."""
        for channel in list(self._late):
            channel.stop_listening()

    def drop_all(self, why: str) -> None:
        """Drop everything that is unread after the end. Its readers get `StreamOverflow`."""
        self.leave_late()
        for inbox in [each for each in self.inboxes if each.queue]:
            inbox.drop_all()
            inbox.error = StreamOverflow(f"unread messages were dropped: {why}")


class ChannelFanOut(FanOut):
    """All readers of one event name on an anonymous channel. The handler of that name gets each event, too."""

    __slots__ = ("_channel",)

    def __init__(self, channel: ChannelCore) -> None:
        super().__init__()
        self._channel = channel

    def receive(self, message: WireMessage, payload: bytes | bytearray, decode: Decode) -> None:
        handled = self._channel.has_handler(message.a[0])
        if not handled or message.i is UNSET:  # a request is for the handler alone, which answers it
            self.pass_on(message, payload, decode, handled=handled)
        if handled:
            message.c = None  # an anonymous channel has no name, see `place_on`
            self._channel.handle(message, payload, decode)


class ChannelCore:
    """One side of an anonymous channel, from the request that opens it until all its messages are delivered.

    It passes a message to the recipient of its event name, or else to the handlers. However the channel ends, readers
    get the messages that arrived before the end first.

    Users hold an `AnonymousChannel`, which refers to this. A channel that was opened for a stream alone has none.
    """

    __slots__ = (
        "_closed",
        "_credit",
        "_early",
        "_early_timer",
        "_end_timer",
        "_on_close",
        "_on_credit",
        "_owner",
        "_read_timer",
        "_then",
        "_unread_by",
        "delivery",
        "ended_here",
        "error",
        "heard",
        "id",
        "is_served",
        "out",
        "reason",
        "recipients",
        "registry",
        "sender",
        "state",
        "unread",
    )

    def __init__(self, id: int, owner: ChannelOwner, *, served: bool = False) -> None:
        self.id = id
        """The id of the request that opened it, which is the channel's name on the wire."""
        self.is_served = served
        self._owner = owner
        self.out = owner.out
        self.state = ChannelState.NEW
        self.reason: Any = None
        """Why it has ended."""
        self.error: Exception | None = None
        """The exception that readers get after the last message. None at a good end."""
        self.ended_here = False
        """This side has ended it, or wants nothing more of it after the remote peer has ended it."""
        self.registry = _NO_HANDLERS
        self.sender: Sender | None = None
        """Sends for the user, from its first use until the channel ends. See `start_sending`."""
        self.unread = owner.unread
        self.delivery = DeliveryState.KEEPING
        self._early: MessageQueue | None = None
        """The messages that arrived before anything listened."""
        self._early_timer: Timer | None = None
        self.heard = False
        """The remote peer has sent an event or a request on the channel."""
        self.recipients: dict[str, Recipient] = {}
        """By event name."""
        self._unread_by: set[Recipient] = set()
        """Readers of a channel that is over which have not read everything yet."""
        self._then: Callable[[], None] | None = None
        """See `when_read`."""
        self._read_timer: Timer | None = None
        """Ends the wait of `when_read`."""
        self._end_timer: Timer | None = None
        """Ends the wait of `expect_end`."""
        self._closed: asyncio.Future[None] | None = None
        self._on_close: Callable[[Any], object] | None = None
        self._on_credit: Callable[[int, int], None] | None = None
        self._credit: tuple[int, int] | None = None
        """Credit that the remote peer gave before anything produced here."""

    def __repr__(self) -> str:
        kept = 0 if self._early is None else len(self._early.queue)
        state = f"{self.state.value} {self.delivery.name.lower()}"
        return f"<ChannelCore {self.id} {state}, {kept} kept, {len(self.recipients)} recipients>"

    # ------------------------------------------------------------ how it is

    @property
    def closed(self) -> bool:
        return self.state is ChannelState.CLOSED

    @property
    def in_use(self) -> bool:
        """Whether this side has sent something on the channel, which is open."""
        return self.sender is not None

    @property
    def close_reason(self) -> Any:
        return None if self.reason is FINISHED else self.reason

    def check_open(self) -> None:
        """Raise `ChannelClosed` if a new handler or reader would get nothing."""
        if self.delivery is DeliveryState.OVER:
            raise self.gone()

    def check_thread(self, coroutine: str | None = None) -> None:
        """Raise RuntimeError in another thread than the event loop's, while the channel is open.

        Args:
            coroutine: what was called. None for a plain function.
        """
        if self.state is not ChannelState.CLOSED:
            if coroutine is None:
                check_thread_of_plain(self.out.thread, "function")
            else:
                check_thread(self.out.thread, coroutine)

    def gone(self) -> ChannelClosed:
        """Return the error for a call on a channel that has ended."""
        return ChannelClosed(str(self.id), self.close_reason)

    async def wait_closed(self) -> None:
        """Wait until the channel is over and handlers have got the messages before its end. Cancelling is safe."""
        if self.state is not ChannelState.CLOSED:
            self.check_thread("channel.wait_closed()")
            if self._closed is None:
                self._closed = self.unread.loop.create_future()
            await asyncio.shield(self._closed)
        if self.delivery is DeliveryState.DUE:
            await asyncio.sleep(0)  # the handlers get it in the next turn of the event loop

    def when_closed(self, callback: Callable[[Any], object]) -> None:
        """Call ``callback`` with the reason once the channel has ended. It replaces the one of an earlier call."""
        self._on_close = callback

    # ------------------------------------------------------------ opening

    def opened(self) -> None:
        """Open it: the remote peer knows of it from now on."""
        self.state = ChannelState.OPEN

    def start_sending(self) -> Sender:
        """Return the sender for the user's messages on the channel. It refuses them unless the channel is open."""
        if self.state is ChannelState.OPEN:
            sender = self.sender = self._owner.sender
            return sender
        return RefusingSender(self.gone if self.closed else lambda: ChannelNotReady(_NOT_READY.format(self.id)))

    # ------------------------------------------------------------ reading

    def read_items(self) -> Inbox:
        """Read the items of ws-wrapper's iterator protocol. See `AnonymousChannel.items`."""
        self._check_reading()
        return self._abandoned("next", items=True, newest=False) or self.inbox()

    def read_events(self, event: str, keep: Waits) -> Inbox:
        """Read the events of one name. See `EventReader.events`."""
        self._check_reading()
        newest = keep == "newest"
        return self._abandoned(event, items=False, newest=newest) or Inbox(self, event, newest=newest)

    def converter(self, returns: Any) -> Callable[[Any], Any]:
        """Return a function that converts a value to a type."""
        return self._owner.registry.converter(returns)

    def _check_reading(self) -> None:
        self.check_open()
        self.check_thread()

    def _abandoned(self, event: str, *, items: bool, newest: bool) -> Inbox | None:
        """Return the inbox that an earlier stream has left, if a new stream can read on from there."""
        recipient = self.recipients.get(event)
        for one in [] if recipient is None else each_of([recipient]):
            if isinstance(one, Inbox) and one.abandoned:
                if one.items is items and one.newest is newest:
                    one.read_on()
                    return one
                one.leave(None)
                break
        return None

    def inbox(self, *, owns: bool = False) -> Inbox:
        """Return a new inbox for the items. ``owns``: the channel ends with it."""
        return Inbox(self, "next", items=True, owns=owns)

    def upload(self) -> Upload:
        """Return a new inbox for the items that a caller sends to its handler."""
        return Upload(self)

    # ------------------------------------------------------------ listening

    def add_recipient(self, event: str, recipient: Recipient) -> None:
        """Pass the messages of that name to ``recipient``. Readers of events share them with each other.

        Raises:
            RuntimeError: something receives them already and does not share them.
        """
        if self.delivery is DeliveryState.OVER:
            recipient.channel_ended(self.error)
            return
        if isinstance(recipient, Inbox) and not recipient.items:
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

    def listen(self) -> None:
        """Take note that a handler or reader was added, and deliver the kept messages to it.

        They are delivered in the next turn of the event loop, so that the code that runs now can add others first.
        """
        if self.delivery is DeliveryState.KEEPING:
            self._stop_early_timer()
            self.delivery = DeliveryState.DUE
            if self._early is not None or self.closed:
                self.unread.loop.call_soon(self._deliver_early)
            else:
                self._deliver_early()

    def stop_listening(self) -> None:
        """End delivery on a channel that has ended, because nothing will listen to it any more.

        Handlers get nothing more. Readers get the messages that are there for them, then the error.
        """
        if self.delivery is not DeliveryState.OVER:
            self.delivery = DeliveryState.OVER
            while self._early is not None and self._early.queue and self.recipients:
                message, payload, decode = self._pop_early(self._early)
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
            loop = self.unread.loop
            self._read_timer = loop.call_at(loop.time() + self.unread.limits.unread, self.notice_end)

    def notice_end(self) -> None:
        """Call the callback of `when_read` now, whether everything was read or not."""
        if self._read_timer is not None:
            self._read_timer.cancel()
        then, self._then = self._then, None
        if then is not None:
            then()

    def _check_read(self) -> None:
        kept = self._early is not None or self.delivery is DeliveryState.DUE
        if self._then is not None and not self._unread_by and not kept:
            self.notice_end()

    # ------------------------------------------------------------ messages

    def receive(self, message: WireMessage, payload: bytes | bytearray, decode: Decode) -> None:
        """Deliver or keep an event or a request. Its ``a`` is a list that begins with a str."""
        self.heard = True
        if self.delivery is DeliveryState.LIVE:
            self._deliver(message, payload, decode)
        else:
            self._keep(message, payload, decode)

    def _deliver(self, message: WireMessage, payload: bytes | bytearray, decode: Decode) -> None:
        recipient = self.recipients.get(message.a[0])
        if recipient is not None:
            recipient.receive(message, payload, decode)
        else:
            self.handle(message, payload, decode)

    def _keep(self, message: WireMessage, payload: bytes | bytearray, decode: Decode) -> None:
        if self._early is None:
            self._early = MessageQueue(self.unread)
            loop = self.unread.loop
            self._early_timer = loop.call_at(loop.time() + self.unread.limits.unread, self._overdue)
        # What arrives before the delivery that is due is not refused, because only so much arrives in one turn.
        due = self.delivery is DeliveryState.DUE
        error = self._early.keep(payload, None if message.i is UNSET else message.i, decode, granted=due)
        if error is None:
            return
        if self.in_use:
            self._drop_early_events()
            self._deliver(message, payload, decode)
        else:
            self.abort(StreamOverflow(f"nobody reads channel {self.id}, and {error}"))

    def _overdue(self) -> None:
        """Give up waiting for something to listen."""
        if self.closed:
            self.stop_listening()
        elif self.in_use:
            self._drop_early_events()
        else:
            seconds = self.unread.limits.unread
            self.abort(StreamOverflow(f"nobody has read channel {self.id} within {seconds:g} s (Limits.unread)"))

    def _drop_early_events(self) -> None:
        """Stop keeping: this side uses the channel without listening to these events, as JavaScript and Go may."""
        assert self._early is not None
        self.count_dropped(self._early.drop_events())
        self._stop_early_timer()
        self.delivery = DeliveryState.DUE
        self._deliver_early()

    def _stop_early_timer(self) -> None:
        if self._early_timer is not None:
            self._early_timer.cancel()

    def _pop_early(self, early: MessageQueue) -> tuple[WireMessage, bytes, Decode]:
        payload, i, decode = early.pop()
        assert decode is not None
        message = decode(payload)
        place_on(message, self.id)
        message.i = UNSET if i is None else i
        return message, payload, decode

    def _deliver_early(self) -> None:
        while (early := self._early) is not None and self.delivery is DeliveryState.DUE:
            if early.queue:
                self._deliver(*self._pop_early(early))
            else:
                self._early = None
        if self.delivery is not DeliveryState.DUE:
            return
        if self.closed:
            self._end_recipients()
        else:
            self.delivery = DeliveryState.LIVE

    def _end_recipients(self) -> None:
        """Tell all recipients that nothing more arrives, and drop what is still kept."""
        self.delivery = DeliveryState.OVER
        self._stop_early_timer()
        if self._early is not None:
            self._early.drop_all()
            self._early = None
        recipients, self.recipients = self.recipients, {}
        self.unread.forget_late(self)
        self._unread_by = {one for one in each_of(recipients.values()) if isinstance(one, Inbox) and one.is_at_work}
        for recipient in recipients.values():
            recipient.channel_ended(self.error)
        self._check_read()

    def take_request_ids(self) -> list[int]:
        """Return the ids of the requests that wait here, for the caller to answer. The requests wait on as events."""
        ids = [] if self._early is None else self._early.take_request_ids()
        return ids + [i for each in dict.fromkeys(self.recipients.values()) for i in each.take_request_ids()]

    # ------------------------------------------------------------ what inboxes and producers ask for

    @property
    def has_credit(self) -> bool:
        """Whether the remote peer keeps to credit when it produces."""
        return not self.out.terms.plain

    def start_items(self, inbox: Inbox) -> None:
        """Send ``start``, and credit before it if the remote peer keeps to that."""
        if self.has_credit:
            self._owner.credit_begins(self.id)
            inbox.grant_credit()
        self._send(Event(("start",), h=self.id))

    @property
    def credit_share(self) -> int:
        return self._owner.credit_share

    def grant(self, items: int, size: int) -> None:
        self.out.grant(self.id, items, size)

    def stop_items(self) -> None:
        """Send ``stop``."""
        self._send(Event(("stop",), h=self.id))

    def answer(self, i: int, value: object = None) -> None:
        """Resolve a request that arrived on the channel, unless its session is over."""
        if not self.out.session.over:
            self._send(Resolution(i, value))

    def _send(self, message: Event | Resolution) -> None:
        out = self.out
        out.reply(out.terms.encode(message))

    def refuse(self, i: int, error: Exception) -> None:
        """Reject a request that arrived on the channel, unless its session is over."""
        if not self.out.session.over:
            self._owner.answers.reject(i, error if isinstance(error, RpcError) else RpcError(as_text(error)))

    def warn(self, text: str) -> None:
        self._owner.warn(text)

    def count_misfit(self, event: str, why: Exception) -> None:
        text = f"event {short(event)} on channel {self.id} was dropped: {why}"
        self._owner.answers.count("wrong arguments", text)

    def count_dropped(self, count: int) -> None:
        text = f"events on channel {self.id} were dropped, because nobody listens to them"
        self._owner.answers.count("unread event", text, count)

    def overflowed(self, event: str, inbox: Inbox, error: StreamOverflow) -> None:
        self.abort(error)

    def send_request(self, event: str, args: tuple[Any, ...], options: RequestOptions) -> Coroutine[Any, Any, Any]:
        """Send a request of a producer."""
        return self._owner.sender.send_request(self.id, event, args, options)

    def send_in_turn(self, event: str, args: tuple[Any, ...]) -> Coroutine[Any, Any, int]:
        """Send an event of a producer once the connection has room. Return its size."""
        return self._owner.outbox.send_in_turn(Event((event, *args), h=self.id))

    def produce(self, on_credit: Callable[[int, int], None]) -> None:
        """Call ``on_credit`` with the totals of the credit that the remote peer gives, and has given so far."""
        self._on_credit = on_credit
        if self._credit is not None:
            on_credit(*self._credit)

    @property
    def produces(self) -> bool:
        """Whether this side sends items on the channel."""
        return self._on_credit is not None

    def credited(self, n: int, size: int) -> None:
        """Take credit from the remote peer: totals of items and of bytes."""
        if self._on_credit is not None:
            self._on_credit(n, size)
        else:
            self._credit = (n, size)

    # ------------------------------------------------------------ handlers

    def own_registry(self) -> Registry:
        """Return the channel's own registry."""
        if self.registry is _NO_HANDLERS:
            self.registry = self._owner.registry.for_channel()
        return self.registry

    def has_handler(self, event: str) -> bool:
        return self.registry.has(self.id, event)

    def handle(self, message: WireMessage, payload: bytes | bytearray, decode: Decode) -> None:
        self._owner.listener.arrived(message, payload, None, decode, self)

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
    # Between two nodes, `close` and `finish_locally` send an abort, too: `ENDED_BY_CALLER`.

    def close(self, reason: object = None) -> None:
        """End it on this side. See `AnonymousChannel.close`."""
        self.out.session.send_kept_back()
        reading = self.recipients.get("next")
        if isinstance(reading, Inbox) and reading.has_producer and self.has_credit:
            self._send_end(reason)
        self.end(reason, ChannelClosed(str(self.id), reason))

    def abort(self, reason: object, error: Exception | None = None) -> None:
        """End it on both sides.

        Args:
            error: the exception that readers on this side get. Without it, they get one made of ``reason``.
        """
        self._send_end(reason)
        if error is None:
            error = reason if isinstance(reason, StreamOverflow) else ChannelClosed(str(self.id), reason)
        self.end(reason, error)

    def finish(self) -> None:
        """End it in good order on both sides."""
        self._send_end(FINISHED_REASON)
        self.finish_locally()

    def forget_error(self) -> None:
        self.reason = self.error = None

    def finish_locally(self) -> None:
        """End it in good order. The remote peer knows that it has ended."""
        self.end(FINISHED, None)

    @property
    def abort_waits(self) -> bool:
        """Whether an abort is sent only once the remote peer has sent something on the channel.

        JavaScript takes a channel that is aborted before its loop begins for a stream without items. If the abort comes
        after the `start` of the loop, the loop throws.
        """
        return self.produces and not self.heard and self.out.terms.plain

    def _send_end(self, reason: object) -> None:
        """Tell the remote peer that the channel has ended, if it knows of the channel."""
        if self.state is not ChannelState.OPEN:
            return
        if isinstance(reason, StreamOverflow):
            reason = RpcError(as_text(reason))
        if self.abort_waits:
            self._owner.abort_when_used(self.id, reason)
        else:
            self._owner.send_abort(self.id, reason)

    def end(self, reason: object, error: Exception | None, *, by_other: bool = False) -> None:
        """End it on this side. All ends come here, and nothing of the channel is left behind.

        The callback of `when_closed` is called at once: it cancels the task of a handler that streams, or of
        ``stream(send=)``. `Recipient.channel_ended` is called at once, too, or in the next turn of the event loop if
        kept messages are to be delivered first. So a producer may learn of one end in both ways.

        Args:
            error: the exception that readers get after the messages that have arrived. None at a good end.
            by_other: the remote peer has ended it, or the session has. A handler or reader that is added later still
                gets the messages that arrived before.
        """
        known = self.state is ChannelState.OPEN
        if self.closed:
            if not by_other:
                self._end_here()  # nothing will listen from now on
            return
        self.state = ChannelState.CLOSED
        if known and not by_other and self.out.between_nodes:  # that node has to know of each end
            self._owner.send_abort(self.id, ENDED_BY_CALLER)
        self.reason = reason
        self.error = error
        self.sender = None
        if self._end_timer is not None:
            self._end_timer.cancel()
        served = self._owner.forget(self, reason, by_other=by_other)
        if not by_other:
            if reason is not FINISHED:  # after a good end the reader goes on and answers them
                for i in self.take_request_ids():
                    self.refuse(i, self.gone())
            self._end_here()
        elif self.delivery is DeliveryState.LIVE:
            self._end_recipients()
        elif self._early is not None:
            self.unread.keep_late(self, served)
        if self._closed is not None and not self._closed.done():
            self._closed.set_result(None)
        on_close, self._on_close = self._on_close, None
        self._on_credit = None
        if on_close is not None:
            on_close(reason)

    def _end_here(self) -> None:
        self.ended_here = True
        self.stop_listening()

    def expect_end(self) -> None:
        """Abort it unless the remote producer's last message comes within `Limits.unread` seconds."""
        loop, patience = self.unread.loop, self.unread.limits.unread
        error = RpcError(f"the end of what was sent has not come within {patience:g} s")
        self._end_timer = loop.call_at(loop.time() + patience, partial(self.abort, error))
