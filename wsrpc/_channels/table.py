"""Table of the anonymous channels of one session."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .._handlers.registry import Registry
from .._protocol.messages import ChannelCreated
from .._protocol.rejections import is_closed, reason_from_wire
from .._sending.caller import Sender
from .._sending.outbound import Outbound
from .._streams.mailbox import UnreadMessages
from ..errors import (
    ChannelClosed,
    ConnectionLost,
    RemoteError,
    RpcError,
    as_text,
    closed_here,
    is_closed_here,
    made_here,
)
from ..limits import Limits
from .anonymous import AnonymousChannel
from .core import FINISHED, ChannelCore, ChannelListener, ChannelSession

__all__ = ["TOO_MANY", "ChannelTable"]

TOO_MANY = "wsrpc.too_many_channels"
"""The code of a request whose handler ran, and whose answer would have been one channel too many."""


class ChannelTable(ChannelSession):
    """All anonymous channels of one session, by id. It is made with the session, and ends with it.

    An id may be that of a channel which this side opened, and at the same time that of one which the remote peer
    opened. Between conforming peers the two never meet. JavaScript keeps one table for both and confuses them.
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
        converter: Callable[[Any], Callable[[Any], Any]],
        warn: Callable[..., None],
    ) -> None:
        super().__init__(
            out, registry, limits, unread, sender=sender, listener=listener, converter=converter, warn=warn
        )
        self.opened: dict[int, ChannelCore] = {}
        """Channels that this side opened."""
        self.served: dict[int, ChannelCore] = {}
        """Channels that the remote peer opened."""
        self.undelivered: dict[ChannelCore, None] = {}
        """Channels of handlers that run, which the remote peer does not know of yet. Each counts as a served one."""

    def __len__(self) -> int:
        return len(self.opened) + len(self.served)

    def __repr__(self) -> str:
        made = f"{len(self.opened)} opened, {len(self.served)} served, {len(self.undelivered)} undelivered"
        return f"<ChannelTable {'over' if self.over else 'open'}, {made}>"

    # ------------------------------------------------------------ looking up

    def find(self, h: int) -> ChannelCore | None:
        return self.opened.get(h) or self.served.get(h)

    def all(self) -> list[ChannelCore]:
        """Return all open channels."""
        return [*self.opened.values(), *self.served.values()]

    def has(self, h: int) -> bool:
        return h in self.opened or h in self.served

    # ------------------------------------------------------------ opening

    def open(self, h: int) -> ChannelCore:
        """Make the channel that is the answer to this side's request ``h``."""
        self._aborted.pop(h, None)
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

    def make(self, h: int) -> ChannelCore:
        """Make a channel for the handler of request ``h``. The remote peer does not know of it until `deliver`.

        Raises:
            RemoteError: there are too many. It does not say that the handler did not run.
        """
        if self.full:
            raise made_here(RemoteError(self.too_many, TOO_MANY))
        channel = ChannelCore(h, self)
        self.undelivered[channel] = None
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
        self._aborted.pop(channel.id, None)
        self.out.reply(self.out.terms.encode(ChannelCreated(channel.id)))
        self.undelivered.pop(channel, None)
        self.served[channel.id] = channel
        channel.opened()

    def for_user(self, channel: ChannelCore) -> AnonymousChannel:
        """Return a channel as its user holds it."""
        return AnonymousChannel(channel)

    # ------------------------------------------------------------ ending

    def aborted(self, h: int, x: Any, flag: Any) -> bool:
        """End channel ``h``, because the remote peer has ended it. Return False if there is no such channel."""
        channel = self.find(h)
        if channel is None:
            return False
        if is_closed(x, flag):
            channel.end(FINISHED, None, by_other=True)
            return True
        reason = reason_from_wire(x, flag)
        # Readers get a reason that is not an error as an error's value, as for requests.
        error = reason if isinstance(reason, RemoteError) else RemoteError.of_value(reason)
        channel.end(reason, error, by_other=True)
        return True

    def end(self, error: ConnectionLost) -> None:
        """End all channels, because the session has ended."""
        self.over = True
        for channel in [*self.undelivered, *self.all()]:
            channel.mailbox.take_request_ids()
            own = ConnectionLost(error.code, error.reason)  # or all readers would raise one and the same
            if is_closed_here(error):
                closed_here(own)
            channel.end(own, own, by_other=True)

    def forget(self, channel: ChannelCore, reason: object) -> bool:
        h = channel.id
        served = self.served.get(h) is channel
        if served:
            del self.served[h]
        elif self.opened.get(h) is channel:
            del self.opened[h]
        else:
            # Nothing was ever sent on it. Its id may be that of another channel: a handler that runs on after its
            # request was answered does not keep the remote peer from using the id again.
            self.undelivered.pop(channel, None)
            return False
        self._credited.pop(h, None)
        requests = self.out.requests
        for pending in requests.on_channel(h):
            requests.fail(pending, ChannelClosed(str(h), channel.close_reason))
        self.listener.channel_over(h, reason)
        return served
