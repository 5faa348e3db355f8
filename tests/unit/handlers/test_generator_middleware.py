"""Middleware that is a generator function: it runs around each handler, in its context, and sees how the call ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextvars import ContextVar
from typing import Any

import pytest
from core_driver import Driven
from leftovers import nothing_left as nothing_left
from stream_driver import emptied

from wsrpc import (
    AnonymousChannel,
    BadArguments,
    CallNext,
    Client,
    Context,
    HandlerFailed,
    HandlerTimeout,
    RemoteError,
    RpcError,
    Server,
    UnknownEvent,
)
from wsrpc.testing import connect

pytestmark = pytest.mark.usefixtures("nothing_left")

USER: ContextVar[str] = ContextVar("user")

Ended = list[tuple[str, bool, "type[BaseException] | None"]]


def observer(ended: Ended) -> Callable[[Context], Iterator[None]]:
    """Record how calls end: the event, whether it is handled, and the exception."""

    def observe(ctx: Context) -> Iterator[None]:
        token = USER.set(ctx.event)
        outcome: type[BaseException] | None = None
        try:
            yield
        except BaseException as exc:
            outcome = type(exc)  # swallowed here, but not for the caller
        USER.reset(token)  # raises ValueError in another context
        ended.append((ctx.event, ctx.is_handled, outcome))

    return observe


async def waits() -> str:
    await asyncio.sleep(0)
    return USER.get()


def fails() -> None:
    raise KeyError(USER.get())


async def rejects() -> None:
    raise RpcError(await waits())


async def in_group() -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(rejects())
        await hangs()


async def hangs() -> None:
    await asyncio.Event().wait()


def typed(number: int) -> None: ...


async def feed() -> AsyncIterator[str]:
    for _ in range(3):
        yield await waits()


async def endless() -> AsyncIterator[str]:
    while True:
        yield await waits()


async def total(items: AsyncIterator[str]) -> str:
    return "".join([item async for item in items]) + USER.get()


async def talk(channel: AnonymousChannel) -> None:
    await channel.emit("said", await channel.wait_for("say") + USER.get())


async def all_of(client: Client, event: str) -> str:
    return {str(item) async for item in client.stream(event)}.pop()


async def first_of(client: Client) -> str:
    async with client.stream("endless") as items:
        async for item in items:
            return str(item)
    raise AssertionError


async def conversation(client: Client) -> Any:
    async with await client.open_channel("talk") as channel:
        await channel.emit("say", "")
        return await channel.wait_for("said")


def asked(event: str, *args: Any, **options: Any) -> Callable[[Client], Awaitable[Any]]:
    return lambda client: client.request(event, *args, **options)


CALLS: list[tuple[str, Callable[[Client], Awaitable[Any]], type[BaseException] | None, type[BaseException] | None]] = [
    ("plain", asked("plain"), None, None),
    ("ordered", asked("ordered"), None, None),
    ("total", asked("total", send=[""]), None, None),
    ("talk", conversation, None, None),
    ("feed", lambda client: all_of(client, "feed"), None, None),
    ("endless", first_of, None, asyncio.CancelledError),
    ("fails", asked("fails"), HandlerFailed, KeyError),
    ("rejects", asked("rejects"), RemoteError, RpcError),
    ("in_group", asked("in_group"), RemoteError, RpcError),
    ("typed", asked("typed", "x"), BadArguments, BadArguments),
    ("too long", asked("too long"), HandlerTimeout, HandlerTimeout),
    ("made up", asked("made up"), UnknownEvent, UnknownEvent),
]
"""The event, how it is called, the error of the caller, and the exception in the generator."""


@pytest.mark.parametrize("with_async", [False, True])
@pytest.mark.parametrize(("event", "call", "error", "outcome"), CALLS)
async def test_it_sets_the_context_of_each_kind_of_handler_and_sees_the_outcome(
    event: str, call: Any, error: Any, outcome: Any, with_async: bool
) -> None:
    server, ended = Server(), Ended()
    for function in (waits, fails, rejects, in_group, typed, feed, endless, total, talk):
        server.on(function.__name__, function)
    server.on("plain", lambda: USER.get())
    server.on("ordered", waits, ordered=True)
    server.on("too long", hangs, timeout=0.01)

    async def passes(ctx: Context, call_next: CallNext) -> object:
        assert USER.get() == event, "it is inside, although it was registered first"
        return await call_next(ctx)

    if with_async:
        server.use(passes)
    for observed in (ended, []):
        server.use(observer(observed))
    async with connect(server) as client:
        if error is None:
            assert await call(client) == event
        else:
            with pytest.raises(error) as raised:
                await call(client)
            assert type(raised.value) is error
        await emptied(*server.peers)
    assert ended == [(event, event != "made up", outcome)]


async def test_a_plain_handler_still_runs_while_its_message_is_read() -> None:
    driven, ended = Driven(), Ended()
    driven.peer.use(observer(ended))
    driven.peer.on("plain", lambda: USER.get())
    driven.feed({"i": 1, "a": ["plain"]}, {"a": ["plain"]}, {"a": ["none"]})
    assert driven.take() == [{"i": 1, "d": "plain"}]
    assert ended == [("plain", True, None)] * 2 + [("none", False, UnknownEvent)]


@pytest.mark.parametrize("handler", [lambda: hangs(), feed])
async def test_it_sees_that_its_call_is_cancelled_even_before_its_task_begins(handler: Any) -> None:
    driven, ended = Driven(), Ended()
    driven.peer.use(observer(ended))
    driven.peer.on("slow", handler)
    await driven.fed({"i": 1, "a": ["slow"]}, {"i": 1, "x": 1})
    await driven.fed({"h": 1, "x": 1})  # since Python 3.12, a task begins at once: the stream was open already
    assert ended == [("slow", True, asyncio.CancelledError)]
    driven.assert_empty()


def before(ctx: Context) -> Iterator[None]:
    raise ValueError("in front")
    yield


def after(ctx: Context) -> Iterator[None]:
    yield
    raise ValueError("behind")


def no_yield(ctx: Context) -> Iterator[None]:
    if ctx.event == "other":
        yield


def two(ctx: Context) -> Iterator[None]:
    yield
    yield


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        (before, "in front"),
        (after, "behind"),
        (no_yield, "middleware no_yield has ended before its `yield`"),
        (two, "middleware two has a second `yield`"),
    ],
)
async def test_a_call_whose_generator_fails_has_failed(wrong: Any, text: str, caplog: pytest.LogCaptureFixture) -> None:
    server, ended = Server(), Ended()
    server.use(observer(ended))
    server.use(wrong)
    server.on("plain", lambda: 1)
    async with connect(server) as client:
        with pytest.raises(HandlerFailed):
            await client.request("plain")
    [record] = caplog.records
    assert record.exc_info is not None and text == str(record.exc_info[1])
    assert ended == [("plain", True, record.exc_info[0])], "the generators around it see that"


async def middle(ctx: Context) -> AsyncIterator[None]:
    yield


def nothing() -> Iterator[None]:
    yield


def three(ctx: Context, call_next: CallNext) -> Iterator[None]:
    yield


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        (middle, "middleware with a `yield` is a plain `def`"),
        (nothing, "middleware with a `yield` is a function of \\(ctx\\)"),
        (three, "use: the function is called with \\(ctx\\)"),
    ],
)
def test_wrong_generators_are_refused(wrong: Any, text: str) -> None:
    with pytest.raises(TypeError, match=text):
        Server().use(wrong)
