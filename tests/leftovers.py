"""A fixture for tests with real connections: afterwards nothing is left of them."""

from __future__ import annotations

import asyncio
import gc
import os
from collections import Counter
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from wsrpc.testing import VirtualTimeLoop

NOT_OURS = ("SSL handshake failed", "Error on transport creation for incoming connection")
"""What asyncio itself says, in debug mode, of a TLS handshake that the other side refused."""


def open_sockets() -> set[str]:
    """The sockets of this process, by inode. Empty where the system does not tell; ResourceWarnings remain."""
    found: set[str] = set()
    try:
        numbers = os.listdir("/proc/self/fd")
    except FileNotFoundError:
        return found
    for number in numbers:
        try:
            target = os.readlink(f"/proc/self/fd/{number}")
        except FileNotFoundError:
            continue
        if target.startswith("socket:"):
            found.add(target)
    return found


def other_tasks() -> set[asyncio.Task[Any]]:
    """All tasks but the one that asks."""
    return {task for task in asyncio.all_tasks() if task is not asyncio.current_task()}


async def timers_due(seconds: float) -> None:
    """Let every timer fire that is due within ``seconds``, to show what none of them does.

    The event loop fires timers in order, so this does not depend on how fast the machine is.
    """
    await asyncio.sleep(seconds)
    for _ in range(10):  # what they begin takes a few turns
        await asyncio.sleep(0)


async def living_objects() -> Counter[str]:
    """How many objects of the kinds that connections, calls and streams are made of are alive, by type."""
    # asyncio keeps cancelled timers, and what they refer to, until there are many.
    for timer in [asyncio.get_running_loop().call_later(3600, print) for _ in range(500)]:
        timer.cancel()
    gc.collect()
    for _ in range(2):  # what is thrown away may have a word to say in the next turn, and lives until then
        await asyncio.sleep(0)
        gc.collect()
    return Counter(
        type(thing).__name__
        for thing in gc.get_objects()
        if str(type(thing).__module__).startswith(("wsrpc", "_asyncio", "asyncio"))
        or type(thing).__name__ in ("coroutine", "generator", "async_generator")
    )


@pytest.fixture
def only_objects_of_the_test() -> None:
    """Let `living_objects` count only what the test makes, and not what earlier tests of this process still hold."""
    gc.collect()
    gc.freeze()


@pytest.fixture
async def nothing_left() -> AsyncGenerator[None]:
    """No task, no socket, and no complaint of the event loop (an exception never retrieved, for instance)."""
    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    tasks_before = other_tasks()
    sockets_before = open_sockets()
    yield
    tasks = other_tasks() - tasks_before
    if tasks:
        await asyncio.wait(tasks, timeout=0.1 if isinstance(asyncio.get_running_loop(), VirtualTimeLoop) else 60)
    for _ in range(20):  # closing a socket takes a turn or two
        await asyncio.sleep(0)
    left = other_tasks() - tasks_before
    assert not left, f"tasks are left: {left}"
    gc.collect(1)  # what a test made is young; a full collection would be most of the time that the tests take
    await asyncio.sleep(0)
    complaints = [context for context in complaints if context["message"] not in NOT_OURS]
    assert not complaints, f"the event loop complained: {complaints}"
    left_open = open_sockets() - sockets_before
    if isinstance(asyncio.get_running_loop(), asyncio.BaseEventLoop):
        assert not left_open, "sockets are left open"
    else:  # uvloop has two sockets, which it replaces each time that it begins to run
        assert len(left_open) <= len(sockets_before - open_sockets()), "sockets are left open"
