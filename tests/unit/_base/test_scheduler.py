"""`LoopScheduler`: where a task takes its first step, and in which context tasks and timers run."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable

import pytest

from wsrpc._base.scheduler import LoopScheduler


def called_by_loop(function: Callable[[], object]) -> None:
    """Run ``function`` as a callback of an event loop, as transports are called, and then all that follows."""

    async def main() -> None:
        asyncio.get_running_loop().call_soon(function)
        for _ in range(5):
            await asyncio.sleep(0)

    with asyncio.Runner() as runner:
        runner.run(main())


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
def test_what_ends_the_program_passes_through_the_first_step(interrupt: type[BaseException]) -> None:
    tasks: list[asyncio.Task[None] | None] = []

    async def coroutine() -> None:
        tasks.append(asyncio.current_task())
        raise interrupt

    with pytest.raises(interrupt):
        called_by_loop(lambda: LoopScheduler().spawn(coroutine()))
    (task,) = tasks
    assert task is not None
    assert isinstance(task.exception(), interrupt)


def test_a_timer_does_not_hold_the_context_in_which_it_was_started() -> None:
    """That of a handler has the call with its arguments, and asyncio keeps a cancelled timer with its context."""
    seen: list[str] = []
    var = contextvars.ContextVar[str]("var")

    async def main() -> None:
        var.set("of the program")
        scheduler = LoopScheduler()
        scheduler.renew()
        var.set("of a handler")
        fired = asyncio.Event()

        def fire() -> None:
            seen.append(var.get())
            fired.set()

        scheduler.call_at(scheduler.time(), fire)
        await fired.wait()

    asyncio.run(main())
    assert seen == ["of the program"]
