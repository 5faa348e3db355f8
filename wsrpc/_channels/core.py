"""Anonymous channels: one side of one channel (a table of states), and the table of those of a session."""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

from msgspec import UNSET

from .._base.scheduler import Timer
from .._handlers.registry import Registry
from .._protocol.messages import Cancellation, ChannelAbort, ChannelCreated, Event, Resolution, WireMessage
from .._protocol.nodes import LEFT, as_raised
from .._protocol.rejections import ABORTED, FINISHED_REASON, is_finished, reason_from_wire, text_for_peer
from .._sending.checks import check_thread, check_thread_of_plain
from .._sending.notices import send_notice
from .._sending.outbound import Outbound
from .._sending.sender import RefusingSender, Sender
from .._streams.event_values import Waits, value_of
from .._streams.inbox import SMALLEST_SHARE, Decode, Inbox
from .._streams.mailbox import Mailbox, UnreadMessages
from .._streams.reader import Reading, Upload
from .._streams.recipients import Recipient
from .._streams.stream import Stream
from ..errors import (
    ChannelClosed,
    ChannelNotReady,
    ConnectionLost,
    RemoteError,
    RpcError,
    StreamOverflow,
    as_text,
    closed_here,
    is_closed_here,
    made_here,
    short,
)
from ..limits import Limits
from .ended import EndedChannels
from .silent_peers import SilenceWatch

__all__ = ["TOO_MANY", "TRANSITIONS", "ChannelAct", "ChannelCore", "ChannelListener", "ChannelState", "ChannelTable"]


class ChannelState(enum.Enum):
    """State of an anonymous channel on one side."""

    __hash__ = object.__hash__  # that of Enum is a Python function, and the table is asked often

    NEW = "new"
    """A handler has made it. The remote peer does not know of it yet."""
    OPEN = "open"
    CLOSED = "closed"


class ChannelAct(enum.Enum):
    """Event that changes the state of a channel."""

    __hash__ = object.__hash__  # that of Enum is a Python function, and the table is asked often

    OPENED = "the request that it belongs to was answered with it"
    ENDED = "either side has ended it, or the session has ended"


_NEW, _OPEN, _CLOSED = ChannelState

TRANSITIONS = {
    (_NEW, ChannelAct.OPENED): _OPEN,
    (_NEW, ChannelAct.ENDED): _CLOSED,
    (_OPEN, ChannelAct.ENDED): _CLOSED,
}
"""The next state for each state and act. An act that is in no cell changes nothing."""


TOO_MANY = "wsrpc.too_many_channels"
"""The code of a request whose handler ran, and whose answer would have been one channel too many."""

NO_CHANNELS = "wsrpc.no_channels"
"""The code of a request of a peer that knows no channels, if its answer would have been one."""


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
        channel: ChannelCore | None = None,
        /,
    ) -> None:
        """Run the handler of a message, now or when there is room."""

    def cancel_requests_on(self, h: int, reason: object, /) -> None:
        """Cancel the handlers of requests that arrived on channel ``h``, which is over: nobody waits for them."""

    def count(self, kind: str, text: str, times: int = 1, /) -> None:
        """Count events that reach no handler."""

    def reject(self, i: int, error: RpcError, /) -> None:
        """Reject a request of the remote peer."""


