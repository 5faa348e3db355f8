"""What a server tells the members of a room: `Joined`, and `Present` for each user."""

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


class Present(Struct, frozen=True):
    """A user who is present in a room.

    Attributes:
        user: the principal of the user's connections if it is text or a number, and otherwise the id of the peer.
        state: "online" if one of the user's connections is connected. "away" if all are detached or have ended, but
            the grace time of the room is not over. "offline" for a user who has left.
        about: what the user's connections say of themselves: the ``about`` with which each of them has joined.
    """

    user: str | int
    state: Literal["online", "away", "offline"]
    about: tuple[Any, ...] = ()
