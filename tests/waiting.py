"""How a test waits for what nobody tells it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from wsrpc.testing import VirtualTimeLoop

__all__ = ["pause", "settled", "until"]


async def settled(seconds: float = 0.0) -> None:
    """Let ``seconds`` pass, then everything run that can run now. Only in virtual time, which adds 1 ms."""
    await asyncio.sleep(seconds + 0.001)


async def until(condition: Callable[[], object], limit: float = 0.04) -> None:
    """Wait until ``condition`` holds, in virtual time at most ``limit`` seconds, and otherwise at most 60.

    The default is less than each delay of wsrpc: it is for what ought to hold as soon as everything has run that can
    run now. Where a delay has to pass, ``limit`` is a little more than that delay, however long chance may make it.

    Raises:
        TimeoutError: it does not hold.
    """
    async with asyncio.timeout(limit if isinstance(asyncio.get_running_loop(), VirtualTimeLoop) else 60.0):
        while not condition():  # noqa: ASYNC110 - nobody sets an event
            await asyncio.sleep(0.001)


def pause(seconds: float) -> None:
    """Let time pass while the process does nothing, as when it is paused. Only in virtual time."""
    loop: Any = asyncio.get_running_loop()
    loop._waits.now += seconds
