"""`Session`: one conversation with the remote peer, which has a link or none for a while."""

from __future__ import annotations

import asyncio
import contextvars
from enum import Enum
from typing import Any

from msgspec import Struct

from .._base.scheduler import Scheduler
from .._channels.core import ChannelCore, ChannelTable
from .._handlers.compiled import Handler
from .._handlers.invocation import Invocation
from .._protocol.rejections import bounded_reason
from .._sending.link import Link
from ..errors import ChannelClosed

__all__ = ["TABLE", "Call", "Session", "SessionInput", "SessionState"]


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


class Call(Struct, eq=False):
    """One handler that runs in a task.

    `started`, `cancelled` and `exited` become True in this order, except that a call may be cancelled before it has
    started, or never. A call that is `orphaned` is also cancelled.

    If the request is answered with a channel, `channel` is set then, and the call `counts_as_channel` until that
    channel is over. A request without a channel is answered when its handler exits: with its result or its exception,
    with a rejection if the call was cancelled and the handler raised CancelledError, or not at all if the call is
    orphaned.
    """

    ctx: Invocation
    handler: Handler | None
    size: int
    """Bytes of the message that called it."""
    session: Session
    """Session in which the message came."""
    bytes_on_channel: bool = False
    """The bytes count as held by a channel, not by a handler. True from the start if the handler is known to open
    one."""
    task: asyncio.Task[None] | None = None
    """None until the task was made, which an eager task's first step precedes."""
    started: bool = False
    """The task has begun."""
    cancelled: bool = False
    """By the remote peer, by the end of the session or of the channel, or because it took too long."""
    orphaned: bool = False
    """Nobody may get the answer: the connection that asked is gone, or the request has been answered already."""
    thread: asyncio.Future[Any] | None = None
    """Where a ``thread=True`` handler runs; it goes on after a cancellation."""
    channel: ChannelCore | None = None
    """Channel with which the request was answered."""
    counts_as_channel: bool = False
    """It counts as an open channel, not as a running handler. If the channel ends before the handler exits, it counts
    as a handler again."""
    exited: bool = False
    lane: asyncio.Lock | None = None
    """Keeps other handlers of its lane waiting."""

    @property
    def is_current(self) -> bool:
        """Whether the call's task is the one that runs now. In an eager first step it is not known yet."""
        try:
            return self.task is None or asyncio.current_task() is self.task
        except RuntimeError:
            return False

    def cancel(self, reason: object) -> None:
        """Cancel the handler, unless it is cancelled already."""
        if self.cancelled:
            return
        self.cancelled = True
        ctx = self.ctx
        ctx.cancel_reason = reason
        if self.started and self.task is not None:
            # Cancelling a task that has not begun would leave its request without an answer. Its first step looks.
            self.task.cancel(bounded_reason(reason))

    def cancellation(self) -> asyncio.CancelledError:
        """Return the exception for a cancelled call, where asyncio does not raise it."""
        return asyncio.CancelledError(bounded_reason(self.ctx.cancel_reason))

    def orphan(self, reason: object) -> None:
        """Cancel the handler, because nobody can get its answer."""
        self.orphaned = True
        self.cancel(reason)

    def settle(self) -> None:
        """Remove the call's request from those that await an answer, if it is one of them."""
        i, active = self.ctx.inbound.i, self.session.active
        if active.get(i) is self:
            del active[i]

    def leave_lane(self) -> None:
        """Let the next handler of the lane run. Idempotent."""
        lane, self.lane = self.lane, None
        if lane is not None:
            lane.release()

    def notices_end(self, exc: BaseException) -> bool:
        """Return whether a conversation's body raised ``exc`` because the remote peer has ended its channel."""
        channel = self.channel
        if channel is None or not channel.closed or channel.left:
            return False
        return exc is channel.error or (isinstance(exc, ChannelClosed) and exc.channel == str(channel.id))


class Session:
    """One conversation of two peers: the requests that are being handled, and the anonymous channels.

    It is thrown away when it is over. A callback that comes late holds a session that is over, and can see that.
    """

    __slots__ = ("_gone", "active", "channels", "context", "end_reason", "link", "paused", "state")

    def __init__(self, channels: ChannelTable) -> None:
        self.channels = channels
        self.active: dict[int, Call] = {}
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
