"""JSON-RPC 2.0 over WebSocket in both directions, with jsonrpcserver: `python jsonrpc_before.py [PORT]`.

It needs jsonrpcserver and websockets. jsonrpc_after.py is the same with wsrpc.
"""

from __future__ import annotations

import asyncio
import json
import sys
from contextlib import suppress
from itertools import count
from typing import Any

from jsonrpcserver import Error, Result, Success, async_dispatch, method
from websockets.asyncio.server import ServerConnection, broadcast, serve

stock = {"apples": 9}
connections = set[ServerConnection]()
numbers, responses = count(1), dict[int, asyncio.Future[Any]]()


async def call(connection: ServerConnection, name: str, *params: object) -> Any:
    """Call a method of the client."""
    number = next(numbers)
    responses[number] = asyncio.get_running_loop().create_future()
    try:
        await connection.send(json.dumps({"jsonrpc": "2.0", "id": number, "method": name, "params": params}))
        return await asyncio.wait_for(responses[number], 10)
    finally:
        del responses[number]


@method
async def add(connection: ServerConnection, a: int, b: int) -> Result:
    return Success(a + b)


@method
async def buy(connection: ServerConnection, what: str, count: int) -> Result:
    if stock[what] < count:
        return Error(1001, f"only {stock[what]} left", {"left": stock[what]})
    if count > 5 and not await call(connection, "confirm", f"{count} {what}?"):
        return Error(1002, "not confirmed")
    stock[what] -= count
    broadcast(connections, json.dumps({"jsonrpc": "2.0", "method": "sold", "params": [what, count]}))
    return Success(stock[what])


async def answer(connection: ServerConnection, message: str | bytes) -> None:
    if response := await async_dispatch(message, context=connection):
        await connection.send(response)


async def handle(connection: ServerConnection) -> None:
    connections.add(connection)
    try:
        async with asyncio.TaskGroup() as tasks:  # a method that calls the client must not stop this loop
            async for message in connection:
                value = json.loads(message)
                if isinstance(value, dict) and "method" not in value:
                    responses[value["id"]].set_result(value.get("result"))
                else:
                    tasks.create_task(answer(connection, message))
    finally:
        connections.discard(connection)


async def main(port: int) -> None:
    async with serve(handle, "127.0.0.1", port) as server:
        print(f"listening on ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/", flush=True)
        await server.serve_forever()


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 8080))
