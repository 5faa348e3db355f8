"""`LoopScheduler`: where a task takes its first step, and in which context tasks and timers run."""

from __future__ import annotations

import asyncio
import contextvars

from wsrpc._base.scheduler import LoopScheduler


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
