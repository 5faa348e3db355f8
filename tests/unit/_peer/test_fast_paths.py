"""A message that takes a fast path has the same effect as one that takes the general path."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from core_driver import Driven, start, turns

from wsrpc import AnonymousChannel, CallNext, CloseInfo, ConnectionLost, Context, Limits, RpcError
from wsrpc._handlers.registry import Registry
from wsrpc.codecs import Codec, JsonCodec

VALUE: contextvars.ContextVar[str] = contextvars.ContextVar("value", default="nothing")
LARGEST = 2**53 - 1

MESSAGES: list[dict[str, Any]] = [
    {"a": ["say", 1]},
    {"i": 1, "a": ["say", 1]},
    {"i": LARGEST, "a": ["say", 1]},
    {"i": LARGEST + 1, "a": ["say", 1]},
    {"i": 0, "a": ["say", 1]},
    {"i": True, "a": ["say", 1]},
    {"i": 1.0, "a": ["say", 1]},
    {"i": None, "a": ["say", 1]},
    {"i": 1, "a": ["say"]},
    {"i": 1, "a": ["say", "one"]},
    {"i": 1, "a": ["nobody"]},
    {"a": ["nobody"]},
    {"i": 1, "a": ["open"]},
    {"a": ["close"]},
    {"i": 1, "a": ["say", 1], "c": None, "h": None},
    {"i": 1, "a": ["say", 1], "c": "named"},
    {"i": 1, "a": ["say", 1], "c": ""},
    {"i": 1, "a": ["say", 1], "c": 5},
    {"i": 1, "a": ["say", 1], "h": 7},
    {"a": ["say", 1], "h": "7"},
    {"i": 1, "a": [5, 1]},
    {"a": [None]},
    {"i": 1, "a": ["n" * 4]},
    {"i": 1, "a": ["n" * 5]},
    {"i": 1, "a": ["n" * 16]},
    {"i": 1, "a": ["n" * 17]},
    {"i": 1, "a": ["é" * 9]},
    {"i": 1, "a": ["say", *range(64)]},
    {"i": 1, "a": ["say", *range(65)]},
    {"a": ["say", *range(65)]},
]


UNREACHED = 10**9
"""A rate that no test reaches: all messages take another way, to the same effect."""


class OwnCodec(JsonCodec):
    """A codec of a user's, which has no strict decoder: all its messages are received as unusual ones."""

    def __init__(self) -> None:
        super().__init__()
        decode = self.decode
        self.decode = lambda payload: decode(payload)


def receiving(
    rate: int | None = None, *, handlers: str = "peer", codec: Codec | None = None
) -> tuple[Driven, list[Any]]:
    """Return a peer and what its handlers got. The handlers are those of the ``"peer"`` or of its ``"server"``."""
    shared = Registry()
    d = Driven(limits=Limits(name=16, rate=rate), shared=shared, codec=codec)
    ran: list[Any] = []

    def say(number: int) -> int:
        ran.append(number)
        return number

    assert d.peer._core._inbound is not None
    registry = shared if handlers == "server" else d.peer._core._inbound._own
    registry.add(None, "say", say)
    registry.add("named", "say", lambda *arguments: ran.append(arguments))
    return d, ran


@pytest.mark.parametrize("handlers", ["server", "peer"])
@pytest.mark.parametrize("rate", [None, UNREACHED])
@pytest.mark.parametrize("message", MESSAGES, ids=str)
async def test_an_event_or_a_request_is_received_alike(
    message: dict[str, Any], rate: int | None, handlers: str
) -> None:
    fast, fast_ran = receiving(handlers=handlers)
    general, general_ran = receiving(rate, codec=OwnCodec())
    fast.feed(message)
    general.feed(message)
    await turns()
    assert fast.take() == general.take()
    assert fast_ran == general_ran
    assert fast.ignored == general.ignored
    assert fast.close_code == general.close_code


ASKED = 2**30 + 1

ANSWERS: list[dict[str, Any]] = [
    {"i": ASKED, "d": 3},
    {"i": ASKED},
    {"i": ASKED, "e": "no"},
    {"i": ASKED, "e": {"message": "no"}, "_": 1},
    {"i": ASKED, "h": 1},
    {"i": ASKED, "h": 0, "d": 3},
    {"i": ASKED, "h": None, "d": 3},
    {"i": ASKED, "h": 1, "e": "no"},
    {"i": ASKED, "x": "no"},
    {"i": ASKED, "d": 3, "x": None},
    {"i": ASKED + 2, "d": 3},
    {"i": ASKED + 2, "h": 1},
    {"i": float(ASKED), "d": 3},
    {"i": str(ASKED), "d": 3},
    {"i": [ASKED], "d": 3},
    {"i": None, "d": 3},
    {"i": -1, "d": None},
    {"d": 3},
    {"h": ASKED, "x": "no"},
]


@pytest.mark.parametrize("cancelled", [False, True])
@pytest.mark.parametrize("message", ANSWERS, ids=str)
async def test_an_answer_is_received_alike(message: dict[str, Any], cancelled: bool) -> None:
    async def effect(general: bool) -> list[Any]:
        d = Driven(dialer=True, codec=OwnCodec() if general else None)
        requests = d.peer._core.out.requests
        requests._next = ASKED
        task = start(d.peer.request("add", 1, 2))
        await turns()
        if cancelled:
            task.cancel()
            await turns()
        d.feed(message)
        await turns()
        flight = requests.flight
        settled = [repr(each) for each in (await asyncio.gather(task, return_exceptions=True))] if task.done() else []
        task.cancel()
        return [settled, d.take(), d.ignored, d.close_code, len(requests), flight.requests, flight.bytes]

    assert await effect(general=False) == await effect(general=True)


