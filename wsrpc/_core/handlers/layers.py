"""The layers around a handler: middleware, its lane, its thread and its time limit.

`around` puts the layers around the compiled call of a handler when the handler is first used. The result is one call.
It returns a value, or an object that must still be awaited or streamed.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
from collections.abc import Awaitable, Callable, Generator
from functools import partial
from typing import Any

from msgspec import UNSET, Struct

from ...errors import made_here, short
from .arguments import ArgumentsRefused
from .compiled import Handler
from .invocation import Call, Invocation

# The first argument is a `Context`, whose class is in a higher layer.
Middleware = Callable[[Any, Callable[[Any], Awaitable[Any]]], Awaitable[Any]]

Next = Callable[[Invocation, Any], Awaitable[Any]]
"""Runs the layers inside a middleware, and the handler."""

_NOT_STARTED = Exception()
"""Stands for the result of a thread that has not called its handler; see `Admission.paused`."""


class Route(Struct, frozen=True):
    """The handler of a message, and the call of the handler with its layers."""

    call: Call
    handler: Handler | None
    """None for an event without a handler: the call raises `UnknownEvent`."""
    answers_with_channel: bool
    """Whether a request is known to be answered by a channel."""
    starts_later: bool
    """Whether the call only makes a coroutine, so that no code of the handler runs within the call."""


def around(
    handler: Handler | None,
    call: Call,
    middleware: list[Middleware],
    time_limit: float | None,
) -> Route:
    """Put the layers around the ``call`` of a handler.

    Args:
        middleware: the outermost first.
        time_limit: seconds for a handler that has no limit of its own; see `Limits.handler_timeout`.
    """
    if handler is not None:
        own_limit = handler.timeout is not UNSET
        seconds = handler.timeout if own_limit else time_limit
        if handler.opens_before_body:
            call = _opening(call)
        elif isinstance(seconds, (int, float)):
            call = (_limited if handler.facts.is_coroutine else _perhaps_limited)(call, seconds)
        if handler.thread:
            call = _in_thread(call, handler.most)
        if handler.lane is not None:
            call = _in_lane(call, handler.lane)
        if handler.acquired and (handler.facts.is_coroutine or handler.answers_with_channel):
            call = _within_task(call)
    if middleware:
        within = _innermost(call)
        for each in reversed(middleware):
            within = _inside(each, within)
        call = _outermost(within)
    starts_later = inspect.iscoroutinefunction(call) or (handler is not None and handler.facts.is_coroutine)
    return Route(call, handler, handler is not None and handler.answers_with_channel, starts_later)


def _opening(call: Call) -> Call:
    """Answer with a channel before the result of ``call`` runs."""

    async def opening(invocation: Invocation, a: list[Any]) -> Any:
        return await invocation.dispatcher.serve(invocation, call(invocation, a))

    return opening


def _limited(call: Call, seconds: float) -> Call:
    async def limited(invocation: Invocation, a: list[Any]) -> Any:
        return await _limit(invocation, call(invocation, a), seconds)

    return limited


def _perhaps_limited(call: Call, seconds: float) -> Call:
    """Limit the time of the awaitable that a plain function may return."""

    def perhaps_limited(invocation: Invocation, a: list[Any]) -> Any:
        result = call(invocation, a)
        return _limit(invocation, result, seconds) if hasattr(result, "__await__") else result

    return perhaps_limited


def _limit(invocation: Invocation, work: Awaitable[Any], seconds: float) -> Limited:
    return Limited(invocation, work, seconds, partial(invocation.dispatcher.expire, invocation, seconds))


class Limited:
    """Awaitable that a handler has returned, with a time limit. ``expire`` is called when the time is over."""

    def __init__(
        self, invocation: Invocation, work: Awaitable[Any], seconds: float, expire: Callable[[], None]
    ) -> None:
        self._loop = invocation.dispatcher.loop
        self._work = work
        self._seconds = seconds
        self._expire = expire

    def __await__(self) -> Generator[Any, Any, Any]:
        # One timer and no `asyncio.timeout`, because the caller is answered even if the handler does not end.
        timer = self._loop.call_at(self._loop.time() + self._seconds, self._expire)
        try:
            return (yield from self._work.__await__())
        finally:
            timer.cancel()

    def close(self) -> None:
        """Close the work, because nobody will await it."""
        close_unawaited(self._work)


def close_unawaited(work: object) -> None:
    """Close a coroutine that will not be awaited, so that Python does not warn about it."""
    if inspect.iscoroutine(work) or isinstance(work, Limited):
        work.close()


def _within_task(call: Call) -> Call:
    """Call a handler within its task. If it is cancelled before, a handler of `once` stays registered."""

    async def within_task(invocation: Invocation, a: list[Any]) -> Any:
        return await invocation.dispatcher.call_in_task(invocation, call)

    return within_task


def _in_thread(call: Call, most: int | None) -> Call:
    """Call a handler in a thread. ``most`` is the length of the longest ``a`` that it accepts."""

    async def in_thread(invocation: Invocation, a: list[Any]) -> Any:
        if most is not None and len(a) > most:
            a = invocation.without_surplus(a, most)  # not in the thread, because this counts the event
        context = contextvars.copy_context()

        def work() -> tuple[Any, BaseException | None]:
            # The handler may have waited for a thread until now, and may be cancelled. Its exception is returned, not
            # raised: a future refuses StopIteration, and nobody retrieves the exception if the handler was cancelled.
            if invocation.state.cancelled:
                return None, invocation.cancellation()
            if invocation.dispatcher.admission.paused is not None:
                return None, _NOT_STARTED
            try:
                return context.run(call, invocation, a), None
            except BaseException as exc:
                return None, exc

        while True:
            invocation.thread = asyncio.get_running_loop().run_in_executor(None, work)
            result, error = await asyncio.shield(invocation.thread)
            if error is not _NOT_STARTED:
                break
            await invocation.dispatcher.admission.wait_while_paused(invocation)
        if error is not None:
            raise error
        return await invocation.dispatcher.complete(invocation, result, thread=True)

    return in_thread


def _in_lane(call: Call, key: Any) -> Call:
    async def in_lane(invocation: Invocation, a: list[Any]) -> Any:
        lane = invocation.lane = invocation.dispatcher.work.lane(key)  # also while it waits: see `Work.tasks`
        await lane.acquire()
        try:
            return await invocation.dispatcher.call_in_task(invocation, call)
        finally:
            when_over(invocation.thread, invocation.release_lane)

    return in_lane


def when_over(thread: asyncio.Future[Any] | None, then: Callable[[], object]) -> None:
    """Call ``then`` once the thread has ended. The thread of a cancelled handler runs on."""
    if thread is None or thread.done():
        then()
    else:
        thread.add_done_callback(lambda _: then())


# ---------------------------------------------------------------- middleware


def _outermost(within: Next) -> Call:
    async def layered(invocation: Invocation, a: list[Any]) -> Any:
        return await within(invocation, invocation.context)

    return layered


def _inside(middleware: Middleware, within: Next) -> Next:
    async def run(invocation: Invocation, ctx: Any) -> Any:
        called = False

        async def call_next(ctx: Any) -> Any:
            nonlocal called
            if called:
                raise RuntimeError("a middleware called call_next twice: a handler runs once for each message")
            called = True
            return await within(invocation, ctx)

        result: Any = middleware(ctx, call_next)
        if not hasattr(result, "__await__"):
            name = getattr(middleware, "__qualname__", middleware)
            raise TypeError(f"middleware is an `async def`, but {name} is not and returned {short(result)}")
        return await result

    return run


def _innermost(call: Call) -> Next:
    async def run(invocation: Invocation, ctx: Any) -> Any:
        try:
            return await invocation.dispatcher.call_in_task(invocation, call)
        except ArgumentsRefused as refused:
            # Middleware sees the error that the caller will get.
            raise made_here(refused.error) from None

    return run
