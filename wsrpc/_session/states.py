"""The states of a session and its transitions, as data."""

from __future__ import annotations

from enum import Enum


class SessionState(Enum):
    """State of a session."""

    __hash__ = object.__hash__  # that of Enum is a Python function, and the table is asked often

    NEW = "new"
    """It has not had a connection yet."""
    ATTACHED = "attached"
    DETACHED = "detached"
    """Its connection is lost, and it may resume on another one."""
    RESUMING = "resuming"
    """The client has another connection, and has asked the server to resume the session."""
    OVER = "over"


class SessionInput(Enum):
    """Input of the table of states."""

    __hash__ = object.__hash__

    BOUND = "the first connection opens"
    CUT = "the connection ends, and the session is kept"
    ASKED = "the client connects again and asks to resume"
    RESUMED = "the session resumes"
    ENDED = "the session cannot be kept"
    REFUSED = "the server does not resume the session"
    EXPIRED = "no connection resumes the session in time"
    OVERFLOWED = "more messages are waiting to be sent than the limits allow"
    CLOSED = "this side calls `close()`"


_RESUMES = "resends messages that did not arrive, then sends waiting messages"
_OVER = "fails pending requests, cancels request handlers, closes anonymous channels"
TABLE: dict[SessionState, dict[SessionInput, tuple[SessionState, str]]] = {
    SessionState.NEW: {
        SessionInput.BOUND: (SessionState.ATTACHED, "calls the `open` handlers"),
    },
    SessionState.ATTACHED: {
        SessionInput.CUT: (SessionState.DETACHED, "keeps requests, handlers and channels; messages wait"),
        SessionInput.ENDED: (SessionState.OVER, _OVER),
    },
    SessionState.DETACHED: {
        SessionInput.ASKED: (SessionState.RESUMING, "sends nothing else until the server answers"),
        SessionInput.RESUMED: (SessionState.ATTACHED, _RESUMES),
        SessionInput.EXPIRED: (SessionState.OVER, _OVER),
        SessionInput.OVERFLOWED: (SessionState.OVER, _OVER),
        SessionInput.ENDED: (SessionState.OVER, _OVER),
        SessionInput.CLOSED: (SessionState.OVER, _OVER),
    },
    SessionState.RESUMING: {
        SessionInput.RESUMED: (SessionState.ATTACHED, _RESUMES),
        SessionInput.CUT: (SessionState.DETACHED, "the client dials again"),
        SessionInput.REFUSED: (SessionState.OVER, _OVER),
        SessionInput.EXPIRED: (SessionState.OVER, _OVER),
        SessionInput.OVERFLOWED: (SessionState.OVER, _OVER),
        SessionInput.ENDED: (SessionState.OVER, _OVER),
        SessionInput.CLOSED: (SessionState.OVER, _OVER),
    },
    SessionState.OVER: {},
}
"""The states of a session, as data.

`docs/reference/states.md` shows this table. A test compares the two.
"""


def after(state: SessionState, happened: SessionInput) -> SessionState:
    """Return the state that follows.

    Raises:
        AssertionError: this cannot happen in ``state``.
    """
    cell = TABLE[state].get(happened)
    if cell is None:
        raise AssertionError(f"{happened.value}: cannot happen while a session is {state.value}")
    return cell[0]
