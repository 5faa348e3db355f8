"""`NamedProducer`: sends the items of an iterable on a named channel, each as a request that its consumer answers."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import aclosing, contextmanager

from ..._base.names import Source
from ...errors import ConnectionLost, RemoteError, RpcError
from ..handlers.invocation import Invocation
from ..sending.notices import send_error
from ..wire.messages import Event, Item, ItemsFailed, NoMoreItems
from .channel_table import ChannelTable
from .producer import ITEM_REQUEST, ItemRefused
from .source import iterate


@contextmanager
def _refusals() -> Generator[None]:
    """Raise `ItemRefused` if a message could not be sent, or was rejected."""
    try:
        yield
    except (RemoteError, ConnectionLost) as exc:
        raise ItemRefused(exc) from None


class NamedProducer:
    """Sends the items of one source on a named channel, after the consumer's ``start``.

    The consumer says that it wants no more by rejecting an item, or by another ``start``.

    Args:
        channels: the anonymous channels of the session, which have its senders.
        invocation: the call of the handler. It is cancelled when the consumer starts again, or the session is over.
    """

    def __init__(self, name: str, channels: ChannelTable, invocation: Invocation) -> None:
        self._name = name
        self._channels = channels
        self._invocation = invocation

    async def run(self, source: Source) -> None:
        """Send all items that the consumer wants, and the end.

        Cancelling stops it. The caller closes the source.

        Raises:
            MessageTooBig, TypeError: an item cannot be sent.
            ItemRefused: the consumer wants no more items, or the connection is lost.
            Exception: whatever the source raises.
        """
        channels, name = self._channels, self._name
        async with aclosing(iterate(source)) as items:
            async for value in items:
                self._check_wanted()
                with _refusals():
                    await channels.sender.send_request(name, "next", (Item(value),), ITEM_REQUEST)
        self._check_wanted()
        with _refusals():
            await channels.outbox.post(Event(("next", NoMoreItems()), name), started_in=channels.writer)

    def fail(self, error: RpcError) -> None:
        """Send the error that has ended the items, without a text that is too long for the remote peer.

        This does not wait for room, because the task of the producer may be cancelled.

        Raises:
            ItemRefused: the consumer wants no more items, or the connection is lost.
            MessageTooBig: even the name of the channel is too long.
        """
        self._check_wanted()
        send_error(self._channels.writer, lambda e, flag: Event(("next", ItemsFailed(e, flag)), self._name), error)

    def _check_wanted(self) -> None:
        if self._invocation.state.cancelled:  # the generator goes on nevertheless
            raise ItemRefused(RemoteError("the consumer wants no more items"))
