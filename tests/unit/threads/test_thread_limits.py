"""`Limits.threads` and `Limits.thread_timeout`."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import AsyncExitStack

import pytest
from core_driver import messages, start
from waiting import until

from wsrpc import Client, Limits, Server
from wsrpc.errors import Overloaded, RemoteError
from wsrpc.testing import connect


@pytest.mark.parametrize("whose", ["connection", "server"])
@pytest.mark.parametrize("kind", ["handlers", "streams"])
async def test_a_request_that_gets_no_thread_is_rejected_and_does_not_run(
    kind: str, whose: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing said that handlers that block used up all threads."""
    limits = Limits(threads=2, thread_timeout=2.0)
    server, go, ran = Server(limits=limits), threading.Event(), list[str]()

    def work() -> None:
        ran.append("work")

    def items() -> Iterator[int]:
        ran.append("items")
        yield from range(600)  # more than a reader that pauses gets

    server.on("block", lambda: go.wait(600), thread=True)
    server.on("work", work, thread=True)
    server.on("items", items, thread=True)

    async def use(client: Client) -> None:
        if kind == "handlers":
            await client.request("block", timeout=None)
            return
        async with client.stream("items") as numbers:
            assert await anext(numbers) == 0
            await until(go.is_set)

    async def ask() -> None:
        if kind == "handlers":
            await client.request("work")
        else:
            assert [number async for number in client.stream("items")] == [*range(600)]

    async with AsyncExitStack() as stack:
        client, *others = [await stack.enter_async_context(connect(server)) for _ in range(5)]
        using = [start(use(each)) for each in 2 * ([client] if whose == "connection" else others)]
        begun = len(using) if kind == "streams" else 0
        await until(lambda: server.stats().active == len(using) and ran == ["items"] * begun)
        asking = [start(ask()) for _ in range(2)]
        await until(lambda: server.stats().active == len(using) + 2)
        if kind == "streams":
            await client.request("work")  # streams take no thread from calls
        count, all_of = (2, "this connection use or await") if whose == "connection" else (8, "all connections use")
        for task in asking:
            with pytest.raises(Overloaded, match=rf"for 2 s: {count} {kind} of {all_of} threads \(Limits.threads\)"):
                await task
        assert len(messages(caplog)) == 1 and server.stats().ignored["no free thread"] == 2
        go.set()
        await asyncio.gather(*using)
        assert ran == ["items"] * begun + ["work"] * (kind == "streams")
        await ask()


async def test_a_handler_that_returns_an_iterator_has_run_when_there_are_too_many_streams() -> None:
    """The iterator is closed where it was made."""
    server, closed = Server(limits=Limits(threads=1)), list[bool]()

    class Rows:
        def __init__(self) -> None:
            self.numbers, self.thread = iter(range(600)), threading.get_ident()

        def __iter__(self) -> Rows:
            return self

        def __next__(self) -> int:
            return next(self.numbers)

        def close(self) -> None:
            closed.append(self.thread == threading.get_ident())

    server.on("rows", Rows, thread=True)
    async with connect(server) as client:
        async with client.stream("rows") as rows:
            assert await anext(rows) == 0
            for _ in range(5):  # what was refused does not count
                with pytest.raises(RemoteError, match=r"1 streams of .* close some or ask again later") as caught:
                    await anext(client.stream("rows"))
                assert caught.value.code == "wsrpc.too_many_channels"
        await until(lambda: len(closed) == 6)
        assert [number async for number in client.stream("rows")] == [*range(600)]
        assert all(closed)
