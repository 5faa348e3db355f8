"""`Lifetime`: the state of a server. The effect of each call and event in each state is data, in `TABLE`.

A test plays every cell of the table with a real server.
"""

from __future__ import annotations

import asyncio
from enum import Enum
from typing import Literal, get_args

from .._base.scheduler import LoopScheduler

ServerState = Literal["open", "draining", "closing", "closed", "abandoned"]
"""A server is ``"open"`` when it is made. It is ``"abandoned"`` when its event loop was closed without
`Server.close`."""

STATES: tuple[ServerState, ...] = get_args(ServerState)


class ServerInput(Enum):
    """Calls and events that can change the state of a server."""

    __hash__ = object.__hash__  # `Enum.__hash__` is a Python function, and the table is read often

    OPEN = "open()"
    ACCEPT = "accept()"
    DRAIN = "close(drain_timeout=...)"
    CLOSE = "close()"
    DRAINED = "all work is done, or the time is over"
    ENDED = "everything has ended, or the task that closes the server is cancelled"
    LOOP_CLOSED = "the event loop is closed"


REFUSES = "closes the connection with 1012 and raises `ConnectionLost`; handshakes get 503"
OPENS = "begins anew: no peers, no members of rooms, `stats` from 0"
STILL = "raises `RuntimeError`"

TABLE: dict[ServerState, dict[ServerInput, tuple[ServerState, str]]] = {
    "open": {
        ServerInput.OPEN: ("open", "nothing"),
        ServerInput.ACCEPT: ("open", "serves the connection"),
        ServerInput.DRAIN: ("draining", "refuses connections and new requests, and waits for active work"),
        ServerInput.CLOSE: ("closing", "refuses connections, closes those that are there, and waits for handlers"),
        ServerInput.LOOP_CLOSED: ("abandoned", "nothing"),
    },
    "draining": {
        ServerInput.OPEN: ("draining", STILL),
        ServerInput.ACCEPT: ("draining", REFUSES),
        ServerInput.DRAIN: ("draining", "ends the drain sooner, if the new time ends sooner"),
        ServerInput.CLOSE: ("draining", "ends the drain now"),
        ServerInput.DRAINED: ("closing", "closes the connections that are left, and waits for handlers"),
        ServerInput.ENDED: ("closed", "leaves the connections as they are"),
        ServerInput.LOOP_CLOSED: ("closed", "nothing"),
    },
    "closing": {
        ServerInput.OPEN: ("closing", STILL),
        ServerInput.ACCEPT: ("closing", REFUSES),
        ServerInput.DRAIN: ("closing", "waits for the end"),
        ServerInput.CLOSE: ("closing", "waits for the end"),
        ServerInput.ENDED: ("closed", "lets `close()` and `serve_forever()` return"),
        ServerInput.LOOP_CLOSED: ("closed", "nothing"),
    },
    "closed": {
        ServerInput.OPEN: ("open", OPENS),
        ServerInput.ACCEPT: ("closed", REFUSES),
        ServerInput.DRAIN: ("closed", "returns"),
        ServerInput.CLOSE: ("closed", "returns"),
        ServerInput.LOOP_CLOSED: ("closed", "nothing"),
    },
    "abandoned": {
        ServerInput.OPEN: ("open", OPENS),
        ServerInput.ACCEPT: ("open", "begins anew, and serves the connection in the present event loop"),
        ServerInput.DRAIN: ("closed", "forgets the old connections"),
        ServerInput.CLOSE: ("closed", "forgets the old connections"),
        ServerInput.LOOP_CLOSED: ("abandoned", "nothing"),
    },
}


def after(state: ServerState, happened: ServerInput) -> ServerState:
    """Return the state after ``happened``."""
    if happened not in TABLE[state]:
        raise AssertionError(f"{happened.value}: cannot happen while a server is {state}")
    return TABLE[state][happened][0]


class Lifetime:
    """The state of a server, from its opening to its end. Only `happened` changes it.

    Args:
        scheduler: that of the event loop in which the server serves.
    """

    def __init__(self, scheduler: LoopScheduler) -> None:
        self._scheduler = scheduler
        self._state: ServerState = "open"
        self._ended = asyncio.Event()

    @property
    def state(self) -> ServerState:
        """The state, also after the event loop was closed."""
        return after(self._state, ServerInput.LOOP_CLOSED) if self._scheduler.has_ended else self._state

    @property
    def accepts(self) -> bool:
        """Whether connections are accepted, and sessions outlive them. If not, the server is closing or was closed."""
        return self._state == "open" or self.state == "abandoned"  # one that is open accepts, whatever its loop does

    @property
    def over(self) -> bool:
        """Whether the server has to be opened again before it can listen."""
        return self.state in ("closed", "abandoned")

    def happened(self, what: ServerInput) -> None:
        """Change the state after a call or an event."""
        if what is ServerInput.ENDED:
            self._ended.set()
            if self._scheduler.has_ended:  # the event loop was closed, and the task collected later
                return
        self._state = after(self.state, what)

    async def wait_ended(self) -> None:
        """Wait for the end. Return at once if the connections are being closed already. Cancelling is safe."""
        if self.accepts or self.state == "draining":
            await self._ended.wait()
