"""`Session`: one conversation with the remote peer, which has a link or none for a while."""

from __future__ import annotations

import asyncio
import contextvars
from typing import Any

from msgspec import Struct

from .._base.scheduler import Scheduler
from .._channels.core import ChannelCore
from .._channels.table import ChannelTable
from .._handlers.compiled import Handler
from .._handlers.invocation import Invocation
from .._protocol.counting import memory_of
from .._protocol.rejections import bounded_reason
from .._sending.link import Link
from ..errors import ChannelClosed

__all__ = ["Call", "Session"]


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
    _memory: int | None = None

    @property
    def memory(self) -> int:
        """Bytes that its decoded message takes, about. It is measured when this is first asked for."""
        if self._memory is None:
            self._memory = memory_of(self.ctx.inbound.a)
        return self._memory

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

    __slots__ = ("_gone", "active", "channels", "context", "end_reason", "link", "over", "paused")

    def __init__(self, channels: ChannelTable) -> None:
        self.channels = channels
        self.active: dict[int, Call] = {}
        """Requests of the remote peer that are being handled, by id."""
        self.context = contextvars.copy_context()
        """Each handler runs in a copy of it, so that what it sets is seen by no other one."""
        self.link: Link | None = None
        """None before it begins, and once it is over."""
        self.over = False
        """Whether the session has ended, so that nobody waits for an answer in it."""
        self.end_reason: Exception | None = None
        """Why it has ended: what handlers are cancelled with, because nobody can get their answers."""
        self.paused: asyncio.Future[None] | None = None
        """Set while no handler may start, because a Close frame is queued. Done when the session is over, or goes on
        over another connection."""
        self._gone: asyncio.Future[None] | None = None
        """Done once the session is over and its `close` handlers were called. None unless something waits for that."""

    def begin(self, link: Link) -> None:
        """Begin."""
        self.link = link

    def end(self) -> None:
        """End."""
        self.over = True
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

    def __repr__(self) -> str:
        return f"<Session{' over' if self.over else ''} active={len(self.active)} channels={len(self.channels)}>"
