"""The states in which a peer opens and closes one session, and their transitions, as data."""

from __future__ import annotations

from enum import Enum

__all__ = ["TRANSITIONS", "OutboundState"]


class OutboundState(Enum):
    """State of the opening and closing of one session."""

    __hash__ = object.__hash__  # that of Enum is a Python function, and the table is asked often

    NEW = "new"
    """There was no connection so far."""
    OPENING = "opening"
    """`open` and `on_reconnect` handlers run. Messages that arrive meanwhile wait."""
    OPEN = "open"
    CLOSING = "closing"
    """A closing handshake was begun on this side, by the user or because of a protocol error."""
    LOST = "lost"


TRANSITIONS: dict[OutboundState, frozenset[OutboundState]] = {
    OutboundState.NEW: frozenset({OutboundState.OPENING}),
    OutboundState.OPENING: frozenset({OutboundState.OPEN, OutboundState.CLOSING, OutboundState.LOST}),
    OutboundState.OPEN: frozenset({OutboundState.CLOSING, OutboundState.LOST}),
    OutboundState.CLOSING: frozenset({OutboundState.LOST}),
    OutboundState.LOST: frozenset(),
}
