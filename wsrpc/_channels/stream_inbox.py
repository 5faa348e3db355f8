"""`StreamInbox`: the queue of a stream that has a channel to itself."""

from __future__ import annotations

from typing import Any

from .._streams.inbox import ReaderState
from .._streams.items import ItemInbox
from ..errors import RemoteError
from .core import ChannelCore


class StreamInbox(ItemInbox):
    """Queue of the items on a channel that was opened for their reader alone, and ends with it."""

    __slots__ = ("_own",)

    def __init__(self, channel: ChannelCore) -> None:
        self._own = channel
        super().__init__(channel)

    def _items_ended(self, i: Any, error: RemoteError | None) -> None:
        super()._items_ended(i, error)
        self._own.finish_locally()

    def take_error(self) -> BaseException | None:
        self._own.forget_error()
        return super().take_error()

    def leave(self, reason: object) -> None:
        """Stop reading, drop what is unread, and end the channel. Idempotent."""
        if self._reader is not ReaderState.GONE:
            if self._own.owner.waiting_aborts.must_wait(self._own):
                self.begin()  # a handler that was not told to start would never send anything
            self._stop_reading()
            self._own.abort(reason)

    def _leave_abandoned(self, label: str) -> None:
        if self.abandoned and not self._own.over:
            text = f"a stream of {label!r} was left without being closed, and is stopped"
            self._own.owner.warn(f"{text}: read it in a `with` (`async with`) block, or close it")
        super()._leave_abandoned(label)
