"""``send=`` when something fails: the handler, the source, the caller, the line."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from core_driver import start, turns
from leftovers import nothing_left as nothing_left
from stream_driver import Both, Source, collect, emptied, total
from stream_driver import both as both

from wsrpc import (
    BadArguments,
    BadResult,
    ConnectionLost,
    RemoteError,
    RequestTimeout,
    RpcError,
    UnknownEvent,
    current_context,
)
from wsrpc.testing import Clock, pair

pytestmark = pytest.mark.usefixtures("nothing_left")


@pytest.mark.parametrize("after", [0, 3, None], ids=["before reading", "after three", "at the end"])
async def test_an_error_of_the_handler_is_the_callers(both: Both, after: int | None) -> None:
    left, right = both

    async def fussy(chunks: AsyncIterator[int]) -> None:
        count = 0
        if after != 0:
            async for _ in chunks:
                count += 1
                if count == after:
                    break
        raise RpcError("disk full", code="ENOSPC")

    right.on("fussy", fussy)
    source = Source(20 if after is None else 1_000_000)
    with pytest.raises(RemoteError, match="disk full") as caught:
        await left.request("fussy", send=source.items())
    assert caught.value.code == "ENOSPC"
    assert source.closed or source.made == 0


async def test_bad_arguments_and_unknown_events_close_the_source(both: Both) -> None:
    left, right = both
    right.on("total", total)
    for event, args, error in (("total", ("one", "too many"), BadArguments), ("nobody", (), UnknownEvent)):
        items = Source().items()
        await anext(items)  # it has begun, so there is something to close
        with pytest.raises(error):
            await left.request(event, *args, send=items)
        with pytest.raises(StopAsyncIteration):
            await anext(items)


async def test_a_handler_that_does_not_read_is_a_bad_result(both: Both) -> None:
    left, right = both
    right.on("plain", lambda: 5)
    source = Source()
    with pytest.raises(BadResult, match="reads what is sent"):
        await left.request("plain", send=source.items())
    assert source.made == 0


async def test_what_the_source_raises_is_the_callers_and_ends_the_handler(both: Both) -> None:
    left, right = both
    seen: list[Any] = []

    async def listing(chunks: AsyncIterator[int]) -> None:
        try:
            async for chunk in chunks:
                seen.append(chunk)
        except Exception as exc:
            seen.append(exc)
            raise
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise

    right.on("listing", listing)
    with pytest.raises(ValueError, match="secret"):
        await left.request("listing", send=Source(3, error=ValueError("secret")).items())
    await emptied(left, right)
    *items, ending = seen
    assert items == [0, 1, 2][: len(items)]
    assert "secret" not in repr(ending), "what was not raised for the other side does not travel"


async def test_an_rpc_error_of_the_source_travels(both: Both) -> None:
    left, right = both
    reasons: list[Any] = []

    async def listing(chunks: AsyncIterator[int]) -> None:
        try:
            await collect(chunks)
        except (asyncio.CancelledError, RemoteError):
            reasons.append(current_context().cancel_reason)
            raise

    right.on("listing", listing)
    with pytest.raises(RpcError, match="no more tape"):
        await left.request("listing", send=Source(3, error=RpcError("no more tape")).items())
    await emptied(left, right)
    assert reasons and "no more tape" in str(reasons[0])


async def test_an_item_that_cannot_be_encoded_is_the_callers_mistake(both: Both) -> None:
    left, right = both
    right.on("total", total)
    with pytest.raises(TypeError):
        await left.request("total", send=[1, object(), 3])


async def test_an_item_that_does_not_fit_fails_the_handler_where_it_reads_it(both: Both) -> None:
    left, right = both
    skipped: list[str] = []

    async def tolerant(chunks: AsyncIterator[int]) -> int:
        result = 0
        while True:
            try:
                result += await anext(chunks)
            except BadResult as exc:
                skipped.append(str(exc))
            except StopAsyncIteration:
                return result

    right.on("tolerant", tolerant)
    right.on("total", total)
    assert await left.request("tolerant", send=[1, "two", 3]) == 4
    assert len(skipped) == 1
    with pytest.raises(RemoteError, match=r"total\(\): an item of 'chunks': Expected `int`, got `str`"):
        await left.request("total", send=[1, "two", 3])


@pytest.mark.parametrize("gate", [0, 5, None], ids=["before the first", "in the middle", "at the end"])
async def test_a_caller_that_is_cancelled_cancels_the_handler(both: Both, gate: int | None) -> None:
    left, right = both
    reasons: list[Any] = []
    reading = asyncio.Event()

    async def endless(chunks: AsyncIterator[int]) -> None:
        try:
            reading.set()
            await collect(chunks)
            await asyncio.Event().wait()
        except asyncio.CancelledError as exc:
            reasons.append(exc.args[0])
            raise

    right.on("endless", endless)
    source = Source(8, gate=gate)
    task = start(left.request("endless", send=source.items()))
    await reading.wait()
    await turns(50)
    task.cancel("bored")
    await asyncio.wait([task])
    assert task.cancelled() and source.closed
    await emptied(left, right)
    assert reasons == ["bored"]


@pytest.mark.parametrize("extensions", [True, False], ids=["wsrpc", "plain"])
async def test_the_timeout_counts_again_after_the_last_item(extensions: bool) -> None:
    reasons: list[Any] = []
    began, go = asyncio.Event(), asyncio.Event()

    async def slow(chunks: AsyncIterator[int]) -> None:
        try:
            await collect(chunks)
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            reasons.append(current_context().cancel_reason)
            raise

    async def slow_source() -> AsyncIterator[int]:
        yield 1
        began.set()
        await go.wait()
        yield 2

    clock = Clock()
    async with pair(clock=clock, extensions=extensions) as (left, right):
        right.on("slow", slow)
        task = start(left.request("slow", send=slow_source(), timeout=5.0))
        await began.wait()
        clock.advance(3600)  # items have no timeout
        go.set()
        await turns(50)
        clock.advance(4.9)
        await turns()
        assert not task.done()
        clock.advance(0.2)
        with pytest.raises(RequestTimeout, match="'slow'"):
            await task
        await emptied(left, right)
    assert len(reasons) == 1 and "source" not in str(reasons[0]), "the source did not fail"


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("gate", [5, None], ids=["in the middle", "at the end"])
async def test_a_drop_ends_both_sides(both: Both, side: int, gate: int | None) -> None:
    left, right = both
    reading = asyncio.Event()
    cancelled: list[Any] = []

    async def endless(chunks: AsyncIterator[int]) -> None:
        reading.set()
        try:
            await collect(chunks)
            await asyncio.Event().wait()
        except (asyncio.CancelledError, ConnectionLost) as exc:
            cancelled.append(exc)
            raise

    right.on("endless", endless)
    source = Source(8, gate=gate)
    task = start(left.request("endless", send=source.items()))
    await reading.wait()
    await turns(50)
    transport = both[side].transport
    assert transport is not None
    transport.abort()
    with pytest.raises(ConnectionLost):
        await task
    assert source.closed
    await emptied(left, right)
    assert len(cancelled) == 1


async def test_a_source_that_fails_as_if_it_were_the_handler_ends_the_handler_too(both: Both) -> None:
    left, right = both
    reading: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def upload(items: AsyncIterator[int]) -> int:
        try:
            async for _ in items:
                reading.set_result(None)
        except asyncio.CancelledError as exc:
            ended.set_result(str(exc.args[0]))
            raise
        return 0

    right.on("upload", upload)

    async def source() -> AsyncIterator[int]:
        yield 1
        await reading
        await right.request("nobody")  # a request of its own, which is rejected

    left.on("nobody", None)
    with pytest.raises(RemoteError, match="No event listener for 'nobody'"):
        await left.request("upload", send=source())
    assert await ended == "what was sent failed at its source"
    await emptied(left, right)
