"""grpc.aio's client, with protobuf messages: see `benchmarks.grpc_messages`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import grpc.aio

from ..grpc_messages import METHODS, Add, Blob, Sum, path
from ..servers.handlers import CHUNK, LARGEST_MESSAGE


class WithGrpc:
    def __init__(self, channel: Any) -> None:
        def method(kind: Any, name: str) -> Any:
            request, response = METHODS[name]
            return kind(
                path(name), request_serializer=request.SerializeToString, response_deserializer=response.FromString
            )

        # Made once, as gRPC's documentation advises.
        self._add = method(channel.unary_unary, "Add")
        self._items = method(channel.unary_stream, "Items")
        self._download = method(channel.unary_stream, "Download")
        self._upload = method(channel.stream_unary, "Upload")

    async def add(self) -> int:
        answer: int = (await self._add(Add(a=1, b=2))).value
        return answer

    @asynccontextmanager
    async def items(self) -> AsyncIterator[AsyncIterator[int]]:
        call = self._items(Sum(value=0))
        yield (item.n async for item in call)
        call.cancel()

    async def upload(self, size: int) -> int:
        def pieces() -> Iterator[Any]:
            for _ in range(size // len(CHUNK)):
                yield Blob(data=CHUNK)

        answer: int = (await self._upload(pieces())).value
        return answer

    async def download(self, size: int) -> int:
        got = 0
        async for piece in self._download(Sum(value=size)):
            got += len(piece.data)
        return got


@asynccontextmanager
async def opened(port: int) -> AsyncIterator[WithGrpc]:
    options = [("grpc.max_receive_message_length", LARGEST_MESSAGE)]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
        yield WithGrpc(channel)
