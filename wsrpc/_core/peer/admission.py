"""`Admission`: decides whether handlers of one session may start now. `WAITING`: which received messages wait."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Iterator
from contextlib import ExitStack
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING, Any

from ..._base.threads import ThreadLimit, Worker, thread_limits
from ...errors import Overloaded, RemoteError, made_here
from ..channels.channel_table import TOO_MANY
from ..channels.source import close_and_log, iterate_in_thread
from ..handlers.invocation import Invocation
from ..sending.answers import Answers
from ..sending.session_writer import SessionWriter

if TYPE_CHECKING:
    from .work import Work


class MessageKind(Enum):
    """The kind of a received message."""

    ON_CHANNEL = "an event or a request on an anonymous channel"
    REQUEST = "any other request"
    EVENT = "any other event"


class ReceivingState(Enum):
    """The state of a session, as far as it decides which received messages wait for their handlers."""

    __hash__ = object.__hash__  # Enum's own is a Python function, and the table is read often

    STOPPED = "the session is full, so that answers cannot be sent, or a Close frame is queued"
    """When the session continues on another connection, this state lasts until the handlers that waited in tasks have
    started."""
    ACCEPTED = "`open` handlers run on the side that accepted"
    DIALED = "`open` handlers run on the side that dialed"
    OPEN = "none of these"


_STOPPED, _ACCEPTED, _DIALED, _OPEN = ReceivingState

WAITING: dict[ReceivingState, tuple[MessageKind, ...]] = {
    ReceivingState.STOPPED: (MessageKind.ON_CHANNEL, MessageKind.REQUEST, MessageKind.EVENT),
    # An `open` handler may have opened a channel and wait for messages on it.
    ReceivingState.ACCEPTED: (MessageKind.REQUEST, MessageKind.EVENT),
    # If requests waited on both sides, the `open` handlers of the two sides could wait for each other.
    ReceivingState.DIALED: (MessageKind.EVENT,),
    ReceivingState.OPEN: (),
}
"""The kinds of received messages that wait in each state. The other kinds are handled, as far as there is room.

A message also waits behind messages that wait for room: see `Work`.
"""


class Admission:
    """Decides whether handlers of one session may start now."""

    __slots__ = ("_answers", "_limits", "_loop", "_work", "_writer", "late", "paused")

    def __init__(self, work: Work, writer: SessionWriter, answers: Answers) -> None:
        self._work = work
        self._answers = answers
        self._loop = writer.loop
        self._writer = writer
        # The limits of threads for calls, and for streams. Made for the first of them, because many peers have none.
        self._limits: tuple[tuple[ThreadLimit, ThreadLimit], ...] = ()
        self.paused: asyncio.Future[None] | None = None
        """A future while no handler may start, because a Close frame is queued. It is done when the session is over, or
        continues on another connection. May be read in any thread."""
        self.late = 0
        """Number of handlers that wait in tasks until ``paused`` is done. Later messages wait, to stay in order."""

    @property
    def state(self) -> ReceivingState:
        """The state of the session, as far as it decides which received messages wait."""
        if self._writer.session.full or self.paused is not None or self.late:
            return _STOPPED
        if self._writer.opening.holds_back:
            return _DIALED if self._writer.session.negotiation.dialer else _ACCEPTED
        return _OPEN

    def pause(self) -> None:
        """Start no handlers from now on: a Close frame is queued. Idempotent."""
        if self.paused is None:
            self.paused = self._loop.create_future()
        self._work.update()

    def unpause(self) -> None:
        """Start handlers again: there is another connection. Idempotent."""
        paused, self.paused = self.paused, None
        if paused is not None:
            paused.set_result(None)

    def session_over(self) -> None:
        """Cancel the handlers that wait until they may start."""
        if self.paused is not None:
            self.paused.set_result(None)

    async def wait_while_paused(self, invocation: Invocation) -> None:
        """Wait while no handler may start.

        Raises:
            asyncio.CancelledError: the session is over.
        """
        self.late += 1
        try:
            while (paused := self.paused) is not None:
                await asyncio.shield(paused)
                if self._writer.session.over:
                    self._answers.ignored["dropped at the end"] += 1
                    invocation.record_orphaned(self._writer.session.end_error)
                    raise invocation.cancellation()
        finally:
            self.late -= 1
            if not self.late:
                self._loop.call_soon(self._work.start_waiting)  # later, so that this handler starts first

    # ------------------------------------------------------------ threads

    async def acquire_thread(self, invocation: Invocation, *, streams: bool) -> Worker:
        """Return the thread for a call, once one is free and the call may start.

        Streams have limits of their own, because each keeps its thread while its consumer reads nothing. So slow
        consumers take no thread from a call.

        Args:
            streams: the call is known to answer with a stream.

        Raises:
            Overloaded: the call is a request, and no thread was free in time; or the system has no more threads.
            asyncio.CancelledError: the session is over.
        """
        settings = self._answers.host.settings
        if not self._limits:
            loop = asyncio.get_running_loop()
            ours = thread_limits(settings.limits.threads, "of this connection use or await", loop)
            # In this order, so that a call which waits for a thread of its connection holds none of the server's.
            self._limits = tuple(zip(ours, settings.threads.limits(loop), strict=True))
        until = self._loop.time() + settings.limits.thread_timeout
        with ExitStack() as held:
            for limit in self._limits[streams]:
                await limit.acquire(self._loop, until, partial(self._no_thread, invocation, limit))
                held.callback(limit.release)
            if self.paused is not None:
                await self.wait_while_paused(invocation)
            try:
                worker = settings.threads.acquire()
            except RuntimeError as exc:
                raise self._overloaded(str(exc)) from exc
            worker.held = held.pop_all()
            return worker

    def _no_thread(self, invocation: Invocation, limit: ThreadLimit, waiting: asyncio.Future[None]) -> None:
        """Reject a request that waits too long. An event waits on, because nobody would learn that it was dropped."""
        why = f"no thread was free for {self._answers.host.settings.limits.thread_timeout:g} s: {limit.reached}"
        if not limit.reported:
            limit.reported = True
            self._answers.log(logging.WARNING, "%s waits: %s", invocation.label, why, call=invocation.log_fields)
        if invocation.id is not None and not waiting.done():
            waiting.set_exception(self._overloaded(f"{why}, ask again later"))

    def _overloaded(self, why: str) -> Overloaded:
        self._answers.ignored["no free thread"] += 1
        return made_here(Overloaded(why))

    def iterate(self, worker: Worker, counted: bool, items: Iterator[Any]) -> AsyncGenerator[Any]:
        """Iterate over what a call has returned, in its thread. From now on, the call counts as a stream.

        Args:
            counted: whether it counts as one already.

        Raises:
            RemoteError: there are too many streams, so the iterator is closed in its thread. The error does not say
                that the handler did not run.
        """
        if not counted:
            calls = worker.held.pop_all()
            for limit in self._limits[True]:
                if not limit.acquire_now():
                    worker.held.push(calls)
                    worker.call(close_and_log, items)
                    raise made_here(RemoteError(f"{limit.reached}, close some or ask again later", TOO_MANY))
                worker.held.callback(limit.release)
            calls.close()
        return iterate_in_thread(items, worker)
