"""`ChannelTable`: the anonymous channels of one session, by id."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from ...errors import (
    ChannelClosed,
    ConnectionLost,
    RemoteError,
    RpcError,
    as_text,
    closed_here,
    is_closed_here,
    made_here,
)
from ..inboxes.credit import SMALLEST_SHARE, GrantedCredit
from ..sending.answers import Answers
from ..sending.notices import send_notice
from ..sending.outbox import Outbox
from ..sending.pending import remember
from ..sending.sender import Sender
from ..sending.session_writer import SessionWriter
from ..wire.messages import Cancellation, ChannelAbort, ChannelCreated
from ..wire.nodes import as_raised
from ..wire.rejections import ABORTED, is_finished, reason_from_wire, text_for_peer
from .channel_core import FINISHED, ChannelCore
from .mailbox import PeerUnreadMemory
from .named_channels import NamedChannels

if TYPE_CHECKING:
    from ..peer.dispatcher import Dispatcher

TOO_MANY = "wsrpc.too_many_channels"
"""The code of a request whose handler ran, and whose answer would have been one channel too many."""


class ChannelTable:
    """All anonymous channels of one session, by id. The table is made with the session, and ends with it.

    Channels that this side opened and those that the remote peer opened are in two tables. Between conforming peers,
    their ids differ. JavaScript has one table, and confuses channels with the same id.

    Args:
        named_channels: has the counter of the memory of unread messages on all channels of the peer, and its log.
        sender: sends for the users of channels.
    """

    def __init__(
        self,
        writer: SessionWriter,
        outbox: Outbox,
        named_channels: NamedChannels,
        *,
        sender: Sender,
        answers: Answers,
    ) -> None:
        self.writer = writer
        self.outbox = outbox
        self.limits = named_channels.host.settings.limits
        self.sender = sender
        self.answers = answers
        self.dispatcher: Dispatcher
        """Runs the handlers on the channels. Set when the dispatcher is made, which refers to this table."""
        self.warn = named_channels.host.log.warn
        self.registry = named_channels.host.options.own
        """Handlers on channels are registered with the same options."""
        self._named_channels = named_channels
        self._aborts: dict[int, RemoteError | None] = {}
        """The aborts of ended channels, by id. None: it was sent. An error: it waits with this reason."""
        self._produced: dict[int, None] = {}
        """Ended channels on which this side has produced items."""
        self.credited: dict[int, None] = {}
        """Ids of the channels whose items are read with credit."""
        self.opened: dict[int, ChannelCore] = {}
        """Channels that this side opened."""
        self.served: dict[int, ChannelCore] = {}
        """Channels that the remote peer opened."""
        self.undelivered: dict[ChannelCore, None] = {}
        """Channels of running handlers, of which the remote peer does not know yet. They count as served channels."""

    def __len__(self) -> int:
        return len(self.opened) + len(self.served)

    def __repr__(self) -> str:
        made = f"{len(self.opened)} opened, {len(self.served)} served, {len(self.undelivered)} undelivered"
        return f"<ChannelTable {'over' if self.writer.session.over else 'open'}, {made}>"

    # ------------------------------------------------------------ looking up

    def find(self, h: int) -> ChannelCore | None:
        return self.opened.get(h) or self.served.get(h)

    def expects_credit(self, h: int) -> bool:
        """Return whether this side has produced items on channel ``h``, which has ended. The remote peer may have sent
        credit before it knew of the end."""
        return h in self._produced

    def all(self) -> list[ChannelCore]:
        """Return all open channels."""
        return [*self.opened.values(), *self.served.values()]

    # ------------------------------------------------------------ opening

    def open(self, h: int) -> ChannelCore:
        """Make the channel that is the answer to this side's request ``h``."""
        self._aborts.pop(h, None)  # of an earlier channel with this id
        channel = self.opened[h] = ChannelCore(h, self)
        channel.opened()
        return channel

    def make(self, h: int) -> ChannelCore:
        """Make a channel for the handler of request ``h``. The remote peer does not know of it until `deliver`.

        Raises:
            RemoteError: there are too many channels. The error does not say whether the handler ran.
        """
        # Channels that are over do not count, because the remote peer may open the next channel as soon as it has ended
        # one. Late mailboxes have a limit of their own. Handlers that still run count as running handlers.
        if len(self.served) + len(self.undelivered) >= self.limits.channels:
            text = f"{self.limits.channels} channels are open already (Limits.channels), close some"
            raise made_here(RemoteError(text, TOO_MANY))
        channel = ChannelCore(h, self, served=True)
        self.undelivered[channel] = None
        return channel

    def deliver(self, channel: ChannelCore) -> None:
        """Answer the request that ``channel`` belongs to with the channel.

        Raises:
            RpcError: the channel has ended already. The error says why.
            ChannelClosed: the answer has ended the session.
        """
        if channel.over:
            reason = channel.close_reason
            if isinstance(reason, RpcError):
                raise reason
            if reason is None or isinstance(reason, BaseException):
                raise RpcError(as_text(reason) if reason else "the channel was closed before it was delivered")
            raise RpcError.of_value(reason)
        if channel.id in self.served:
            raise RpcError(f"request id {channel.id} is that of a channel which is still open")
        self._aborts.pop(channel.id, None)  # of an earlier channel with this id
        self.writer.reply(self.writer.terms.encode(ChannelCreated(channel.id)))
        if channel.over:  # the session waited for a connection, and the answer was too much for it
            raise channel.closed_error()
        self.undelivered.pop(channel, None)
        self.served[channel.id] = channel
        channel.opened()

    # ------------------------------------------------------------ what channels ask for

    @property
    def unread_memory(self) -> PeerUnreadMemory:
        """Counts the memory of unread messages on all channels of the peer."""
        return self._named_channels.unread_memory()

    def credit_for(self, h: int) -> GrantedCredit:
        """Return the credit for the items of channel ``h``, which are read from now on."""
        self.credited[h] = None
        return GrantedCredit(self.limits.stream_window, self._credit_share, partial(self.writer.grant, h))

    def _credit_share(self) -> int:
        """Return the bytes of one stream that may be in flight. The more streams are read, the fewer bytes each
        stream gets, because the next response arrives only after all bytes in flight.
        """
        window = self.limits.stream_window_bytes
        return min(window, max(SMALLEST_SHARE, window // max(1, len(self.credited))))

    def send_abort(self, h: int, reason: object) -> None:
        """Send an abort, unless this side has sent one already. So later events on the channel get no more aborts."""
        if h not in self._aborts or self._aborts[h] is not None:
            remember(self._aborts, h, None)
            send_notice(self.writer, partial(ChannelAbort, h), reason, self.warn)

    def delay_abort(self, h: int, reason: object) -> None:
        """Send an abort when the remote peer has sent something on channel ``h``. See `ChannelCore.delays_abort`."""
        error = RemoteError(ABORTED)
        if isinstance(reason, RpcError):  # a new error, because that of a handler refers to the handler's variables
            error = RemoteError(text_for_peer(reason), reason.code)
        remember(self._aborts, h, error)

    def refuse(self, h: int) -> RpcError:
        """Abort channel ``h``, which does not exist, because of a message on it. Return the error for a request."""
        error = self._aborts.get(h) or RemoteError(f"Anonymous channel '{h}' does not exist")
        self.send_abort(h, error)
        return error

    # ------------------------------------------------------------ ending

    def ended_by_peer(self, h: int, x: Any, flag: Any) -> bool:
        """End channel ``h``, because the remote peer has ended it. Return False if the channel does not exist."""
        channel = self.find(h)
        if channel is None:
            return False
        if is_finished(x, flag):
            channel.end(FINISHED, None, by_other=True)
            return True
        reason = reason_from_wire(x, flag)
        error: Exception = _error_for_readers(reason)
        if self.writer.settings.between_nodes and isinstance(reason, RemoteError):
            error = as_raised(reason)
        channel.end(reason, error, by_other=True)
        return True

    def request_cancelled(self, i: int, reason: Any) -> bool:
        """End channel ``i``, whose request the remote peer has cancelled. Return False if the channel does not exist.

        The response and the cancellation have crossed. A wsrpc peer will also abort the channel, if its connection does
        not drop before. JavaScript and Go ignore the channel and send nothing more.
        """
        channel = self.served.get(i)
        if channel is None:
            return False
        channel.end(reason, _error_for_readers(reason), by_other=True)
        return True

    def end_session(self, error: ConnectionLost) -> None:
        """End all channels, because the session has ended."""
        for channel in [*self.undelivered, *self.opened.values(), *self.served.values()]:
            channel.mailbox.pop_request_ids()
            own = error.for_outcome("unknown")  # a new exception for each channel
            if is_closed_here(error):
                closed_here(own)
            channel.end(own, own, by_other=True)

    def remove(self, channel: ChannelCore, *, produced: bool) -> None:
        """Remove a channel that ends. ``produced``: this side has sent items on it."""
        h = channel.id
        if channel in self.undelivered:
            # Not by its id: if the request was answered otherwise, the remote peer may have used the id again.
            del self.undelivered[channel]
            return
        del (self.served if channel.is_served else self.opened)[h]
        self.credited.pop(h, None)
        if produced:
            remember(self._produced, h, None)

    def end_requests_on(self, channel: ChannelCore, *, by_other: bool) -> None:
        """Fail the requests that this side sent on a channel, and cancel the handlers of the remote peer's requests."""
        h, requests = channel.id, self.writer.requests
        # A wsrpc peer cancels the handlers when it knows of the end. JavaScript (4.3.1) and Go do not.
        notifies = not self.writer.session.over and (self.writer.terms.plain or not (by_other or h in self._aborts))
        for pending in requests.on_channel(h):
            error = ChannelClosed(str(h), channel.close_reason)
            if not notifies:
                requests.fail(pending, error)
            elif requests.give_up(pending, error):
                reason_there = None if by_other else channel.close_reason
                send_notice(self.writer, partial(Cancellation, pending.id), reason_there, self.warn)
        self.dispatcher.cancel_requests_on(h, channel.reason)


def _error_for_readers(reason: Any) -> RemoteError:
    """Return the error that readers get for a reason of the remote peer. Requests get the same."""
    return reason if isinstance(reason, RemoteError) else RemoteError.of_value(reason)
