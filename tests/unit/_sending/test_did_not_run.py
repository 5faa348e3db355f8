"""Errors which say that a request did not run: where they are raised, it is true."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import asynccontextmanager
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
    Client,
    ConnectionLost,
    Context,
    HandlerFailed,
    Limits,
    Overloaded,
    Peer,
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


@asynccontextmanager
async def no_place_left() -> AsyncGenerator[tuple[Server, Client]]:
    """A server that allows one channel, and a client that has it."""
    server = Server(limits=Limits(channels=1))

    @server.on("tick")
    async def tick() -> AsyncIterator[int]:
        yield 1
        await asyncio.Event().wait()

    async with asyncio.timeout(8), connect(server) as client:
        async with client.stream("tick") as ticks:
            await anext(ticks)
            yield server, client


# ---------------------------------------------------------------- channels


async def test_a_function_that_turns_out_to_stream_is_not_overloaded_because_it_ran() -> None:
    async with no_place_left() as (server, client):
        charged: list[int] = []

        @server.on("charge")
        def charge(amount: int) -> Iterator[int]:
            charged.append(amount)
            return iter([amount])

        for asking in (client.request("charge", 5, retry=THREE), client.open_channel("charge", 5)):
            with pytest.raises(RemoteError) as caught:
                await asking
            assert not isinstance(caught.value, SAY_SO)
            assert caught.value.code == "wsrpc.too_many_channels"
        assert charged == [5, 5]


async def test_a_handler_that_makes_its_channel_first_does_nothing_else_where_there_is_no_place() -> None:
    async with no_place_left() as (server, client):
        charged: list[int] = []

        @server.on("charge")
        async def charge(amount: int, ctx: Context) -> AnonymousChannel:
            channel = ctx.channel()
            charged.append(amount)
            return channel

        with pytest.raises(RemoteError) as caught:
            await client.open_channel("charge", 5)
        assert not isinstance(caught.value, SAY_SO)
        assert caught.value.code == "wsrpc.too_many_channels"
        assert charged == []


async def test_what_is_known_to_stream_is_refused_before_anything_of_the_call_runs() -> None:
    async with no_place_left() as (server, client):
        ran: list[str] = []

        @server.on("yields")
        async def yields() -> AsyncIterator[int]:
            ran.append("yields")
            yield 1

        @server.on("plain")
        def plain() -> Iterator[int]:
            ran.append("plain")
            yield 1

        @server.on("talks")
        async def talks(channel: AnonymousChannel) -> None:
            ran.append("talks")

        @server.on("reads")
        async def reads(items: AsyncIterator[int]) -> int:
            ran.append("reads")
            return 0

        @server.on("both ways")
        async def both_ways(items: AsyncIterator[int]) -> AsyncIterator[int]:
            ran.append("both ways")
            yield 1

        @server.use
        async def middleware(ctx: Context, call_next: Any) -> Any:
            ran.append("middleware")
            return await call_next(ctx)

        for event in ("yields", "plain", "talks", "reads", "both ways"):
            with pytest.raises(Overloaded, match=r"1 channels are open already \(Limits\.channels\)"):
                await client.open_channel(event)
        with pytest.raises(Overloaded):
            await client.request("reads", send=[1])
        with pytest.raises(Overloaded):
            await anext(client.stream("yields"))
        assert ran == []


async def test_a_place_that_is_taken_is_given_back_whatever_becomes_of_the_call() -> None:
    d = Driven(limits=Limits(channels=1))
    gate = asyncio.Event()

    def made_in_vain(ctx: Context) -> int:
        ctx.channel()
        return 1

    def fails(ctx: Context) -> None:
        ctx.channel()
        raise RpcError("no")

    async def fails_later(ctx: Context) -> None:
        ctx.channel()
        await gate.wait()
        raise RpcError("no")

    async def one() -> AsyncIterator[int]:
        yield 1

    async def middleware(ctx: Context, call_next: Any) -> Any:
        return "cached" if ctx.event == "one" else await call_next(ctx)

    for handler in (made_in_vain, fails, fails_later):
        d.peer.on(handler.__name__, handler)
    d.peer.on("one", one)
    assert await d.fed({"i": 1, "a": ["made_in_vain"]}) == [{"i": 1, "d": 1}]
    rejection(await d.fed({"i": 2, "a": ["fails"]}), 2)
    await d.fed({"i": 3, "a": ["fails_later"]})
    assert rejection(await d.fed({"i": 4, "a": ["one"]}), 4)["code"] == "wsrpc.overloaded"
    d.feed({"i": 3, "x": None})
    rejection(await d.fed(), 3)
    d.peer.use(middleware)
    assert await d.fed({"i": 5, "a": ["one"]}) == [{"i": 5, "d": "cached"}]

    def drops(ctx: Context) -> AnonymousChannel:
        d.transport.lose()
        return ctx.channel()

    d.peer.on("drops", drops)
    d.feed({"i": 6, "a": ["drops"]})
    await turns()
    d.rebind()
    assert await d.fed({"i": 7, "a": ["made_in_vain"]}) == [{"i": 7, "d": 1}]
    assert d.peer.channels == 0 and not d.peer._core.channels.undelivered


async def test_a_stream_that_was_left_makes_room_before_its_handler_has_exited() -> None:
    d = Driven(limits=Limits(channels=1))

    async def count() -> AsyncIterator[int]:
        for number in range(1000):
            yield number

    d.peer.on("count", count)
    await d.fed({"i": 1, "a": ["count"]})
    for i in range(3, 101, 2):  # the end of one and the request for the next one come in one read
        assert {"i": i, "h": 1} in await d.fed({"h": i - 2, "x": None}, {"i": i, "a": ["count"]})
    d.transport.lose()


# ---------------------------------------------------------------- registered with `once`


async def test_a_request_that_was_overloaded_leaves_a_once_handler_for_the_next_one() -> None:
    d = Driven(limits=Limits(channels=1))

    async def ticks() -> AsyncIterator[int]:
        yield 1

    d.peer.on("ticks", ticks)
    d.peer.once("one", ticks)
    assert await d.fed({"i": 1, "a": ["ticks"]}) == [{"i": 1, "h": 1}]
    for i in (2, 3):
        assert rejection(await d.fed({"i": i, "a": ["one"]}), i)["code"] == Overloaded.code
    await d.fed({"h": 1, "x": None})
    assert await d.fed({"i": 4, "a": ["one"]}) == [{"i": 4, "h": 1}]
    await d.fed({"h": 4, "x": None})
    assert rejection(await d.fed({"i": 5, "a": ["one"]}), 5)["code"] == UnknownEvent.code


@pytest.mark.parametrize("how", ["inline", "async", "thread", "channel", "middleware", "refused", "cancelled"])
@pytest.mark.parametrize("place", ["main", "named"])
async def test_a_once_handler_stays_until_a_message_runs_it(how: str, place: str) -> None:
    async with asyncio.timeout(8), pair() as (left, right):
        ran: list[int] = []
        registrar: Any = right if place == "main" else right.of("chat")
        caller: Any = left if place == "main" else left.of("chat")
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

        if how in ("middleware", "refused", "cancelled"):
            right.use(middleware)
        registrar.once("e", {"async": later, "channel": talk}.get(how, plain), thread=how == "thread")

        def ask(value: Any) -> Any:
            return caller.open_channel("e", value) if how == "channel" else caller.request("e", value)

        for _ in range(2):
            if how == "cancelled":
                asking = start(ask("slow"))
                await turns()
                asking.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await asking
                await turns()
            else:
                with pytest.raises(RpcError if how == "refused" else BadArguments):
                    await ask("no number")
        allowed = True
        if how != "refused":
            await caller.emit("e", [])
            await turns_until(lambda: right.active == 0 and right.ignored["wrong arguments"] == 1)
        assert ran == []
        await ask(1)
        with pytest.raises(UnknownEvent):
            await ask(2)
        assert ran == [1]


async def test_a_once_handler_that_is_removed_while_a_call_waits_does_not_come_back() -> None:
    async with asyncio.timeout(8), pair() as (left, right):
        go = asyncio.Event()

        async def refuse(ctx: Context, call_next: Any) -> Any:
            if go.is_set():
                return await call_next(ctx)
            await go.wait()
            raise RpcError("no")

        right.use(refuse)
        right.once("e", lambda: pytest.fail("it was removed"))
        asking = start(left.request("e"))
        await turns()
        right.once("e", None)
        go.set()
        with pytest.raises(RpcError, match="no"):
            await asking
        with pytest.raises(UnknownEvent):
            await left.request("e")


async def test_two_messages_do_not_share_a_once_handler() -> None:
    d = Driven()
    gate, ran = asyncio.Event(), list[str]()

    async def slow(ctx: Context, call_next: Any) -> Any:
        await gate.wait()
        return await call_next(ctx)

    d.peer.use(slow)
    d.peer.once("e", ran.append)
    d.feed({"i": 1, "a": ["e", "first"]}, {"i": 2, "a": ["e", "second"]})
    await turns()
    gate.set()
    sent = await d.fed()
    assert ran == ["first"] and rejection(sent, 2)["code"] == UnknownEvent.code


# ---------------------------------------------------------------- what others said


@pytest.mark.parametrize("kind", SAY_SO)
@pytest.mark.parametrize("how", ["raised", "from another", "in middleware", "while it streams", "as an abort's reason"])
async def test_what_a_third_party_refused_does_not_say_that_the_handler_did_not_run(
    kind: type[RemoteError], how: str
) -> None:
    def refuse(ctx: Context, call_next: Any) -> Any:
        raise made_here(kind("not now", kind.code))

    async with pair() as (third, asking), pair() as (caller, gateway):
        third.use(refuse)

        async def ask() -> None:
            await asking.request("anything")

        async def forward() -> None:
            await ask()

        async def chain() -> None:
            try:
                await ask()
            except RemoteError as exc:
                raise exc from LookupError("what it was for")

        async def stream() -> AsyncIterator[int]:
            yield 1
            await ask()

        async def talk(channel: AnonymousChannel) -> None:
            try:
                await ask()
            except RemoteError as exc:
                await channel.abort(exc)

        async def middleware(ctx: Context, call_next: Any) -> Any:
            await call_next(ctx)
            await ask()

        gateway.on("forward", chain if how == "from another" else forward if how == "raised" else lambda: None)
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


async def test_a_message_that_nobody_takes_says_nothing_of_the_upload_it_belongs_to() -> None:
    ran = asyncio.Event()

    async def talk(channel: AnonymousChannel) -> None:
        ran.set()
        channel.on("other", lambda: None)
        await channel.emit("start")  # and then reads nothing
        await channel.wait_closed()

    async with pair(extensions=False) as (left, right):
        right.on("talk", talk)
        with pytest.raises(RemoteError, match="'next'") as caught:
            await left.request("talk", send=[1, 2])
        assert ran.is_set() and not isinstance(caught.value, SAY_SO)


async def test_a_connection_that_ends_under_a_nested_request_is_the_handlers_failure() -> None:
    async with pair() as (left, right):

        async def forward(peer: Peer) -> None:
            raise ConnectionLost(1006, "", "not_sent")

        right.on("forward", forward)
        with pytest.raises(HandlerFailed):
            await left.request("forward", retry=THREE)
