"""`Order`: everything that follows from one `connect`, `bind` or `close` of the user."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from .._base.scheduler import spawn_later
from .dialing import Dialing


class Order:
    """The work that a client does for the user's last `connect`, `bind` or `close`.

    The next call of these ends the order and makes a new one. Work that finishes late compares its order with the
    client's present one, and changes nothing if they differ. Before the first call, and after a `connect` that was
    cancelled, a client has an empty order.
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
