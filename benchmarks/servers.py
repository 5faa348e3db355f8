"""The Python servers under test: ``python -m benchmarks.servers KIND PORT`` prints its port when it is ready.

Port 0 means any free one. A server ends when its stdin does, so that none outlives the run that started it.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec
from websockets.asyncio.server import ServerConnection, serve

HOST = "127.0.0.1"


def add(a: int, b: int) -> int:
    return a + b


def echo(text: str) -> str:
    return text


async def add_async(a: int, b: int) -> int:
    return a + b


async def echo_async(text: str) -> str:
    return text


async def parent_left() -> None:
    """Returns at the end of stdin."""
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(sys.stdin, ended.set)
    await ended.wait()
    loop.remove_reader(sys.stdin)


Handler = Callable[[ServerConnection], Coroutine[Any, Any, None]]


async def serve_with_websockets(handler: Handler, port: int) -> None:
    async with serve(handler, HOST, port, compression=None) as server:
        (listener,) = server.sockets
        print(listener.getsockname()[1], flush=True)
        await parent_left()


async def bare(connection: ServerConnection) -> None:
    async for message in connection:
        await connection.send(message)


async def handwritten(connection: ServerConnection) -> None:
    """What one writes by hand. The JSON library is the one that wsrpc uses: it is not what is compared."""
    handlers = {"add": add}
    async for message in connection:
        request = msgspec.json.decode(message)
        name, *arguments = request["a"]
        answer = {"i": request["i"], "d": handlers[name](*arguments)}
        await connection.send(msgspec.json.encode(answer), text=True)


async def serve_with_wsrpc(handlers: dict[str, Callable[..., Any]], port: int) -> None:
    # Only here, so that a wsrpc that cannot be imported does not take the other servers with it.
    from wsrpc import Server

    server = Server()
    for name, handler in handlers.items():
        server.on(name, handler)
    async with server.listen(HOST, port) as listener:
        print(listener.port, flush=True)
        await parent_left()


def main(kind: str, port: int) -> None:
    match kind:
        case "bare":
            asyncio.run(serve_with_websockets(bare, port))
        case "handwritten":
            asyncio.run(serve_with_websockets(handwritten, port))
        case "wsrpc":
            asyncio.run(serve_with_wsrpc({"add": add, "echo": echo}, port))
        case "wsrpc-async":
            asyncio.run(serve_with_wsrpc({"add": add_async, "echo": echo_async}, port))
        case _:
            asyncio.run(serve_with_adapter(kind, port))


async def serve_with_adapter(kind: str, port: int) -> None:
    # Only here, so that a library that is missing does not take the other servers with it.
    from . import adapters

    handlers: dict[str, Callable[..., Any]] = {"add": add, "echo": echo}
    match kind:
        case "wsrpc-picows":
            await adapters.serve_with_picows(handlers, port)
        case "bare-aiohttp":
            await adapters.serve_with_aiohttp(None, port)
        case "wsrpc-aiohttp":
            await adapters.serve_with_aiohttp(handlers, port)
        case "bare-asgi":
            await adapters.serve_with_uvicorn(None, port)
        case "wsrpc-asgi":
            await adapters.serve_with_uvicorn(handlers, port)
        case "wsrpc-fastapi":
            await adapters.serve_with_uvicorn(handlers, port, fastapi=True)
        case "wsrpc-uvicorn":
            protocol = "wsrpc_adapters.uvicorn:WebSocketProtocol"
            await adapters.serve_with_uvicorn(handlers, port, fastapi=True, ws=protocol)
        case _:
            sys.exit(f"unknown kind of server: {kind}")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
