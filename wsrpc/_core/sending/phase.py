"""`Phase`: which messages of a session may be sent."""

from __future__ import annotations

from enum import Enum

from ..handlers.opening import Opening
from ..session.session import Session
from .draining import Draining, DrainPhase


class Phase(Enum):
    """The state of a session, as far as it decides what may be sent. Whether the session has room is not part of it."""

    STOPPED = "there is no session, or it is about to end"
    EXPECTED = "there is no session, or it is about to end, but another one is expected"
    AWAY = "the session waits for another connection"
    AWAY_NOT_OPEN = "the session waits for another connection, on which it will not be `OPEN` at once"
    OPENING = "`open` handlers are running"
    """Or messages in the queue wait until it is known what the remote peer accepts."""
    FINISHING = "the remote peer is about to close, and this side finishes what has started"
    DRAINING = "the remote peer is about to close, and has said so"
    OPEN = "none of these"


def phase_of(session: Session, opening: Opening, draining: Draining, *, terms_known: bool) -> Phase:
    """Return which messages may be sent. ``PLACES`` of ``_core.sending.places`` says where the others go.

    Args:
        terms_known: whether it is known what the remote peer accepts.
    """
    state = session.state
    if not state.accepts_messages:
        return Phase.STOPPED
    if not opening.done or not (terms_known or session.queue_is_empty):
        connected = Phase.OPENING
    elif draining.silent:
        connected = Phase.DRAINING
    elif draining.phase is DrainPhase.FINISHING:
        connected = Phase.FINISHING
    else:
        connected = Phase.OPEN
    if state.sends:
        return connected
    return Phase.AWAY if connected is Phase.OPEN else Phase.AWAY_NOT_OPEN
