"""fastapi-websocket-rpc's client."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi_websocket_rpc import RpcMethodsBase, WebSocketRpcClient


class WithFastapiRpc:
    def __init__(self, client: Any) -> None:
        self._client = client

    async def add(self) -> int:
        answer: int = (await self._client.other.add(a=1, b=2)).result
        return answer


@asynccontextmanager
async def opened(port: int) -> AsyncIterator[WithFastapiRpc]:
    async with WebSocketRpcClient(f"ws://127.0.0.1:{port}/", RpcMethodsBase()) as client:
        yield WithFastapiRpc(client)
