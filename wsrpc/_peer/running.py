"""Running one handler: within its middleware and context, in its lane, in a thread."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Protocol
from weakref import WeakKeyDictionary

from msgspec import UNSET

from .._base.scheduler import Scheduler
from .._channels.source import as_source
from .._handlers.compiled import ArgumentsRefused, Handler
from .._handlers.context import Context, Invocation
from .._handlers.registry import Middleware, Registry
from .._handlers.suggestions import Unhandled
from .._protocol.rejections import bounded_reason
from ..errors import BadArguments, HandlerTimeout, RpcError, UnknownEvent, made_here, short
from .session import Call

__all__ = ["SLOW_HANDLER", "Invoker", "Log", "bad_arguments", "leave_lane", "when_over"]

SLOW_HANDLER = 0.1
"""Seconds for which a plain function may hold the event loop before a warning names it."""


class Log(Protocol):
    """Writes a line that names the peer."""

    def __call__(self, level: int, text: str, /, *args: object, exc_info: BaseException | None = None) -> None: ...


class Invoker:
    """Runs handlers that are not simply called inline: ``own`` are the peer's, ``shared`` the server's."""

    def __init__(
        self,
        own: Registry,
        shared: Registry,
        loop: Scheduler,
        log: Log,
        limit: float | None,
        *,
        serve: Callable[[Call, Any], Awaitable[Any]],
        expired: Callable[[Call, HandlerTimeout], None],
    ) -> None:
        """
        Args:
            limit: seconds for handlers that have no limit of their own; see `Limits.handler`.
            serve: answers with a channel and does the rest on it.
            expired: answers and cancels a call whose handler has run for too long.
        """
        self.serve = serve
        self.expired = expired
        self.limit = limit
        self._own = own
        self._shared = shared
        self._loop = loop
        self._log = log
        self._noted_unknown = False
        # A lane goes when its handler or channel does.
        self._lanes: WeakKeyDictionary[object, asyncio.Lock] | None = None  # it has a kilobyte, and few need it

    @property
    def layered(self) -> bool:
        """Whether anything runs around handlers."""
        return self._own.layered or self._shared.layered

    async def run(self, call: Call, local: Registry | None = None) -> Any:
        """The handler's result, or what it or its middleware raises. ``local``: what an anonymous channel has."""
        if call.handler is None or self.layered or (local is not None and local.layered):
            return await self._within_layers(call, local)
        return await self._in_lane(call, call.handler)

    async def finish(self, call: Call, result: Any) -> Any:
        """The result of a handler that has been called: await it, stream it, as it needs."""
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
        return result if source is None else await self.serve(call, source)

    def _expire(self, call: Call, limit: float) -> None:
        if call.cancelled:  # so it is ending already
            return
        ctx, handler = call.ctx, call.handler
        source = "Limits.handler" if handler is None or handler.timeout is UNSET else "timeout="
        text = "%s, the handler of %s, was cancelled: it took longer than %g s (%s)"
        self._log(logging.WARNING, text, None if handler is None else handler.name, ctx.label, limit, source)
        self.expired(call, made_here(HandlerTimeout(f"{ctx.event!r} took longer than {limit:g} s and was cancelled")))

    async def _within_layers(self, call: Call, local: Registry | None) -> Any:
        """Middleware, the server's before the peer's before the channel's, then the handler within its context."""
        ctx = call.ctx
        channel = ctx.channel_name if local is None else ctx.inbound.h
        chain: list[Middleware] = []
        handler_context = None
        for registry in (self._shared, self._own, *(() if local is None else (local,))):
            chain += registry.main.middleware
            if channel is not None and channel in registry.named:
                chain += registry.named[channel].middleware
            handler_context = registry.handler_context or handler_context
        handler = call.handler

        async def innermost(ctx: Context) -> Any:
            if handler is None:
                raise self.unknown(call.ctx)
            try:
                if handler_context is None:
                    return await self._in_lane(call, handler)
                async with handler_context(ctx):
                    return await self._in_lane(call, handler)
            except ArgumentsRefused as refused:
                # Middleware sees the error that the caller is going to get.
                raise bad_arguments(refused) from None

        def after(position: int) -> Callable[[Context], Any]:
            called = False

            async def call_next(ctx: Context) -> Any:
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
            when_over(call.thread, partial(leave_lane, call))

    async def _call(self, call: Call, handler: Handler) -> Any:
        ctx = call.ctx
        a = ctx.inbound.a
        if handler.thread:
            if handler.most is not None and len(a) > handler.most:
                a = ctx.without_surplus(a, handler.most)  # which counts, so not from a thread
            context = contextvars.copy_context()

            def work() -> tuple[Any, BaseException | None]:
                # A future must not get the exception itself: not StopIteration, which it refuses, and none at all
                # when the call was cancelled meanwhile and nobody would retrieve it.
                if call.cancelled:  # while it waited for a thread
                    return None, asyncio.CancelledError(bounded_reason(ctx.cancel_reason))
                try:
                    return context.run(handler.call, ctx, a), None
                except BaseException as exc:
                    return None, exc

            call.thread = asyncio.get_running_loop().run_in_executor(None, work)
            result, error = await asyncio.shield(call.thread)
            if error is not None:
                raise error
            return await self.finish(call, result)
        if handler.opens:
            return await self.serve(call, handler.call(ctx, a))
        began = self._loop.time()
        result = handler.call(ctx, a)
        if not hasattr(result, "__await__"):
            self.check_duration(handler, self._loop.time() - began)
        return await self.finish(call, result)

    def check_duration(self, handler: Handler, seconds: float) -> None:
        """Warn of a plain function that held the event loop for long."""
        if seconds > SLOW_HANDLER:
            self._log(
                logging.WARNING,
                "%s held the event loop for %.0f ms: make it async, or register it with thread=True",
                handler.name,
                seconds * 1000,
            )

    def unknown(self, ctx: Invocation) -> UnknownEvent:
        """The error for an event that nobody handles, in the words of ws-wrapper 4.3.1, which its users match on."""
        channel = ctx.channel_name if ctx.inbound.h is None else ctx.inbound.h
        if isinstance(channel, str) and channel not in self._own.named and channel not in self._shared.named:
            text = f"Channel '{channel}' does not exist"
        else:
            text = f"No event listener for '{ctx.event}'"
            if channel is not None:
                text += f" on channel '{channel}'"
        return made_here(UnknownEvent(text))

    def note_unknown(self, ctx: Invocation, error: UnknownEvent) -> None:
        """Log the peer's first request that nobody handles: its caller is told, but not which names there are."""
        if not self._noted_unknown:
            self._noted_unknown = True
            text = "a request was refused: %s (further ones are not logged)"
            self._log(logging.INFO, text, self.for_log(ctx, error))

    def for_log(self, ctx: Invocation, error: RpcError) -> Unhandled:
        """What the log says of an event that nobody handles."""
        channel = ctx.channel_name if ctx.inbound.h is None else ctx.inbound.h
        return Unhandled(error, channel, ctx.event, (self._own, self._shared))


def bad_arguments(refused: ArgumentsRefused) -> BadArguments:
    """The error for the caller."""
    return made_here(refused.error)


def leave_lane(call: Call) -> None:
    """Let the next handler of its lane run. Idempotent."""
    lane, call.lane = call.lane, None
    if lane is not None:
        lane.release()


def when_over(thread: asyncio.Future[Any] | None, then: Callable[[], object]) -> None:
    """Call ``then`` once the thread has ended: a cancelled call's thread goes on."""
    if thread is None or thread.done():
        then()
    else:
        thread.add_done_callback(lambda _: then())
