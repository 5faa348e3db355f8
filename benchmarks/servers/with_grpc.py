"""grpc.aio, with protobuf messages: see `benchmarks.grpc_messages`."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio

from ..grpc_messages import METHODS, SERVICE, Blob, Item, Sum
from .handlers import CHUNK, HOST, LARGEST_MESSAGE, Options, parent_left, say_port


async def add(request: Any, context: Any) -> Any:
    return Sum(value=request.a + request.b)


async def echo(request: Any, context: Any) -> Any:
    return request


async def items(request: Any, context: Any) -> AsyncIterator[Any]:
    for n in itertools.count():
        yield Item(n=n, x=1.5)


async def download(request: Any, context: Any) -> AsyncIterator[Any]:
    for _ in range(request.value // len(CHUNK)):
        yield Blob(data=CHUNK)


async def upload(requests: AsyncIterator[Any], context: Any) -> Any:
    size = 0
    async for piece in requests:
        size += len(piece.data)
    return Sum(value=size)


def _handlers() -> dict[str, Any]:
    unary, out, into = (
        grpc.unary_unary_rpc_method_handler,
        grpc.unary_stream_rpc_method_handler,
        grpc.stream_unary_rpc_method_handler,
    )
    made: dict[str, tuple[Any, Any]] = {
        "Add": (unary, add),
        "Echo": (unary, echo),
        "EchoBytes": (unary, echo),
        "Items": (out, items),
        "Download": (out, download),
        "Upload": (into, upload),
    }
    return {
        name: kind(
            function,
            request_deserializer=METHODS[name][0].FromString,
            response_serializer=METHODS[name][1].SerializeToString,
        )
        for name, (kind, function) in made.items()
    }


async def serve(options: Options) -> None:
    server = grpc.aio.server(
        options=[
            ("grpc.max_receive_message_length", LARGEST_MESSAGE),
            ("grpc.max_send_message_length", LARGEST_MESSAGE),
        ]
    )
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, _handlers()),))
    port = server.add_insecure_port(f"{HOST}:0")
    await server.start()
    say_port(port)
    await parent_left()
    await server.stop(None)
