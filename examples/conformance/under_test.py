"""A peer that the conformance kit can test: wsrpc.

python under_test.py [PORT]     serves
python under_test.py URL        dials, again and again, until nothing listens there
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Iterator
from typing import Any

from wsrpc import AnonymousChannel, Client, ConnectFailed, Context, Peer, RemoteError, RpcError, Server


def register(here: Any) -> None:
    """Register the handlers on a channel of any kind."""

    def echo(value: Any) -> Any:
        return value

    def fail(value: Any) -> None:
        raise RpcError(value) if isinstance(value, str) else RpcError.of_value(value)

    async def emit(event: str, args: list[Any]) -> None:
        await here.emit(event, *args)

    async def call(event: str, args: list[Any]) -> list[Any]:
        try:
            return [await here.request(event, *args)]
        except RemoteError as exc:
            raise RpcError.of_value(exc.data) if exc.plain else RpcError(exc.message) from exc

    def channel(ctx: Context) -> AnonymousChannel:
        made = ctx.channel()
        register(made)
        return made

    async def request_channel(event: str, args: list[Any]) -> None:
        register(await here.open_channel(event, *args))

    async def abort(message: str) -> None:
        await here.abort(RpcError(message))

    def items(items: list[Any], error: str = "") -> Iterator[Any]:
        yield from items
        if error:
            raise RpcError(error)

    async def collect(event: str, args: list[Any]) -> list[Any]:
        async with here.stream(event, *args) as stream:
            return [item async for item in stream]

    for handler in (echo, fail, emit, call, channel, request_channel, abort, items, collect):
        here.on(handler.__name__, handler)


def speak(peer: Client | Peer) -> None:
    register(peer)
    register(peer.of("room"))


async def dial(url: str) -> None:
    while True:
        client = Client(url, reconnect=None)
        speak(client)
        closed = asyncio.Event()
        client.on("close", closed.set)
        try:
            await client.connect()
        except ConnectFailed:
            return  # nothing listens
        await closed.wait()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    target = sys.argv[1] if len(sys.argv) > 1 else "8080"
    if target.startswith("ws"):
        asyncio.run(dial(target))
    else:
        server = Server()
        server.on("open", speak)
        server.run("127.0.0.1", int(target))
