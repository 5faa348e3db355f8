"""`WaitingRoom`: the messages of one peer that wait for their handlers, undecoded and in order."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING

from msgspec import Struct

from ..._base.queues import BoundedQueue
from ...errors import RemoteError
from ..channels.channel_core import ChannelCore
from ..handlers.observation import Message, mark_processed
from ..handlers.opening import Hold, MessageKind
from ..wire.messages import WireMessage

if TYPE_CHECKING:
    from .dispatcher import Dispatcher


class ReceivedMessage(Struct, eq=False):
    """One message that waits. ``decode`` decodes the payload once more."""

    kind: MessageKind
    payload: bytes
    id: int | None
    """None for an event."""
    view: Message | None
    decode: Callable[[bytes | bytearray], WireMessage]
    dispatcher: Dispatcher
    """That of the session in which it came, which may be over by now."""
    channel: ChannelCore | None = None
    """The anonymous channel that it came on."""
    is_read: bool = False
    """Whether a reader has got it, so that it waits only for its handler."""

    @property
    def too_late(self) -> bool:
        """Whether its channel has ended and it is not to be handled. Events outlive an end by the remote peer."""
        channel = self.channel
        return channel is not None and (channel.ended_here if self.id is None else channel.over)

    def drop(self) -> None:
        """Reject it if it is a request: its channel has ended before its turn came."""
        if self.id is not None and self.channel is not None:
            self.dispatcher.answers.reject(
                self.id, RemoteError(f"Anonymous channel '{self.channel.id}' does not exist")
            )
        self.mark_processed()

    def mark_processed(self) -> None:
        """Tell those that observe messages that nothing more happens to it."""
        mark_processed(self.view)


def _size(entry: ReceivedMessage) -> int:
    return len(entry.payload)


class WaitingRoom(BoundedQueue[ReceivedMessage]):
    """Queue of the messages that wait for their handlers, bounded by `Limits.waiting` and `Limits.waiting_bytes`.

    The key of a request is its id, by which it can be taken out when it is cancelled.
    """

    __slots__ = ("_kinds",)

    def __init__(self, max_messages: int, max_bytes: int) -> None:
        super().__init__(_size, max_bytes, max_messages)
        self._kinds: dict[MessageKind, OrderedDict[int, None]] = {}
        """The tickets of each kind, in order. There are no empty ones."""

    def add(self, entry: ReceivedMessage) -> bool:
        """Let a message wait. Return False if it does not fit."""
        if not self.fits(len(entry.payload)):
            return False
        ticket = self.append(entry, entry.id)
        self._kinds.setdefault(entry.kind, OrderedDict())[ticket] = None
        return True

    def oldest(self, holding: Hold = Hold.NONE) -> tuple[int, ReceivedMessage] | None:
        """Return the oldest message that is not held back, with its ticket. None if there is no such message."""
        found = min((next(iter(tickets)) for kind, tickets in self._kinds.items() if kind < holding), default=None)
        return None if found is None else (found, self.items[found])

    def events(self) -> list[tuple[int, ReceivedMessage]]:
        """Return the events on the main channel and on named ones, with their tickets."""
        return [(ticket, self.items[ticket]) for ticket in self._kinds.get(MessageKind.EVENT, ())]

    def pop(self, ticket: int) -> ReceivedMessage:
        """Take out a message that waits."""
        entry = super().pop(ticket)
        tickets = self._kinds[entry.kind]
        del tickets[ticket]
        if not tickets:
            del self._kinds[entry.kind]
        return entry

    def pop_requests(self) -> list[ReceivedMessage]:
        """Take all requests out. Events stay."""
        tickets = [ticket for ticket, entry in self.items.items() if entry.id is not None]
        return [self.pop(ticket) for ticket in tickets]


NOTHING_WAITS = WaitingRoom(0, 0)
"""The queue of the peers for which no message has waited yet. Nothing fits into it."""
