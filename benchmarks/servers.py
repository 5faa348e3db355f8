"""The Python servers under test: ``python -m benchmarks.servers KIND PORT`` prints its port when it is ready.

Port 0 means any free one. A server ends when its stdin does, so that none outlives the run that started it.
"""

from __future__ import annotations

import asyncio
import socket
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


async def asgi_bare(scope: Any, receive: Any, send: Any) -> None:
    """What one writes by hand for an ASGI server."""
    await receive()
    await send({"type": "websocket.accept"})
    while (event := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": event["text"]})


def asgi_wsrpc() -> Any:
    from wsrpc import Server
    from wsrpc_adapters.asgi import asgi

    server = Server()
    server.on("add", add)
    server.on("echo", echo)
    return asgi(server)


async def serve_with_uvicorn(app: Any, port: int) -> None:
    import uvicorn

    config = uvicorn.Config(app, log_config=None, lifespan="off", ws="websockets-sansio", ws_per_message_deflate=False)
    server = uvicorn.Server(config)
    with socket.create_server((HOST, port)) as sock:
        serving = asyncio.create_task(server.serve([sock]))
        print(sock.getsockname()[1], flush=True)
        await parent_left()
        server.should_exit = True
        await serving


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
        case "asgi-bare":
            asyncio.run(serve_with_uvicorn(asgi_bare, port))
        case "asgi":
            asyncio.run(serve_with_uvicorn(asgi_wsrpc(), port))
        case _:
            sys.exit(f"unknown kind of server: {kind}")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
