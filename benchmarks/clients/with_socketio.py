"""python-socketio's client, by WebSocket from the first message on."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import socketio


class WithSocketIO:
    def __init__(self, client: socketio.AsyncClient) -> None:
        self._client = client

    async def add(self) -> int:
        answer: int = await self._client.call("add", (1, 2))
        return answer

    async def emit(self, number: int) -> None:
        await self._client.emit("note", number)

    async def notes(self) -> int:
        answer: int = await self._client.call("notes")
        return answer


@asynccontextmanager
async def opened(port: int) -> AsyncIterator[WithSocketIO]:
    client = socketio.AsyncClient()
    await client.connect(f"http://127.0.0.1:{port}", transports=["websocket"])
    try:
        yield WithSocketIO(client)
    finally:
        await client.disconnect()
