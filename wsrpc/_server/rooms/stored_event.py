"""`StoredEvent`: an event of a room that keeps its events, as it is stored and as members get it."""

from __future__ import annotations

from typing import Any

from msgspec import UNSET, Struct

from ..._base.rooms import CHANNEL
from ..._core.wire.call_context import CallContext
from ..._core.wire.messages import event_on
from ..._log.position import Position
from ..broadcast import EventBroadcast

LOST = b""
"""Entry in place of events that are not in the store. It is no event: members are notified that they miss some."""


class StoredEvent(Struct, array_like=True):
    """An event as it is stored.

    Attributes:
        event: the name of the event. Empty for the first entry of a log, which is no event: it gives the first members
            a position.
        skip: the ids and addresses of the peers that do not get the event.
        skip_rooms: rooms whose members do not get the event.
    """

    channel: str | None
    event: str
    args: Any
    metadata: dict[str, str] | None = None
    skip: list[str] = []
    skip_rooms: list[str] = []

    def is_left_out(self, peer: Any, inside: Any) -> bool:
        """Return whether a member does not get the event."""
        rooms = (room.name for room in inside.rooms)
        return peer.id in self.skip or inside.address in self.skip or any(map(self.skip_rooms.count, rooms))

    def message(self, room: str, position: Position) -> EventBroadcast:
        """Return what members get."""
        metadata = UNSET if self.metadata is None else self.metadata
        context = CallContext(metadata=metadata, at=(room, str(position)))
        return EventBroadcast(event_on(self.channel, (self.event, *self.args), context))


def missed(room: str, position: Position) -> StoredEvent:
    """Return the notice that events before a position, or the one there, are missing."""
    return StoredEvent(CHANNEL, "missed", [room, str(position)])


def state_event(room: str, position: Position, value: object) -> StoredEvent:
    """Return the event with the state of a room, which contains all events up to a position."""
    return StoredEvent(CHANNEL, "state", [room, str(position), value])
