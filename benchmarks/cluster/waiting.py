"""Waiting for what nobody tells of."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

__all__ = ["until"]


async def until(condition: Callable[[], object], pause: float = 0.001) -> None:
    """Wait until ``condition`` holds."""
    while not condition():  # noqa: ASYNC110 - nobody sets an event
        await asyncio.sleep(pause)
