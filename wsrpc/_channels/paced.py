"""`PacedProducer`: sends the items of an iterable one by one, each as a request that its consumer answers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Generic, Never, TypeVar

from .._base.names import Source
from .._protocol.messages import Item, ItemsFailed, NoMoreItems, RequestOptions, WireMessage
from .._protocol.rejections import of_started_call
from .._streams.recipients import Decode
from ..errors import ChannelClosed, ConnectionLost, RemoteError, WsrpcError
from .core import ChannelCore
from .readers import NamedChannel
from .source import iterate

__all__ = ["ItemRefused", "PacedProducer", "SendItem"]

ITEM_REQUEST = RequestOptions(timeout=None, offline="fail", within_call=True)
"""Options of an item that is sent as a request. The consumer may take its time before it answers."""


C = TypeVar("C", ChannelCore, NamedChannel)
SendItem = Callable[[str, tuple[Any, ...], RequestOptions], Coroutine[Any, Any, Any]]


class ItemRefused(Exception):
    """The consumer takes no more items: it has rejected one, or has stopped, or the connection is lost."""

    def __init__(self, error: WsrpcError) -> None:
        super().__init__(str(error))
        self.error = error


class PacedProducer(Generic[C]):
    """Sends the items of one source, each as a request: its answer says that there is room for the next one.

    So items are sent to ws-wrapper's own iterator, which holds one (JavaScript 4.3.1, observed), and to any consumer on
    a named channel. There it produces from the consumer's ``start``, which has called the handler, to its ``stop``.

    Args:
        send_item: sends a request on the channel.
        ended: called with the reason once nobody wants any more items.
    """

    __slots__ = ("_channel", "_ended", "_out", "_over", "_send_item", "stopped")

    def __init__(self, channel: C, send_item: SendItem, ended: Callable[[Exception], None] | None = None) -> None:
        self._channel: C = channel
        self._send_item = send_item
        self._ended = ended
        self._out = channel.out
        self._over = False
        self.stopped: asyncio.Future[None] = self._out.loop.create_future()
        """Done when the consumer has said that it wants no more, or the channel is over. Only ``send=`` waits for it: a
        handler that streams is cancelled when its channel ends."""
        self._listen()

    def _listen(self) -> None:
        self._channel.add_recipient("stop", self)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} on {self._channel!r}{' over' if self._over else ''}>"

    # ------------------------------------------------------------ what the consumer says

    def receive(self, message: WireMessage, payload: bytes | bytearray, decode: Decode) -> None:
        """Stop. What is sent from now on, the end too, would be taken for that of the consumer's next ``start``."""
        self.leave()  # a further `stop` is not for this stream
        self.channel_ended(RemoteError("the consumer wants no more items"))

    def leave(self) -> None:
        """Receive nothing more. Idempotent."""
        self._channel.remove_recipient("stop", self)

    def channel_ended(self, error: Exception | None) -> None:
        """Send nothing more."""
        self._over = True
        if not self.stopped.done():
            self.stopped.set_result(None)
        if self._ended is not None:
            self._ended(error or RemoteError("the connection was closed"))

    def take_request_ids(self) -> list[int]:
        return []

    @property
    def over(self) -> bool:
        """Whether nothing can be sent any more."""
        return self._over or self._channel.closed

    async def _not_sent(self, error: WsrpcError) -> Never:
        """End production, because an item could not be sent.

        Raises:
            ItemRefused: with ``error``.
        """
        raise ItemRefused(error)

    # ------------------------------------------------------------ producing

    async def run(self, source: Source) -> None:
        """Send all items that the consumer wants.

        Cancelling stops it. The caller closes the source.

        Raises:
            MessageTooBig, TypeError: an item cannot be sent.
            ItemRefused: the consumer takes no more, or the connection is lost.
            Exception: whatever the source raises.
        """
        items = iterate(source)
        try:
            async for value in items:
                if self.over:
                    await self._not_sent(self._channel.gone())
                try:
                    # The consumer may take as long as it likes. The end of the channel settles the request.
                    await self._send_item("next", (Item(value),), ITEM_REQUEST)
                except RemoteError as exc:
                    raise ItemRefused(of_started_call(exc)) from None
                except (ChannelClosed, ConnectionLost) as exc:
                    await self._not_sent(exc)
                if self.stopped.done():
                    return
        finally:
            await items.aclose()

    async def finish(self, end: NoMoreItems | ItemsFailed | None = None) -> None:
        """Tell the consumer that there are no more items.

        Raises:
            ItemRefused: it wants nothing more, or the connection is lost.
        """
        if self.over:
            await self._not_sent(self._channel.gone())
        try:
            await self._channel.send_in_turn("next", (end or NoMoreItems(),))
        except (ChannelClosed, ConnectionLost) as exc:
            await self._not_sent(exc)
