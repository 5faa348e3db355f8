"""Callers that ask for something else than the handler gives: both sides learn it, and none waits for ever."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from core_driver import turns
from leftovers import nothing_left as nothing_left
from stream_driver import Both, Source, collect, emptied, total
from stream_driver import both as both

from wsrpc import BadResult, RemoteError

pytestmark = pytest.mark.usefixtures("nothing_left")


@pytest.mark.parametrize("send", [None, [1, 2]], ids=["without send", "with send"])
async def test_a_handler_that_only_reads_cannot_be_streamed_from(both: Both, send: Any) -> None:
    left, right = both
    right.on("total", total)
    with pytest.raises((RemoteError, BadResult), match="send=") as caught:
        await collect(left.stream("total", send=send))
    assert "'total'" in str(caught.value)
    await emptied(left, right)


async def test_a_handler_that_both_reads_and_yields_needs_items(both: Both) -> None:
    left, right = both

    async def doubled(items: AsyncIterator[int]) -> AsyncIterator[int]:
        async for item in items:
            yield 2 * item

    right.on("doubled", doubled)
    with pytest.raises(BadResult, match="'doubled' reads items that its caller sends: give send="):
        await collect(left.stream("doubled"))
    assert await collect(left.stream("doubled", send=[1, 2])) == [2, 4]
    await emptied(left, right)


@pytest.mark.parametrize("how", ["request", "stream"])
async def test_a_source_that_is_cancelled_by_itself_does_not_end_well(both: Both, how: str) -> None:
    left, right = both
    read: list[int] = []
    outcome: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def upload(items: AsyncIterator[int]) -> AsyncIterator[int]:
        try:
            async for item in items:
                read.append(item)
        except asyncio.CancelledError as exc:
            outcome.set_result(str(exc.args[0]))
            raise
        outcome.set_result("ended well")
        yield 0

    async def only(items: AsyncIterator[int]) -> None:
        async for _ in upload(items):
            pass

    right.on("request", only)
    right.on("stream", upload)

    async def items() -> AsyncIterator[int]:
        yield 1
        await turns(20)
        raise asyncio.CancelledError

    if how == "request":
        with pytest.raises(asyncio.CancelledError, match="the source was cancelled"):
            await left.request("request", send=items())
    else:
        with pytest.raises(RuntimeError, match="the source was cancelled"):
            await collect(left.stream("stream", send=items()))
    assert await outcome != "ended well"
    assert read == [1]
    await emptied(left, right)


async def test_a_handler_that_does_not_read_cannot_be_sent_items(both: Both) -> None:
    left, right = both
    right.on("value", lambda: 5)
    source = Source()
    with pytest.raises(BadResult, match="the response to 'value' is not a channel but int"):
        await left.request("value", send=source.items())
    assert source.made == 0
    await emptied(left, right)
