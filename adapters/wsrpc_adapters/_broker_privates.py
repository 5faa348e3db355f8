"""What the engines use of redis-py and nats-py that has no public name.

Neither library has a public method that drops a connection. redis-py's `disconnect` and nats-py's `close` leave the
socket open until a server that is frozen has read everything.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

CANCEL_TIMEOUT = 0.25
"""Seconds in which what was cancelled has to end."""


async def abort_redis(connection: Any) -> None:
    """Close the socket of a connection of redis-py at once, without sending what is unsent."""
    await _abort(connection._writer)


def unsent_by_redis(connection: Any) -> int:
    """Return the bytes that the operating system has not accepted yet."""
    return _buffered(connection._writer)


async def abort_nats(client: Any) -> None:
    """Close the socket of a client of nats-py at once, without sending what is unsent."""
    await _abort(_nats_writer(client))


def unsent_by_nats(client: Any) -> int:
    """Return the bytes that the operating system has not accepted yet."""
    return _buffered(_nats_writer(client))


async def end_nats_tasks(client: Any, subscriptions: Iterable[Any]) -> None:
    """End the tasks that `close` of nats-py leaves.

    If the connection was lost while something was unsent, the task that reads or the one that writes raises an
    exception in `close`. Then `close` does not end the tasks of subscriptions.
    """
    for subscription in subscriptions:
        subscription._stop_processing()
    task: asyncio.Task[None] | None
    for task in (client._reading_task, client._flusher_task):
        if task is not None:
            task.cancel()
            await asyncio.wait((task,), timeout=CANCEL_TIMEOUT)
            if task.done() and not task.cancelled():
                task.exception()  # otherwise asyncio logs that the exception was never retrieved


def _nats_writer(client: Any) -> asyncio.StreamWriter | None:
    writer: asyncio.StreamWriter | None = getattr(client._transport, "_io_writer", None)
    return writer


def _buffered(writer: asyncio.StreamWriter | None) -> int:
    return 0 if writer is None else writer.transport.get_write_buffer_size()


async def _abort(writer: asyncio.StreamWriter | None) -> None:
    if writer is not None:  # else the library closes it already
        writer.transport.abort()
    for _ in range(3):  # asyncio closes it in a later turn; `wait_closed` never returns if TLS could not start
        await asyncio.sleep(0)
