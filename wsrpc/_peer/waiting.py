"""Messages that wait, undecoded, in arrival order: for a place, or for `open` handlers."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from enum import IntEnum
from itertools import count
from typing import TYPE_CHECKING

from msgspec import Struct

from .._handlers.observation import Observation
from .._protocol.messages import WireMessage

if TYPE_CHECKING:
    from .._base.names import ChannelRef
    from .._channels.core import ChannelCore
    from .._streams.inbox import Inbox

__all__ = ["Hold", "Kind", "Waiting", "WaitingRoom"]


class Kind(IntEnum):
    """What a message is to those who hold some back."""

    ON_CHANNEL = 0
    """An event or request on an anonymous channel."""
    REQUEST = 1
    EVENT = 2


class Hold(IntEnum):
    """Which messages wait while `open` handlers run: those of this `Kind`, and of the ones that follow it."""

    ALL = Kind.REQUEST
    """All but those on anonymous channels, which an `open` handler may have opened and wait for."""
    EVENTS = Kind.EVENT
    NONE = Kind.EVENT + 1


class Waiting(Struct, eq=False):
    """``id`` is None for an event; ``decode`` reads the payload once more."""

    kind: Kind
    payload: bytes
    id: int | None
    view: Observation | None
    decode: Callable[[bytes | bytearray], WireMessage]
    channel: ChannelCore | None = None
    """The anonymous channel that it came on."""
    key: tuple[ChannelRef, str] | None = None
    """Its channel and name, once somebody has looked."""
    readers: tuple[tuple[Inbox, int], ...] = ()
    """Who reads it before its turn, so that it needs no handler: with the count of what each has taken once it has
    taken this."""
    ticket: int = 0
    """Its place in the order in which all came."""

    @property
    def too_late(self) -> bool:
        """Whether its channel has ended so that nobody wants it handled: events of the other side outlive its end."""
        channel = self.channel
        return channel is not None and (channel.left if self.id is None else channel.closed)

    @property
    def was_taken(self) -> bool:
        """Whether one of its readers has gone past it."""
        return any(inbox.taken >= count for inbox, count in self.readers)

    def finish(self) -> None:
        """It is dealt with, as far as whoever observes messages is concerned."""
        if self.view is not None:
            self.view.finish()


class WaitingRoom:
    """Bounded by messages and by bytes; a request can be taken out when it is cancelled."""

    __slots__ = ("_bytes", "_lines", "_max_bytes", "_max_messages", "_requests", "_tickets", "messages")

    def __init__(self, max_messages: int, max_bytes: int) -> None:
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self.messages = 0
        """How many wait."""
        self._bytes = 0
        self._tickets = count()
        self._lines: dict[Kind, OrderedDict[int, Waiting]] = {}
        """By kind and ticket. There is none of a kind of which nothing waits."""
        self._requests: dict[int, Waiting] = {}

    def __len__(self) -> int:
        return self.messages

    def has(self, i: int) -> bool:
        return i in self._requests

    def put(self, entry: Waiting) -> bool:
        """Let ``entry`` wait; False if that would go over a bound."""
        if self.messages >= self._max_messages or self._bytes + len(entry.payload) > self._max_bytes:
            return False
        entry.ticket = next(self._tickets)
        self._lines.setdefault(entry.kind, OrderedDict())[entry.ticket] = entry
        self.messages += 1
        self._bytes += len(entry.payload)
        if entry.id is not None:
            self._requests[entry.id] = entry
        return True

    def first(self, holding: Hold = Hold.NONE) -> Waiting | None:
        """The one that has waited longest of those that are not held back."""
        found = None
        for kind, line in self._lines.items():
            if kind < holding:
                entry = next(iter(line.values()))
                if found is None or entry.ticket < found.ticket:
                    found = entry
        return found

    def events(self) -> list[Waiting]:
        """The events on the main channel and on named ones."""
        line = self._lines.get(Kind.EVENT)
        return [] if line is None else list(line.values())

    def take(self, entry: Waiting) -> None:
        """It waits no longer."""
        line = self._lines[entry.kind]
        del line[entry.ticket]
        if not line:
            del self._lines[entry.kind]
        self.messages -= 1
        self._bytes -= len(entry.payload)
        if entry.id is not None:
            del self._requests[entry.id]

    def take_request(self, i: int) -> Waiting | None:
        """Take request ``i`` out, if it waits."""
        entry = self._requests.get(i)
        if entry is not None:
            self.take(entry)
        return entry

    def take_requests(self) -> list[Waiting]:
        """Take all requests out; events stay."""
        entries = list(self._requests.values())
        for entry in entries:
            self.take(entry)
        return entries
