"""Paced items: each item is a request, and the next item waits for its answer. With credit, items are events instead.

JavaScript's own iterator (``for await``) holds one item, and fails when a third item arrives before the loop reads
(ws-wrapper 4.3.1, observed). A loop with a slow body still overflows, because the iterator answers at once. An async
listener of ``next`` answers when it has handled the item. Items on named channels, which have no credit, are always
paced.
"""

from __future__ import annotations

from contextlib import aclosing
from typing import Never, Protocol

from ..._base.names import ChannelRef, Source
from ...errors import ChannelClosed, ConnectionLost, RemoteError, WsrpcError
from ..sending.sender import Sender
from ..wire.messages import Item, RequestOptions
from ..wire.rejections import of_started_call
from .source import iterate

ITEM_REQUEST = RequestOptions(timeout=None, within_call=True)
"""Options of an item that is sent as a request. The consumer may take its time before it answers."""


class ItemRefused(Exception):
    """The consumer wants no more items: it has rejected an item. On a named channel, the consumer may also have sent
    ``stop``, or the connection is lost."""

    def __init__(self, error: WsrpcError) -> None:
        super().__init__(str(error))
        self.error = error


class PacedProducer(Protocol):
    """Producer of paced items: `Producer`, or `NamedProducer`."""

    @property
    def over(self) -> bool:
        """Whether the consumer wants no more items."""
        ...

    def check_channel_open(self) -> None:
        """Raise the exception that ends the producer, if nothing more can be sent on its channel."""

    async def wait_for_end(self, error: ChannelClosed | ConnectionLost, /) -> Never:
        """Raise the exception that ends the producer, after an item failed with ``error``. This may wait."""
        ...


async def run_paced(producer: PacedProducer, sender: Sender, channel: ChannelRef | int, source: Source) -> None:
    """Send the items of ``source``, each as a request. Its answer says that there is room for the next item.

    There is no timeout. The end of the channel or of the session ends the request.

    Raises:
        ItemRefused: the consumer has rejected an item.
        MessageTooBig, TypeError: an item cannot be sent.
        Exception: whatever the source and the producer raise.
    """
    async with aclosing(iterate(source)) as items:
        async for value in items:
            producer.check_channel_open()
            try:
                await sender.send_request(channel, "next", (Item(value),), ITEM_REQUEST)
            except RemoteError as exc:
                raise ItemRefused(of_started_call(exc)) from None
            except (ChannelClosed, ConnectionLost) as exc:
                await producer.wait_for_end(exc)
            if producer.over:
                return
