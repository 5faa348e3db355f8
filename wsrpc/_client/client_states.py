"""The states of a client and its transitions, as data.

`docs/reference/states.md` shows this table. One test compares the page with it, another one plays each cell with a
real client.
"""

from __future__ import annotations

from enum import Enum
from typing import Literal, get_args

ClientState = Literal[
    "idle", "connecting", "waiting", "opening", "connected", "detached", "resuming", "closing", "closed"
]
"""State of a client, as a string.

- ``"idle"``: the client has not begun to connect, or is waiting for `Client.bind`.
- ``"connecting"``: an attempt to connect is in progress.
- ``"waiting"``: the client is waiting between two attempts.
- ``"opening"``: the client has a connection. The `open` handlers are running, followed by the `on_reconnect` functions.
- ``"connected"``: the connection is open.
- ``"detached"``: the connection has dropped, and the session is kept, so that requests in flight can continue. The
  client is waiting between two attempts.
- ``"resuming"``: the session is kept. An attempt to connect is in progress, or the server has been asked to resume the
  session.
- ``"closing"``: `Client.close` is running.
- ``"closed"``: `Client.close` has returned, or the client has stopped trying to connect. You can call `Client.connect`
  again.
"""

STATES: tuple[ClientState, ...] = get_args(ClientState)


AT_REST: frozenset[ClientState] = frozenset({"idle", "closing", "closed"})
"""States in which the client neither has a connection to use nor is about to get one."""


class Input(Enum):
    """Input of the table: first the calls of the user, then what the connection and the clock do."""

    __hash__ = object.__hash__  # Enum's own is a Python function, and the table is read often

    CONNECT = "connect()"
    START = "start()"
    BIND = "bind()"
    CLOSE = "close()"
    CANCELLED = "`connect()` is cancelled"
    DIALED = "an attempt succeeds"
    FAILED = "an attempt fails"
    DELAY_OVER = "the delay is over"
    GAVE_UP = "the client gives up"
    OPENED = "the `open` and `on_reconnect` handlers have finished"
    DROPPED = "the connection ends, and the client will dial again"
    DETACHED = "the connection ends, and the session is kept"
    RESUMED = "the session resumes"
    REOPENED = "the session resumes while `open` or `on_reconnect` handlers are still running"
    REFUSED = "the server does not resume the session"
    LOST = "the session ends"
    DROPPED_NO_URL = "the connection ends, and the client has no URL"
    CLOSED = "the connection and the handlers have ended"


# The last call of the user decides. Earlier calls that still wait get an error.
DIALS, USES, ENDS = "dials", "uses the new connection", "closes; `wait_connected()` raises `ConnectionLost`"
DIALS_ANEW = "dials while the old connection is closing"
INSTEAD = "stops dialing and uses the new connection"
REPLACES = "closes the old connection with 1001, fails its requests in flight, and uses the new connection"
WAITS = "also waits for the connection"
NOTHING = "nothing"
STOPS = "stops dialing, unless another caller is waiting or the client is reconnecting"
FAILS_CONNECT = "`connect()` raises an exception; queued requests fail as `not_sent`"
FAILS = "fails the requests in flight as `unknown`"
CLOSES = "sends the messages accepted so far, then the Close frame"
ENDS_SESSION = "fails the requests in flight with `SessionLost`"

