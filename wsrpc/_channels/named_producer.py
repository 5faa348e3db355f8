"""`NamedProducer`: sends the items of an iterable on a named channel, each as a request that its consumer answers."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from .._base.names import Source
from .._protocol.messages import Event, Item, ItemsFailed, NoMoreItems, RequestOptions, WireMessage
from .._protocol.rejections import of_started_call
from .._sending.notices import send_error
from .._streams.recipients import Decode
from ..errors import ChannelClosed, ConnectionLost, RemoteError, RpcError
from .producer import ITEM_REQUEST, ItemRefused
from .readers import NamedChannel
from .source import iterate

SendItem = Callable[[str, tuple[Any, ...], RequestOptions], Coroutine[Any, Any, Any]]


class NamedProducer:
    """Sends the items of one source on a named channel, from the consumer's ``start`` to its ``stop``.

    Each item is a request: its answer says that there is room for the next one.

    Args:
        send_item: sends a request on the channel.
        ended: called with the reason once nobody wants any more items.
    """

    __slots__ = ("_channel", "_ended", "_over", "_send_item")

    def __init__(self, channel: NamedChannel, send_item: SendItem, ended: Callable[[Exception], None]) -> None:
        self._channel = channel
        self._send_item = send_item
        self._ended = ended
        self._over = False
        channel.add_recipient("stop", self)

    def __repr__(self) -> str:
        return f"<NamedProducer on {self._channel!r}{' over' if self._over else ''}>"

    @property
    def over(self) -> bool:
        """Whether the consumer wants no more items, or the session is over."""
        return self._over

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
        self._ended(error or RemoteError("the connection was closed"))

    def take_request_ids(self) -> list[int]:
        return []

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
                self._check_wanted()
                try:
                    # The consumer may take as long as it likes. The end of the session settles the request.
                    await self._send_item("next", (Item(value),), ITEM_REQUEST)
                except RemoteError as exc:
                    raise ItemRefused(of_started_call(exc)) from None
                except (ChannelClosed, ConnectionLost) as exc:
                    raise ItemRefused(exc) from None
                if self._over:
                    return
        finally:
            await items.aclose()

    async def finish(self) -> None:
        """Tell the consumer that there are no more items.

        Raises:
            ItemRefused: it wants nothing more, or the connection is lost.
        """
        self._check_wanted()
        try:
            await self._channel.send_in_turn("next", (NoMoreItems(),))
        except (ChannelClosed, ConnectionLost) as exc:
            raise ItemRefused(exc) from None

    def fail(self, error: RpcError) -> None:
        """Tell the consumer why there are no more items, as far as it takes the text.

        It does not wait for room, because the task of the producer may be cancelled.

        Raises:
            ItemRefused: it wants nothing more, or the connection is lost.
            MessageTooBig: it does not even take the name of the channel.
        """
        self._check_wanted()
        name = str(self._channel.name)
        send_error(self._channel.out, lambda e, flag: Event(("next", ItemsFailed(e, flag)), name), error)

    def _check_wanted(self) -> None:
        if self._over:
            raise ItemRefused(self._channel.gone())
