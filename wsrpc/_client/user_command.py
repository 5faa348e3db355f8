"""`UserCommand`: the work that a client does for the user's last call."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from .._base.scheduler import spawn_later
from .dialing import Dialing


class UserCommand:
    """The work that a client does for the user's last call of `connect`, `start`, `bind` or `close`.

    The next of these calls ends the command and makes a new one. Work that finishes late compares its command with the
    present command of the client, and changes nothing if they differ. Before the first call, and after a `connect` that
    was cancelled, a client has an empty command.
    """

    def __init__(self, dialing: Dialing | None = None) -> None:
        self.dialing = dialing
        """None for `close`, and for a client without a URL."""
        self.is_last = False
        """Whether the client cannot dial, and no other `bind` follows."""
        self._closing: asyncio.Task[None] | None = None

    @property
    def is_first(self) -> bool:
        """Whether the command is a `connect` that has had no open connection yet, and raises why it gets none."""
        return self.dialing is not None and self.dialing.first

    @property
    def attempts(self) -> int:
        """Number of attempts since there was an open connection."""
        return 0 if self.dialing is None else self.dialing.attempts

    def stop_timer(self) -> None:
        """Stop the timer of the dialing."""
        if self.dialing is not None:
            self.dialing.stop_deadline_timer()

    @property
    def closing(self) -> asyncio.Task[None] | None:
        """The task of a `close` that has not ended."""
        return None if self._closing is None or self._closing.done() else self._closing

    def close(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run a `close` in a task, which continues when its caller is cancelled."""
        self._closing = task = spawn_later(coroutine)
        return task
