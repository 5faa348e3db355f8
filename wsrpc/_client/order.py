"""`Order`: everything that follows from one `connect`, `bind` or `close` of the user."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from .._base.scheduler import spawn_later
from .dialing import Dialing

__all__ = ["Order"]


class Order:
    """What goes on in a client because of the user's last `connect`, `bind` or `close`.

    The next one ends it and makes another, so whatever comes late from this one can see that it is not the client's
    present order. A client that has none yet, or whose `connect` was cancelled, has an empty order.
    """

    def __init__(self, dialing: Dialing | None = None) -> None:
        self.dialing = dialing
        """None for a `close`, and for a client without a URL."""
        self._closing: asyncio.Task[None] | None = None

    @property
    def is_first(self) -> bool:
        """Whether it is a `connect` that has not had an open connection yet, and raises why it gets none."""
        return self.dialing is not None and self.dialing.first

    def stop_timers(self) -> None:
        """Let go of the event loop."""
        if self.dialing is not None:
            self.dialing.stop_timers()

    def end(self) -> asyncio.Task[None] | None:
        """Stop all of it but a `close`. Returns the task of the dialing, if it takes another moment to end."""
        return None if self.dialing is None else self.dialing.stop()

    @property
    def closing(self) -> asyncio.Task[None] | None:
        """The task of a `close` that has not ended."""
        return None if self._closing is None or self._closing.done() else self._closing

    def close(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run a `close`, which goes on when its caller is cancelled."""
        self._closing = task = spawn_later(coroutine)
        return task
