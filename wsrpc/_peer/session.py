"""`Session`: one conversation with the remote peer, which has a link or none for a while."""

from __future__ import annotations

import asyncio
import contextvars
from enum import Enum

from .._base.scheduler import Scheduler
from .._channels.core import ChannelTable
from .._handlers.invocation import Invocation
from .._sending.link import Link

__all__ = ["TABLE", "Session", "SessionInput", "SessionState"]


class SessionState(Enum):
    """State of a session."""

    __hash__ = object.__hash__  # that of Enum is a Python function, and the table is asked often

    NEW = "new"
    """It has not had a connection yet."""
    ATTACHED = "attached"
    DETACHED = "detached"
    """Its connection is lost, and it may go on over another one."""
    RESUMING = "resuming"
    """The client has another connection, and has asked the server to go on."""
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

`docs/reference/states.md` shows this table. Tests compare the two, and play each cell.
"""


class Session:
    """One conversation of two peers: the requests that are being handled, and the anonymous channels.

    It is thrown away when it is over. A callback that comes late holds a session that is over, and can see that.
    """

    __slots__ = ("_gone", "active", "channels", "context", "end_reason", "link", "paused", "state")

    def __init__(self, channels: ChannelTable) -> None:
        self.channels = channels
        self.active: dict[int, Invocation] = {}
        """Requests of the remote peer that are being handled, by id."""
        self.context = contextvars.copy_context()
        """Each handler runs in a copy of it, so that what it sets is seen by no other one."""
        self.link: Link | None = None
        self.state = SessionState.NEW
        self.end_reason: Exception | None = None
        """Why it has ended: what handlers are cancelled with, because nobody can get their answers."""
        self.paused: asyncio.Future[None] | None = None
        """Set while no handler may start, because a Close frame is queued. Done when the session is over, or goes on
        over another connection."""
        self._gone: asyncio.Future[None] | None = None
        """Done once the session is over and its `close` handlers were called. None unless something waits for that."""

    @property
    def detached(self) -> bool:
        """Whether it has no connection, but may go on over another one."""
        return self.state is SessionState.DETACHED or self.state is SessionState.RESUMING

    @property
    def over(self) -> bool:
        """Whether the session has ended, so that nobody waits for an answer in it."""
        return self.state is SessionState.OVER

    def attach(self, link: Link, happened: SessionInput = SessionInput.BOUND) -> None:
        """Begin, or go on, on ``link``."""
        self.move(happened)
        self.link = link

    def detach(self) -> None:
        """Go on without a connection, until there is another one."""
        self.move(SessionInput.CUT)
        self.link = None
        self.end_reported()

    def end(self, happened: SessionInput) -> None:
        """End the session with everything in it."""
        self.move(happened)
        self.link = None

    def pause(self, loop: Scheduler) -> None:
        """Let no handler start: a Close frame is queued. Idempotent."""
        if self.paused is None:
            self.paused = loop.create_future()

    def unpause(self) -> None:
        """Let handlers start: there is another connection. Idempotent."""
        paused, self.paused = self.paused, None
        if paused is not None:
            paused.set_result(None)

    def orphan_calls(self, reason: Exception) -> None:
        """Cancel the handlers of requests: the session is over, so nobody can get their answers.

        Handlers of events that have started finish.
        """
        self.end_reason = reason
        for call in list(self.active.values()):
            call.orphan(reason)
        self.active.clear()
        if self.paused is not None:
            self.paused.set_result(None)  # ends handlers that wait to start

    def end_reported(self) -> None:
        """Wake what waits in `wait_gone`."""
        gone, self._gone = self._gone, None
        if gone is not None and not gone.done():
            gone.set_result(None)

    async def wait_gone(self, loop: Scheduler) -> None:
        """Wait until there is no connection, and if the session is over its `close` handlers were called.

        Cancelling is safe.
        """
        await asyncio.shield(self.gone(loop))

    def gone(self, loop: Scheduler) -> asyncio.Future[None]:
        """Return the future that is done when `wait_gone` returns. Do not cancel it."""
        if self._gone is None:
            self._gone = loop.create_future()
        return self._gone

    def move(self, happened: SessionInput) -> None:
        """Enter the state that follows.

        Raises:
            AssertionError: this cannot happen in the present state.
        """
        cell = TABLE[self.state].get(happened)
        if cell is None:
            raise AssertionError(f"{happened.value}: cannot happen while a session is {self.state.value}")
        self.state = cell[0]

    def __repr__(self) -> str:
        return f"<Session {self.state.value} active={len(self.active)} channels={len(self.channels)}>"
