"""`RoomOptions`: the options of a room, and which of them fit together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec import Struct

from ..._base.misuse import check_number
from ..._core.api.peer import Peer
from ..._core.sending.slow_readers import Slow, check_slow
from ..decider import Allow, check_decider

GetState = Callable[[Peer], object]
"""A user's function that returns the state of a room for a member: a `RoomState` or its value, perhaps later."""


def check_keep(keep: float) -> None:
    """Check the option ``keep`` of a room.

    Raises:
        TypeError, ValueError: it is not a number of seconds.
    """
    check_number("keep= is a number of seconds, 1 or more", keep, 1)


class RoomOptions(Struct, frozen=True):
    """The options of a room; see `Server.room`. None: the option is not set.

    Raises:
        TypeError, ValueError: the value of an option is not valid.
    """

    allow: Allow | None = None
    slow: Slow | None = None
    keep: float | None = None
    presence: float | None = None
    state: GetState | None = None

    def __post_init__(self) -> None:
        if self.allow is not None:
            check_decider("allow=", ("peer",), self.allow)
        if self.slow is not None:
            check_slow(self.slow)
        if self.keep is not None:
            check_keep(self.keep)
        if self.state is not None:
            check_decider("state=", ("peer",), self.state)
        if self.presence is not None:
            check_number("presence= is a number of seconds, 0 or more", self.presence, 0)

    def merged(self, others: RoomOptions, room: str) -> RoomOptions:
        """Return these options of a room, and others that are not set yet.

        Raises:
            ValueError: the others have another value of an option that is set, or options that do not fit together.
        """
        found: dict[str, Any] = {}
        for option in self.__struct_fields__:
            old, new = getattr(self, option), getattr(others, option)
            if old is not None and new is not None and old != new:
                raise ValueError(f"room {room!r} has {option}={old!r} already, which differs from {new!r}")
            found[option] = new if old is None else old
        merged = RoomOptions(**found)
        if merged.state is not None and merged.keep is None:
            raise ValueError(f"room {room!r} has state=, which needs keep= for the events that follow")
        if merged.slow is not None and merged.keep is not None:
            raise ValueError(f"room {room!r} has keep=, so slow readers get all events later: leave out slow=")
        if merged.state is not None and self.keep is not None and self.state is None:
            raise ValueError(f"room {room!r} exists already: give it state= together with keep=")
        return merged


NO_OPTIONS = RoomOptions()
