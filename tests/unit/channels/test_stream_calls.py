"""Calls that open streams and uploads: mistaken and refused ones, and the places that they take."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from core_driver import start, turns
from leftovers import nothing_left as nothing_left
from stream_driver import Both, Feed, collect, emptied, total
from stream_driver import both as both

from wsrpc import (
    BadArguments,
    BadResult,
    CallNext,
    Context,
    HandlerFailed,
    Limits,
    Peer,
    RemoteError,
    RpcError,
    Server,
    UnknownEvent,
)
from wsrpc.testing import connect, pair

pytestmark = pytest.mark.usefixtures("nothing_left")


# ---------------------------------------------------------------- mistakes


def serve(peer: Peer) -> None:
    """Register handlers of all kinds."""

    async def doubled(items: AsyncIterator[int]) -> AsyncIterator[int]:
        async for number in items:
            yield 2 * number

    async def reads_nothing(items: AsyncIterator[int]) -> str:
        return "not interested"

    async def unencodable(items: AsyncIterator[int]) -> object:
        return object()

    async def feed(n: int) -> AsyncIterator[int]:
        if n > 1:
            raise RpcError("too many")
        yield n

    peer.on("value", lambda: 5)
    for handler in (total, doubled, reads_nothing, unencodable, feed):
        peer.on(handler.__name__, handler)


MISTAKES: list[tuple[str, tuple[Any, ...], Any, type[Exception], str]] = [
    # what is called, with which arguments, what is sent ("request": not as a stream), error, its text
    ("total", (), None, BadResult, "'total' .*send="),
    ("total", (), [1, 2], BadResult, r"^(?=.*'total').*send="),
    ("doubled", (), None, BadResult, "'doubled' reads items that its caller sends: give send="),
    ("value", (), None, BadResult, "not a channel but int.*streams"),
    ("value", (), "request", BadResult, "the response to 'value' is not a channel but int.*reads what is sent"),
    ("nobody", (), None, UnknownEvent, "nobody"),
    ("total", ("too", "many"), "request", BadArguments, "total"),
    ("feed", (2,), None, RemoteError, "too many"),
    ("unencodable", (), "request", HandlerFailed, "internal error"),
    ("reads_nothing", (), "request", BadResult, "'reads_nothing'.*`int`"),
]


@pytest.mark.parametrize(
    ("event", "args", "send", "error", "text"), [pytest.param(*row, id=f"{row[0]}, {row[2]}") for row in MISTAKES]
)
async def test_a_mistaken_call_fails_on_both_sides_and_its_source_is_closed(
    both: Both, event: str, args: Any, send: Any, error: type[Exception], text: str
) -> None:
    left, right = both
    serve(right)
    source = Feed()
    if send == "request":
        items = source()
        await anext(items)  # it has begun, so there is something to close
        with pytest.raises(error, match=text):
            await left.request(event, *args, send=items, returns=int)
        assert source.finished.is_set() and source.made <= 2
    else:
        with pytest.raises((error, RemoteError) if send else error, match=text):
            await collect(left.stream(event, *args, send=send))


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


@pytest.mark.parametrize("opened", [True, False], ids=["open", "opening"])
@pytest.mark.parametrize("event", ["feed", "doubled"])
async def test_a_stream_that_is_left_before_it_is_read_ends_its_handler(both: Both, event: str, opened: bool) -> None:
    left, right = both
    serve(right)
    stream = left.stream(event, send=[1]) if event == "doubled" else left.stream(event, 1)
    if opened:
        async with stream:
            pass
    else:
        reading = start(anext(stream))
        await turns(1)
        await stream.aclose()
        with pytest.raises(StopAsyncIteration):
            await reading
    await emptied(left, right)


# ---------------------------------------------------------------- places


async def test_an_upload_takes_no_place_that_a_request_needs() -> None:
    async def waits(items: AsyncIterator[int]) -> int:
        result = await total(items)
        await go.wait()
        return result

    go = asyncio.Event()
    async with pair(limits=Limits(running=1, waiting=0)) as (left, right):
        right.on("waits", waits)
        right.on("go", go.set)
        uploading = start(left.request("waits", send=[1, 2, 3]))
        await turns(50)
        await left.request("go")
        assert await uploading == 6
        await emptied(left, right)


async def test_a_stream_read_to_its_end_makes_room_while_its_call_still_ends() -> None:
    ending, over = asyncio.Event(), asyncio.Event()
    server = Server(limits=Limits(channels=1))

    @server.use
    async def slow(ctx: Context, call_next: CallNext) -> Any:
        result = await call_next(ctx)
        if list(ctx.args) == [1]:
            await ending.wait()  # a log or a metric
            over.set()
        return result

    @server.on("count")
    async def count(to: int) -> AsyncIterator[int]:
        for number in range(to):
            yield number

    async with connect(server) as client:
        for to in (1, 2, 3):
            assert await collect(client.stream("count", to)) == list(range(to))
        ending.set()
        await over.wait()
