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


def register(channel: Any) -> None:
    @channel.on("echo")
    def echo(value: Any) -> Any:
        return value

    @channel.on("fail")
    def fail(value: Any) -> None:
        raise RpcError(value) if isinstance(value, str) else RpcError.of_value(value)

    @channel.on("emit")
    async def emit(event: str, args: list[Any]) -> None:
        await channel.emit(event, *args)

    @channel.on("call")
    async def call(event: str, args: list[Any]) -> list[Any]:
        try:
            return [await channel.request(event, *args)]
        except RemoteError as exc:
            raise RpcError.of_value(exc.data) if exc.plain else RpcError(exc.message) from exc

    @channel.on("channel")
    def make_channel(ctx: Context) -> AnonymousChannel:
        made = ctx.channel()
        register(made)
        return made

    @channel.on("request_channel")
    async def request_channel(event: str, args: list[Any]) -> None:
        register(await channel.open_channel(event, *args))

    @channel.on("abort")
    async def abort(message: str) -> None:
        await channel.abort(RpcError(message))

    @channel.on("items")
    def items(items: list[Any], error: str = "") -> Iterator[Any]:
        yield from items
        if error:
            raise RpcError(error)

    @channel.on("collect")
    async def collect(event: str, args: list[Any]) -> list[Any]:
        async with channel.stream(event, *args) as stream:
            return [item async for item in stream]


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
