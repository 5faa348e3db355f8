"""`Opening`: the beginning of a session, while the `open` handlers run, and then the `on_reconnect` handlers."""

from __future__ import annotations

import asyncio
import logging
from enum import Enum
from functools import partial

from ..._base.scheduler import Timer
from ...errors import ChannelClosed, ConnectionLost, parts_of
from ..session.peer_host import PeerHost
from ..session.session import Session
from ..wire.messages import WireMessage
from .invocation import CURRENT, Invocation
from .lifecycle import Stage


class OpeningState(Enum):
    """How far the opening of a session is."""

    AHEAD = "the session has not started"
    OPEN = "`open` handlers run"
    RECONNECT = "`on_reconnect` handlers run"
    DONE = "the handlers are done or overdue, so that every message may be sent and handled"
    CLOSED = "this side has closed the session before the handlers were done: the handlers continue"
    CUT = "the session has ended for another reason before the handlers were done: the handlers are cancelled"


_DONE = OpeningState.DONE  # a constant, because Python 3.11 looks members of an enum up slowly


class Opening:
    """The beginning of one session: the `open` handlers run, and then the `on_reconnect` handlers.

    Messages that are sent within these handlers leave at once. Other messages of the user wait. Received messages wait,
    too, as ``WAITING`` of ``_core.peer.admission`` says. Each of the two stages lasts at most `Limits.open_timeout`.
    Handlers that take longer run on, and nothing waits for them any more.
    """

    __slots__ = (
        "_host",
        "_reporter",
        "_session",
        "_stage",
        "_timer",
        "holds_back",
        "invocations",
        "running",
        "state",
        "tasks",
    )

    def __init__(self, session: Session, host: PeerHost) -> None:
        self._session = session
        self._host = host
        self._reporter = host.reporter
        self.state = OpeningState.AHEAD
        self.holds_back = False
        """Whether received messages wait for the handlers."""
        self.invocations: tuple[Invocation, ...] = ()
        """The calls of the handlers, one for each stage that has started. Messages sent within them leave at once."""
        self.running: asyncio.Future[None] | None = None
        """Done when the handlers that take time are done or overdue. None if no such handlers run now."""
        self.tasks: tuple[asyncio.Task[None], ...] = ()
        """The tasks of the handlers that take time. The task of the present stage is the last."""
        self._stage: Stage | None = None
        """The present stage, if its handlers take time."""
        self._timer: Timer | None = None

    def __repr__(self) -> str:
        return f"<Opening {self.state.name}>"

    @property
    def done(self) -> bool:
        """Whether the handlers are done or overdue, so that every message may be sent."""
        return self.state is _DONE

    def in_handler(self) -> bool:
        """Return whether the current code is one of the handlers, or a task that one of them has made."""
        invocation = CURRENT.get(None)
        return invocation is not None and invocation in self.invocations

    # ------------------------------------------------------------ its course

    def start(self, invocation: Invocation) -> None:
        """Call the `open` handlers within ``invocation``, and continue until a handler takes time.

        Handlers that take time run on in ``tasks``. When they are done, `PeerSession.finish_opening` is called. If no
        handler takes time, the caller calls it.
        """
        self.state, self.holds_back = OpeningState.OPEN, True
        # One of the two sides handles requests meanwhile. Otherwise the handlers of both sides could wait for each
        # other.
        stage = self._enter(invocation)
        stage.fire(self._reporter.registries, "open", (invocation.peer,))
        if self._session.over:  # a handler has bound another transport, and the new session has its own opening
            stage.abandon()
            return
        stage.unfinished.extend(self._host.owner.opening_handlers("open"))
        following = stage if stage.unfinished else self._next_stage()
        if following is not None:
            self.running = self._host.loop.create_future()
            self._run(following)

    def _enter(self, invocation: Invocation) -> Stage:
        self.invocations = (*self.invocations, invocation)
        return Stage(invocation, self._failed)

    def _next_stage(self) -> Stage | None:
        """Call the `on_reconnect` handlers, after the `open` handlers. Return None if all are finished."""
        if self.state is not OpeningState.OPEN or not self._session.state.accepts_messages:
            return None
        unfinished = self._host.owner.opening_handlers("on_reconnect")
        if not unfinished:
            return None
        stage = self._enter(Invocation(self._reporter.peer(), WireMessage(a=["on_reconnect"])))
        stage.unfinished.extend(unfinished)
        self.state = OpeningState.RECONNECT
        return stage

    def _run(self, stage: Stage) -> None:
        """Run the handlers of a stage that take time. The first step of an eager task may end the session."""
        loop, self._stage = self._host.loop, stage
        self._timer = loop.call_at(loop.time() + self._patience, self._late)
        task = stage.context.run(self._reporter.spawn, stage.complete())
        self.tasks = (*self.tasks, task)
        task.add_done_callback(partial(self._finished, stage))
        if self.state is OpeningState.CUT:
            self._cancel()

    @property
    def _patience(self) -> float:
        return self._session.negotiation.limits.open_timeout

    def _finished(self, stage: Stage, task: asyncio.Task[None]) -> None:
        stage.abandon()  # if the task was cancelled before its first step
        if stage is self._stage:  # otherwise it was overdue
            self._continue()

    def _late(self) -> None:
        if self._stage is not None and self._stage.unfinished:
            event, handlers = self._stage.unfinished[0][0], ", ".join(label for _, label, _ in self._stage.unfinished)
            text = "the handler of %r %s has not finished within %g s: messages no longer wait for it"
            self._host.log(logging.WARNING, text, event, handlers, self._patience)
            self._continue()

    def _continue(self) -> None:
        """Start the next stage, or end."""
        stage = self._next_stage()
        if stage is None:
            self._end()
            self._host.current.finish_opening()
        else:
            self._stop_timer()
            self._run(stage)

    def _failed(self, event: str, name: str, exc: BaseException) -> None:
        """Log that a handler has raised ``exc``."""
        if not self._session.state.accepts_messages and _is_end_of_connection(exc):
            # The handler has not failed. One of its requests has raised because the session has ended. This happens
            # before the handler is cancelled, or if the user closes the session, which does not cancel handlers.
            text = "the handler of %r, %s, did not finish, as the connection ended: %s"
            self._host.log(logging.INFO, text, event, name, exc)
        else:
            self._reporter.failed(event, name, exc)

    # ------------------------------------------------------------ its end

    def finish(self) -> None:
        """Stop holding back messages, because the handlers are done or overdue."""
        self.state, self.holds_back, self.invocations = _DONE, False, ()
        self._host.current.update()

    def end_session(self) -> None:
        """End the opening with the session: cancel the handlers, and wake the callers that wait for them.

        If this side has closed the session, the handlers are not cancelled: one of them may have closed it.
        """
        if self.state is _DONE:
            return
        self.state = OpeningState.CLOSED if self._session.last_close.user_closed else OpeningState.CUT
        if self.running is not None:
            if self.state is OpeningState.CUT:
                self._cancel()
            self._end()

    def _cancel(self) -> None:
        for task in self.tasks:
            task.cancel("the connection ended")

    def _end(self) -> None:
        """Wake the callers that wait, and release the handlers that take time."""
        running, self.running = self.running, None
        if running is not None:
            running.set_result(None)
        self._stop_timer()
        self._stage = None
        self.tasks = ()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _is_end_of_connection(exc: BaseException) -> bool:
    """Return whether an exception, or each exception of a group, only says that a connection has ended."""
    return all(isinstance(each, (ConnectionLost, ChannelClosed)) for each in parts_of(exc))
