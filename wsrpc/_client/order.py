"""`Order`: everything that follows from one `connect`, `bind` or `close` of the user."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Coroutine
from typing import Any

from .._base.scheduler import Scheduler, Timer, spawn_later
from ..errors import ConnectionLost
from .dialing import Dialing
from .sleep import WakeWatch

__all__ = ["Order"]


class Order:
    """What goes on in a client because of the user's last `connect`, `bind` or `close`.

    The next one ends it and makes another, so whatever comes late from this one can see that it is not the client's
    present order. A client that has none yet, or whose `connect` was cancelled, has an empty order.
    """

    def __init__(self, dialing: Dialing | None = None, watch: WakeWatch | None = None) -> None:
        self.dialing = dialing
        """None for a `close`, and for a client without a URL."""
        self._watch = watch
        self._context = contextvars.copy_context()
        """The user's context, in which the client dials."""
        self._patience: Timer | None = None
        """Ends a first connection whose `open` handlers take longer than the client dials."""
        self._closing: asyncio.Task[None] | None = None

    # ------------------------------------------------------------ of a connect or a bind

    def dial(self, delay: float | None = None) -> None:
        """Begin to dial, after ``delay`` seconds."""
        assert self.dialing is not None
        self.dialing.begin(delay, self._context.copy())

    @property
    def is_first(self) -> bool:
        """Whether it is a `connect` that has not had an open connection yet, and raises why it gets none."""
        return self.dialing is not None and self.dialing.first

    def gives_up_by(self, time: float) -> bool:
        """Whether the time for its first connection is over at ``time``, by the event loop's clock."""
        deadline = None if self.dialing is None else self.dialing.deadline
        return deadline is not None and deadline <= time

    def limit_opening(self, loop: Scheduler, overdue: Callable[[], None]) -> None:
        """Call ``overdue`` if the first connection is not open when its time is over."""
        if self.dialing is not None and self.dialing.deadline is not None:
            self._patience = loop.call_at(self.dialing.deadline, overdue)

    def connected(self) -> None:
        """There is a connection, whose handlers are about to run."""
        if self.dialing is not None:
            self.dialing.schedule.opened()

    def opened(self) -> None:
        """The handlers of the connection are done."""
        self._cancel_patience()
        if self.dialing is not None:
            self.dialing.opened()

    def dropped(self, error: ConnectionLost) -> float | None:
        """Return the delay before the client dials again, in seconds; None if it is not to.

        Raises:
            Exception: whatever a strategy of the user raises.
        """
        assert self.dialing is not None
        self._cancel_patience()
        return self.dialing.dropped(error)

    def stop_timers(self) -> None:
        """Let go of the event loop."""
        self._cancel_patience()
        if self._watch is not None:
            self._watch.stop()

    def end(self) -> asyncio.Task[None] | None:
        """Stop all of it but a `close`. Returns the task of the dialing, if it takes another moment to end."""
        self.stop_timers()
        return None if self.dialing is None else self.dialing.stop()

    def _cancel_patience(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    # ------------------------------------------------------------ of a close

    @property
    def closing(self) -> asyncio.Task[None] | None:
        """The task of a `close` that has not ended."""
        return None if self._closing is None or self._closing.done() else self._closing

    def close(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run a `close`, which goes on when its caller is cancelled."""
        self._closing = task = spawn_later(coroutine)
        return task
