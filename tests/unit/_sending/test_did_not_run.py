"""Errors which say that a request did not run: where they are raised, it is true."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from core_driver import Driven, rejection, start, turns
from leftovers import nothing_left as nothing_left
from leftovers import turns_until
from stream_driver import both as both

from wsrpc import (
    AnonymousChannel,
    BadArguments,
    BadResult,
    ConnectionLost,
    Context,
    HandlerFailed,
    Limits,
    Overloaded,
    RemoteError,
    Retry,
    RpcError,
    Server,
    UnknownEvent,
)
from wsrpc.errors import Draining, made_here
from wsrpc.testing import connect, pair

SAY_SO = (BadArguments, Draining, Overloaded, UnknownEvent)
THREE = Retry(attempts=3, initial=0.001)


# ---------------------------------------------------------------- channels


@pytest.mark.parametrize(
    ("event", "error", "ran"),
    [
        ("returns an iterator", "wsrpc.too_many_channels", True),
        ("makes its channel", "wsrpc.too_many_channels", False),
        ("yields", "wsrpc.overloaded", False),
        ("plain", "wsrpc.overloaded", False),
        ("talks", "wsrpc.overloaded", False),
        ("reads", "wsrpc.overloaded", False),
        ("both ways", "wsrpc.overloaded", False),
    ],
)
async def test_without_room_for_a_channel_only_what_did_not_run_is_overloaded(
    event: str, error: str, ran: bool
) -> None:
    server = Server(limits=Limits(channels=1))
    noted: list[str] = []

    @server.on("returns an iterator")
    def returns() -> Iterator[int]:
        noted.append("it")
        return iter([1])

    @server.on("makes its channel")
    async def makes(ctx: Context) -> AnonymousChannel:
        channel = ctx.channel()
        noted.append("it")
        return channel

    @server.on("yields")
    async def yields() -> AsyncIterator[int]:
        noted.append("it")
        yield 1

    @server.on("plain")
    def plain() -> Iterator[int]:
        noted.append("it")
        yield 1

    @server.on("talks")
    async def talks(channel: AnonymousChannel) -> None:
        noted.append("it")

    @server.on("reads")
    async def reads(items: AsyncIterator[int]) -> int:
        noted.append("it")
        return 0

    @server.on("both ways")
    async def both_ways(items: AsyncIterator[int]) -> AsyncIterator[int]:
        noted.append("it")
        yield 1

    async def middleware(ctx: Context, call_next: Any) -> Any:
        noted.append("middleware")
        return await call_next(ctx)

    async with asyncio.timeout(8), connect(server) as client:
        server.on("stays", stays)
        async with await client.open_channel("stays"):
            noted.clear()
            if error == "wsrpc.overloaded":
                server.use(middleware)
            upload: dict[str, Any] = {"send": [1]} if event == "reads" else {"retry": THREE}
            items = client.stream(event)
            for each in (client.open_channel(event), anext(items), client.request(event, **upload)):
                with pytest.raises(RemoteError) as caught:
                    await each
                assert caught.value.code == error
                assert isinstance(caught.value, SAY_SO) is (error == "wsrpc.overloaded")
            assert noted == (["it"] * 3 if ran else [])


async def stays(channel: AnonymousChannel) -> None:
    await channel.wait_closed()


async def test_a_place_that_is_taken_is_given_back_whatever_becomes_of_the_call() -> None:
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

    d.peer.on("e", handler)
    d.peer.on("one", one)
    d.peer.on("cached", one)
    for how in ("in vain", "fails", "waits", "drops", "opens"):
        d.feed({"i": 1, "a": ["e", how]})
        await turns()
        if how in ("waits", "opens"):
            assert rejection(await d.fed({"i": 2, "a": ["one"]}), 2)["code"] == "wsrpc.overloaded"
            await d.fed({"i" if how == "waits" else "h": 1, "x": None})
        assert d.peer.channels == 0
        d.take()
    d.peer.use(middleware)
    assert await d.fed({"i": 5, "a": ["cached"]}) == [{"i": 5, "d": "cached"}]
    for i in range(7, 101, 2):  # the end of a stream and the request for the next one come in one read
        assert {"i": i, "h": 1} in await d.fed({"h": i - 2, "x": None}, {"i": i, "a": ["one"]})
        d.take()
    d.transport.lose()


# ---------------------------------------------------------------- registered with `once`


@pytest.mark.parametrize("how", ["inline", "async", "thread", "channel", "middleware", "refused", "cancelled"])
@pytest.mark.parametrize("place", ["main", "named"])
async def test_a_once_handler_stays_until_a_message_runs_it(how: str, place: str) -> None:
    ran: list[int] = []
    allowed = how != "refused"

    def plain(n: int) -> int:
        ran.append(n)
        return n

    async def later(n: int) -> int:
        return plain(n)

    async def talk(n: int, channel: AnonymousChannel) -> None:
        plain(n)

    async def middleware(ctx: Context, call_next: Any) -> Any:
        if not allowed:
            raise RpcError("not now")
        if ctx.args == ("slow",):
            await asyncio.Event().wait()
        return await call_next(ctx)

    async with asyncio.timeout(8), pair() as (left, right):
        registrar: Any = right if place == "main" else right.of("chat")
        caller: Any = left if place == "main" else left.of("chat")
        if how in ("middleware", "refused", "cancelled"):
            right.use(middleware)
        registrar.once("e", {"async": later, "channel": talk}.get(how, plain), thread=how == "thread")
        ask = caller.open_channel if how == "channel" else caller.request
        for _ in range(2):
            if how == "cancelled":
                asking = start(ask("e", "slow"))
                await turns()
                asking.cancel()
                await asyncio.wait([asking])
            else:
                with pytest.raises(RpcError if how == "refused" else BadArguments):
                    await ask("e", "no number")
        allowed = True
        await caller.emit("e", [])
        await turns_until(lambda: right.active == 0 and right.ignored["wrong arguments"] == 1)
        assert ran == []
        await ask("e", 1)
        with pytest.raises(UnknownEvent):
            await ask("e", 2)
        assert ran == [1]


@pytest.mark.parametrize("meanwhile", ["overloaded", "removed", "another message"])
async def test_what_may_happen_to_a_once_handler_while_a_call_waits(meanwhile: str) -> None:
    d = Driven(limits=Limits(channels=1))
    gate = asyncio.Event()

    async def slow(ctx: Context, call_next: Any) -> Any:
        await gate.wait()
        return await call_next(ctx)

    async def ticks() -> AsyncIterator[int]:
        yield 1

    d.peer.once("one", ticks if meanwhile == "overloaded" else lambda: 1)
    if meanwhile == "overloaded":  # it is left for the next one
        d.peer.on("ticks", ticks)
        await d.fed({"i": 1, "a": ["ticks"]})
        assert rejection(await d.fed({"i": 2, "a": ["one"]}), 2)["code"] == Overloaded.code
        await d.fed({"h": 1, "x": None})
        assert await d.fed({"i": 3, "a": ["one"]}) == [{"i": 3, "h": 1}]
        await d.fed({"h": 3, "x": None})
    else:
        d.peer.use(slow)
        d.feed({"i": 1, "a": ["one"]}, {"i": 2, "a": ["one"]})
        await turns()
        if meanwhile == "removed":  # it does not come back
            d.peer.once("one", None)
        gate.set()
        first, second = await d.fed()
        assert first["i"] == 1 and (meanwhile == "removed" or first["d"] == 1)
        assert rejection([second], 2)["code"] == UnknownEvent.code
    assert rejection(await d.fed({"i": 5, "a": ["one"]}), 5)["code"] == UnknownEvent.code


# ---------------------------------------------------------------- what others said


@pytest.mark.parametrize("kind", [*SAY_SO, ConnectionLost])
@pytest.mark.parametrize("how", ["raised", "from another", "in middleware", "while it streams", "as an abort's reason"])
async def test_what_a_third_party_refused_does_not_say_that_the_handler_did_not_run(
    kind: type[Exception], how: str
) -> None:
    def refuse(ctx: Context, call_next: Any) -> Any:
        refused: Any = kind
        raise made_here(refused("not now", refused.code))

    async with pair() as (third, asking), pair() as (caller, gateway):
        third.use(refuse)

        async def ask() -> None:
            if issubclass(kind, ConnectionLost):
                raise kind(1006, "", "not_sent")
            await asking.request("anything")

        async def forward() -> None:
            if how == "in middleware":
                return
            try:
                await ask()
            except Exception as exc:
                if how == "from another":
                    raise exc from LookupError("what it was for")
                raise

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

        gateway.on("forward", forward)
        gateway.on("stream", stream if how == "while it streams" else talk)
        if how == "in middleware":
            gateway.use(middleware)
        if how in ("while it streams", "as an abort's reason"):
            with pytest.raises(RemoteError) as caught:
                async for _ in caller.stream("stream"):
                    pass
        else:
            with pytest.raises(HandlerFailed) as caught:
                await caller.request("forward", retry=THREE)
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


# ---------------------------------------------------------------- items


async def test_an_item_that_does_not_fit_is_no_bad_argument_because_the_handler_ran() -> None:
    seen: list[Any] = []

    async def total(chunks: AsyncIterator[int]) -> int:
        return sum([chunk async for chunk in chunks])

    async def tolerant(chunks: AsyncIterator[int]) -> int:
        try:
            return await anext(chunks)
        except BadResult as exc:
            seen.append(str(exc))
            return -1

    async def talk(channel: AnonymousChannel) -> None:
        async for _ in channel.items(returns=int):
            pass

    async with pair() as (left, right):
        for handler in (total, tolerant, talk):
            right.on(handler.__name__, handler)
        with pytest.raises(RemoteError, match=r"total\(\): an item of 'chunks': Expected `int`, got `str`") as caught:
            await left.request("total", send=[1, "two"])
        assert caught.value.code == "wsrpc.bad_item" and not isinstance(caught.value, SAY_SO)
        assert await left.request("tolerant", send=["one"]) == -1
        assert seen == ["tolerant(): an item of 'chunks': Expected `int`, got `str`"]
        channel = await left.open_channel("talk")
        await channel.emit("next", {"value": "text", "done": False})
        await channel.wait_closed()
        assert channel.close_reason.code == "wsrpc.bad_item" and not isinstance(channel.close_reason, SAY_SO)


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
        await turns()
        upload = start(left.request("total", send=items()))
        await begun.wait()
        await turns()
        other = start(left.request("wait"))
        await turns()
        may_end.set()
        assert await upload == 3
        other.cancel()
