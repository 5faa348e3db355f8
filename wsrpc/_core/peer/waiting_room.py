"""`WaitingRoom`: the messages of one peer that wait for their handlers, undecoded and in order."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import TYPE_CHECKING

from msgspec import Struct

from ..._base.queues import BoundedQueue
from ...errors import RemoteError
from ..channels.channel_core import ChannelCore
from ..handlers.observation import Message, mark_processed
from ..wire.messages import WireMessage

if TYPE_CHECKING:
    from .dispatcher import Dispatcher


class MessageKind(Enum):
    """The kind of a received message."""

    ON_CHANNEL = "an event or a request on an anonymous channel"
    REQUEST = "any other request"
    EVENT = "any other event"


class WaitingMessage(Struct, eq=False):
    """One message that waits. ``decode`` decodes the payload again."""

    kind: MessageKind
    payload: bytes
    id: int | None
    """None for an event."""
    view: Message | None
    decode: Callable[[bytes | bytearray], WireMessage]
    dispatcher: Dispatcher
    """The dispatcher of the session in which the message arrived, which may be over."""
    channel: ChannelCore | None = None
    """The anonymous channel on which the message arrived."""
    is_read: bool = False
    """Whether a reader has got the message, so that it waits only for its handler."""

    @property
    def too_late(self) -> bool:
        """Whether the message is not handled, because its channel has ended.

        Events are handled after the remote peer has ended the channel, but not after this side has.
        """
        channel = self.channel
        return channel is not None and (channel.ended_here if self.id is None else channel.over)

    def drop(self) -> None:
        """Reject the message if it is a request: its channel has ended."""
        if self.id is not None and self.channel is not None:
            self.dispatcher.answers.reject(
                self.id, RemoteError(f"Anonymous channel '{self.channel.id}' does not exist")
            )
        mark_processed(self.view)


class WaitingRoom(BoundedQueue[WaitingMessage]):
    """Queue of the messages that wait for their handlers, within `Limits.waiting_bytes` and what the owner adds.

    The owner bounds their number.

    The key of a request is its id, by which the request is removed when it is cancelled.
    """

    __slots__ = ()

    def __init__(self, max_bytes: int) -> None:
        super().__init__(lambda entry: len(entry.payload), max_bytes)

    def add(self, entry: WaitingMessage, extra: int) -> bool:
        """Add a message. Return False if all would take more than `Limits.waiting_bytes` and ``extra`` bytes."""
        if not self.fits(len(entry.payload) - extra):
            return False
        self.append(entry, entry.id)
        return True

    def oldest(self, waiting: tuple[MessageKind, ...]) -> tuple[int, WaitingMessage] | None:
        """Return the oldest message whose kind is not in ``waiting``, with its ticket. None if there is none."""
        while self.items and self._first not in self.items:
            self._first += 1
        tickets = range(self._first, self._next)
        return next(((t, e) for t in tickets if (e := self.items.get(t)) is not None and e.kind not in waiting), None)

    def events(self) -> list[tuple[int, WaitingMessage]]:
        """Return the events on the main channel and on named ones, with their tickets."""
        return [item for item in self.items.items() if item[1].kind is MessageKind.EVENT]

    def pop_requests(self) -> list[WaitingMessage]:
        """Remove all requests, and return them. Events stay."""
        tickets = [ticket for ticket, entry in self.items.items() if entry.id is not None]
        return [self.pop(ticket) for ticket in tickets]


NOTHING_WAITS = WaitingRoom(0)
"""The queue of peers for which no message has waited. It has no room for any message."""
