"""Runs handlers with their middleware and context, in a lane or a thread, and counts those that run."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

from msgspec import UNSET

from .._base.scheduler import Scheduler
from .._channels.core import TOO_MANY, ChannelCore
from .._channels.source import as_source
from .._handlers.compiled import ArgumentsRefused, Handler
from .._handlers.invocation import Invocation
from .._handlers.lifecycle import Closers
from .._handlers.registry import Middleware, Registry
from .._handlers.suggestions import Unhandled
from ..errors import HandlerTimeout, RemoteError, RpcError, UnknownEvent, made_here, short
from ..limits import Limits
from .answers import Answers
from .session import Call

__all__ = ["PLAIN", "SLOW_HANDLER", "Invoker", "RunningHandlers", "when_over"]

SLOW_HANDLER = 0.1
"""Seconds for which a plain function may hold the event loop before a warning names it."""


PLAIN = frozenset({int, str, bool, float, bytes, list, dict, tuple, type(None)})
"""Classes of results that are neither awaitable nor a source of items, known without asking."""

MOST_CLASSES = 1024
"""Classes of results that one peer remembers."""

NOT_STARTED = Exception()
"""Stands for the result of a thread that has not called its handler; see `Session.paused`."""


class RunningHandlers:
    """Handlers that run in tasks, with the counts that `Limits.running` and `Limits.running_bytes` bound.

    A handler counts until it exits, cancelled or not. Streams and conversations may stay open for long, so no message
    waits until they end: their bytes are counted separately, and a call that would make them too many is refused.
    """

    __slots__ = (
        "calls",
        "count",
        "held",
        "held_by_channels",
        "limit",
        "most_held",
        "on_channels",
        "room_for_any",
        "then",
    )

    def __init__(self, limits: Limits) -> None:
        # A dict and not a set, here and elsewhere, because an empty one is a third of the size, and peers are many.
        self.calls: dict[Call, None] = {}
        self.count = 0
        """Handlers that run, besides those whose request was answered with a channel that is open."""
        self.held = 0
        """Bytes of the messages that called these handlers."""
        self.held_by_channels = 0
        """Bytes of the messages that opened the channels which are open."""
        self.then: Callable[[], None] | None = None
        """Is called once the events before the end of the session are handled."""
        self.on_channels = 0
        """Handlers of requests that came on anonymous channels."""
        self.limit = limits.running
        self.most_held = limits.running_bytes
        self.room_for_any = max(0, limits.running_bytes - limits.message)
        """While no more bytes are held, there is room for any message."""

    def add(self, call: Call) -> None:
        """Count a handler that starts."""
        message = call.ctx.inbound
        if message.i is not UNSET:
            call.session.active[message.i] = call
            if message.h is not None:
                self.on_channels += 1
        self.calls[call] = None
        self.count += 1
        if call.bytes_on_channel:
            self.held_by_channels += call.size
        else:
            self.held += call.size

    def remove(self, call: Call) -> None:
        """Count a handler no more, because it has exited."""
        self.calls.pop(call, None)
        if call.bytes_on_channel:
            self.held_by_channels -= call.size
        else:
            self.held -= call.size
        if not call.counts_as_channel:
            self.count -= 1
        message, active = call.ctx.inbound, call.session.active
        if message.i is not UNSET:
            if message.h is not None:
                self.on_channels -= 1
            if active.get(message.i) is call:  # as `Call.settle`, one call less
                del active[message.i]

    def after_events(self, then: Callable[[], None] | None, others_wait: bool) -> None:
        """Call ``then`` once every event that has arrived has started, and those that run in order have ended.

        A function that still waits for that is called now. ``others_wait``: messages wait for a place.
        """
        earlier, self.then = self.then, then
        if earlier is not None:
            earlier()
        self.look_for_events(others_wait)

    def look_for_events(self, others_wait: bool) -> None:
        """Call the function of `after_events` if its time has come."""
        if not others_wait and not any(map(_goes_before_close, self.calls)):
            then, self.then = self.then, None
            if then is not None:
                then()

    def count_as_channel(self, call: Call) -> None:
        """Count a call as a channel: its request has been answered with one."""
        call.counts_as_channel = True
        self.count -= 1
        if not call.bytes_on_channel:
            call.bytes_on_channel = True
            self.held -= call.size
            self.held_by_channels += call.size

    def count_as_handler(self, call: Call) -> None:
        """Count a call as a handler again: its channel is over, and it still runs."""
        call.counts_as_channel = call.bytes_on_channel = False
        self.count += 1
        self.held += call.size
        self.held_by_channels -= call.size

    def too_large_for_channel(self, size: int) -> str | None:
        """Return why a message of ``size`` bytes may not open a channel. None if it may."""
        if self.held_by_channels == 0 or self.held_by_channels + size <= self.most_held:
            return None
        return (
            f"the messages that opened channels which are still open take {self.held_by_channels} bytes, "
            f"{self.most_held} may be taken (Limits.running_bytes), close some"
        )

    def check_room_for_channel(self, call: Call) -> None:
        """Check that the request of a call may be answered with a channel, as far as bytes matter.

        For a handler that is known to open a channel this was checked, and the bytes counted, before it ran.

        Raises:
            RemoteError: it may not. The error does not say that the handler did not run.
        """
        if not call.bytes_on_channel and (why := self.too_large_for_channel(call.size)) is not None:
            raise made_here(RemoteError(why, TOO_MANY))

    def tasks(self, closers: Closers | None = None) -> set[asyncio.Task[None]]:
        """Return the tasks in which handlers run, besides those of ``closers``.

        The task of a call that was cancelled may be over while its thread goes on, which nothing can stop.
        """
        tasks = ((call.task, call.ctx) for call in self.calls if call.task is not None and not call.task.done())
        return {task for task, ctx in tasks if closers is None or not closers.cover(task, ctx)}

    @property
    def threads_left(self) -> int:
        """Number of cancelled calls whose thread goes on."""
        return sum(call.task is not None and call.task.done() for call in self.calls)

    def channels(self, closers: Closers) -> set[ChannelCore]:
        """Return the anonymous channels on which handlers of ``closers`` run."""
        calls = (call for call in self.calls if call.task is not None and closers.cover(call.task, call.ctx))
        return {call.channel for call in calls if call.channel is not None}

    def is_awaited(self, ctx: Invocation | None) -> bool:
        """Whether ``ctx`` is that of a handler which runs here and for which the remote peer waits."""
        if ctx is None or ctx.id is None:
            return False
        return any(
            call.ctx is ctx
            and not (call.cancelled or call.orphaned)
            and (call.channel is None or not call.channel.closed)
            for call in self.calls
        )


class Invoker:
    """Runs handlers that are not called inline: ``own`` are the peer's, ``shared`` the server's."""

    def __init__(
        self,
        own: Registry,
        shared: Registry,
        loop: Scheduler,
        answers: Answers,
        limit: float | None,
        *,
        answer_with_channel: Callable[[Call, Any], Awaitable[Any]],
    ) -> None:
        """
        Args:
            limit: seconds for handlers that have no limit of their own; see `Limits.handler`.
            answer_with_channel: answers a call with a channel, does the given work on it, and returns the result.
        """
        self.limit = limit
        self._own = own
        self._shared = shared
        self._loop = loop
        self._answers = answers
        self._answer_with_channel = answer_with_channel
        self._noted_unknown = False
        self._values: dict[type, None] = {}
        """Classes of results that are simply values."""
        # A lane ends with its handler or channel. The dictionary takes a kilobyte, and few peers need it.
        self._lanes: WeakKeyDictionary[object, asyncio.Lock] | None = None

    @property
    def layered(self) -> bool:
        """Whether anything runs around handlers."""
        return self._own.layered or self._shared.layered

    @property
    def adds_to_calls(self) -> bool:
        """Whether even a handler that is simply called has something around it: a layer or a time limit."""
        return self.limit is not None or self._own.layered or self._shared.layered

    def goes_on(self, result: object) -> bool:
        """Whether there is more to do with what a handler returned: await it, or stream it."""
        cls = result.__class__
        if cls in self._values:
            return False
        if hasattr(result, "__await__") or as_source(result) is not None:
            return True
        if len(self._values) < MOST_CLASSES:
            self._values[cls] = None
        return False

    async def run(self, call: Call, local: Registry | None = None) -> Any:
        """Return the handler's result, or raise what it or its middleware raises.

        ``local`` is the registry of the anonymous channel on which the message came.
        """
        if call.handler is None or self.layered or (local is not None and local.layered):
            return await self._within_layers(call, local)
        return await self._in_lane(call, call.handler)

    async def finish(self, call: Call, result: Any) -> Any:
        """Await or stream what a handler has returned, as it needs, and return the result."""
        if hasattr(result, "__await__"):
            handler = call.handler
            limit = self.limit if handler is None or handler.timeout is UNSET else handler.timeout
            if limit is None:
                result = await result
            else:
                # One timer and no `asyncio.timeout`, because the caller is answered even if the handler does not end.
                timer = self._loop.call_at(self._loop.time() + limit, partial(self._expire, call, limit))
                try:
                    result = await result
                finally:
                    timer.cancel()
        source = as_source(result, thread=call.handler is not None and call.handler.thread)
        return result if source is None else await self._answer_with_channel(call, source)

    def _expire(self, call: Call, limit: float) -> None:
        """Cancel a handler that has run too long, and reject its request now: the handler may take time to exit."""
        if call.cancelled:  # it is ending already
            return
        ctx, handler = call.ctx, call.handler
        source = "Limits.handler" if handler is None or handler.timeout is UNSET else "timeout="
        text = "%s, the handler of %s, was cancelled: it took longer than %g s (%s)"
        self._answers.log(logging.WARNING, text, None if handler is None else handler.name, ctx.label, limit, source)
        error = made_here(HandlerTimeout(f"{ctx.event!r} took longer than {limit:g} s and was cancelled"))
        call.orphan(error)
        if ctx.id is not None:
            call.settle()
            self._answers.reject(ctx.id, error)

    async def _within_layers(self, call: Call, local: Registry | None) -> Any:
        """Run middleware (the server's, then the peer's, then the channel's), then the handler within its context."""
        ctx = call.ctx
        channel = ctx.channel_name if local is None else ctx.inbound.h
        chain: list[Middleware] = []
        handler_context = None
        for registry in (self._shared, self._own, *(() if local is None else (local,))):
            for place in (None,) if channel is None else (None, channel):
                if place in registry.scopes:
                    chain += registry.scopes[place].middleware
            handler_context = registry.handler_context or handler_context
        handler = call.handler

        async def innermost(ctx: Any) -> Any:
            if handler is None:
                raise self.unknown(call.ctx)
            try:
                if handler_context is None:
                    return await self._in_lane(call, handler)
                async with handler_context(ctx):
                    return await self._in_lane(call, handler)
            except ArgumentsRefused as refused:
                # Middleware sees the error that the caller will get.
                raise made_here(refused.error) from None

        def after(position: int) -> Callable[[Any], Any]:
            called = False

            async def call_next(ctx: Any) -> Any:
                nonlocal called
                if called:
                    raise RuntimeError("a middleware called call_next twice: a handler runs once for each message")
                called = True
                if position == len(chain):
                    return await innermost(ctx)
                result = chain[position](ctx, after(position + 1))
                if not hasattr(result, "__await__"):
                    name = getattr(chain[position], "__qualname__", chain[position])
                    raise TypeError(f"middleware is an `async def`, but {name} is not and returned {short(result)}")
                return await result

            return call_next

        return await after(0)(call.ctx.context)

    async def _in_lane(self, call: Call, handler: Handler) -> Any:
        if handler.lane is None:
            return await self._call(call, handler)
        if self._lanes is None:
            self._lanes = WeakKeyDictionary()
        lane = self._lanes.get(handler.lane)
        if lane is None:
            lane = self._lanes[handler.lane] = asyncio.Lock()
        await lane.acquire()
        call.lane = lane
        try:
            return await self._call(call, handler)
        finally:
            when_over(call.thread, call.leave_lane)

    async def may_start(self, call: Call) -> None:
        """Wait while no handler may start. See `Session.paused`.

        Raises:
            asyncio.CancelledError: the session is over.
        """
        session = call.session
        while session.paused is not None:
            await asyncio.shield(session.paused)
            if session.over:
                self._answers.ignored["dropped at the end"] += 1
                call.cancelled = call.orphaned = True
                raise call.cancellation()

    async def _call(self, call: Call, handler: Handler) -> Any:
        if call.session.paused is not None:
            await self.may_start(call)
        ctx = call.ctx
        a = ctx.inbound.a
        if handler.thread:
            if handler.most is not None and len(a) > handler.most:
                a = ctx.without_surplus(a, handler.most)  # not in the thread, because this counts the event
            context = contextvars.copy_context()

            def work() -> tuple[Any, BaseException | None]:
                # A future must not get the exception itself: it refuses StopIteration, and nobody retrieves the
                # exception if the call was cancelled meanwhile.
                # The call may have waited for a thread until now.
                if call.cancelled:
                    return None, call.cancellation()
                if call.session.paused is not None:
                    return None, NOT_STARTED
                try:
                    return context.run(handler.call, ctx, a), None
                except BaseException as exc:
                    return None, exc

            while True:
                call.thread = asyncio.get_running_loop().run_in_executor(None, work)
                result, error = await asyncio.shield(call.thread)
                if error is not NOT_STARTED:
                    break
                await self.may_start(call)
            if error is not None:
                raise error
            return await self.finish(call, result)
        if handler.opens:
            return await self._answer_with_channel(call, handler.call(ctx, a))
        began = self._loop.time()
        result = handler.call(ctx, a)
        if not hasattr(result, "__await__") and (took := self._loop.time() - began) > SLOW_HANDLER:
            self.warn_slow(handler, took)
        return await self.finish(call, result)

    def warn_slow(self, handler: Handler, seconds: float) -> None:
        """Warn of a plain function that held the event loop for too long."""
        text = "%s held the event loop for %.0f ms: make it async, or register it with thread=True"
        self._answers.log(logging.WARNING, text, handler.name, seconds * 1000)

    def unknown(self, ctx: Invocation) -> UnknownEvent:
        """Return the error for an event without a handler, in ws-wrapper 4.3.1's words: its users match on them."""
        channel = ctx.channel_name if ctx.inbound.h is None else ctx.inbound.h
        if isinstance(channel, str) and channel not in self._own.scopes and channel not in self._shared.scopes:
            text = f"Channel '{channel}' does not exist"
        else:
            text = f"No event listener for '{ctx.event}'"
            if channel is not None:
                text += f" on channel '{channel}'"
        return made_here(UnknownEvent(text))

    def note_unknown(self, ctx: Invocation, error: UnknownEvent) -> None:
        """Log the peer's first request without a handler: its caller gets an error, but not the names there are."""
        if not self._noted_unknown:
            self._noted_unknown = True
            text = "a request was refused: %s (further ones are not logged)"
            self._answers.log(logging.INFO, text, self.for_log(ctx, error))

    def for_log(self, ctx: Invocation, error: RpcError) -> Unhandled:
        """Return what the log says of an event without a handler."""
        channel = ctx.channel_name if ctx.inbound.h is None else ctx.inbound.h
        return Unhandled(error, channel, ctx.event, (self._own, self._shared))


def when_over(thread: asyncio.Future[Any] | None, then: Callable[[], object]) -> None:
    """Call ``then`` once the thread has ended. The thread of a cancelled call goes on."""
    if thread is None or thread.done():
        then()
    else:
        thread.add_done_callback(lambda _: then())


def _goes_before_close(call: Call) -> bool:
    """Return whether an event's handler has not started, or runs in order, so that others may wait behind it."""
    return call.ctx.id is None and (not call.started or (call.handler is not None and call.handler.lane is not None))
