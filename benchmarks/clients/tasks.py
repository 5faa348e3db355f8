"""What a client does, whichever library it uses, and how that is counted."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Protocol

import msgspec

from ..measure import Sample, cpu_seconds

WORKERS = 64
LOOK_EVERY = 256
"""Events and items between two looks at the clock."""


class Task(msgspec.Struct, frozen=True):
    """One slot for a client: a line of JSON on its stdin."""

    task: str
    """A key of `TASKS`."""
    warm: float
    seconds: float
    size: int = 0


class Connected(Protocol):
    """A client that is connected. A library that has no such thing leaves the method out, and is not asked for it."""

    add: Callable[[], Awaitable[int]]
    """add(1, 2). The library's own call where it can be, with nothing of ours around it."""
    emit: Callable[[int], Awaitable[object]]

    async def notes(self) -> int:
        """How many events the server has had of this connection."""
        ...

    def items(self) -> AbstractAsyncContextManager[AsyncIterator[int]]:
        """The numbers of small items, from 0 on, without an end."""
        ...

    async def upload(self, size: int) -> int:
        """Send so many bytes; what the server says it got."""
        ...

    async def download(self, size: int) -> int:
        """Ask for so many bytes; how many came."""
        ...


class Clock:
    """Time, and CPU time of both ends, from now on."""

    def __init__(self, server_pid: int) -> None:
        self._pid = server_pid
        self.began, self._server, self._own = time.perf_counter(), cpu_seconds(server_pid), time.process_time()

    def sample(self, answers: int, wrong: int = 0) -> Sample:
        took = time.perf_counter() - self.began
        return Sample(
            answers=answers,
            seconds=took,
            server_cpu=(cpu_seconds(self._pid) - self._server) / took,
            wrong=wrong,
        )


class Workers:
    """Coroutines that each keep one request under way until they are told to stop."""

    def __init__(self, add: Callable[[], Awaitable[int]]) -> None:
        self._add = add
        self.answers = self.wrong = 0
        self.stopping = False

    async def work(self) -> None:
        add = self._add
        while not self.stopping:
            if await add() != 3:
                self.wrong += 1
            self.answers += 1


async def requests(add: Callable[[], Awaitable[int]], task: Task, server_pid: int, count: int) -> Sample:
    workers = Workers(add)
    async with asyncio.TaskGroup() as tasks:
        for _ in range(count):
            tasks.create_task(workers.work())
        await asyncio.sleep(task.warm)
        before, clock = workers.answers, Clock(server_pid)
        await asyncio.sleep(task.seconds)
        sample = clock.sample(workers.answers - before)
        workers.stopping = True
    # The group has waited for every worker: nothing is left unanswered, and all wrong answers are counted.
    return msgspec.structs.replace(sample, wrong=workers.wrong)


async def workers(client: Connected, task: Task, server_pid: int) -> Sample:
    return await requests(client.add, task, server_pid, WORKERS)


async def one(client: Connected, task: Task, server_pid: int) -> Sample:
    return await requests(client.add, task, server_pid, 1)


async def emit(client: Connected, task: Task, server_pid: int) -> Sample:
    """Emit in a loop; it is over when the server has had every event."""

    async def emit_for(seconds: float, number: int) -> int:
        until = time.perf_counter() + seconds
        while time.perf_counter() < until:
            for _ in range(LOOK_EVERY):
                await client.emit(number)
                number += 1
        if await client.notes() != number:
            raise RuntimeError(f"the server had {await client.notes()} events of {number}")
        return number

    sent = await emit_for(task.warm, 0)
    clock = Clock(server_pid)
    return clock.sample(await emit_for(task.seconds, sent) - sent)


async def items(client: Connected, task: Task, server_pid: int) -> Sample:
    """Read small items, each of which must have the next number."""
    expected = wrong = 0
    clock, before = None, 0
    until = time.perf_counter() + task.warm
    async with client.items() as numbers:
        async for number in numbers:
            wrong += number != expected
            expected += 1
            if expected % LOOK_EVERY == 0 and time.perf_counter() >= until:
                if clock is not None:
                    break
                clock, before = Clock(server_pid), expected
                until = clock.began + task.seconds
        assert clock is not None
        return clock.sample(expected - before, wrong)


async def upload(client: Connected, task: Task, server_pid: int) -> Sample:
    clock = Clock(server_pid)
    got = await client.upload(task.size)
    return clock.sample(task.size, wrong=abs(task.size - got))


async def download(client: Connected, task: Task, server_pid: int) -> Sample:
    clock = Clock(server_pid)
    got = await client.download(task.size)
    return clock.sample(task.size, wrong=abs(task.size - got))


TASKS = {
    "workers": workers,
    "one": one,
    "emit": emit,
    "items": items,
    "upload": upload,
    "download": download,
}
