"""States of a server, and the effect of each call and event in each of them, as data.

A test plays every cell of the table with a real server.
"""

from __future__ import annotations

from enum import Enum
from typing import Literal, get_args

__all__ = ["STATES", "TABLE", "Input", "ServerState", "after"]

ServerState = Literal["open", "draining", "closing", "closed", "abandoned"]
"""A server is ``"open"`` when it is made. It is ``"abandoned"`` when its event loop was closed without
`Server.close`."""

STATES: tuple[ServerState, ...] = get_args(ServerState)


class Input(Enum):
    """Calls and events that can change the state of a server."""

    __hash__ = object.__hash__  # that of Enum is a Python function, and the table is asked often

    OPEN = "open()"
    ACCEPT = "accept()"
    DRAIN = "close(drain=...)"
    CLOSE = "close()"
    DRAINED = "all work is done, or the time is over"
    ENDED = "everything has ended, or the shutdown's task is cancelled"
    LOOP_CLOSED = "the event loop is closed"


REFUSES = "closes the connection with 1012 and raises `ConnectionLost`; handshakes get 503"
OPENS = "begins anew: no peers, no members of rooms, `stats` from 0"
STILL = "raises `RuntimeError`"

TABLE: dict[ServerState, dict[Input, tuple[ServerState, str]]] = {
    "open": {
        Input.OPEN: ("open", "nothing"),
        Input.ACCEPT: ("open", "serves the connection"),
        Input.DRAIN: ("draining", "refuses connections and new requests, and waits for active work"),
        Input.CLOSE: ("closing", "refuses connections, closes those that are there, and waits for handlers"),
        Input.LOOP_CLOSED: ("abandoned", "nothing"),
    },
    "draining": {
        Input.OPEN: ("draining", STILL),
        Input.ACCEPT: ("draining", REFUSES),
        Input.DRAIN: ("draining", "ends the drain sooner, if the new time ends sooner"),
        Input.CLOSE: ("draining", "ends the drain now"),
        Input.DRAINED: ("closing", "closes the connections that are left, and waits for handlers"),
        Input.ENDED: ("closed", "leaves the connections as they are"),
        Input.LOOP_CLOSED: ("closed", "nothing"),
    },
    "closing": {
        Input.OPEN: ("closing", STILL),
        Input.ACCEPT: ("closing", REFUSES),
        Input.DRAIN: ("closing", "waits for the end"),
        Input.CLOSE: ("closing", "waits for the end"),
        Input.ENDED: ("closed", "lets `close()` and `serve_forever()` return"),
        Input.LOOP_CLOSED: ("closed", "nothing"),
    },
    "closed": {
        Input.OPEN: ("open", OPENS),
        Input.ACCEPT: ("closed", REFUSES),
        Input.DRAIN: ("closed", "returns"),
        Input.CLOSE: ("closed", "returns"),
        Input.LOOP_CLOSED: ("closed", "nothing"),
    },
    "abandoned": {
        Input.OPEN: ("open", OPENS),
        Input.ACCEPT: ("open", "forgets the old connections, and serves this one in the event loop that runs now"),
        Input.DRAIN: ("closed", "forgets the old connections"),
        Input.CLOSE: ("closed", "forgets the old connections"),
        Input.LOOP_CLOSED: ("abandoned", "nothing"),
    },
}


def after(state: ServerState, happened: Input) -> ServerState:
    """The state that follows."""
    if happened not in TABLE[state]:
        raise AssertionError(f"{happened.value}: cannot happen while a server is {state}")
    return TABLE[state][happened][0]
