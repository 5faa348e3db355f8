"""Errors which say that a request did not run say so only where it is true, and what was refused costs nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from core_driver import Driven, rejection, start, turns
from leftovers import nothing_left as nothing_left
from stream_driver import collect

from wsrpc import (
    AnonymousChannel,
    BadArguments,
    ConnectionLost,
    Context,
    HandlerFailed,
    Limits,
    Overloaded,
    RemoteError,
    Retry,
    RpcError,
    UnknownEvent,
)
from wsrpc.errors import Draining, made_here
from wsrpc.testing import pair

SAY_SO = (BadArguments, Draining, Overloaded, UnknownEvent)


async def test_a_place_for_a_channel_is_given_back_whatever_becomes_of_the_call() -> None:
    d = Driven(limits=Limits(channels=1))

    async def handler(ctx: Context, how: str) -> Any:
        channel = ctx.channel()
        if how == "fails":
            raise RpcError("no")
        if how == "waits":
            await asyncio.Event().wait()
        if how == "drops":
            d.transport.lose()
            d.rebind()
        return channel if how in ("drops", "opens") else 1

    async def one() -> AsyncIterator[int]:
        yield 1

    async def middleware(ctx: Context, call_next: Any) -> Any:
        return "cached" if ctx.event == "cached" else await call_next(ctx)

    for name, each in (("e", handler), ("one", one), ("cached", one)):
        d.peer.on(name, each)
    for how in ("in vain", "fails", "waits", "drops", "opens"):
        await d.fed({"i": 1, "a": ["e", how]})
        if how in ("waits", "opens"):
            assert rejection(await d.fed({"i": 2, "a": ["one"]}), 2)["code"] == "wsrpc.overloaded"
            await d.fed({"i" if how == "waits" else "h": 1, "x": None})
        assert d.peer.anonymous_channels == 0
    d.peer.use(middleware)
    assert await d.fed({"i": 5, "a": ["cached"]}) == [{"i": 5, "d": "cached"}]
    for i in range(7, 101, 2):  # the end of a stream and the request for the next one come in one read
        assert {"i": i, "h": 1} in await d.fed({"h": i - 2, "x": None}, {"i": i, "a": ["one"]})
    d.transport.lose()


# ---------------------------------------------------------------- registered with `once`


@pytest.mark.parametrize("how", ["wrong arguments", "refused", "overloaded"])
async def test_a_once_handler_stays_until_a_message_runs_it(how: str) -> None:
    d = Driven(limits=Limits(channels=1))
    ran: list[int] = []

    async def talk(n: int, channel: AnonymousChannel) -> None:
        ran.append(n)

    async def middleware(ctx: Context, call_next: Any) -> Any:
        if ctx.args == (13,):
            raise RpcError("not now")
        return await call_next(ctx)

    d.peer.use(middleware)
    d.peer.on("stays", lambda: iter([1]))
    d.peer.once("e", talk)
    if how == "overloaded":
        await d.fed({"i": 9, "a": ["stays"]})
    for i in (1, 2):
        rejection(await d.fed({"i": i, "a": ["e", "no number" if how == "wrong arguments" else 13]}), i)
    await d.fed({"h": 9, "x": None})
    assert {"i": 3, "h": 1} in await d.fed({"i": 3, "a": ["e", 3]}) and ran == [3]
    assert rejection(await d.fed({"i": 4, "a": ["e", 4]}), 4)["code"] == UnknownEvent.code


# ---------------------------------------------------------------- what others said


@pytest.mark.parametrize("kind", [*SAY_SO, ConnectionLost])
@pytest.mark.parametrize("how", ["raised", "from another", "in middleware", "while it streams", "as an abort's reason"])
async def test_what_a_third_party_refused_does_not_say_that_the_handler_did_not_run(
    kind: type[Exception], how: str
) -> None:
    def refuse(ctx: Context, call_next: Any) -> Any:
        refused: Any = kind
        raise made_here(refused("not now", refused.code))

    async def ask() -> None:
        if issubclass(kind, ConnectionLost):
            raise kind(1006, "", "not_sent")
        await asking.request("anything")

    async def forward() -> None:
        if how == "from another":
            try:
                await ask()
            except Exception as exc:
                raise exc from LookupError("what it was for")
        elif how != "in middleware":
            await ask()

    async def stream() -> AsyncIterator[int]:
        yield 1
        await ask()

    async def talk(channel: AnonymousChannel) -> None:
        try:
            await ask()
        except Exception as exc:
            await channel.abort(exc)

    async def middleware(ctx: Context, call_next: Any) -> Any:
        await call_next(ctx)
        await ask()

    async with pair() as (third, asking), pair() as (caller, gateway):
        third.use(refuse)
        gateway.on("forward", forward)
        gateway.on("stream", stream if how == "while it streams" else talk)
        if how == "in middleware":
            gateway.use(middleware)
        streams = how in ("while it streams", "as an abort's reason")
        again = Retry(attempts=3, initial=0.001)
        with pytest.raises(RemoteError if streams else HandlerFailed) as caught:
            await (collect(caller.stream("stream")) if streams else caller.request("forward", retry=again))
        assert not isinstance(caught.value, SAY_SO)


@pytest.mark.parametrize("how", ["class", "assigned"])
async def test_a_reserved_code_does_not_get_out_by_a_side_door(how: str, caplog: pytest.LogCaptureFixture) -> None:
    class Busy(RpcError):
        code = "wsrpc.overloaded"

    d = Driven()

    def fail() -> None:
        error = Busy("later") if how == "class" else RpcError("later")
        error.code = "wsrpc.overloaded"
        raise error

    d.peer.on("fail", fail)
    assert rejection(await d.fed({"i": 1, "a": ["fail"]}), 1)["code"] == "wsrpc.internal"
    assert "reserved, got 'wsrpc.overloaded'" in caplog.text


# ---------------------------------------------------------------- uploads


@pytest.mark.parametrize("extensions", [True, False])
async def test_an_upload_that_was_begun_is_not_refused_for_too_many_requests(extensions: bool) -> None:
    begun, may_end = asyncio.Event(), asyncio.Event()

    async def total(chunks: AsyncIterator[int]) -> int:
        begun.set()
        return sum([chunk async for chunk in chunks])

    async def items() -> AsyncIterator[int]:
        yield 1
        await may_end.wait()
        yield 2

    async with pair(limits=Limits(pending=1), extensions=extensions) as (left, right):
        right.on("total", total)
        right.on("wait", asyncio.Event().wait)
        upload = start(left.request("total", send=items()))
        await begun.wait()
        await turns()
        other = start(left.request("wait"))
        await turns()
        may_end.set()
        assert await upload == 3
        other.cancel()
