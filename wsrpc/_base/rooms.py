"""Data for the members of a room: `Joined`, `RoomState`, and `Present` for each user."""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Struct

CHANNEL = "rooms"
"""The channel on which clients join and leave rooms, and learn who is present."""


class Joined(Struct, frozen=True):
    """Where the events of a member begin. `ClientRoom.join` and `Room.join` return this object.

    Attributes:
        position: the position in the room's log, up to which the member has all events, or wanted none. None if the
            room has no log.
        complete: whether the member misses nothing after the position with which it has joined.
    """

    position: str | None
    complete: bool


class RoomState(Struct, frozen=True):
    """What the function ``state=`` of `Server.room` returns: the state of a room, for a member that begins with it.

    Attributes:
        value: the state, which the member gets before the events that follow.
        position: the position of the last event that is contained in the value, such as `RoomEvents.position`. Each
            later event is sent, and no other one. None: that of the last event before the function was called; then the
            value may contain some of the events that follow.
    """

    value: Any
    position: str | None = None


class Present(Struct, frozen=True):
    """A user in a room with presence.

    Attributes:
        user: the `Peer.principal` of the user's connections, if it is an integer, or text of at most 256 bytes.
            Otherwise the `Peer.id` of the connection.
        state: ``"online"`` if one of the connections is connected. ``"away"`` if all of them have ended, or wait to
            resume their sessions, and the grace time of the room is not over. Otherwise ``"offline"``.
        about: what the connections say about themselves when they join. Of an online user, only those that are
            connected count.
    """

    user: str | int
    state: Literal["online", "away", "offline"]
    about: tuple[Any, ...] = ()
