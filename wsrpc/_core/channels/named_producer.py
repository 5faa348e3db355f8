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
from .javascript import ItemRefused, run_paced
from .named_channels import NamedChannel


class NamedProducer(Recipient):
    """Sends the items of one source on a named channel, from the consumer's ``start`` to its ``stop``.

    Each item is a request: its answer says that there is room for the next one.

    Args:
        invocation: the call of the handler, which is cancelled once nobody wants any more items.
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
        """Stop. What is sent from now on, the end too, would be taken for that of the consumer's next ``start``."""
        self.detach()  # a further `stop` is not for this stream
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
            ItemRefused: the consumer takes no more, or the connection is lost.
            Exception: whatever the source raises.
        """
        await run_paced(self, self._sender, self._channel.name, source)

    async def raise_end(self, error: WsrpcError) -> Never:
        raise ItemRefused(error)

    async def finish(self) -> None:
        """Tell the consumer that there are no more items.

        Raises:
            ItemRefused: it wants nothing more, or the connection is lost.
        """
        self.check_wanted()
        try:
            await self._channel.wait_and_send("next", (NoMoreItems(),))
        except (ChannelClosed, ConnectionLost) as exc:
            raise ItemRefused(exc) from None

    def fail(self, error: RpcError) -> None:
        """Tell the consumer why there are no more items, as far as it takes the text.

        It does not wait for room, because the task of the producer may be cancelled.

        Raises:
            ItemRefused: it wants nothing more, or the connection is lost.
            MessageTooBig: it does not even take the name of the channel.
        """
        self.check_wanted()
        name = str(self._channel.name)
        send_error(self._channel.writer, lambda e, flag: Event(("next", ItemsFailed(e, flag)), name), error)

    def check_wanted(self) -> None:
        """Raise `ItemRefused` if the consumer wants no more items."""
        if self.over:
            raise ItemRefused(self._channel.closed_error())
