"""The recorded programs' handlers and middleware, in Python."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from wsrpc import Context, current_context

from .values import JsError, observed, raised_by, to_python

CallNext = Callable[[Context], Awaitable[Any]]


class Stage(Protocol):
    """What handlers need of the mirror that they are for."""

    def log(self, kind: str, **fields: Any) -> None: ...

    def gate(self, name: str) -> asyncio.Semaphore: ...

    def deferred(self, ref: str) -> asyncio.Future[Any]: ...

    async def perform(self, operation: dict[str, Any]) -> None: ...

    @property
    def errors_with_props(self) -> bool: ...


def make_handler(spec: dict[str, Any], stage: Stage) -> Callable[..., Any]:
    """The handler that ``spec`` describes."""
    kind = spec["kind"]

    def called(args: tuple[Any, ...]) -> None:
        stage.log("handler_called", handler=spec["id"], args=observed(args), signal=current_context().id is not None)

    def result(args: tuple[Any, ...]) -> Any:
        match kind:
            case "none":
                return None
            case "return" | "async_return":
                # An error is an object like others to whoever returns it.
                return to_python(spec["value"])
            case "throw" | "async_throw":
                raise raised_by(spec["value"], with_props=stage.errors_with_props)
            case "return_args":
                return list(args)
            case "return_arg":
                return args[spec["index"]]
            case _:
                raise AssertionError(f"unknown kind of handler: {kind}")

    def plain(*args: Any) -> Any:
        called(args)
        return result(args)

    async def promised(*args: Any) -> Any:
        called(args)
        for operation in spec.get("do", ()):
            await stage.perform(operation)
        return result(args)

    async def deferred(*args: Any) -> Any:
        called(args)
        future = stage.deferred(spec["ref"])
        while True:
            try:
                # JavaScript only tells a handler that nobody waits any more, so this one goes on.
                return await asyncio.shield(future)
            except asyncio.CancelledError as exc:
                if future.cancelled():
                    raise
                stage.log(
                    "handler_signal_aborted", handler=spec["id"], reason=observed(exc.args[0] if exc.args else None)
                )

    if kind == "deferred":
        return deferred
    return promised if kind.startswith("async_") or spec.get("do") else plain


THROWN_LATE = "thrown after next()"


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
                if ctx.id is not None:  # in Python whoever returns has answered
                    await asyncio.get_running_loop().create_future()
                return None
            case "gate_next":
                await stage.gate(spec["gate"]).acquire()
            case "append_args":
                ctx.args = [*ctx.args, *to_python(spec["value"])]
            case "next_twice":
                result = await call_next(ctx)
                try:
                    await call_next(ctx)
                except RuntimeError:
                    return result
                raise AssertionError("a second call_next() was not refused")
            case "next_then_throw":
                await call_next(ctx)
                raise JsError(THROWN_LATE)
            case "next":
                pass
            case _:
                raise AssertionError(f"unknown kind of middleware: {kind}")
        return await call_next(ctx)

    return middleware
