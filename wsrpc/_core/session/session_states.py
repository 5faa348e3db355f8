"""The states of a session and its transitions, as data."""

from __future__ import annotations

from enum import Enum
from typing import Literal


class SessionState(Enum):
    """State of a session: its kind of connection, and whether it may resume on another one.

    All attributes of a state follow from these two columns. `docs/reference/states.md` shows them.
    """

    __hash__ = object.__hash__  # Enum's own is a Python function, and the table is read often

    #           its connection; it may resume; meaning
    NEW = (None, False, "The session has not begun.")
    ATTACHED = ("open", False, "The session ends with its connection.")
    RESUMABLE = ("open", True, "Both sides count their messages.")
    DEAD = ("dead", False, "The connection has refused a message, but has not reported its end yet.")
    STRANDED = ("dead", True, "As in `dead`, but the session is kept.")
    DETACHED = (None, True, "The connection has dropped.")
    ASKING = (None, True, "The client has another connection, and has asked the server to resume the session.")
    CLOSING = ("closing", False, "This side closes the connection.")
    OVER = (None, False, "The session has ended.")

    def __init__(self, connection: Literal["open", "dead", "closing"] | None, resumes: bool, meaning: str) -> None:
        self.text = self.name.lower()
        self.connection = connection
        self.resumes = resumes
        """Whether the session may resume on another connection."""
        self.meaning = meaning
        # Attributes instead of properties, because they are read for each message.
        self.sends = connection == "open"
        """Whether messages leave."""
        self.waits = resumes and not self.sends
        """Whether messages wait for another connection. If they neither leave nor wait, they fail."""
        self.accepts_messages = self.sends or self.waits
        self.away = resumes and connection is None
        """Whether the session has no connection, but may resume on another one."""
        self.lives = resumes or connection is not None
        """Whether the session has begun, and is not over."""


class SessionInput(Enum):
    """Input of the table of states."""

    __hash__ = object.__hash__

    STARTED = "the first connection opens"
    COUNTED = "both sides count their messages"
    STOPPED_KEEPING = "too much is kept, or the client is about to close"
    SEND_FAILED = "the connection does not take a message"
    DETACHED = "the connection ends, and the session is kept"
    ASKED = "the client connects again and asks to resume"
    RESUMED = "the session resumes"
    ENDED = "the session cannot be kept"
    REFUSED = "the server does not resume the session"
    EXPIRED = "no connection resumes the session in time"
    OVERFLOWED = "more messages are waiting to be sent than the limits allow"
    REPLACED = "`bind()` uses another connection"
    CLOSED = "this side closes"


_KEEPS = "keeps requests, handlers and channels; messages wait"
_RESUMES = "resends messages that did not arrive, then sends waiting messages"
_OVER = "fails pending requests, cancels request handlers, closes anonymous channels"
_CLOSES = "ignores what arrives; messages fail"
TABLE: dict[SessionState, dict[SessionInput, tuple[SessionState, str]]] = {
    SessionState.NEW: {
        SessionInput.STARTED: (SessionState.ATTACHED, "calls the `open` handlers"),
    },
    SessionState.ATTACHED: {
        SessionInput.COUNTED: (SessionState.RESUMABLE, "keeps sent messages until they have arrived"),
        SessionInput.SEND_FAILED: (SessionState.DEAD, "messages fail"),
        SessionInput.CLOSED: (SessionState.CLOSING, _CLOSES),
        SessionInput.ENDED: (SessionState.OVER, _OVER),
        SessionInput.REPLACED: (SessionState.OVER, _OVER),
    },
    SessionState.RESUMABLE: {
        SessionInput.STOPPED_KEEPING: (SessionState.ATTACHED, "keeps no more messages"),
        SessionInput.SEND_FAILED: (SessionState.STRANDED, "messages wait"),
        SessionInput.DETACHED: (SessionState.DETACHED, _KEEPS),
        SessionInput.CLOSED: (SessionState.CLOSING, _CLOSES),
        SessionInput.ENDED: (SessionState.OVER, _OVER),
        SessionInput.REPLACED: (SessionState.OVER, _OVER),
    },
    SessionState.DEAD: {
        SessionInput.COUNTED: (SessionState.STRANDED, "messages wait"),
        SessionInput.CLOSED: (SessionState.CLOSING, _CLOSES),
        SessionInput.ENDED: (SessionState.OVER, _OVER),
        SessionInput.REPLACED: (SessionState.OVER, _OVER),
    },
    SessionState.STRANDED: {
        SessionInput.STOPPED_KEEPING: (SessionState.DEAD, "keeps no more messages"),
        SessionInput.DETACHED: (SessionState.DETACHED, _KEEPS),
        SessionInput.CLOSED: (SessionState.CLOSING, _CLOSES),
        SessionInput.ENDED: (SessionState.OVER, _OVER),
        SessionInput.REPLACED: (SessionState.OVER, _OVER),
    },
    SessionState.DETACHED: {
        SessionInput.ASKED: (SessionState.ASKING, "sends nothing else until the server answers"),
        SessionInput.RESUMED: (SessionState.RESUMABLE, _RESUMES),
        SessionInput.EXPIRED: (SessionState.OVER, _OVER),
        SessionInput.OVERFLOWED: (SessionState.OVER, _OVER),
        SessionInput.ENDED: (SessionState.OVER, _OVER),
        SessionInput.REPLACED: (SessionState.OVER, _OVER),
        SessionInput.CLOSED: (SessionState.OVER, _OVER),
    },
    SessionState.ASKING: {
        SessionInput.RESUMED: (SessionState.RESUMABLE, _RESUMES),
        SessionInput.DETACHED: (SessionState.DETACHED, "the client dials again"),
        SessionInput.REFUSED: (SessionState.OVER, _OVER),
        SessionInput.EXPIRED: (SessionState.OVER, _OVER),
        SessionInput.OVERFLOWED: (SessionState.OVER, _OVER),
        SessionInput.ENDED: (SessionState.OVER, _OVER),
        SessionInput.REPLACED: (SessionState.OVER, _OVER),
        SessionInput.CLOSED: (SessionState.OVER, _OVER),
    },
    SessionState.CLOSING: {
        SessionInput.ENDED: (SessionState.OVER, _OVER),
        SessionInput.REPLACED: (SessionState.OVER, _OVER),
    },
    SessionState.OVER: {},
}
"""The states of a session, as data.

`docs/reference/states.md` shows this table. A test compares the two, another one plays each cell.
"""


def after(state: SessionState, happened: SessionInput) -> SessionState:
    """Return the next state.

    Raises:
        AssertionError: ``happened`` cannot happen in ``state``.
    """
    cell = TABLE[state].get(happened)
    if cell is None:
        raise AssertionError(f"{happened.value}: cannot happen while a session is {state.text}")
    return cell[0]
