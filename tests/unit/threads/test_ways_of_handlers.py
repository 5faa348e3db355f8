"""What holds for handlers in whichever way they run: in the event loop, in a thread, in order, behind middleware."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
import weakref
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

import msgspec
import pytest
from core_driver import Driven, idle, messages, rejection
from leftovers import nothing_left as nothing_left
from stream_driver import Both, collect
from stream_driver import both as both
from waiting import until

from wsrpc import BadArguments, Context, Limits, RemoteError, RpcError, Server, UnknownEvent, current_context
from wsrpc.testing import connect

pytestmark = pytest.mark.usefixtures("nothing_left")


async def pass_on(ctx: Context, call_next: Any) -> Any:
    return await call_next(ctx)


@pytest.mark.parametrize("place", ["plain", "thread", "ordered", "middleware"])
async def test_an_event_with_too_many_arguments_reaches_its_handler_without_them(
    place: str, caplog: pytest.LogCaptureFixture
) -> None:
    d = Driven()
    ran: list[Any] = []

    def takes(a: int, ctx: Context, b: float = 7) -> None:
        ran.append((a, b))

    options: dict[str, Any] = {place: True} if place in ("ordered", "thread") else {}
    d.peer.on("e", takes, **options)
    if place == "middleware":
        d.peer.use(pass_on)
    message: dict[str, Any] = {"a": ["e", 1, 2.5, "x", {}]}
    d.feed(message, message, {"i": 1, **message}, {"a": ["e", "x", 2, 3]})
    await idle(d)
    assert ran == [(1, 2.5)] * 2
    assert "expected at most 2 arguments" in rejection(d.take(), 1)["message"], "who requests is told"
    assert d.ignored == {"surplus arguments": 3, "wrong arguments": 1}
    first, misfit = messages(caplog, logging.WARNING)
    assert "came with 4 arguments and its handler takes 2" in first
    assert "'e' was " in misfit
    assert d.peer.stats().misfits == {"e: wrong arguments": 2}


# ---------------------------------------------------------------- errors


class Odd(BaseException):
    """What is no Exception, as some libraries have it."""


INTERNAL: dict[str, BaseException] = {
    "exception": ValueError("the password is 1234"),
    "no Exception": Odd("the password is 1234"),
    "group of cancellations": BaseExceptionGroup("group", [asyncio.CancelledError()]),
    "group with two errors for the caller": ExceptionGroup("group", [RpcError("one"), RpcError("two")]),
    "group with a defect": ExceptionGroup("group", [RpcError("one"), ValueError("the password is 1234")]),
    "group of a nested request": ExceptionGroup("group", [UnknownEvent("no event listener", "wsrpc.unknown_event")]),
    "cancellation of its own": asyncio.CancelledError(),
    "StopIteration": StopIteration(5),
    "of wsrpc's own": BadArguments("you did it wrong", "wsrpc.bad_arguments"),
}
"""What a handler raises that its caller may not be told."""


def failing(way: str, error: BaseException, layer: Any = pass_on) -> Driven:
    """A peer whose handler of `work`, or middleware behind ``layer``, raises the error."""

    def inline(*_: Any) -> None:
        raise error

    async def later(*_: Any) -> None:
        raise error

    d = Driven()
    if way in ("middleware", "behind"):
        d.peer.use(layer)
        d.peer.use(later if way == "middleware" else pass_on)
    handlers: dict[str, Any] = {"async": later, "awaitable": lambda: later()}
    d.peer.on("work", handlers.get(way, inline), thread=way == "thread", ordered=way == "ordered")
    d.feed({"i": 1, "a": ["work"]})
    return d


WAYS = ["inline", "async", "awaitable", "thread", "middleware", "behind", "ordered"]


@pytest.mark.parametrize("outcome", INTERNAL)
@pytest.mark.parametrize("way", WAYS)
async def test_what_the_caller_may_not_know_is_internal_with_an_id_that_the_log_has_too(
    way: str, outcome: str, caplog: pytest.LogCaptureFixture
) -> None:
    d = failing(way, INTERNAL[outcome])
    await idle(d)
    error = rejection(d.take(), 1)
    assert set(error) == {"code", "message", "error_id"} and error["code"] == "wsrpc.internal"
    assert error["message"] == "internal error"
    [record] = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert error["error_id"] in record.getMessage() and "work" in record.getMessage()
    assert record.exc_info is not None and record.__dict__["peer"] == d.peer.id
    d.assert_empty()


BANNED = RpcError("you are banned", "banned")
WITH_OTHERS = BaseExceptionGroup("group", [asyncio.CancelledError(), BANNED, ExceptionGroup("inner", [BANNED])])


@pytest.mark.parametrize("way", WAYS)
async def test_an_error_for_the_caller_that_is_alone_in_a_group_reaches_the_caller(
    way: str, caplog: pytest.LogCaptureFixture
) -> None:
    """What a task of a task group raised was an internal error to the caller, and to middleware."""
    seen: list[BaseException] = []

    async def sees(ctx: Context, call_next: Any) -> Any:
        try:
            return await call_next(ctx)
        except RpcError as exc:
            seen.append(exc)
            raise

    d = failing(way, WITH_OTHERS, sees)
    await idle(d)
    assert rejection(d.take(), 1) == {"message": "you are banned", "code": "banned"}
    assert seen == [BANNED] * (way in ("middleware", "behind"))
    assert messages(caplog) == []
    d.assert_empty()


@pytest.mark.parametrize("message", [{"i": 1, "a": ["work"]}, {"a": ["work"]}], ids=["request", "event"])
@pytest.mark.parametrize("way", ["async", "not begun", "behind", "ordered", "thread"])
async def test_a_handler_whose_task_the_application_cancels_answers_and_leaves_nothing(
    way: str, message: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """The request got no answer, and its place was taken until the connection ended."""
    began, release, thread = threading.Event(), threading.Event(), way == "thread"
    d = Driven(limits=Limits(running=1))

    async def later() -> None:
        began.set()
        await asyncio.Event().wait()

    def work() -> None:
        began.set()
        release.wait()

    d.peer.on("work", work if thread else later, ordered=way == "ordered", thread=thread)
    d.peer.on("later", lambda: asyncio.sleep(0))
    if way == "behind":
        d.peer.use(pass_on)
    before = asyncio.all_tasks()
    d.feed(message, {"i": 2, "a": ["later"]})
    if way != "not begun":
        await until(began.is_set)
    assert d.take() == []
    [task] = asyncio.all_tasks() - before
    task.cancel("not for callers")
    await asyncio.wait([task])
    release.set()
    await idle(d)
    aborted = {"i": 1, "e": {"message": "Request aborted"}, "_": 1}
    assert d.take() == [aborted, {"i": 2, "d": None}][0 if "i" in message else 1 :]
    assert task.cancelled(), "the application may wait for it"
    assert caplog.records == []
    d.assert_empty()


# ---------------------------------------------------------------- only in threads


async def test_generator_middleware_sets_the_context() -> None:
    user: ContextVar[str] = ContextVar("user")
    server = Server()

    @server.use
    def observe(ctx: Context) -> Iterator[None]:
        token = user.set("ada")
        yield
        user.reset(token)  # raises ValueError in another context

    server.on("user", lambda: user.get(), thread=True)
    async with connect(server) as client:
        assert await client.request("user") == "ada"


class Row(msgspec.Struct, weakref=True):
    id: int


async def test_what_a_thread_has_been_given_is_not_kept() -> None:
    server, given = Server(), list[weakref.ref[Row]]()

    @server.on("take", thread=True)
    def take(row: Row) -> Row:
        given.append(weakref.ref(row))
        return row

    gc.disable()
    try:
        async with connect(server) as client:
            assert await client.request("take", {"id": 1}) == {"id": 1}
            await until(lambda: given[0]() is None)
    finally:
        gc.enable()


async def test_a_generator_in_a_thread_may_block(both: Both) -> None:
    left, right = both
    go, finished, threads = threading.Semaphore(0), threading.Event(), set[int]()

    def blocking() -> Iterator[int]:
        try:
            for number in range(5):
                if number:
                    go.acquire()
                threads.add(threading.get_ident())
                assert current_context().event == "block"
                yield number
            raise ValueError("secret")
        finally:
            finished.set()

    right.on("block", blocking, thread=True)
    right.on("ping", lambda: "pong")
    async with left.stream("block") as numbers:
        assert await anext(numbers) == 0
        assert await left.request("ping") == "pong", "the loop is free while the generator blocks"
    await until(lambda: not left.anonymous_channels)
    assert not finished.is_set() and right.active, "what runs in a thread cannot be stopped there, and counts"
    go.release()
    await until(lambda: finished.is_set() and not right.active)
    go.release(4)
    got: list[int] = []
    with pytest.raises(RemoteError, match="internal error"):
        await collect(left.stream("block"), got)
    assert got == [0, 1, 2, 3, 4] and threading.get_ident() not in threads


async def test_a_handler_that_waits_for_a_thread_does_not_start_either() -> None:
    d, go, started = Driven(limits=Limits(threads=1)), threading.Event(), list[int]()
    d.transport.may_close = asyncio.Event()

    def work(n: int) -> None:
        started.append(n)
        go.wait(600)

    d.peer.on("work", work, thread=True)
    d.feed({"a": ["work", 0]}, {"a": ["work", 1]})
    await until(lambda: started)
    d.feed(*["{"] * 12)
    go.set()
    await until(lambda: d.peer.active == 1)
    d.transport.lose()
    d.transport.may_close.set()
    await idle(d)
    assert started == [0]
