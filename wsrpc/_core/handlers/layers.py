"""The layers around a handler: middleware, its lane, its thread and its time limit.

`around` puts the layers around the compiled call of a handler when the handler is first used. The result is one call.
It returns a value, or an object that must still be awaited or streamed.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Generator, Iterator, Sequence
from functools import partial
from typing import Any, cast

from msgspec import UNSET, Struct

from ..._base.buckets import above
from ..._base.logs import logger
from ..._base.threads import when_over
from ...errors import HandlerTimeout, above_a_rate, short, ungrouped
from ...limits import Rate
from .arguments import CallRefused
from .callables import is_generator_function, name_of
from .compiled import Handler
from .introspection import Kind
from .invocation import Call, Invocation

# The first argument is a `Context`, whose class is in a higher layer.
AsyncMiddleware = Callable[[Any, Callable[[Any], Awaitable[Any]]], Awaitable[Any]]
GeneratorMiddleware = Callable[[Any], Iterator[None]]
Middleware = AsyncMiddleware | GeneratorMiddleware

Next = Callable[[Invocation, Any], Awaitable[Any]]
"""Runs the layers inside a middleware, and the handler."""

PLAIN = frozenset({int, str, bool, float, bytes, list, dict, tuple, type(None)})
"""Classes of results that are neither awaitable nor a source of items."""


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
        middleware: the outermost first. Generator functions run around all other layers.
        time_limit: seconds for a handler that has no limit of its own; see `Limits.handler_timeout`.
    """
    answers_with_channel = handler is not None and handler.facts.kind is not Kind.REQUEST
    if handler is not None:
        own_limit = handler.timeout is not UNSET
        seconds = handler.timeout if own_limit else time_limit
        if handler.facts.kind.opens_before_body:
            call = _opening(call)
        elif isinstance(seconds, (int, float)) and handler.keep is None:
            call = (_limited if handler.facts.is_coroutine else _perhaps_limited)(call, seconds)
        if handler.thread:
            sources = [p.source for p in handler.facts.parameters]
            most = None if "rest" in sources else sources.count("wire") + 1
            call = _in_thread(call, most, answers_with_channel)
        if handler.lane is not None:
            call = _in_lane(call, handler.lane)
    generator_functions: list[Any] = [each for each in middleware if is_generator_function(each)]
    async_functions: list[Any] = [each for each in middleware if not is_generator_function(each)]
    if async_functions:
        within = _innermost(call)
        for each in reversed(async_functions):
            within = _inside(each, within)
        call = _outermost(within)
    starts_later = inspect.iscoroutinefunction(call) or (handler is not None and handler.facts.is_coroutine)
    if generator_functions:
        call = (_enclosed_later if starts_later else _enclosed)(call, generator_functions)
    if handler is not None and handler.rate is not None:
        call = _with_rate(call, handler, handler.rate)
    return Route(call, handler, answers_with_channel, starts_later)


def _with_rate(call: Call, handler: Handler, rate: Rate) -> Call:
    """Refuse the calls of a peer above ``rate``, before middleware runs."""
    refused = f"{above(rate, 'calls')} of this event"

    def with_rate(invocation: Invocation, a: list[Any]) -> Any:
        dispatcher, calls = invocation.dispatcher, invocation.dispatcher.calls
        now = dispatcher.loop.time()
        if (bucket := calls.bucket(handler, rate)).spend(now):
            return call(invocation, a)
        dispatcher.admission.refund()
        by, is_logged = f"rate= of {handler.name}", None
        if calls.totals:
            by, is_logged = f"{by} for {calls.totals[0].name}", calls.totals[0].is_named(by, now)
        dispatcher.answers.host.count_refused("above the rate", refused, by, is_logged)
        raise CallRefused(above_a_rate(refused, bucket.wait()))

    return with_rate


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


def _limit(invocation: Invocation, result: Awaitable[Any], seconds: float) -> Limited:
    return Limited(invocation, result, seconds, partial(invocation.dispatcher.expire, invocation, seconds))


