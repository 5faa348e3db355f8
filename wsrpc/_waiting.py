"""Messages that wait for a place, undecoded, in arrival order."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from itertools import count
from typing import TYPE_CHECKING

from msgspec import Struct

from ._context import Message
from ._messages import Inbound

if TYPE_CHECKING:
    from .anonymous import AnonymousChannel

__all__ = ["Waiting", "WaitingRoom"]


class Waiting(Struct, eq=False):
    """``id`` is None for an event; ``decode`` reads the payload once more."""

    payload: bytes
    id: int | None
    view: Message | None
    decode: Callable[[bytes | bytearray], Inbound]
    channel: AnonymousChannel | None = None
    """The anonymous channel that it came on."""

    @property
    def too_late(self) -> bool:
        """Whether its channel has ended so that nobody wants it handled: events of the other side outlive its end."""
        channel = self.channel
        return channel is not None and (channel._left if self.id is None else channel.closed)

    def finish(self) -> None:
        """It is dealt with, as far as whoever observes messages is concerned."""
        if self.view is not None:
            self.view._finish()


class WaitingRoom:
    """Bounded by messages and by bytes; a request can be taken out when it is cancelled."""

    __slots__ = ("_bytes", "_entries", "_max_bytes", "_max_messages", "_tickets", "_tickets_of")

    def __init__(self, max_messages: int, max_bytes: int) -> None:
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self._bytes = 0
        self._tickets = count()
        self._entries: OrderedDict[int, Waiting] = OrderedDict()
        self._tickets_of: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def has(self, i: int) -> bool:
        return i in self._tickets_of

    def put(self, entry: Waiting) -> bool:
        """Let ``entry`` wait; False if that would go over a bound."""
        if len(self._entries) >= self._max_messages or self._bytes + len(entry.payload) > self._max_bytes:
            return False
        ticket = next(self._tickets)
        self._entries[ticket] = entry
        self._bytes += len(entry.payload)
        if entry.id is not None:
            self._tickets_of[entry.id] = ticket
        return True

    @property
    def next_size(self) -> int:
        """Bytes of the one that has waited longest."""
        return len(next(iter(self._entries.values())).payload)

    def pop(self) -> Waiting:
        """The one that has waited longest."""
        return self._take(next(iter(self._entries)))

    def remove(self, i: int) -> Waiting | None:
        """Take request ``i`` out, if it waits."""
        ticket = self._tickets_of.get(i)
        return None if ticket is None else self._take(ticket)

    def clear_requests(self) -> list[Waiting]:
        """Take all requests out; events stay."""
        return [self._take(ticket) for ticket in list(self._tickets_of.values())]

    def _take(self, ticket: int) -> Waiting:
        entry = self._entries.pop(ticket)
        self._bytes -= len(entry.payload)
        if entry.id is not None:
            del self._tickets_of[entry.id]
        return entry
