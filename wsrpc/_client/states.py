"""The states of a client, and what each thing that happens does in each of them, as data.

`docs/drops.md` shows this table; a test makes it from here, and another one plays every cell with a real client.
"""

from __future__ import annotations

from enum import Enum
from typing import Literal, get_args

__all__ = ["STATES", "TABLE", "ClientState", "Input", "after"]

ClientState = Literal["idle", "connecting", "waiting", "opening", "connected", "closing", "closed"]
"""`Client.state`: ``"waiting"`` is between two attempts, ``"opening"`` while `open` and `on_reconnect` handlers run. A
closed client, or one that has given up, can be connected again."""

STATES: tuple[ClientState, ...] = get_args(ClientState)


class Input(Enum):
    """What can happen: calls of the user first, then what the line and the clock do."""

    __hash__ = object.__hash__  # that of Enum is a Python function, and the table is asked often

    CONNECT = "connect()"
    BIND = "bind()"
    CLOSE = "close()"
    CANCELLED = "`connect()` is cancelled"
    DIALED = "an attempt succeeds"
    FAILED = "an attempt fails"
    AGAIN = "the wait is over"
    GAVE_UP = "there will be no attempt any more"
    OPENED = "the `open` and `on_reconnect` handlers are done"
    DROPPED = "the connection ends, it is dialed again"
    LEFT = "the connection ends, nothing dials"
    CLOSED = "everything has ended"


# The last call decides: whoever still waits in an earlier one is told.
DIALS, USES, ENDS = "dials", "uses that connection", "ends, and says so to whoever waits for a connection"
DIALED_ANEW = "dials, while the old connection goes on closing"
INSTEAD = "uses that connection, the dialing stops"
REPLACES = "closes the old connection with 1001, ends what was pending on it and uses the new one"
WAITS = "waits for it, too"
CLOSES = "writes what was accepted, then the Close frame"

TABLE: dict[ClientState, dict[Input, tuple[ClientState, str]]] = {
    "idle": {
        Input.CONNECT: ("connecting", DIALS),
        Input.BIND: ("opening", USES),
        Input.CLOSE: ("closing", ENDS),
    },
    "connecting": {
        Input.CONNECT: ("connecting", WAITS),
        Input.BIND: ("opening", INSTEAD),
        Input.CLOSE: ("closing", "stops dialing; `connect()` raises `ConnectionLost`"),
        Input.CANCELLED: ("idle", "stops dialing, unless somebody else waits, or a drop began it"),
        Input.DIALED: ("opening", "calls the `open` handlers, then those of `on_reconnect`"),
        Input.FAILED: ("waiting", "logs a warning and waits, longer each time"),
        Input.GAVE_UP: ("closed", "`connect()` raises why; what waited fails as `not_sent`"),
    },
    "waiting": {
        Input.CONNECT: ("waiting", WAITS),
        Input.BIND: ("opening", INSTEAD),
        Input.CLOSE: ("closing", "stops waiting; `wait_connected()` raises `ConnectionLost`"),
        Input.CANCELLED: ("idle", "stops dialing, unless somebody else waits, or a drop began it"),
        Input.AGAIN: ("connecting", DIALS),
        Input.GAVE_UP: ("closed", "`connect()` raises why; what waited fails as `not_sent`"),
    },
    "opening": {
        Input.CONNECT: ("opening", "waits for its handlers, too"),
        Input.BIND: ("opening", REPLACES),
        Input.CLOSE: ("closing", "writes what was accepted, the queue too, then the Close frame"),
        Input.OPENED: ("connected", "sends the queue"),
        Input.DROPPED: ("waiting", "cancels these handlers, keeps the queue"),
        Input.LEFT: ("idle", "cancels these handlers, keeps the queue for another `bind()`"),
        Input.GAVE_UP: ("closed", "cancels these handlers; what waited fails as `not_sent`"),
    },
    "connected": {
        Input.CONNECT: ("connected", "returns"),
        Input.BIND: ("opening", REPLACES),
        Input.CLOSE: ("closing", CLOSES),
        Input.DROPPED: ("waiting", "ends what was pending as `unknown`"),
        Input.LEFT: ("idle", "ends what was pending as `unknown`"),
        Input.GAVE_UP: ("closed", "ends what was pending as `unknown`"),
    },
    "closing": {
        Input.CONNECT: ("connecting", DIALED_ANEW),
        Input.BIND: ("opening", "uses that connection, while the old one goes on closing"),
        Input.CLOSE: ("closing", WAITS),
        Input.CLOSED: ("closed", "`close()` returns"),
    },
    "closed": {
        Input.CONNECT: ("connecting", DIALS),
        Input.BIND: ("opening", USES),
        Input.CLOSE: ("closing", "nothing is left to do"),
    },
}


def after(state: ClientState, happened: Input) -> ClientState:
    """The state that follows."""
    if happened not in TABLE[state]:
        raise AssertionError(f"{happened.value}: cannot happen while a client is {state}")
    return TABLE[state][happened][0]