TABLE: dict[ClientState, dict[Input, tuple[ClientState, str]]] = {
    "idle": {
        Input.CONNECT: ("connecting", DIALS),
        Input.START: ("connecting", DIALS),
        Input.BIND: ("opening", USES),
        Input.CLOSE: ("closing", ENDS),
    },
    "connecting": {
        Input.CONNECT: ("connecting", WAITS),
        Input.START: ("connecting", NOTHING),
        Input.BIND: ("opening", INSTEAD),
        Input.CLOSE: ("closing", "stops dialing; `connect()` raises `ConnectionLost`"),
        Input.CANCELLED: ("idle", STOPS),
        Input.DIALED: ("opening", "calls the `open` handlers, then the `on_reconnect` handlers"),
        Input.FAILED: ("waiting", "logs a warning and waits; the delays increase"),
        Input.GAVE_UP: ("closed", FAILS_CONNECT),
    },
    "waiting": {
        Input.CONNECT: ("waiting", WAITS),
        Input.START: ("waiting", NOTHING),
        Input.BIND: ("opening", INSTEAD),
        Input.CLOSE: ("closing", "stops waiting; `wait_connected()` raises `ConnectionLost`"),
        Input.CANCELLED: ("idle", STOPS),
        Input.DELAY_OVER: ("connecting", DIALS),
        Input.GAVE_UP: ("closed", FAILS_CONNECT),
    },
    "opening": {
        Input.CONNECT: ("opening", "waits for the handlers"),
        Input.START: ("opening", NOTHING),
        Input.BIND: ("opening", REPLACES),
        Input.CLOSE: ("closing", "sends the messages accepted so far and the queue, then the Close frame"),
        Input.OPENED: ("connected", "sends the queue"),
        Input.DETACHED: ("detached", "keeps the session; the handlers continue, and their messages wait"),
        Input.DROPPED: ("waiting", "cancels the handlers and keeps the queue"),
        Input.DROPPED_NO_URL: ("idle", "cancels the handlers and keeps the queue for the next `bind()`"),
        Input.GAVE_UP: ("closed", "cancels the handlers; queued requests fail as `not_sent`"),
    },
    "connected": {
        Input.CONNECT: ("connected", "returns"),
        Input.START: ("connected", NOTHING),
        Input.BIND: ("opening", REPLACES),
        Input.CLOSE: ("closing", CLOSES),
        Input.DETACHED: ("detached", "keeps the session; messages wait"),
        Input.DROPPED: ("waiting", FAILS),
        Input.DROPPED_NO_URL: ("idle", FAILS),
        Input.GAVE_UP: ("closed", FAILS),
    },
    "detached": {
        Input.CONNECT: ("detached", WAITS),
        Input.START: ("detached", NOTHING),
        Input.BIND: ("opening", ENDS_SESSION + ", and uses the new connection"),
        Input.CLOSE: ("closing", ENDS_SESSION),
        Input.DELAY_OVER: ("resuming", DIALS),
        Input.LOST: ("waiting", ENDS_SESSION),
        Input.GAVE_UP: ("closed", ENDS_SESSION),
    },
    "resuming": {
        Input.CONNECT: ("resuming", WAITS),
        Input.START: ("resuming", NOTHING),
        Input.BIND: ("opening", ENDS_SESSION + ", and uses the new connection"),
        Input.CLOSE: ("closing", ENDS_SESSION),
        Input.DIALED: ("resuming", "asks the server to resume the session"),
        Input.FAILED: ("detached", "logs a warning and waits; the delays increase"),
        Input.DETACHED: ("detached", "dials again, because the server has not responded to the request to resume"),
        Input.RESUMED: (
            "connected",
            "resends messages that did not arrive, then sends waiting messages; calls the `on_reconnect` handlers",
        ),
        Input.REOPENED: ("opening", "resends messages that did not arrive, then sends the messages of the handlers"),
        Input.REFUSED: ("opening", ENDS_SESSION + "; calls the `open` handlers, then the `on_reconnect` handlers"),
        Input.LOST: ("connecting", ENDS_SESSION),
        Input.GAVE_UP: ("closed", ENDS_SESSION),
    },
    "closing": {
        Input.CONNECT: ("connecting", DIALS_ANEW),
        Input.START: ("connecting", DIALS_ANEW),
        Input.BIND: ("opening", "uses the new connection while the old connection is closing"),
        Input.CLOSE: ("closing", "waits for the earlier `close()`"),
        Input.CLOSED: ("closed", "`close()` returns"),
    },
    "closed": {
        Input.CONNECT: ("connecting", DIALS),
        Input.START: ("connecting", DIALS),
        Input.BIND: ("opening", USES),
        Input.CLOSE: ("closing", "returns immediately"),
    },
}


def after(state: ClientState, happened: Input) -> ClientState:
    """Return the next state.

    Raises:
        AssertionError: ``happened`` cannot happen in ``state``.
    """
    cell = TABLE[state].get(happened)
    if cell is None:
        raise AssertionError(f"{happened.value}: cannot happen while a client is {state}")
    return cell[0]
