"""The anonymous channels of one peer: which there are, and what they need of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from .._handlers.registry import Registry
from .._protocol.messages import ChannelCreated, Event, Inbound, Resolution
from .._protocol.rejections import CLOSED, is_closed, reason_from_wire
from .._sending.caller import Sender
from .._sending.notices import Aborts, Notices
from .._sending.outbound import Outbound
from .._streams.inbox import Decode, Inbox
from .._streams.memory import Unread
from ..errors import (
    ChannelClosed,
    ConnectionLost,
    RemoteError,
    RpcError,
    StreamOverflow,
    as_text,
    closed_here,
    is_closed_here,
    made_here,
)
from ..limits import Limits
from .anonymous import FINISHED, AnonymousChannel

__all__ = ["Channels"]


SMALLEST_SHARE = 32 * 1024
"""Bytes of a stream that may be on their way however many streams there are. (Less makes them wait for credit.)"""


TOO_MANY = "wsrpc.too_many_channels"
"""The code of a request whose handler ran, and whose answer would have been one channel too many."""


class Handlers(Protocol):
    """What channels need of the calls: their messages reach handlers, and their end ends those."""

    def arrived(
        self,
        message: Inbound,
        payload: bytes | bytearray,
        view: Any,
        decode: Decode,
        channel: AnonymousChannel | None = None,
        /,
    ) -> None: ...

    def count(self, kind: str, text: str, times: int = 1, /) -> None: ...

    def channel_over(self, h: int, reason: object, /) -> None: ...

    def reject(self, i: int, error: RpcError, /) -> None: ...


class Channels:
    """Two tables: an id may mean one channel that we opened and another one that the other side opened.

    Between conforming peers the ids of the two never meet. JavaScript keeps one table for both and confuses them.
    """

    def __init__(
        self,
        out: Outbound,
        notices: Notices,
        registry: Registry,
        limits: Limits,
        warn: Callable[..., None],
        *,
        sender: Sender,
        handlers: Handlers,
        converter: Callable[[Any], Callable[[Any], Any]],
    ) -> None:
        self.loop = out.loop
        self.limits = limits
        self.unread = Unread(limits.unread_bytes)
        self.sender = sender
        self.handlers = handlers
        self.converter = converter
        self.warn = warn
        self.over = False
        """The session has ended: nothing can be sent on its channels any more."""
        self.aborts = Aborts(notices)
        self._out = out
        self._own = registry
        self._opened: dict[int, AnonymousChannel] = {}
        # The dict's own method, which takes less time than one of ours: it is called with each request.
        self.is_ours: Callable[[int], bool] = self._opened.__contains__
        """Whether an id is that of a channel which we opened."""
        self._served: dict[int, AnonymousChannel] = {}
        self._made: dict[AnonymousChannel, None] = {}
        """Those of running handlers that the other side does not know of yet; each has its place already."""
        self._late: dict[AnonymousChannel, bool] = {}
        """Those that are over and whose messages are still kept; whether the other side opened them."""
        self._late_served = 0
        self._credited: dict[int, None] = {}
        """Those whose streams are read, by credit."""

    @property
    def has_credit(self) -> bool:
        """Whether the remote peer keeps to credit when it produces."""
        return self._out.terms.credit

    @property
    def opened(self) -> Mapping[int, object]:
        """The channels that this side opened, by id."""
        return self._opened

    @property
    def thread(self) -> int:
        return self._out.thread

    def __len__(self) -> int:
        return len(self._opened) + len(self._served)

    # ------------------------------------------------------------ coming and going

    def find(self, h: int) -> AnonymousChannel | None:
        return self._opened.get(h) or self._served.get(h)

    def has(self, h: int) -> bool:
        return h in self._opened or h in self._served

    def all(self) -> list[AnonymousChannel]:
        """Those that are open."""
        return [*self._opened.values(), *self._served.values()]

    @property
    def some_are_ours(self) -> bool:
        """Whether any is open that we opened."""
        return bool(self._opened)

    def open(self, h: int) -> AnonymousChannel:
        """The answer to our request ``h`` is a channel."""
        self.aborts.forget(h)
        channel = self._opened[h] = AnonymousChannel(h, self)
        channel._opened()
        return channel

    @property
    def full(self) -> bool:
        """Whether the other side has as many as it may have."""
        # Neither those that are over, whose reader here is late, nor those whose handler has not exited yet, count: the
        # other side may open the next one as soon as it has ended one. Such handlers count as running ones instead.
        return len(self._served) + len(self._made) >= self.limits.channels

    @property
    def too_many(self) -> str:
        return f"{self.limits.channels} channels are open already (Limits.channels), close some"

    def make(self, h: int) -> AnonymousChannel:
        """A channel for the handler of request ``h``, which the other side does not know of yet. It has its place.

        Raises:
            RemoteError: there are too many. It does not say that the handler did not run.
        """
        if self.full:
            raise made_here(RemoteError(self.too_many, TOO_MANY))
        channel = AnonymousChannel(h, self)
        self._made[channel] = None
        return channel

    def deliver(self, channel: AnonymousChannel) -> None:
        """Answer the request with its channel.

        Raises:
            RpcError: it was aborted already, and why.
        """
        if channel.closed:
            reason = channel.close_reason
            if isinstance(reason, RpcError):
                raise reason
            if reason is None or isinstance(reason, BaseException):
                raise RpcError(as_text(reason) if reason else "the channel was closed before it was delivered")
            raise RpcError.of_value(reason)
        if channel.id in self._served:
            raise RpcError(f"request id {channel.id} is that of a channel which is still open")
        self.aborts.forget(channel.id)
        self._out.reply(self._out.terms.encode(ChannelCreated(channel.id)))
        self._made.pop(channel, None)
        self._served[channel.id] = channel
        channel._opened()

    def aborted(self, h: int, x: Any, flag: Any) -> bool:
        """The other side says that channel ``h`` is over; False if there is none."""
        channel = self.find(h)
        if channel is None:
            return False
        if is_closed(x, flag):
            channel._end(FINISHED, None, by_other=True)
            return True
        reason = reason_from_wire(x, flag)
        # What is no error there is none here for those who read: they get it as an error's value, as for requests.
        error = reason if isinstance(reason, RemoteError) else RemoteError.of_value(reason)
        channel._end(reason, error, by_other=True)
        return True

    def end(self, error: ConnectionLost) -> None:
        """End all channels: the session is over."""
        self.over = True
        for channel in self._late:
            channel._arrivals.take_ids()
        for channel in [*self._made, *self.all()]:
            channel._arrivals.take_ids()
            own = ConnectionLost(error.code, error.reason)  # or all readers would raise one and the same
            if is_closed_here(error):
                closed_here(own)
            channel._end(own, own, by_other=True)

    # ------------------------------------------------------------ what a channel needs

    def forget(self, channel: AnonymousChannel, reason: object) -> bool:
        h = channel.id
        served = self._served.get(h) is channel
        if served:
            del self._served[h]
        elif self._opened.get(h) is channel:
            del self._opened[h]
        else:
            # Nothing was ever sent on it. Its id may be that of another channel: JavaScript and Go count their requests
            # from 1 on each connection, and a handler may outlive the one that it was called on.
            self._made.pop(channel, None)
            return False
        self._credited.pop(h, None)
        for pending in self._out.requests.on_channel(h):
            self._out.requests.fail(pending, ChannelClosed(str(h), channel.close_reason))
        self.handlers.channel_over(h, reason)
        return served

    def keep_late(self, channel: AnonymousChannel, served: bool) -> None:
        self._late[channel] = served
        self._late_served += served
        if self._late_served > self.limits.channels:
            # These do not count towards the limit, see `full`. So that they are bounded, too, the oldest one goes.
            next(late for late, served in self._late.items() if served)._arrivals.leave()

    def forget_late(self, channel: AnonymousChannel) -> None:
        self._late_served -= self._late.pop(channel, False)

    def stop(self) -> None:
        """Keep nothing for who may listen later."""
        for channel in list(self._late):
            channel._arrivals.leave()

    def make_registry(self) -> Registry:
        return Registry(dec_hook=self._own.dec_hook, lax=self._own.lax)

    def dispatch(self, channel: AnonymousChannel, message: Inbound, payload: bytes | bytearray, decode: Decode) -> None:
        self.handlers.arrived(message, payload, None, decode, channel)

    def drop(self, channel: AnonymousChannel, count: int) -> None:
        text = f"events on channel {channel.id} were dropped, because nobody listens to them"
        self.handlers.count("unread event", text, count)

    def misfit(self, what: str, why: Exception) -> None:
        self.handlers.count("wrong arguments", f"{what} was dropped: {why}")

    def answer(self, i: int, value: object) -> None:
        self._out.reply(self._out.terms.encode(Resolution(i, value)))

    def refuse(self, i: int, error: Exception) -> None:
        self.handlers.reject(i, error if isinstance(error, RpcError) else RpcError(as_text(error)))

    def start_items(self, h: int, inbox: Inbox) -> None:
        if self.has_credit:
            self._credited[h] = None
            inbox.start_credit(lambda n, size: self._out.grant(h, n, size), self._share)
        self._out.reply(self._out.terms.encode(Event(("start",), h=h)))

    def _share(self) -> int:
        """How many bytes of one stream may be on their way: the more streams, the less of each, because all that is on
        its way is ahead of the next answer."""
        window = self.limits.stream_window_bytes
        return min(window, max(SMALLEST_SHARE, window // max(1, len(self._credited))))

    def stop_items(self, h: int) -> None:
        self._out.reply(self._out.terms.encode(Event(("stop",), h=h)))

    def tell(self, h: int, reason: object) -> None:
        if reason is FINISHED:
            reason = CLOSED
        elif isinstance(reason, StreamOverflow):
            reason = RpcError(as_text(reason))
        self.aborts.send(h, reason)