class Limited:
    """Awaitable that a handler has returned, with a time limit. ``expire`` is called when the time is over."""

    def __init__(
        self, invocation: Invocation, result: Awaitable[Any], seconds: float, expire: Callable[[], None]
    ) -> None:
        self._loop = invocation.dispatcher.loop
        self._result = result
        self._seconds = seconds
        self._expire = expire

    def __await__(self) -> Generator[Any, Any, Any]:
        # One timer and no `asyncio.timeout`, because the caller is answered even if the handler does not end.
        timer = self._loop.call_at(self._loop.time() + self._seconds, self._expire)
        try:
            return (yield from self._result.__await__())
        finally:
            timer.cancel()

    def close(self) -> None:
        """Close the result, because nobody will await it."""
        close_unawaited(self._result)


def close_unawaited(result: object) -> None:
    """Close a coroutine that will not be awaited, so that Python does not warn about it."""
    if inspect.iscoroutine(result) or isinstance(result, (Limited, Enclosure)):
        result.close()


def _in_thread(call: Call, most: int | None, streams: bool) -> Call:
    """Call a handler in a thread, where a stream that it returns runs, too.

    Args:
        most: the length of the longest ``a`` that it accepts.
        streams: it is known to return a stream.
    """

    async def in_thread(invocation: Invocation, a: list[Any]) -> Any:
        if most is not None and len(a) > most:
            a = invocation.without_surplus(a, most)  # not in the thread, because this counts the event
        threads = invocation.dispatcher.threads
        worker = await threads.acquire(invocation, streams=streams)
        try:
            result = await worker.do(call, invocation, a)
            return await invocation.dispatcher.complete(invocation, result, partial(threads.iterate, worker, streams))
        finally:
            invocation.thread = worker.release()

    return in_thread


def _in_lane(call: Call, key: Any) -> Call:
    async def in_lane(invocation: Invocation, a: list[Any]) -> Any:
        lane = invocation.lane = invocation.dispatcher.calls.lane(key)  # also while it waits: see `ActiveCalls.tasks`
        invocation.waits = True
        await lane.acquire()
        invocation.waits = False
        try:
            return await invocation.dispatcher.call_in_task(invocation, call)
        finally:
            when_over(invocation.thread, invocation.release_lane)

    return in_lane


# ---------------------------------------------------------------- middleware


def _outermost(within: Next) -> Call:
    async def layered(invocation: Invocation, a: list[Any]) -> Any:
        return await within(invocation, invocation.context)

    return layered


def _inside(middleware: AsyncMiddleware, within: Next) -> Next:
    warned = False

    async def run(invocation: Invocation, ctx: Any) -> Any:
        nonlocal warned
        called, answer = False, None

        async def call_next(ctx: Any) -> Any:
            nonlocal called, answer
            if called:
                raise RuntimeError("a middleware called call_next twice: a handler runs once for each message")
            called = True
            try:
                answer = await within(invocation, ctx)
                return answer
            except BaseExceptionGroup as group:
                error = [ungrouped(group)]
            # Not above, where the group would become the context of its own part, and without a variable, which would
            # be in the frame that the traceback refers to.
            raise error.pop()

        result: Any = middleware(ctx, call_next)
        if not hasattr(result, "__await__"):
            name = getattr(middleware, "__qualname__", middleware)
            raise TypeError(f"middleware is an `async def`, but {name} is not and returned {short(result)}")
        returned = await result
        if returned is None and answer is not None and invocation.id is not None and not warned:
            warned = True
            text = "middleware %s returned None in place of the handler's result: does it lack `return`?"
            logger.warning(text, name_of(middleware))
        return returned

    return run


def _innermost(call: Call) -> Next:
    async def run(invocation: Invocation, ctx: Any) -> Any:
        try:
            return await invocation.dispatcher.call_in_task(invocation, call)
        except CallRefused as refused:
            # Middleware sees the error that the caller will get.
            raise refused.error from None

    return run


# ---------------------------------------------------------------- generators


