"""`SessionEnd`: how a session has ended. `Decision`: what its owner has decided about the end of a connection."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from ..._base.closing import CloseInfo
from ...errors import ConnectionLost, SessionLost, closed_here
from .session_states import SessionInput, SessionState


class Decision(NamedTuple):
    """What the owner of a peer has decided about a connection that has ended."""

    keeps: bool = False
    """Whether the session may wait for another connection."""
    after: float | Exception | None = None
    """Of a client: the seconds until it dials again, or the error with which it gives up. None if it does neither."""


NO_DECISION = Decision()


class SessionEnd(NamedTuple):
    """How a session has ended."""

    cause: SessionInput
    was: SessionState
    """The state before."""
    info: CloseInfo
    """For `close` handlers: how the last connection has ended, or is going to end."""
    closed_with: CloseInfo
    """The answer to a client that asks later to resume the session: with what this side has closed the session, or,
    if this side has not closed it, how its connection has ended."""
    error: ConnectionLost
    """The error of calls in flight."""
    decision: Decision
    """What the owner has decided, if it was asked."""


def end_of(
    was: SessionState,
    cause: SessionInput,
    last_close: CloseInfo,
    info: CloseInfo | None = None,
    why: str = "",
    decision: Decision = NO_DECISION,
) -> SessionEnd:
    """Return how a session ends.

    Args:
        last_close: see `Session.last_close`.
        info: how the connection ends now. None if ``last_close`` says how.
        why: the reason of `SessionLost`, if the session has no connection.
    """
    closing = was is SessionState.CLOSING
    if info is None or (cause is SessionInput.REPLACED and (closing or was.away)):
        info = last_close  # how the last connection has ended stays true when another connection replaces it
    closed_with = last_close if closing else info
    lost = SessionLost(info.code, why) if was.away else ConnectionLost(info.code, info.reason)
    if closed_with.user_closed:  # with whatever code the remote peer has answered
        info = msgspec.structs.replace(info, user_closed=True)
        closed_here(lost)
    return SessionEnd(cause, was, info, closed_with, lost, decision)
