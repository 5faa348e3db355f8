"""Where a message goes, by the state of the session and by what the message belongs to: the table `PLACES`."""

from __future__ import annotations

from enum import Enum

from .phase import Phase


class Scope(Enum):
    """What a message belongs to."""

    STARTED = "something that has started"
    """An anonymous channel, a stream, or an `open` handler."""
    SESSION = "the session"
    """All other messages of a server, and of a client that does not connect again."""
    PEER = "the peer"
    """All other messages of a client."""


class Place(Enum):
    """Where a message goes."""

    NOW = "it is sent now"
    ROOM = "its caller waits, with the arguments of its call, until the session has room, or the server has greeted"
    GREETING = "its caller waits until the remote peer has said whether it knows keys"
    CAPACITY = "its caller waits until the remote peer has room for the request"
    HELD = "it waits, encoded, and is sent as soon as its session has another connection"
    QUEUE = "it waits, encoded, for the `open` handlers or for the next session"


PLACES: dict[Phase, dict[Scope, Place | None]] = {
    Phase.STOPPED: {Scope.STARTED: None, Scope.SESSION: None, Scope.PEER: None},
    Phase.EXPECTED: {Scope.STARTED: None, Scope.SESSION: None, Scope.PEER: Place.QUEUE},
    Phase.AWAY: {Scope.STARTED: Place.HELD, Scope.SESSION: Place.HELD, Scope.PEER: Place.HELD},
    Phase.AWAY_NOT_OPEN: {Scope.STARTED: Place.HELD, Scope.SESSION: Place.HELD, Scope.PEER: Place.QUEUE},
    Phase.OPENING: {Scope.STARTED: Place.NOW, Scope.SESSION: Place.NOW, Scope.PEER: Place.QUEUE},
    Phase.FINISHING: {Scope.STARTED: Place.NOW, Scope.SESSION: Place.NOW, Scope.PEER: Place.NOW},
    Phase.DRAINING: {Scope.STARTED: Place.NOW, Scope.SESSION: None, Scope.PEER: Place.QUEUE},
    Phase.OPEN: {Scope.STARTED: Place.NOW, Scope.SESSION: Place.NOW, Scope.PEER: Place.NOW},
}
"""Where a message goes if there is room for it, by its `Phase` and its scope.

None: the message fails. `Outbox` also decides whether its caller has to wait for room.
"""
