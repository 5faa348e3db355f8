"""The recorded programs' handlers and middleware, in Python."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from typing import Any

from wsrpc import AnonymousChannel, Context, RpcError, current_context

from .stage import Stage
from .values import observed, raised_by, to_python

CHANNEL_KINDS = frozenset({"channel", "async_channel", "deferred_channel"})
"""Kinds of handlers that return the anonymous channel that they have made."""
MAKES_CHANNEL = frozenset({"channel_ref", "channel_on", "channel_use"})
"""What a handler has that makes a channel; it need not return it."""

CallNext = Callable[[Context], Awaitable[Any]]


def make_handler(spec: dict[str, Any], stage: Stage) -> Callable[..., Any]:
    """The handler that ``spec`` describes."""
    kind = spec["kind"]

    def called(args: tuple[Any, ...]) -> AnonymousChannel | None:
        ctx = current_context()
        stage.log("handler_called", handler=spec["id"], args=observed(args), signal=ctx.id is not None)
        if kind not in CHANNEL_KINDS and not MAKES_CHANNEL & spec.keys():
            return None
        if ctx.id is None:
            stage.log("no_channel_factory", handler=spec["id"])
            return None
        return make_channel(ctx.channel())

    def make_channel(channel: AnonymousChannel) -> AnonymousChannel:
        for middleware in spec.get("channel_use", ()):
            channel.use(make_middleware(middleware, stage))
        for entry in spec.get("channel_on", ()):
            channel.on(entry["event"], make_handler(entry["handler"], stage))
        if "channel_ref" in spec:
            stage.know(spec["channel_ref"], channel)
        return channel

    def result(args: tuple[Any, ...], channel: AnonymousChannel | None) -> Any:
        match kind:
            case "none":
                return None
            case "return" | "async_return":
                # A handler that returns an error returns an ordinary object.
                return to_python(spec["value"])
            case "throw" | "async_throw":
                raise raised_by(spec["value"], with_props=stage.errors_with_props)
            case "return_args":
                return list(args)
            case "return_arg":
                return args[spec["index"]]
            case "channel" | "async_channel":
                return channel
            case _:
                return make_source(spec, stage)

    def plain(*args: Any) -> Any:
        return result(args, called(args))

    async def promised(*args: Any) -> Any:
        channel = called(args)
        for operation in spec.get("do", ()):
            await stage.perform(operation)
        return result(args, channel)

    async def deferred(*args: Any) -> Any:
        channel = called(args)
        future = stage.deferred(spec["ref"])
        while True:
            try:
                # JavaScript only tells a handler that nobody waits any more, so this one goes on.
                value = await asyncio.shield(future)
            except asyncio.CancelledError as exc:
                if future.cancelled():
                    raise
                stage.log(
                    "handler_signal_aborted", handler=spec["id"], reason=observed(exc.args[0] if exc.args else None)
                )
            else:
                return value if kind == "deferred" else channel

    if kind.startswith("deferred"):
        return deferred
    is_async = kind.startswith("async_") or spec.get("iterable", {}).get("async")
    return promised if is_async or spec.get("do") else plain


def make_middleware(spec: dict[str, Any], stage: Stage) -> Callable[[Context, CallNext], Awaitable[Any]]:
    """The middleware that ``spec`` describes."""
    kind, only = spec["kind"], spec.get("only_event")

    async def middleware(ctx: Context, call_next: CallNext) -> Any:
        stage.log("middleware_called", middleware=spec["id"], event=ctx.event, args=observed(ctx.args))
        if only is not None and ctx.event != only:
            return await call_next(ctx)
        match kind:
            case "next_err" | "throw":
                raise raised_by(spec["value"])
            case "swallow":
                if ctx.id is not None:  # in Python, returning answers the request
                    await asyncio.get_running_loop().create_future()
                return None
            case "gate_next":
                await stage.gate(spec["gate"]).acquire()
            case "append_args":
                ctx.args = [*ctx.args, *to_python(spec["value"])]
            case _:
                assert kind == "next"
        return await call_next(ctx)

    return middleware


NOT_ITERABLE = "iterableHandler: handler must return a sync or async iterable"
"""The recorded handlers are made by a helper of ws-wrapper's, which checks; in Python the program does."""


def make_source(handler: dict[str, Any], stage: Stage) -> Any:
    """What the handler of kind ``iterable`` returns: a list's iterator, a generator.

    Raises:
        what the handler is recorded to throw; RpcError: it has nothing to iterate.
    """
    spec = handler["iterable"]
    items = to_python(spec.get("items", []))

    def ended() -> None:
        if "then_throw" in spec:
            raise raised_by(spec["then_throw"], with_props=stage.errors_with_props)

    def plain() -> Generator[Any]:
        try:
            yield from items
            ended()
        finally:
            stage.log("generator_finalized", handler=handler["id"])

    async def gated() -> AsyncGenerator[Any]:
        try:
            for position, item in enumerate(items):
                if position and "gate" in spec:
                    await stage.gate(spec["gate"]).acquire()
                yield item
            if "gate" in spec:
                await stage.gate(spec["gate"]).acquire()
            ended()
        finally:
            stage.log("generator_finalized", handler=handler["id"])

    match spec["kind"]:
        case "list":
            return iter(items)  # a list itself would be one result
        case "sync_generator":
            return plain()
        case "async_generator":
            return gated()
        case "value":
            raise RpcError(NOT_ITERABLE)
        case _:
            raise raised_by(spec["value"], with_props=stage.errors_with_props)
