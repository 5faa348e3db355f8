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
from .._handlers.context import Invocation
from .._sending.link import Link
from ..errors import ChannelClosed

__all__ = ["TRANSITIONS", "Call", "Session", "SessionState"]


class SessionState(Enum):
    """State of a session."""

    __hash__ = object.__hash__  # that of Enum is a Python function, and the table is asked often

    NEW = "new"
    """It has not had a link yet."""
    LINKED = "linked"
    DETACHED = "detached"
    """Its link is lost, and it may get another one."""
    OVER = "over"


TRANSITIONS: dict[SessionState, frozenset[SessionState]] = {
    SessionState.NEW: frozenset({SessionState.LINKED}),
    SessionState.LINKED: frozenset({SessionState.DETACHED, SessionState.OVER}),
    SessionState.DETACHED: frozenset({SessionState.LINKED, SessionState.OVER}),
    SessionState.OVER: frozenset(),
}


class Call(Struct, eq=False):
    """One handler that runs in a task."""

    ctx: Invocation
    handler: Handler | None
    size: int
    """Bytes of the message that called it."""
    session: Session
    """Session in which the message came."""
    by_channel: bool = False
    """The bytes count as held by a channel, not by a handler."""
    task: asyncio.Task[None] | None = None
    started: bool = False
    cancelled: bool = False
    orphaned: bool = False
    """Nobody may get the answer: the connection that asked is gone, or the request has been answered already."""
    thread: asyncio.Future[Any] | None = None
    """Where a ``thread=True`` handler runs; it goes on after a cancellation."""
    channel: ChannelCore | None = None
    """Channel with which the request was answered."""
    lingers: bool = False
    """The channel was over before the handler exited, so that the handler counts as one again until it exits."""
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

    def settle(self) -> None:
        """Remove the call's request from those that await an answer, if it is one of them."""
        i, active = self.ctx.inbound.i, self.session.active
        if active.get(i) is self:
            del active[i]

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

    __slots__ = ("_gone", "active", "channels", "context", "link", "state")

    def __init__(self, channels: ChannelTable) -> None:
        self.channels = channels
        self.active: dict[int, Call] = {}
        """Requests of the remote peer that are being handled, by id."""
        self.context = contextvars.copy_context()
        """Each handler runs in a copy of it, so that what it sets is seen by no other one."""
        self.link: Link | None = None
        self.state = SessionState.NEW
        self._gone: asyncio.Future[None] | None = None
        """Done once the session is over and its `close` handlers were called. None unless something waits for that."""

    @property
    def over(self) -> bool:
        """Whether nobody waits for anything in it any more."""
        return self.state is SessionState.OVER

    def attach(self, link: Link) -> None:
        """Begin, or go on, on ``link``."""
        self._move(SessionState.LINKED)
        self.link = link

    def detach(self) -> None:
        """Go on without a link, until there is another one."""
        self._move(SessionState.DETACHED)
        self.link = None

    def end(self) -> None:
        """End the session with everything in it."""
        self._move(SessionState.OVER)
        self.link = None

    def end_reported(self) -> None:
        """Wake what waits in `wait_gone`: the `close` handlers were called."""
        if self._gone is not None and not self._gone.done():
            self._gone.set_result(None)

    async def wait_gone(self, loop: Scheduler) -> None:
        """Wait until the session is over and its `close` handlers were called. Cancelling is safe."""
        if self._gone is None:
            self._gone = loop.create_future()
        await asyncio.shield(self._gone)

    def _move(self, state: SessionState) -> None:
        if state not in TRANSITIONS[self.state]:
            raise AssertionError(f"a session cannot go from {self.state.value} to {state.value}")
        self.state = state

    def __repr__(self) -> str:
        return f"<Session {self.state.value} active={len(self.active)} channels={len(self.channels)}>"