class ChannelCore:
    """One side of an anonymous channel, from the request that opens it to its end.

    Users hold an `AnonymousChannel`, which refers to this. A channel that was opened for a stream alone has none.
    """

    __slots__ = (
        "_closed",
        "_credit",
        "_end_timer",
        "_on_close",
        "_on_credit",
        "error",
        "id",
        "left",
        "mailbox",
        "reason",
        "registry",
        "sender",
        "state",
        "table",
    )

    def __init__(self, id: int, table: ChannelTable) -> None:
        self.id = id
        """The id of the request that opened it, which is the channel's name on the wire."""
        self.table = table
        self.state = _NEW
        self.reason: Any = None
        """Why it has ended."""
        self.error: Exception | None = None
        """The exception that readers get after the last message. None at a good end."""
        self.left = False
        """This side has ended it, or wants nothing more of it."""
        self.registry = _NO_HANDLERS
        self.sender: Sender | None = None
        """Sends for the user, from its first use until the channel ends. See `start_sending`."""
        self.mailbox = Mailbox(self, table.unread)
        self._end_timer: Timer | None = None
        self._closed: asyncio.Future[None] | None = None
        self._on_close: Callable[[Any], object] | None = None
        self._on_credit: Callable[[int, int], None] | None = None
        self._credit: tuple[int, int] | None = None
        """Credit that the remote peer gave before anything produced here."""

    def __repr__(self) -> str:
        return f"<ChannelCore {self.id} {self.state.value}, {self.mailbox!r}>"

    def _move(self, act: ChannelAct) -> bool:
        """Enter the next state, and return True, if the table has one."""
        state = TRANSITIONS.get((self.state, act))
        if state is None:
            return False
        self.state = state
        return True

    # ------------------------------------------------------------ how it is

    @property
    def closed(self) -> bool:
        return self.state is _CLOSED

    @property
    def in_use(self) -> bool:
        """Whether this side has sent something on the channel, which is open."""
        return self.sender is not None

    @property
    def close_reason(self) -> Any:
        return None if self.reason is FINISHED else self.reason

    def check_open(self) -> None:
        """Raise `ChannelClosed` if a new handler or reader would get nothing."""
        if self.state is _CLOSED and not self.mailbox.can_listen:
            raise self.gone()

    def check_thread(self, coroutine: str | None = None) -> None:
        """Raise RuntimeError in another thread than the event loop's, while the channel is open.

        Args:
            coroutine: what was called. None for a plain function.
        """
        if self.state is not _CLOSED:
            if coroutine is None:
                check_thread_of_plain(self.table.out.thread, "function")
            else:
                check_thread(self.table.out.thread, coroutine)

    def gone(self) -> ChannelClosed:
        """Return the error for a call on a channel that has ended."""
        return ChannelClosed(str(self.id), self.close_reason)

    async def wait_closed(self) -> None:
        """Wait until the channel is over and handlers have got the messages before its end. Cancelling is safe."""
        if self.state is not _CLOSED:
            self.check_thread("channel.wait_closed()")
            if self._closed is None:
                self._closed = self.table.out.loop.create_future()
            await asyncio.shield(self._closed)
        if self.mailbox.is_ending:
            await asyncio.sleep(0)  # the handlers get it in the next turn of the event loop

    def when_closed(self, callback: Callable[[Any], object]) -> None:
        """Call ``callback`` with the reason once the channel has ended. It replaces the one of an earlier call."""
        self._on_close = callback

    # ------------------------------------------------------------ opening

    def opened(self) -> None:
        """Open it: the remote peer knows of it from now on."""
        self._move(ChannelAct.OPENED)

    def deliver(self) -> None:
        """Answer the request that it belongs to with the channel. See `ChannelTable.deliver`."""
        self.table.deliver(self)

    def start_sending(self) -> Sender:
        """Return the sender for the user's messages on the channel. It refuses them unless the channel is open."""
        if self.state is _OPEN:
            sender = self.sender = self.table.sender
            return sender
        return RefusingSender(self.gone if self.closed else lambda: ChannelNotReady(_NOT_READY.format(self.id)))

    # ------------------------------------------------------------ reading

    def read_items(self, returns: Any) -> Stream[Any]:
        """Read the items of ws-wrapper's iterator protocol. See `AnonymousChannel.items`."""
        self._check_reading()
        convert = None if returns is UNSET else self.table.registry.converter(returns)
        return Stream("next", convert, reading=self._abandoned("next", items=True, newest=False) or self.reading())

    def read_events(self, event: str, returns: Any, keep: Waits) -> Stream[Any]:
        """Read the events of one name. See `EventReader.events`."""
        self._check_reading()
        convert = value_of(returns, self.table.registry.converter)
        misfit = partial(self.table.count_misfit, f"event {short(event)} on channel {self.id}")
        newest = keep == "newest"
        reading = self._abandoned(event, items=False, newest=newest)
        if reading is None:
            reading = Reading(self, self._inbox(items=False, newest=newest), event)
        return Stream(event, convert, reading=reading, misfit=misfit)

    def _check_reading(self) -> None:
        self.check_open()
        self.check_thread()

    def _abandoned(self, event: str, *, items: bool, newest: bool) -> Reading | None:
        """Return the reading that an earlier stream has left, if a new stream can read on from there."""
        reading = self.mailbox.reading(event)
        if reading is None or not reading.abandoned:
            return None
        if reading.inbox.items is items and reading.inbox.newest is newest and reading.inbox.has_more:
            reading.read_on()
            return reading
        reading.leave(None)
        return None

    def reading(self, *, owns: bool = False) -> Reading:
        """Return a new reading of the items. ``owns``: the channel ends with it."""
        return Reading(self, self._inbox(items=True), "next", owns=owns)

    def upload(self) -> Upload:
        """Return a new reading of the items that a caller sends to its handler."""
        return Upload(self, self._inbox(items=True))

    def _inbox(self, *, items: bool, newest: bool = False) -> Inbox:
        return Inbox(self.table.unread, items=items, answer=self.answer, newest=newest)

    # ------------------------------------------------------------ what readings and producers ask for

    def add_recipient(self, event: str, recipient: Recipient) -> None:
        self.mailbox.add_recipient(event, recipient)

    def remove_recipient(self, event: str, recipient: Recipient) -> None:
        self.mailbox.remove_recipient(event, recipient)

    @property
    def has_credit(self) -> bool:
        """Whether the remote peer keeps to credit when it produces."""
        return self.table.out.terms.credit

    def start_items(self, inbox: Inbox) -> None:
        """Send ``start``, and credit before it if the remote peer keeps to that."""
        if self.has_credit:
            inbox.start_credit(partial(self.table.out.grant, self.id), self.table.share_credit(self.id))
        self._send(Event(("start",), h=self.id))

    def stop_items(self) -> None:
        """Send ``stop``."""
        self._send(Event(("stop",), h=self.id))

    def answer(self, i: int, value: object = None) -> None:
        """Resolve a request that arrived on the channel, unless its session is over."""
        if not self.table.over:
            self._send(Resolution(i, value))

    def _send(self, message: Event | Resolution) -> None:
        out = self.table.out
        out.reply(out.terms.encode(message))

    def refuse(self, i: int, error: Exception) -> None:
        """Reject a request that arrived on the channel, unless its session is over."""
        if not self.table.over:
            self.table.listener.reject(i, error if isinstance(error, RpcError) else RpcError(as_text(error)))

    def call_soon(self, callback: Callable[[], None]) -> None:
        self.table.out.loop.call_soon(callback)

    def warn(self, text: str) -> None:
        self.table.warn(text)

    def count_dropped(self, count: int) -> None:
        text = f"events on channel {self.id} were dropped, because nobody listens to them"
        self.table.listener.count("unread event", text, count)

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
            self.registry = self.table.registry.for_channel()
        return self.registry

    def has_handler(self, event: str) -> bool:
        return self.registry.has(self.id, event)

    def handle(self, message: WireMessage, payload: bytes | bytearray, decode: Decode) -> None:
        self.table.listener.arrived(message, payload, None, decode, self)

    # ------------------------------------------------------------ the end
    #
    # called           sends an abort                     reason    readers here get, after what has arrived
    # close            only if a producer waits for       given     ChannelClosed
    #                  credit, as it never sends again
    # abort            yes, with the reason               given     ChannelClosed, StreamOverflow or the error given
    # finish           yes, with `FINISHED_REASON`        FINISHED  the end of the items
    # finish_locally   no: the remote peer knows          FINISHED  the end of the items
    # by remote peer   no                                 received  the error that it stands for, or the end

    def close(self, reason: object = None) -> None:
        """End it on this side. See `AnonymousChannel.close`."""
        if (link := self.table.out.link) is not None:
            link.send_kept_back()
        reading = self.mailbox.reading("next")
        if reading is not None and reading.is_awaited:
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

    def finish_locally(self) -> None:
        """End it in good order. The remote peer knows that it has ended."""
        self.end(FINISHED, None)

    def _send_end(self, reason: object) -> None:
        """Tell the remote peer that the channel has ended, if it knows of the channel."""
        if self.state is not _OPEN:
            return
        if isinstance(reason, StreamOverflow):
            reason = RpcError(as_text(reason))
        if self.produces and not self.mailbox.heard and self.table.out.terms.plain:
            # JavaScript takes a channel that is aborted before its loop begins for a stream without items. If the abort
            # comes after the `start` of the loop, the loop throws.
            self.table.abort_when_used(self.id, reason)
        else:
            self.table.send_abort(self.id, reason)

    def end(self, reason: object, error: Exception | None, *, by_other: bool = False) -> None:
        """End it on this side. All ends come here, and nothing of the channel is left behind.

        The callback of `when_closed` is called at once: it cancels the task of a handler that streams, or of
        ``stream(send=)``. The mailbox calls `Recipient.channel_ended` at once, too, or in the next turn of the event
        loop if it has to deliver kept messages first. So a producer may learn of one end in both ways.

        Args:
            error: the exception that readers get after the messages that have arrived. None at a good end.
            by_other: the remote peer has ended it, or the session has. A handler or reader that is added later still
                gets the messages that arrived before.
        """
        known = self.state is _OPEN
        if not self._move(ChannelAct.ENDED):
            if not by_other:
                self._leave()  # nothing will listen from now on
            return
        if known and not by_other and self.table.out.between_nodes:  # that node has to know of each end
            self.table.send_abort(self.id, LEFT)
        self.reason = reason
        self.error = error
        self.sender = None
        if self._end_timer is not None:
            self._end_timer.cancel()
        served = self.table.forget(self, reason, by_other=by_other)
        if by_other:
            self.mailbox.end(error, served)
        else:
            if reason is not FINISHED:  # after a good end the reader goes on and answers them
                for i in self.mailbox.take_request_ids():
                    self.refuse(i, self.gone())
            self._leave(error)
        if self._closed is not None and not self._closed.done():
            self._closed.set_result(None)
        on_close, self._on_close = self._on_close, None
        self._on_credit = None
        if on_close is not None:
            on_close(reason)

    def _leave(self, error: Exception | None = None) -> None:
        """Listen to nothing more. Readers get ``error`` after the messages that have arrived."""
        self.left = True
        self.mailbox.leave(error)

    def expect_end(self) -> None:
        """Abort it unless the remote producer's last message comes within `Limits.unread` seconds."""
        loop, patience = self.table.out.loop, self.table.limits.unread
        error = RpcError(f"the end of what was sent has not come within {patience:g} s")
        self._end_timer = loop.call_at(loop.time() + patience, partial(self.abort, error))