_ENDED: Any = object()
"""What a generator yields that has ended."""


class RunningGenerators(Struct, eq=False):
    """The generators that run around one call. A generator learns how the call ends, and cannot change it, except by
    failing itself."""

    _running: list[Any] = []
    """The generators that have not been resumed, the outermost first."""

    def start(self, functions: Sequence[Callable[[Any], Iterator[None]]], argument: object) -> None:
        """Make generators, and run each up to its ``yield``."""
        for function in functions:
            generator = function(argument)
            if next(generator, _ENDED) is _ENDED:
                raise RuntimeError(f"middleware {name_of(function)} has ended before its `yield`")
            self._running.append(generator)

    def end(self, outcome: BaseException | None) -> None:
        """Resume the generators: the call has returned, or has raised ``outcome``.

        Raises:
            BaseException: a generator has failed. It is the exception of the call from now on, for generators too.
        """
        failure = None
        while self._running:
            generator, thrown = self._running.pop(), outcome
            traceback = None if thrown is None else thrown.__traceback__
            try:
                if thrown is not None:
                    generator.throw(thrown)
                elif next(generator, _ENDED) is _ENDED:
                    continue
            except StopIteration:
                pass
            except BaseException as exc:
                if exc is not thrown:
                    outcome = failure = exc
            else:
                outcome = failure = RuntimeError(f"middleware {generator.__qualname__} has a second `yield`")
            if thrown is not None:
                thrown.__traceback__ = traceback  # without the generator, which has not raised it
        if failure is not None:
            raise failure


class Enclosure(RunningGenerators, eq=False):
    """The generators around the call of a handler, from before the call to the end of what the call has returned.

    This object is awaited in place of an awaitable or a source that a plain function has returned.
    """

    _invocation: Invocation = cast("Invocation", None)
    _result: Any = None

    def call(self, functions: Sequence[GeneratorMiddleware], call: Call, a: list[Any]) -> Any:
        """Start the generators, and call the handler. If its result takes time, return this object in its place."""
        invocation = self._invocation
        try:
            self.start(functions, invocation.context)
            result = call(invocation, a)
            if result.__class__ not in PLAIN and invocation.dispatcher.is_unfinished(result):
                self._result = result
                return self
        except BaseException as exc:
            self.end(self._outcome(exc))
            raise
        self.end(None)
        return result

    async def run(self, functions: Sequence[GeneratorMiddleware], call: Call, a: list[Any]) -> Any:
        """Start the generators, await the call of the handler, and await or stream its result."""
        invocation = self._invocation
        try:
            self.start(functions, invocation.context)
            result = await call(invocation, a)
            if result.__class__ not in PLAIN:
                result = await invocation.dispatcher.complete(invocation, result)
        except BaseException as exc:
            self.end(self._outcome(exc))
            raise
        self.end(self._outcome(None))
        return result

    def __await__(self) -> Generator[Any, Any, Any]:
        return self.run(
            (), lambda invocation, a: invocation.dispatcher.complete(invocation, self._result), []
        ).__await__()

    def close(self) -> None:
        """Close the result, because nobody will await it."""
        close_unawaited(self._result)
        self.end(self._outcome(self._invocation.cancellation()))

    def _outcome(self, error: BaseException | None) -> BaseException | None:
        """Return the exception for the generators. It is the one that the caller gets, or that is logged."""
        if isinstance(self._invocation.cancel_reason, HandlerTimeout):
            return self._invocation.cancel_reason
        return error.error if isinstance(error, CallRefused) else error and ungrouped(error)


def _enclosed(call: Call, functions: Sequence[GeneratorMiddleware]) -> Call:
    return lambda invocation, a: Enclosure(_invocation=invocation).call(functions, call, a)


def _enclosed_later(call: Call, functions: Sequence[GeneratorMiddleware]) -> Call:
    """Run everything in the task of the handler: a task that is cancelled before its first step runs nothing."""
    return lambda invocation, a: Enclosure(_invocation=invocation).run(functions, call, a)
