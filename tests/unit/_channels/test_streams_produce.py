"""How a handler that streams ends: promptly when nobody reads, and with its error after its items."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from core_driver import messages, start, turns
from leftovers import nothing_left as nothing_left
from leftovers import turns_until
from stream_driver import WINDOW, Both, Feed, collect, emptied, is_empty
from stream_driver import both as both

from wsrpc import HandlerFailed, Limits, RemoteError, RpcError, Server
from wsrpc.testing import connect, pair

pytestmark = pytest.mark.usefixtures("nothing_left")


@pytest.mark.parametrize("wait", [True, False], ids=["waiting for a value", "waiting for the consumer"])
@pytest.mark.parametrize("how", ["leave", "aclose", "cancel", "error", "drop", "close", "server closes"])
async def test_finally_runs_promptly_however_the_consumer_goes(how: str, wait: bool) -> None:
    server = Server()
    feed = Feed(gate=3 if wait else None)
    server.on("feed", feed.__call__)
    async with connect(server) as client:
        [peer] = server.peers
        stream = client.stream("feed")
        got: list[Any] = []

        async def read() -> None:
            async with stream:
                async for value in stream:
                    got.append(value)
                    if len(got) == 3:
                        if how == "error":
                            raise ValueError("the consumer's own")
                        if how != "leave":
                            await asyncio.Event().wait()
                        return

        task = start(read())
        await turns_until(lambda: len(got) == 3)
        if how == "aclose":
            await stream.aclose()
        elif how == "cancel":
            task.cancel("bored")
        elif how == "drop":
            assert peer.transport is not None
            peer.transport.abort()
        elif how == "close":
            await client.close()
        elif how == "server closes":
            await server.close()
        async with asyncio.timeout(5):
            await feed.finished.wait()
        await turns_until(lambda: is_empty(peer))
        if how == "cancel":
            assert not wait or feed.cancelled == ["bored"]
        task.cancel()
        await asyncio.wait([task])
        assert feed.made <= 3 + WINDOW + 1
        assert peer.channels == peer.active == peer.pending == 0


async def test_an_error_after_items_arrives_after_them(both: Both) -> None:
    left, right = both
    feed = Feed(limit=100, error=RpcError("broken", code="E", data=[1]))
    right.on("feed", feed.__call__)
    got: list[Any] = []
    with pytest.raises(RemoteError, match="broken") as caught:
        async with left.stream("feed") as numbers:
            await collect(numbers, got)
    assert got == list(range(100))
    assert (caught.value.code, caught.value.data) == ("E", [1])


@pytest.mark.parametrize("error", [ValueError("secret"), StopIteration("x"), KeyError(), asyncio.CancelledError("own")])
async def test_an_unexpected_error_arrives_with_an_id(both: Both, error: Any, caplog: pytest.LogCaptureFixture) -> None:
    left, right = both

    class Failing:
        def __aiter__(self) -> Failing:
            return self

        async def __anext__(self) -> int:
            raise error

    right.on("feed", lambda: Failing())
    with pytest.raises(HandlerFailed) as caught:
        await collect(left.stream("feed"))
    assert "secret" not in str(caught.value)
    assert caught.value.error_id is not None and caught.value.error_id in messages(caplog)[0]


async def test_an_item_that_cannot_be_encoded_ends_it_after_those_before(both: Both) -> None:
    left, right = both
    finished: list[bool] = []

    async def odd() -> AsyncIterator[Any]:
        try:
            yield 1
            yield object()
            yield 3
        finally:
            finished.append(True)

    right.on("odd", odd)
    got: list[Any] = []
    with pytest.raises(HandlerFailed):
        await collect(left.stream("odd"), got)
    assert got == [1] and finished == [True]


async def test_an_error_before_the_first_item_and_bad_arguments(both: Both) -> None:
    left, right = both

    async def feed(n: int) -> AsyncIterator[int]:
        if n > 1:
            raise RpcError("too many")
        yield n

    right.on("feed", feed)
    with pytest.raises(RemoteError, match="too many"):
        await collect(left.stream("feed", 2))
    with pytest.raises(RemoteError, match="expected int"):
        await collect(left.stream("feed", "x"))


async def test_a_coroutine_that_fails_before_it_returns_its_iterator_rejects(both: Both) -> None:
    left, right = both

    async def feed() -> AsyncIterator[int]:
        raise RpcError("no feed")

    right.on("feed", feed)
    with pytest.raises(RemoteError, match="no feed"):
        async with left.stream("feed"):
            raise AssertionError("it opens only when there is something to read")


async def test_ordered_streams_run_one_after_another(both: Both) -> None:
    left, right = both
    right.on("feed", Feed(gate=1).__call__, ordered=True)
    async with left.stream("feed") as first:
        assert await anext(first) == 0
        second = left.stream("feed", timeout=None)
        waiting = start(anext(second))
        await turns()
        assert not waiting.done()
    assert await waiting == 0
    await second.aclose()


async def test_streams_do_not_take_the_places_of_handlers() -> None:
    async with pair(limits=Limits(running=1)) as (left, right):
        right.on("feed", Feed(gate=1).__call__)
        right.on("ping", lambda: "pong")
        async with left.stream("feed") as one, left.stream("feed") as two:
            assert await anext(one) == await anext(two) == 0
            assert await left.request("ping") == "pong"
            assert right.active == 2
        await emptied(left, right)
