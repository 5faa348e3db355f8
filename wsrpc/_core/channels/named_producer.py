"""`NamedProducer`: sends the items of an iterable on a named channel, each as a request that its consumer answers."""

from __future__ import annotations

from typing import Never

from ..._base.names import Source
from ...errors import ChannelClosed, ConnectionLost, RemoteError, RpcError, WsrpcError
from ..handlers.invocation import Invocation
from ..inboxes.recipients import Decode, Recipient
from ..sending.notices import send_error
from ..sending.sender import Sender
from ..wire.messages import Event, ItemsFailed, NoMoreItems, WireMessage
from .named_channels import NamedChannel
from .paced_items import ItemRefused, run_paced


class NamedProducer(Recipient):
    """Sends the items of one source on a named channel, from the consumer's ``start`` to its ``stop``.

    Each item is a request. Its answer says that there is room for the next item.

    Args:
        invocation: the call of the handler. It is cancelled once the consumer wants no more items.
    """

    __slots__ = ("_channel", "_invocation", "_sender", "over")

    def __init__(self, channel: NamedChannel, sender: Sender, invocation: Invocation) -> None:
        self._channel = channel
        self._sender = sender
        self._invocation = invocation
        self.over = False
        """Whether the consumer wants no more items, or the session is over."""
        channel.add_recipient("stop", self)

    def __repr__(self) -> str:
        return f"<NamedProducer on {self._channel!r}{' over' if self.over else ''}>"

    # ------------------------------------------------------------ what the consumer says

    def receive(self, message: WireMessage, payload: bytes | bytearray, decode: Decode) -> None:
        """Stop. The consumer would take items and ends that are sent later for those of its next ``start``."""
        self.detach()  # the next `stop` belongs to another stream
        self.channel_ended(RemoteError("the consumer wants no more items"))

    def detach(self) -> None:
        """Receive nothing more. Idempotent."""
        self._channel.remove_recipient("stop", self)

    def channel_ended(self, error: Exception | None) -> None:
        """Send nothing more."""
        self.over = True
        self._invocation.orphan(error or RemoteError("the connection was closed"))

    # ------------------------------------------------------------ producing

    async def run(self, source: Source) -> None:
        """Send all items that the consumer wants.

        Cancelling stops it. The caller closes the source.

        Raises:
            MessageTooBig, TypeError: an item cannot be sent.
            ItemRefused: the consumer wants no more items, or the connection is lost.
            Exception: whatever the source raises.
        """
        await run_paced(self, self._sender, self._channel.name, source)

    async def wait_for_end(self, error: WsrpcError) -> Never:
        """End at once: on a named channel, the error says that the consumer or the connection has ended the items."""
        raise ItemRefused(error)

    async def finish(self) -> None:
        """Send the end of the items.

        Raises:
            ItemRefused: the consumer wants no more items, or the connection is lost.
        """
        self.check_channel_open()
        try:
            await self._channel.post("next", (NoMoreItems(),))
        except (ChannelClosed, ConnectionLost) as exc:
            raise ItemRefused(exc) from None

    def fail(self, error: RpcError) -> None:
        """Send the error that has ended the items, without a text that is too long for the remote peer.

        This does not wait for room, because the task of the producer may be cancelled.

        Raises:
            ItemRefused: the consumer wants no more items, or the connection is lost.
            MessageTooBig: even the name of the channel is too long.
        """
        self.check_channel_open()
        name = str(self._channel.name)
        send_error(self._channel.writer, lambda e, flag: Event(("next", ItemsFailed(e, flag)), name), error)

    def check_channel_open(self) -> None:
        """Raise `ItemRefused` if the consumer wants no more items."""
        if self.over:
            raise ItemRefused(self._channel.closed_error())
