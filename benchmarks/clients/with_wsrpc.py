"""wsrpc's client."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from wsrpc import Client, Limits

from ..servers.handlers import CHUNK


class WithWsrpc:
    def __init__(self, client: Client) -> None:
        self._client = client
        self.add = partial(client.request, "add", 1, 2)
        self.emit = partial(client.emit, "note")

    async def notes(self) -> int:
        answer: int = await self._client.request("notes")
        return answer

    @asynccontextmanager
    async def items(self) -> AsyncIterator[AsyncIterator[int]]:
        async with self._client.stream("items") as items:
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
    async with Client(f"ws://127.0.0.1:{port}/", **options) as client:
        yield WithWsrpc(client)


@asynccontextmanager
async def on_default_without_sessions(port: int) -> AsyncIterator[WithWsrpc]:
    async with on_default(port, limits=Limits(replay_bytes=0)) as client:
        yield client
