"""Handlers: which one runs, what is around it, and what its caller gets."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from core_driver import ABORTED, Blocked, Driven, idle, messages, rejection, turns

from wsrpc import AnonymousChannel, BadArguments, Context, Limits, RemoteError, RpcError, UnknownEvent
from wsrpc.testing import pair
from wsrpc.types import Message


async def pass_on(ctx: Context, call_next: Any) -> Any:
    return await call_next(ctx)


# ---------------------------------------------------------------- which one runs


async def test_once_runs_once_for_a_burst() -> None:
    d = Driven()
    ran: list[Any] = []

    def again(n: int) -> None:  # it is free again inside its own handler
        ran.append(n)
        d.peer.once("again", lambda: ran.append("second"))

    d.peer.once("again", again)
    sent = await d.fed({"i": 1, "a": ["again", 1]}, {"i": 2, "a": ["again"]}, {"i": 3, "a": ["again"]})
    assert ran == [1, "second"]
    assert "d" in sent[0] and "d" in sent[1] and sent[2]["e"]["code"] == "wsrpc.unknown_event"


@pytest.mark.parametrize("kind", ["coroutine", "generator"])
async def test_once_stays_if_its_request_is_cancelled_before_the_handler_begins(kind: str) -> None:
    d = Driven()
    ran: list[int] = []

    async def coroutine(n: int) -> None:
        ran.append(n)
        await turns(1)

    def generator(n: int) -> Iterator[int]:
        ran.append(n)
        yield n

    d.peer.once("e", coroutine if kind == "coroutine" else generator)
    await d.fed({"i": 1, "a": ["e", 1]}, {"i": 1, "x": "enough"})
    [answer] = await d.fed({"i": 2, "a": ["e", 2]})
    called_at_once = sys.version_info >= (3, 12)  # in the first step of its task
    assert ("e" in answer) is called_at_once
    assert called_at_once or 1 not in ran
    await d.fed({"h": 2, "x": "enough"})


async def test_the_last_registration_wins_and_one_from_elsewhere_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    d = Driven()
    for n in range(3):
        d.peer.on("same place", lambda n=n: n)
    assert caplog.records == []

    def one() -> int:
        return 1

    def two() -> int:
        return 2

    assert d.peer.of("room").on("e", one) is one, "so that it is a decorator"
    d.peer.of("room").on("e")(two)
    [record] = caplog.records
    places = [f"{__file__}:{function.__code__.co_firstlineno}" for function in (one, two)]
    text = record.getMessage()
    assert record.levelno == logging.WARNING and "room:e" in text and text.index(places[0]) < text.index(places[1])
    assert await d.fed({"i": 1, "c": "room", "a": ["e"]}) == [{"i": 1, "d": 2}]


async def test_closing_a_channel_removes_its_handlers() -> None:
    d = Driven()
    channel = d.peer.of("room")
    channel.on("e", lambda: 1)
    assert d.peer.of("room") is channel
    error = rejection(await d.fed({"i": 1, "c": "room", "a": ["x"]}), 1)
    assert error == {"message": "No event listener for 'x' on channel 'room'", "code": "wsrpc.unknown_event"}
    channel.close("bored")
    assert channel.closed and channel.close_reason == "bored"
    error = rejection(await d.fed({"i": 1, "c": "room", "a": ["e"]}), 1)
    assert error == {"message": "Channel 'room' does not exist", "code": "wsrpc.unknown_event"}
    assert d.peer.of("room") is not channel


# ---------------------------------------------------------------- arguments and results


@pytest.mark.parametrize("place", ["plain", "thread", "ordered", "middleware"])
async def test_an_event_with_too_many_arguments_reaches_its_handler_without_them(
    place: str, caplog: pytest.LogCaptureFixture
) -> None:
    d = Driven()
    ran: list[Any] = []

    def takes(a: int, ctx: Context, b: float = 7) -> None:
        ran.append((a, b))

    d.peer.on("e", takes, **({place: True} if place in ("ordered", "thread") else {}))
    if place == "middleware":
        d.peer.use(pass_on)
    message: dict[str, Any] = {"a": ["e", 1, 2.5, "x", {}]}
    d.feed(message, message, {"i": 1, **message}, {"a": ["e", "x", 2, 3]})
    await idle(d)
    assert ran == [(1, 2.5)] * 2
    assert "expected at most 2 arguments" in rejection(d.take(), 1)["message"], "who requests is told"
    assert d.ignored == {"surplus arguments": 3, "wrong arguments": 1}
    first, *_, dropped = messages(caplog, logging.WARNING)
    assert "came with 4 arguments and its handler takes 2" in first
    assert dropped.startswith("event 'e' was dropped: ") and "argument 'a'" in dropped


# ---------------------------------------------------------------- errors


class Odd(BaseException):
    """What is no Exception, as some libraries have it."""


INTERNAL: dict[str, BaseException] = {
    "exception": ValueError("the password is 1234"),
    "no Exception": Odd("the password is 1234"),
    "failed test": pytest.fail.Exception("a test failed"),
    "group of cancellations": BaseExceptionGroup("group", [asyncio.CancelledError()]),
    "group": BaseExceptionGroup("group", [Odd()]),
    "group with two errors for the caller": ExceptionGroup("group", [RpcError("one"), RpcError("two")]),
    "group with a defect": ExceptionGroup("group", [RpcError("one"), ValueError("the password is 1234")]),
    "group of a nested request": ExceptionGroup("group", [UnknownEvent("no event listener", "wsrpc.unknown_event")]),
    "cancellation of its own": asyncio.CancelledError(),
    "GeneratorExit": GeneratorExit(),
    "StopIteration": StopIteration(5),
    "StopAsyncIteration": StopAsyncIteration(),
    "of wsrpc's own": BadArguments("you did it wrong", "wsrpc.bad_arguments"),
    "from a nested request": UnknownEvent("no event listener", "wsrpc.unknown_event"),
}
"""What a handler raises that its caller may not be told."""


@pytest.mark.parametrize("outcome", INTERNAL)
@pytest.mark.parametrize("way", ["inline", "async", "awaitable", "thread", "middleware", "behind", "ordered"])
async def test_what_the_caller_may_not_know_is_internal_with_an_id_that_the_log_has_too(
    way: str, outcome: str, caplog: pytest.LogCaptureFixture
) -> None:
    def inline() -> None:
        raise INTERNAL[outcome]

    async def later() -> None:
        inline()

    async def middleware(ctx: Context, call_next: Any) -> Any:
        inline()

    d = Driven()
    if way in ("middleware", "behind"):
        d.peer.use(middleware if way == "middleware" else pass_on)
    handlers: dict[str, Any] = {"async": later, "awaitable": lambda: later()}
    d.peer.on("work", handlers.get(way, inline), thread=way == "thread", ordered=way == "ordered")
    d.feed({"i": 1, "a": ["work"]})
    await idle(d)
    error = rejection(d.take(), 1)
    assert set(error) == {"code", "message", "error_id"} and error["code"] == "wsrpc.internal"
    assert error["message"] == "internal error"
    [record] = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert error["error_id"] in record.getMessage() and "work" in record.getMessage()
    assert record.exc_info is not None and record.__dict__["peer"] == d.peer.id
    caplog.clear()
    d.feed({"a": ["work"]})
    await idle(d)
    assert [("handling work" in text) for text in messages(caplog, logging.ERROR)] == [True]
    d.assert_empty()


BANNED = RpcError("you are banned", "banned")
ALONE: dict[str, BaseException] = {
    "in a group": ExceptionGroup("group", [BANNED]),
    "in a group of a group": ExceptionGroup("outer", [ExceptionGroup("inner", [BANNED])]),
    "with cancellations": BaseExceptionGroup("group", [asyncio.CancelledError(), BANNED, GeneratorExit()]),
    "raised by two tasks": ExceptionGroup("outer", [BANNED, ExceptionGroup("inner", [BANNED])]),
}


@pytest.mark.parametrize("shape", ALONE)
@pytest.mark.parametrize("way", ["inline", "async", "thread", "middleware", "around", "ordered", "generator"])
async def test_an_error_for_the_caller_that_is_alone_in_a_group_reaches_the_caller(
    way: str, shape: str, caplog: pytest.LogCaptureFixture
) -> None:
    """What a task of a task group raised was an internal error to the caller, and to middleware."""
    seen: list[BaseException] = []

    def inline() -> None:
        raise ALONE[shape]

    async def later() -> None:
        inline()

    async def items() -> AsyncIterator[int]:
        inline()
        yield 0

    async def outer(ctx: Context, call_next: Any) -> Any:
        try:
            return await call_next(ctx)
        except RpcError as exc:
            seen.append(exc)
            raise

    async def inner(ctx: Context, call_next: Any) -> Any:
        if way == "middleware":
            inline()
        await call_next(ctx)

    d = Driven()
    if way in ("middleware", "around"):
        d.peer.use(outer)
        d.peer.use(inner)
    handlers: dict[str, Any] = {"async": later, "generator": items}
    d.peer.on("work", handlers.get(way, inline), thread=way == "thread", ordered=way == "ordered")
    d.feed({"i": 1, "a": ["work"]})
    if way == "generator":  # its request is answered by a channel
        await turns()
        assert d.take() == [{"i": 1, "h": 1}]
        d.feed({"h": 1, "a": ["start"]})
        await idle(d)
        [sent] = d.take()
        assert sent["x"]["message"] == "you are banned" and sent["x"]["code"] == "banned"
    else:
        await idle(d)
        assert rejection(d.take(), 1) == {"message": "you are banned", "code": "banned"}
    assert seen == [BANNED] * (way in ("middleware", "around"))
    assert messages(caplog, logging.WARNING) == []
    if way != "generator":
        d.feed({"a": ["work"]})
        await idle(d)
        [record] = caplog.records
        assert record.getMessage().startswith("handling work failed: you are banned") and record.exc_info is None
    d.assert_empty()


@pytest.mark.parametrize("message", [{"i": 1, "a": ["work"]}, {"a": ["work"]}], ids=["request", "event"])
@pytest.mark.parametrize("way", ["async", "not begun", "in middleware", "behind", "ordered", "task group", "thread"])
async def test_a_handler_whose_task_the_application_cancels_answers_and_leaves_nothing(
    way: str, message: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """The request got no answer, and its place was taken until the connection ended."""
    begun, release = list[str](), threading.Event()

    async def work() -> None:
        begun.append("handler")
        if way == "task group":
            async with asyncio.TaskGroup() as group:
                group.create_task(asyncio.Event().wait())
                await asyncio.Event().wait()
        await asyncio.Event().wait()

    async def middleware(ctx: Context, call_next: Any) -> Any:
        if ctx.event == "later":
            return await call_next(ctx)
        begun.append("middleware")
        if way == "in middleware":
            await asyncio.Event().wait()
        return await call_next(ctx)

    d = Driven(limits=Limits(running=1))
    d.peer.on("work", release.wait if way == "thread" else work, ordered=way == "ordered", thread=way == "thread")
    d.peer.on("later", lambda: turns(1))
    if way in ("in middleware", "behind"):
        d.peer.use(middleware)
    d.feed(message, {"i": 2, "a": ["later"]})
    if way != "not begun":
        await turns()
    assert d.take() == []
    [task] = d.peer._current.dispatcher.calls.tasks()
    task.cancel("not for callers")
    await asyncio.wait([task])
    release.set()
    await idle(d)
    aborted = {"i": 1, "e": {"message": "Request aborted"}, "_": 1}
    assert d.take() == [aborted, {"i": 2, "d": None}][0 if "i" in message else 1 :]
    assert task.cancelled(), "the application may wait for it"
    assert len(begun) == {"thread": 0, "behind": 2, "not begun": int(sys.version_info >= (3, 12))}.get(way, 1)
    assert caplog.records == []
    d.assert_empty()


async def test_a_handler_that_is_cancelled_before_its_thread_begins_never_runs() -> None:
    ran: list[int] = []
    go = threading.Event()
    d = Driven(limits=Limits(threads=1))
    d.peer.on("first", go.wait, thread=True)
    d.peer.on("second", lambda: ran.append(2), thread=True)
    d.feed({"i": 1, "a": ["first"]})
    await turns()
    [first] = d.peer._current.dispatcher.calls.tasks()
    d.feed({"i": 2, "a": ["second"]})
    await turns()
    [second] = d.peer._current.dispatcher.calls.tasks() - {first}
    second.cancel()
    await asyncio.wait([second])
    assert rejection(d.take(), 2) == ABORTED
    go.set()
    await idle(d)
    assert ran == [] and d.take() == [{"i": 1, "d": True}]
    d.assert_empty()


@pytest.mark.parametrize("kind", ["stream", "plain stream", "upload", "conversation", "returned"])
@pytest.mark.parametrize("extensions", [True, False], ids=["wsrpc", "plain"])
async def test_a_handler_whose_task_the_application_cancels_gives_its_channel_back(kind: str, extensions: bool) -> None:
    """Eight of them used up `Limits.channels`, and their readers waited without a limit."""
    tasks: list[asyncio.Task[Any]] = []

    def cancelled() -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.append(task)
        task.cancel()

    async def stream() -> AsyncIterator[int]:
        yield 1
        cancelled()
        await turns(1)

    def plain_stream() -> Iterator[int]:
        yield 1
        cancelled()
        yield from range(1000)

    async def upload(items: AsyncIterator[int]) -> None:
        async for _ in items:
            cancelled()

    async def conversation(channel: AnonymousChannel) -> None:
        cancelled()
        await channel.wait_for("never")

    async def returned(ctx: Context) -> AnonymousChannel:
        channel = ctx.channel()
        cancelled()
        await turns(1)
        return channel

    async def source() -> AsyncIterator[int]:
        while True:
            yield 0
            await turns(1)

    handlers = stream, plain_stream, upload, conversation, returned
    async with pair(limits=Limits(channels=2), extensions=extensions) as (a, b):
        for handler in handlers:
            b.on(handler.__name__.replace("_", " "), handler)

        async def call() -> None:
            if kind == "upload":
                await a.request(kind, send=source())
            elif "stream" in kind:
                async for _ in a.stream(kind):
                    pass
            else:
                async with await a.open_channel(kind) as channel:
                    await anext(channel.events("word"))

        for _ in range(5):
            with pytest.raises(RemoteError, match="Request aborted"):
                await call()
        await turns()
        assert (a.anonymous_channels, b.anonymous_channels, a.pending, b.active) == (0, 0, 0, 0)
    assert len(tasks) == 5 and all(task.cancelled() for task in tasks)


class Mute(Exception):
    def __str__(self) -> str:
        raise KeyError("no text")


HALF = r"the error has half of a surrogate pair in '\ud800': replace it, or send bytes"
UNENCODABLE = UnicodeEncodeError("utf-8", "\ud800", 0, 1, HALF)


def breaks(exc: BaseException) -> bool:
    raise LookupError("broken predicate")


@pytest.mark.parametrize(
    ("expose", "error", "expected"),
    [
        (True, ValueError("plain text"), {"message": "plain text"}),
        (lambda exc: isinstance(exc, LookupError), KeyError("secret"), {"message": "'secret'"}),
        (lambda exc: isinstance(exc, LookupError), ValueError("secret"), "wsrpc.internal"),
        (breaks, ValueError("secret"), "wsrpc.internal"),
        (True, Mute(), "wsrpc.internal"),
        (True, ValueError("\ud800"), {"message": str(UNENCODABLE)}),
    ],
)
async def test_expose_errors_sends_the_text(
    expose: Any, error: Exception, expected: Any, caplog: pytest.LogCaptureFixture
) -> None:
    # A lone surrogate in the log could not be handed on by what runs tests in several processes.
    caplog.set_level(logging.CRITICAL, "wsrpc")

    def fail() -> None:
        raise error

    d = Driven(expose_errors=expose)
    d.peer.on("fail", fail)
    rejected = rejection(await d.fed({"i": 1, "a": ["fail"]}), 1)
    assert (rejected if isinstance(expected, dict) else rejected["code"]) == expected
    d.assert_empty()


# ---------------------------------------------------------------- slow ones


@pytest.mark.usefixtures("slow_handlers_are_named")
@pytest.mark.parametrize(("seconds", "said"), [(0.2, 1), (0.09, 0)])
@pytest.mark.parametrize("way", ["inline", "middleware", "ordered"])
async def test_a_sync_handler_that_holds_the_loop_is_named(
    way: str, seconds: float, said: int, caplog: pytest.LogCaptureFixture
) -> None:
    d = Driven()
    d.peer.on("sluggish", lambda: d.clock.advance(seconds), ordered=way == "ordered")
    if way == "middleware":
        d.peer.use(pass_on)
    await d.fed({"i": 1, "a": ["sluggish"]})
    d.clock.advance(5)  # the time between reads does not count
    await d.fed({"i": 2, "a": ["nobody"]})
    texts = messages(caplog)
    assert len(texts) == said
    assert all("lambda" in text and "held the event loop for 200 ms" in text for text in texts)


@pytest.mark.usefixtures("slow_handlers_are_named")
async def test_sync_handlers_that_hold_the_loop_together_are_all_named(caplog: pytest.LogCaptureFixture) -> None:
    d = Driven()

    def first() -> None:
        d.clock.advance(0.06)

    def second() -> None:
        d.clock.advance(0.05)

    d.peer.on("first", first)
    d.peer.on("second", second)
    await d.fed({"a": ["first"]}, {"a": ["second"]}, {"a": ["first"]})
    [text] = messages(caplog)
    assert text.startswith("one of ") and "first and " in text and "second held the event loop for 170 ms" in text


# ---------------------------------------------------------------- around handlers


async def test_middleware_may_refuse_or_answer_itself_and_sees_unknown_events_and_bad_arguments() -> None:
    d = Driven()
    seen: list[tuple[str, str | None, str]] = []

    @d.peer.use
    async def guard(ctx: Context, call_next: Any) -> Any:
        if ctx.event == "forbidden":
            raise RpcError("not for you", 403)
        if ctx.event == "cached":
            return "from the cache"
        ctx.args = [*ctx.args, 5]  # conversion sees the new ones
        assert type(ctx.args) is tuple
        try:
            return ["wrapped", await call_next(ctx)]
        except RpcError as exc:
            seen.append((ctx.event, ctx.channel_name, type(exc).__name__))
            raise

    def strict(n: int, added: int) -> int:
        return n + added

    d.peer.on("strict", strict)
    d.peer.on("forbidden", strict)
    calls: list[dict[str, Any]] = [{"a": ["forbidden"]}, {"a": ["nobody"]}, {"a": ["strict", "x"]}]
    calls += [{"a": ["e"], "c": "nowhere"}, {"a": ["strict", 4]}, {"a": ["cached"]}]
    sent = await d.fed(*({"i": i, **call} for i, call in enumerate(calls, 1)), {"a": ["nobody"]})
    codes = [403, "wsrpc.unknown_event", "wsrpc.bad_arguments", "wsrpc.unknown_event"]
    assert [rejection(sent, i)["code"] for i in range(1, 5)] == codes
    assert {"i": 5, "d": ["wrapped", 9]} in sent and {"i": 6, "d": "from the cache"} in sent and len(sent) == 6
    unknown = [("nobody", None, "UnknownEvent")] * 2
    assert sorted(seen) == [("e", "nowhere", "UnknownEvent"), *unknown, ("strict", None, "BadArguments")]
    assert d.ignored == {"unknown event": 1}
    d.assert_empty()


async def test_a_middleware_that_goes_on_twice_fails_and_the_handler_runs_once() -> None:
    d = Driven()
    ran: list[int] = []
    kept: list[Callable[[], Any]] = []

    @d.peer.use
    async def twice(ctx: Context, call_next: Any) -> Any:
        kept.append(lambda: call_next(ctx))
        await call_next(ctx)
        return await call_next(ctx)

    d.peer.use(pass_on)
    d.peer.on("e", ran.append)
    assert rejection(await d.fed({"i": 1, "a": ["e", 1]}), 1)["code"] == "wsrpc.internal"
    with pytest.raises(RuntimeError, match="call_next twice"):  # nor may it keep it for later
        await kept[0]()
    assert ran == [1]


async def test_a_middleware_that_forgets_to_return_is_named_once(caplog: pytest.LogCaptureFixture) -> None:
    d = Driven()

    @d.peer.use
    async def forgetful(ctx: Context, call_next: Any) -> None:
        await call_next(ctx)

    d.peer.on("e", lambda n: n)
    sent = await d.fed({"a": ["e", 1]}, *({"i": i, "a": ["e", n]} for i, n in enumerate((None, 2, 3), 1)))
    assert sent == [{"i": i, "d": None} for i in (1, 2, 3)]
    [record] = caplog.records
    assert record.levelname == "WARNING" and "forgetful returned None in place of" in record.getMessage()


# ---------------------------------------------------------------- message handlers


@pytest.mark.parametrize("way", ["runs", "fails", "cancelled", "unknown", "middleware", "dropped"])
async def test_processed_ends_when_the_handler_is_done(way: str) -> None:
    d, seen, blocked = Driven(), list[Message](), Blocked()
    d.peer.on("message", lambda peer, message: seen.append(message))

    async def handler() -> None:
        await blocked()
        if way == "fails":
            raise ValueError

    if way == "middleware":
        d.peer.use(pass_on)
    d.peer.on("h", handler)
    d.feed({"i": 1, "a": ["nobody" if way == "unknown" else "h"]})
    done = asyncio.ensure_future(seen[0].processed())
    await turns()
    assert done.done() == (way == "unknown")
    if way == "cancelled":
        d.feed({"i": 1, "x": 0})
    elif way == "dropped":
        d.transport.lose()
    else:
        blocked.go.set()
    await done