async def test_items_of_a_stream_are_received_alike() -> None:
    async def read(general: bool, rate: int | None = None) -> tuple[list[Any], list[Any], dict[str, int]]:
        d = Driven(dialer=True, limits=Limits(rate=rate), codec=OwnCodec() if general else None)
        d.peer._out.requests._next = 7
        items: list[Any] = []

        async def consume() -> None:
            async with d.peer.stream("count") as stream:
                items.extend([item async for item in stream])

        task = start(consume())
        await turns(2)
        d.feed({"i": 7, "h": 1})
        await turns()
        for message in (
            {"h": 7, "a": ["next", {"value": 1, "done": False}]},
            {"h": "7", "a": ["next", {"value": 2, "done": False}]},
            {"h": 7, "c": "ignored", "a": ["next", {"value": 3, "done": False}]},
            {"h": 7, "a": ["other"]},
            {"h": 8, "a": ["next", {"value": 4, "done": False}]},
            {"h": 7, "a": ["next", {"done": True}]},
        ):
            d.feed(message)
            await turns()
        await task
        return items, d.take(), d.ignored

    fast = await read(general=False)
    assert fast == await read(general=True) == await read(general=True, rate=UNREACHED)
    assert fast == await read(general=False, rate=UNREACHED)
    assert fast[0] == [1, 2, 3]


# ---------------------------------------------------------------- handlers


async def read(d: Driven, *messages: Any, within_task: bool = False) -> list[Any]:
    """One read that brings ``messages``. Let everything happen, and return what was sent.

    They come either in a callback of the event loop, as from a socket, where a coroutine's task takes its first step
    at once, or within another task, where that depends on the version of Python.
    """
    if within_task:
        d.feed(*messages)
    else:
        asyncio.get_running_loop().call_soon(lambda: d.feed(*messages))
    await turns()
    return d.take()


def register_plain(d: Driven) -> None:
    def value(number: int) -> int:
        return number

    def nothing() -> None: ...

    def refuse() -> None:
        raise RpcError("no", "refused")

    def fail() -> None:
        raise ValueError("a bug")

    def unfit() -> Any:
        return object()

    def channel(ctx: Context) -> AnonymousChannel:
        return ctx.channel()

    def channel_for_nothing(ctx: Context) -> str:
        ctx.channel()
        return "no channel"

    for function in (value, nothing, refuse, fail, unfit, channel, channel_for_nothing):
        d.peer.on(function.__name__, function)


def register_coroutines(d: Driven) -> None:
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

    for function in (
        *(value, nothing, refuse, fail, unfit, gives_up, leaves, waits, waits_and_fails, waits_and_gives_up),
        *(cancels_itself, items, items_later, channel, channel_later, channel_for_nothing),
    ):
        d.peer.on(function.__name__, function)


CALLS: list[list[Any]] = [
    *(["value", 5], ["value", "five"], ["value"], ["value", 5, 6], ["nothing"], ["refuse"], ["fail"], ["unfit"]),
    *(["gives_up"], ["leaves"], ["waits", 5], ["waits_and_fails"], ["waits_and_gives_up"], ["cancels_itself"]),
    *(["items"], ["items_later"], ["channel"], ["channel_later"], ["channel_for_nothing"]),
    ["nobody"],
]
PLAIN = [
    a
    for a in CALLS
    if a[0] in ("value", "nothing", "refuse", "fail", "unfit", "channel", "channel_for_nothing", "nobody")
]


async def through(ctx: Context, call_next: CallNext) -> Any:
    return await call_next(ctx)


async def outcome(register: Callable[[Driven], None], a: list[Any], how: str, within_task: bool = False) -> list[Any]:
    """What is sent for a request and for an event of that name, and what is counted, if it is called in this way."""
    d = Driven(expose_errors=True, limits=Limits(handler=60.0 if how == "with a call" else None))
    register(d)
    if how == "layered":
        d.peer.use(through)
    d.peer._life.running.run_in_tasks(how == "in a task")
    answered = await read(d, {"i": 3, "a": a}, within_task=within_task)
    happened = await read(d, {"a": a}, within_task=within_task)
    return [answered, happened, d.ignored, d.peer.active, d.peer.channels]


@pytest.mark.parametrize("a", PLAIN, ids=str)
async def test_a_plain_function_gives_the_same_whichever_way_it_is_called(a: list[Any]) -> None:
    expected = await outcome(register_plain, a, "at once")
    assert await outcome(register_plain, a, "in a task") == expected
    assert await outcome(register_plain, a, "layered") == expected
    assert await outcome(register_coroutines, a, "at once") == expected


@pytest.mark.parametrize("within_task", [False, True])
@pytest.mark.parametrize("a", CALLS, ids=str)
async def test_a_coroutine_gives_the_same_whichever_way_it_is_called(a: list[Any], within_task: bool) -> None:
    expected = await outcome(register_coroutines, a, "at once", within_task)
    assert await outcome(register_coroutines, a, "with a call", within_task) == expected
    assert await outcome(register_coroutines, a, "layered", within_task) == expected


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
