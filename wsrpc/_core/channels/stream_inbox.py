"""`StreamInbox`: the inbox of a stream that has its own channel, and ends this channel."""

from __future__ import annotations

from typing import Any

from ...errors import RemoteError
from ..inboxes.item_inboxes import ItemInbox
from .channel_core import ChannelCore


class StreamInbox(ItemInbox):
    """Queue of the items on a channel that was opened for one stream alone. The channel ends with the stream."""

    __slots__ = ()

    channel: ChannelCore

    def __init__(self, channel: ChannelCore) -> None:
        super().__init__(channel)

    def _items_ended(self, i: Any, error: RemoteError | None) -> None:
        super()._items_ended(i, error)
        self.channel.finish_locally()

    def channel_ended(self, error: Exception | None) -> None:
        super().channel_ended(error)
        self.channel.drop_error()  # the inbox keeps the error, for the only reader

    def _stop_reading(self, reason: object) -> None:
        """Stop reading, and end the channel."""
        channel = self.channel
        if channel.delays_abort:
            self.start_producer()  # the abort waits for a message of JavaScript's producer, which waits for `start`
        self._detach()
        channel.abort(reason)

    def _stop_if_abandoned(self, label: str) -> None:
        if self.abandoned and not self.channel.over:
            text = f"a stream of {label!r} was left without being closed, and is stopped"
            self.channel.owner.warn(f"{text}: read it in a `with` (`async with`) block, or close it")
        super()._stop_if_abandoned(label)
