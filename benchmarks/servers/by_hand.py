"""What one writes by hand over `websockets`: JSON, a table of functions, ids.

The JSON library is the one that wsrpc uses: it is not what is compared.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import msgspec
from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed

from . import handlers
from .bare import serve_with_websockets
from .handlers import CHUNK, Options, small_item

HANDLERS: dict[str, Callable[..., Any]] = {"add": handlers.add, "echo": handlers.echo}


async def serve(options: Options) -> None:
    await serve_with_websockets(handler, options)


async def handler(connection: ServerConnection) -> None:
    notes = 0
    with suppress(ConnectionClosed):
        async for message in connection:
            request = msgspec.json.decode(message)
            name, *arguments = request["a"]
            if "i" not in request:
                if name == "note":
                    notes += 1
                else:
                    await SENDERS[name](connection, *arguments)
                continue
            result = notes if name == "notes" else HANDLERS[name](*arguments)
            await connection.send(msgspec.json.encode({"i": request["i"], "d": result}), text=True)


async def items(connection: ServerConnection) -> None:
    """Send items in a loop, until the other side leaves."""
    for n in itertools.count():
        await connection.send(msgspec.json.encode(small_item(n)), text=True)


async def download(connection: ServerConnection, size: int) -> None:
    for _ in range(size // len(CHUNK)):
        await connection.send(CHUNK)


async def upload(connection: ServerConnection, size: int) -> None:
    got = 0
    while got < size:
        got += len(await connection.recv())
    await connection.send(str(got))


SENDERS: dict[str, Callable[..., Any]] = {"items": items, "download": download, "upload": upload}
"""What takes the connection for itself."""
