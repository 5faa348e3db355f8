"""Handlers that are coroutine functions: their first step, what follows from it, and what they may rely on in it.

Messages come either in a callback of the event loop, as from a socket, where a handler's task takes its first step at
once, or within another task, where that depends on the version of Python.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import AsyncIterator
from typing import Any

import pytest
from core_driver import Driven, turns

from wsrpc import CloseInfo, ConnectionLost, Context, Limits, RpcError

VALUE: contextvars.ContextVar[str] = contextvars.ContextVar("value", default="nothing")


async def read(d: Driven, *messages: Any, within_task: bool = False) -> list[Any]:
    """One read that brings ``messages``. Let everything happen, and return what was sent."""
    if within_task:
        d.feed(*messages)
    else:
        asyncio.get_running_loop().call_soon(lambda: d.feed(*messages))
    await turns()
    return d.take()


# ---------------------------------------------------------------- the fast path and the general one


def register(d: Driven) -> None:
    async def value(number: int) -> int:
        return number

    async def nothing() -> None: ...

    async def refuse() -> None:
        raise RpcError("no", "refused")

    async def fail() -> None:
        raise ValueError("a bug")

    async def unfit() -> Any:
        return object()

    async def gives_up() -> None:
        raise asyncio.CancelledError

    async def leaves() -> None:
        raise GeneratorExit

    async def waits(number: int) -> int:
        await asyncio.sleep(0)
        return number

    async def waits_and_fails() -> None:
        await asyncio.sleep(0)
        raise ValueError("a bug")

    async def waits_and_gives_up() -> None:
        await asyncio.sleep(0)
        raise asyncio.CancelledError

    async def cancels_itself() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()

    async def too_late() -> str:
        try:
            async with asyncio.timeout(0):
                await asyncio.sleep(3600)
        except TimeoutError:
            return "too late"
        return "not late"

    async def items() -> Any:
        async def numbers() -> AsyncIterator[int]:
            yield 1

        return numbers()

    async def items_later() -> Any:
        await asyncio.sleep(0)
        return await items()

    async def channel(ctx: Context) -> Any:
        return ctx.channel()

    async def channel_later(ctx: Context) -> Any:
        await asyncio.sleep(0)
        return ctx.channel()

    async def channel_for_nothing(ctx: Context) -> str:
        ctx.channel()
        return "no channel"

    async def in_group() -> list[int]:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(value(number)) for number in range(3)]
        return [task.result() for task in tasks]

    for function in (
        *(value, nothing, refuse, fail, unfit, gives_up, leaves, waits, waits_and_fails, waits_and_gives_up),
        *(cancels_itself, too_late, items, items_later, channel, channel_later, channel_for_nothing, in_group),
    ):
        d.peer.on(function.__name__, function)


CALLS: list[list[Any]] = [
    *(["value", 5], ["value", "five"], ["value"], ["value", 5, 6], ["nothing"], ["refuse"], ["fail"], ["unfit"]),
    *(["gives_up"], ["leaves"], ["waits", 5], ["waits_and_fails"], ["waits_and_gives_up"], ["cancels_itself"]),
    *(["too_late"], ["items"], ["items_later"], ["channel"], ["channel_later"], ["channel_for_nothing"]),
    *(["in_group"], ["nobody"]),
]


@pytest.mark.parametrize("within_task", [False, True])
@pytest.mark.parametrize("a", CALLS, ids=str)
async def test_a_coroutine_gives_the_same_with_a_call_from_the_start_and_without(
    a: list[Any], within_task: bool
) -> None:
    async def outcome(d: Driven) -> tuple[Any, ...]:
        register(d)
        answered = await read(d, {"i": 3, "a": a}, within_task=within_task)
        happened = await read(d, {"a": a}, within_task=within_task)
        running = d.peer._core.dispatcher.running
        counts = (running.count, running.held, running.held_by_channels, running.on_channels, len(running.invocations))
        return answered, happened, dict(d.ignored), counts, running.not_begun

    # A limit of time needs a `Call`. It is not reached: the clock of these tests stands still.
    general = Driven(expose_errors=True, limits=Limits(handler=60.0))
    assert await outcome(Driven(expose_errors=True)) == await outcome(general)


# ---------------------------------------------------------------- what the first step may rely on


@pytest.mark.parametrize("within_task", [False, True])
async def test_the_current_task_is_the_handlers_own_from_its_first_step_to_its_last(within_task: bool) -> None:
    d = Driven()
    tasks: list[asyncio.Task[Any] | None] = []

    async def handler() -> None:
        tasks.append(asyncio.current_task())
        await asyncio.sleep(0)
        tasks.append(asyncio.current_task())

    d.peer.on("handler", handler)
    assert await read(d, {"i": 1, "a": ["handler"]}, {"i": 2, "a": ["handler"]}, within_task=within_task) == [
        {"i": 1, "d": None},
        {"i": 2, "d": None},
    ]
    assert len(set(tasks)) == 2
    assert tasks.count(tasks[0]) == 2
    assert None not in tasks
    assert asyncio.current_task() not in tasks


@pytest.mark.parametrize("waits", [False, True])
async def test_what_a_coroutine_sets_is_seen_by_no_other_handler(waits: bool) -> None:
    d = Driven()
    seen: list[str] = []

    async def handler(value: str) -> None:
        seen.append(VALUE.get())
        VALUE.set(value)
        if waits:
            await asyncio.sleep(0)
        seen.append(VALUE.get())

    d.peer.on("handler", handler)
    d.peer.on("plain", lambda: seen.append(VALUE.get()))
    await read(d, {"a": ["handler", "one"]}, {"a": ["handler", "two"]}, {"a": ["plain"]})
    assert sorted(seen) == ["nothing", "nothing", "nothing", "one", "two"]
    assert VALUE.get() == "nothing"


# ---------------------------------------------------------------- once it waits


@pytest.mark.parametrize("within_task", [False, True])
async def test_a_handler_is_active_from_its_first_step_to_its_last(within_task: bool) -> None:
    d = Driven()
    active: list[int] = []

    async def handler() -> None:
        active.append(d.peer.active)
        await asyncio.sleep(0)
        active.append(d.peer.active)

    async def gives_items() -> AsyncIterator[int]:
        active.append(d.peer.active)
        yield 1
        active.append(d.peer.active)

    d.peer.on("handler", handler)
    d.peer.on("gives items", gives_items)
    await read(d, {"i": 1, "a": ["handler"]}, within_task=within_task)
    await read(d, {"i": 2, "a": ["gives items"]}, within_task=within_task)
    await read(d, {"h": 2, "a": ["start"]}, within_task=within_task)
    await read(d, {"h": 2, "x": None}, within_task=within_task)
    assert active[:3] == [1, 1, 1] and set(active) == {1}
    assert d.peer.active == 0


async def test_a_coroutine_registered_with_once_gets_the_next_message_if_arguments_do_not_fit() -> None:
    d = Driven()
    seen: list[int] = []

    async def handler(number: int) -> None:
        seen.append(number)

    d.peer.once("handler", handler)
    for number in ("one", 2, 3):
        await read(d, {"a": ["handler", number]})
    assert seen == [2]
    assert d.ignored == {"wrong arguments": 1, "unknown event": 1}


@pytest.mark.parametrize("limits", [Limits(), Limits(handler=60.0)], ids=["without a call", "with a call"])
@pytest.mark.parametrize(
    ("message", "then", "reaches_its_end"),
    [
        ({"i": 1, "a": ["handler"]}, "waits", False),
        ({"i": 1, "a": ["handler"]}, "answers", True),
        ({"i": 1, "a": ["handler"]}, "fails", True),
        ({"a": ["handler"]}, "waits", True),
    ],
)
async def test_a_request_that_ends_its_connection_is_cancelled_if_it_waits_and_answers_nobody(
    message: dict[str, Any], then: str, reaches_its_end: bool, limits: Limits
) -> None:
    d = Driven(limits=limits)
    seen: list[Any] = []

    async def handler(ctx: Context) -> str:
        d.transport.lose(CloseInfo(1001, "gone"))
        seen.append(repr(ctx.cancel_reason))
        if then == "waits":
            await asyncio.sleep(0)
        seen.append("the end")
        if then == "fails":
            raise RpcError("no")
        return "answer"

    d.peer.on("handler", handler)
    assert await read(d, message) == []
    assert seen[0] == repr(ConnectionLost(1001, "gone") if "i" in message else None)
    assert ("the end" in seen) == reaches_its_end
    assert d.ignored == {}
