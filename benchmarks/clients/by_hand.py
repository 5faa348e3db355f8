"""What one writes by hand: futures by id, and a task that reads.

The JSON library is the one that wsrpc uses: it is not what is compared.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import msgspec
from websockets.asyncio.client import ClientConnection, connect

from ..servers.handlers import CHUNK


class ByHand:
    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._pending: dict[int, asyncio.Future[Any]] = {}
        self._last_id = 0
        self._reading: asyncio.Task[None] | None = None
        self.add = partial(self.request, "add", 1, 2)

    async def read(self) -> None:
        async for message in self._connection:
            answer = msgspec.json.decode(message)
            self._pending.pop(answer["i"]).set_result(answer["d"])

    async def request(self, name: str, *arguments: Any) -> Any:
        if self._reading is None:
            self._reading = asyncio.create_task(self.read())
        self._last_id += 1
        future = self._pending[self._last_id] = asyncio.get_running_loop().create_future()
        message = {"i": self._last_id, "a": [name, *arguments]}
        await self._connection.send(msgspec.json.encode(message), text=True)
        return await future

    async def emit(self, number: int) -> None:
        await self._connection.send(msgspec.json.encode({"a": ["note", number]}), text=True)

    async def notes(self) -> int:
        answer: int = await self.request("notes")
        return answer

    @asynccontextmanager
    async def items(self) -> AsyncIterator[AsyncIterator[int]]:
        await self._connection.send(msgspec.json.encode({"a": ["items"]}), text=True)
        yield self._numbers()

    async def _numbers(self) -> AsyncIterator[int]:
        async for message in self._connection:
            yield msgspec.json.decode(message)["n"]

    async def upload(self, size: int) -> int:
        await self._connection.send(msgspec.json.encode({"a": ["upload", size]}), text=True)
        for _ in range(size // len(CHUNK)):
            await self._connection.send(CHUNK)
        return int(await self._connection.recv())

    async def download(self, size: int) -> int:
        await self._connection.send(msgspec.json.encode({"a": ["download", size]}), text=True)
        got = 0
        while got < size:
            got += len(await self._connection.recv())
        return got


@asynccontextmanager
async def opened(port: int) -> AsyncIterator[ByHand]:
    # A server that sends items without an end hears of the end late, and the handshake is not what is measured.
    url, patience = f"ws://127.0.0.1:{port}/", 0.2
    async with connect(url, compression=None, proxy=None, close_timeout=patience) as connection:
        yield ByHand(connection)