class ChannelTable:
    """All anonymous channels of one session, by id. It is made with the session, and ends with it.

    An id may be that of a channel which this side opened, and at the same time that of one which the remote peer
    opened. Between conforming peers the two never meet. JavaScript keeps one table for both and confuses them.

    Args:
        registry: the peer's registry. Handlers on channels are registered with the same options.
        limits: the limits of the peer.
        unread: returns the counter of the memory of unread messages on all channels of the peer.
        sender: sends for the users of channels.
        listener: runs the handlers.
        warn: writes a line into the log.
    """

    def __init__(
        self,
        out: Outbound,
        registry: Registry,
        limits: Limits,
        unread: Callable[[], UnreadMessages],
        *,
        sender: Sender,
        listener: ChannelListener,
        warn: Callable[..., None],
    ) -> None:
        self.out = out
        self.limits = limits
        self.sender = sender
        self.listener = listener
        self.warn = warn
        self.over = False
        """The session has ended: in another one an id would be that of another request."""
        self.registry = registry
        self._unread = unread
        self._ended = EndedChannels()
        self._silence: SilenceWatch | None = None
        """Exists once a plain peer was given a channel."""
        self._credited: dict[int, None] = {}
        """Ids of the channels whose items are read, by credit."""
        self.opened: dict[int, ChannelCore] = {}
        """Channels that this side opened."""
        self.served: dict[int, ChannelCore] = {}
        """Channels that the remote peer opened."""
        self.undelivered: dict[ChannelCore, str] = {}
        """Channels of handlers that run, which the remote peer does not know of yet, and the events of their requests.
        Each counts as a served one."""

    def __len__(self) -> int:
        return len(self.opened) + len(self.served)

    def __repr__(self) -> str:
        made = f"{len(self.opened)} opened, {len(self.served)} served, {len(self.undelivered)} undelivered"
        return f"<ChannelTable {'over' if self.over else 'open'}, {made}>"

    # ------------------------------------------------------------ looking up

    def find(self, h: int) -> ChannelCore | None:
        return self.opened.get(h) or self.served.get(h)

    def expects_credit(self, h: int) -> bool:
        """Return whether this side has produced on channel ``h``, which has ended. Credit for it was sent before that
        was known."""
        return self._ended.has_produced(h)

    def all(self) -> list[ChannelCore]:
        """Return all open channels."""
        return [*self.opened.values(), *self.served.values()]

    # ------------------------------------------------------------ opening

    def open(self, h: int) -> ChannelCore:
        """Make the channel that is the answer to this side's request ``h``."""
        self._ended.reused(h)
        channel = self.opened[h] = ChannelCore(h, self)
        channel.opened()
        return channel

    @property
    def full(self) -> bool:
        """Whether the remote peer has as many channels as it may have."""
        # Two kinds do not count: channels that are over and whose reader here is late, and those whose handler has not
        # exited yet. The remote peer may open the next channel as soon as it has ended one. Such handlers count as
        # running ones instead.
        return len(self.served) + len(self.undelivered) >= self.limits.channels

    @property
    def too_many(self) -> str:
        return f"{self.limits.channels} channels are open already (Limits.channels), close some"

    @staticmethod
    def not_known(event: str) -> RemoteError:
        """Return the error for a request that is answered with a channel, of a peer that knows no channels."""
        text = f"{event!r} is answered with a stream or another channel, and ws-wrapper 3 has none: call a handler that"
        return RemoteError(f"{text} returns a value", NO_CHANNELS)

    def make(self, h: int, event: str) -> ChannelCore:
        """Make a channel for the handler of request ``h``. The remote peer does not know of it until `deliver`.

        Raises:
            RemoteError: there are too many, or the remote peer knows no channels. It does not say that the handler did
                not run.
        """
        if not self.out.terms.channels:
            raise made_here(self.not_known(event))
        if self.full:
            raise made_here(RemoteError(self.too_many, TOO_MANY))
        channel = ChannelCore(h, self)
        self.undelivered[channel] = event
        return channel

    def deliver(self, channel: ChannelCore) -> None:
        """Answer the request that ``channel`` belongs to with the channel.

        Raises:
            RpcError: the channel was aborted already; the error says why.
        """
        if channel.closed:
            reason = channel.close_reason
            if isinstance(reason, RpcError):
                raise reason
            if reason is None or isinstance(reason, BaseException):
                raise RpcError(as_text(reason) if reason else "the channel was closed before it was delivered")
            raise RpcError.of_value(reason)
        if channel.id in self.served:
            raise RpcError(f"request id {channel.id} is that of a channel which is still open")
        self._ended.reused(channel.id)
        terms = self.out.terms
        self.out.reply(terms.encode(ChannelCreated(channel.id)))
        event = self.undelivered.pop(channel, "")
        self.served[channel.id] = channel
        channel.opened()
        if terms.plain:
            if self._silence is None:
                self._silence = SilenceWatch(self.out.loop, self.limits.unread, self.warn)
            self._silence.given(channel.mailbox, event)

    # ------------------------------------------------------------ what channels ask for

    @property
    def unread(self) -> UnreadMessages:
        """Counts the memory of unread messages on all channels of the peer."""
        return self._unread()

    def count_misfit(self, what: str, why: Exception) -> None:
        """Count an event whose arguments do not fit its reader."""
        self.listener.count("wrong arguments", f"{what} was dropped: {why}")

    def share_credit(self, h: int) -> Callable[[], int]:
        """Count channel ``h`` among those whose items are read by credit. Return what computes the bytes of each."""
        self._credited[h] = None
        return self._share

    def _share(self) -> int:
        """Return how many bytes of one stream may be in flight: the more streams are read, the fewer bytes of each.

        Everything that is in flight arrives before the next answer.
        """
        window = self.limits.stream_window_bytes
        return min(window, max(SMALLEST_SHARE, window // max(1, len(self._credited))))

    def send_abort(self, h: int, reason: object) -> None:
        """Abort a channel, unless this side has done so already."""
        if self._ended.abort(h):
            send_notice(self.out, partial(ChannelAbort, h), reason, self.warn)

    def abort_when_used(self, h: int, reason: object) -> None:
        """Abort a channel when the remote peer sends something on it."""
        # A new error, because that of a handler refers to the handler's variables.
        code = reason.code if isinstance(reason, RpcError) else None
        text = text_for_peer(reason) if isinstance(reason, RpcError) else ABORTED
        self._ended.abort_later(h, RemoteError(text, code))

    def refuse(self, h: int) -> RpcError:
        """Abort channel ``h``, which does not exist, because something came on it. Return the error for a request."""
        error = self._ended.reason(h) or RemoteError(f"Anonymous channel '{h}' does not exist")
        self.send_abort(h, error)
        return error

    # ------------------------------------------------------------ ending

    def ended_by_peer(self, h: int, x: Any, flag: Any) -> bool:
        """End channel ``h``, because the remote peer has ended it. Return False if there is no such channel."""
        channel = self.find(h)
        if channel is None:
            return False
        if is_finished(x, flag):
            channel.end(FINISHED, None, by_other=True)
            return True
        reason = reason_from_wire(x, flag)
        error: Exception = _for_readers(reason)
        if self.out.between_nodes and isinstance(reason, RemoteError):
            error = as_raised(reason)
        channel.end(reason, error, by_other=True)
        return True

    def request_cancelled(self, i: int, reason: Any) -> bool:
        """End channel ``i``, whose request the remote peer has cancelled. Return False if there is no such channel.

        The answer and the cancellation have crossed, so a wsrpc peer is going to abort the channel. Its connection may
        drop before. JavaScript and Go ignore such a cancellation.
        """
        channel = None if self.out.terms.plain else self.served.get(i)
        if channel is None:
            return False
        channel.end(reason, _for_readers(reason), by_other=True)
        return True

    def end(self, error: ConnectionLost) -> None:
        """End all channels, because the session has ended."""
        self.over = True
        for channel in [*self.undelivered, *self.opened.values(), *self.served.values()]:
            channel.mailbox.take_request_ids()
            own = error.for_outcome("unknown")  # each channel's readers raise an object of their own
            if is_closed_here(error):
                closed_here(own)
            channel.end(own, own, by_other=True)

    def forget(self, channel: ChannelCore, reason: object, *, by_other: bool) -> bool:
        """Drop a channel that has ended, with all requests on it. Return whether the remote peer had opened it."""
        h = channel.id
        served = self.served.get(h) is channel
        if served:
            del self.served[h]
            if self._silence is not None:
                self._silence.ended(channel.mailbox)
        elif self.opened.get(h) is channel:
            del self.opened[h]
        else:
            # Nothing was ever sent on it. Its id may be that of another channel: a handler that runs on after its
            # request was answered does not keep the remote peer from using the id again.
            self.undelivered.pop(channel, None)
            return False
        self._credited.pop(h, None)
        if channel.produces:
            self._ended.produced(h)
        requests = self.out.requests
        # A wsrpc peer cancels their handlers when it knows of the end; JavaScript (4.3.1) and Go do not.
        tells = not self.over and (self.out.terms.plain or not (by_other or self._ended.was_aborted(h)))
        for pending in requests.on_channel(h):
            requests.fail(pending, ChannelClosed(str(h), channel.close_reason))
            if tells and pending.flight is not None:
                requests.give_up(pending)
                reason_there = None if by_other else channel.close_reason
                send_notice(self.out, partial(Cancellation, pending.id), reason_there, self.warn)
        self.listener.cancel_requests_on(h, reason)
        return served


def _for_readers(reason: Any) -> RemoteError:
    """Return the error that readers get for a reason of the remote peer, as for requests."""
    return reason if isinstance(reason, RemoteError) else RemoteError.of_value(reason)
