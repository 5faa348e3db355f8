"""The agent's handlers in Python, which take whatever JavaScript's take: for comparing the two, call by call."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, NamedTuple

from wsrpc import AnonymousChannel, Client, Context, Peer, RemoteError, RpcError, Server

Place = Client | Peer | Server | Any
"""Whatever has `on`: one of these, a named channel of theirs, or an anonymous channel."""

Told = Callable[[Context, Any, str, list[Any]], None]
"""Is told of each call: its context, the channel (None, a name or ``{"h": id}``), the event and its arguments."""


class Mirror:
    """Handlers for one connection. ``told`` hears of each call before the handler runs.

    Some wait for a key, until `give` says that they may go on.
    """

    def __init__(self, told: Told) -> None:
        self._told = told
        self._given: dict[str, asyncio.Event] = {}

    def give(self, key: str) -> None:
        """Let whatever waits for ``key`` go on, now and later."""
        self._given.setdefault(key, asyncio.Event()).set()

    def end(self) -> None:
        """Let all that waits go on; what waits after this is not affected."""
        for given in self._given.values():
            given.set()
        self._given.clear()

    def serve(self, app: Client | Server, *, anonymous: bool = True) -> None:
        """Register on the main channel and on "math"; ``anonymous``: also what answers with a channel."""
        self.register(app, None, anonymous=anonymous)
        self.register(app.of("math"), "math", anonymous=anonymous)

    def register(self, place: Place, label: Any, *, anonymous: bool = True) -> None:
        """Register on one place, which ``label`` names to who is told of calls."""
        for function in [*PLAIN, *(ANONYMOUS if anonymous else ())]:
            place.on(function.__name__, self._telling(place, label, function))

    def _telling(self, place: Place, label: Any, function: Callable[..., Any]) -> Callable[..., Any]:
        event = function.__name__
        channel = place if isinstance(place, AnonymousChannel) else None

        def call(ctx: Context, *args: Any) -> Any:
            self._told(ctx, label, event, list(args))
            return function(Call(self, ctx, channel), *args)

        async def call_async(ctx: Context, *args: Any) -> Any:
            self._told(ctx, label, event, list(args))
            return await function(Call(self, ctx, channel), *args)

        return call_async if inspect.iscoroutinefunction(function) else call

    async def wait_for(self, key: Any) -> str:
        name = str(key)
        await self._given.setdefault(name, asyncio.Event()).wait()
        return name

    def make_channel(self, ctx: Context) -> AnonymousChannel:
        """A channel with these handlers, for the handler of a request to return."""
        channel = ctx.channel()
        self.register(channel, {"h": channel.id})
        return channel


class Call(NamedTuple):
    """What the handlers below get besides their arguments."""

    mirror: Mirror
    ctx: Context
    channel: AnonymousChannel | None
    """The anonymous channel on which it came."""


def echo(call: Call, value: Any = None, *more: Any) -> Any:
    return value


def args(call: Call, *args: Any) -> list[Any]:
    return list(args)


def add(call: Call, a: Any, b: Any, *more: Any) -> Any:
    return a + b


def nothing(call: Call, *more: Any) -> None:
    return None


def nil(call: Call, *more: Any) -> None:
    return None


def log(call: Call, *args: Any) -> None:
    return None


def fail(call: Call, kind: Any = None, *more: Any) -> Any:
    match kind:
        case "type":
            raise TypeError("wrong type")
        case "string":
            raise RpcError.of_value("just text")
        case "object":
            raise RpcError.of_value({"reason": "because", "attempt": 1})
        case "null" | "undefined":
            raise RpcError.of_value(None)
        case "async":
            return _failed_later()
        case _:
            raise RpcError("it failed")


async def _failed_later() -> None:
    raise RpcError("failed later")


async def hang(call: Call, *more: Any) -> None:
    await call.mirror.wait_for("the end")


async def wait(call: Call, key: Any = None, kind: Any = None, *more: Any) -> Any:
    made = call.mirror.make_channel(call.ctx) if kind == "channel" else None
    given = await call.mirror.wait_for(key)
    return given if made is None else made


async def ask(call: Call, event: Any = None, *args: Any) -> Any:
    ctx = call.ctx
    main_or_named = ctx.peer if ctx.channel_name is None else ctx.peer.of(ctx.channel_name)
    try:
        return await (call.channel or main_or_named).request(event, *args)
    except RemoteError as exc:
        # As JavaScript does: what a handler was told by the other side, it tells the other side.
        raise (RpcError.of_value(exc.data) if exc.plain else RpcError(exc.message)) from None


def channel_make(call: Call, *more: Any) -> AnonymousChannel:
    return call.mirror.make_channel(call.ctx)


def channel_talk(call: Call, n: Any = 0, *more: Any) -> AnonymousChannel:
    channel = call.mirror.make_channel(call.ctx)

    def talk() -> None:
        for k in range(n):
            channel.emit_nowait("line", k)

    asyncio.get_running_loop().call_soon(talk)
    return channel


async def count(call: Call, n: Any = 0, *more: Any) -> AsyncIterator[int]:
    for k in range(n):
        yield k


def count_list(call: Call, n: Any = 0, *more: Any) -> Iterator[int]:
    return iter(range(n))  # a list would be one result


async def count_then_fail(call: Call, n: Any = 0, *more: Any) -> AsyncIterator[int]:
    for k in range(n):
        yield k
    raise RpcError("the stream failed")


async def steps(call: Call, keys: Any = (), *more: Any) -> AsyncIterator[str]:
    for key in keys:
        yield await call.mirror.wait_for(key)


PLAIN = (echo, args, add, nothing, nil, log, fail, hang, wait, ask)
ANONYMOUS = (channel_make, channel_talk, count, count_list, count_then_fail, steps)
