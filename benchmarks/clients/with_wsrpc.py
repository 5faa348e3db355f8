"""wsrpc's client, on the default transport and on picows."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any

from wsrpc import Client, Limits

from ..servers.handlers import CHUNK


class WithWsrpc:
    def __init__(self, client: Client, another: Callable[[], Client]) -> None:
        self._client = client
        self._another = another
        self.add = partial(client.request, "add", 1, 2)
        self.add_async = partial(client.request, "add_async", 1, 2)
        self.broadcast = partial(client.request, "broadcast")
        self.emit = partial(client.emit, "note")

    async def notes(self) -> int:
        answer: int = await self._client.request("notes")
        return answer

    @asynccontextmanager
    async def hearers(self, count: int) -> AsyncIterator[Callable[[], int]]:
        heard = 0

        def hear(_: str) -> None:
            nonlocal heard
            heard += 1

        self._client.on("tick", hear)
        async with AsyncExitStack() as stack:
            for _ in range(count - 1):
                client = self._another()
                client.on("tick", hear)
                await stack.enter_async_context(client)
            yield lambda: heard

    @asynccontextmanager
    async def items(self, variant: str) -> AsyncIterator[AsyncIterator[int]]:
        async with self._client.stream(f"items_{variant}") as items:
            yield (item["n"] async for item in items)

    async def upload(self, size: int) -> int:
        def pieces() -> Iterator[bytes]:
            for _ in range(size // len(CHUNK)):
                yield CHUNK

        return await self._client.request("upload", send=pieces(), returns=int)

    async def download(self, size: int) -> int:
        got = 0
        async with self._client.stream("download", size, returns=bytes) as pieces:
            async for piece in pieces:
                got += len(piece)
        return got


@asynccontextmanager
async def on_default(port: int, **options: Any) -> AsyncIterator[WithWsrpc]:
    another = partial(Client, f"ws://127.0.0.1:{port}/", **options)
    async with another() as client:
        yield WithWsrpc(client, another)


@asynccontextmanager
async def on_default_without_sessions(port: int) -> AsyncIterator[WithWsrpc]:
    async with on_default(port, limits=Limits(replay=0)) as client:
        yield client


@asynccontextmanager
async def on_picows(port: int) -> AsyncIterator[WithWsrpc]:
    from wsrpc_adapters import picows

    async with on_default(port, dial=picows.dial) as client:
        yield client
