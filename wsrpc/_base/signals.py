"""Handlers for signals in an event loop."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable


def handle_signal(loop: asyncio.AbstractEventLoop, number: int, callback: Callable[[], object]) -> None:
    """Call ``callback`` in ``loop`` at each signal ``number``. Call this in the main thread.

    `signal.signal` alone is not enough: Python runs its function when the main thread goes on, and a signal that comes
    just before the loop begins to wait does not wake it. On a server or client, the next timer can be 18 seconds away.
    """
    try:
        loop.add_signal_handler(number, callback)
    except NotImplementedError:  # on Windows, where signals wake asyncio's event loop without this

        def handle(number: int, frame: object) -> None:
            loop.call_soon_threadsafe(callback)

        signal.signal(number, handle)
