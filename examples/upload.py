"""Upload a file, with progress and a quota: `python examples/upload.py`, or with the path of a file as argument.

The client reads its file only as fast as the server takes the pieces. The server tells the client how much has arrived,
and stops an upload that exceeds the quota.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

from wsrpc import Client, Peer, RemoteError, RpcError, Server

QUOTA = 1024 * 1024  # bytes of one upload


@dataclass
class Receipt:
    name: str
    size: int


def make_server(folder: Path) -> Server:
    server = Server()

    @server.on("upload")
    async def upload(name: str, pieces: AsyncIterator[bytes], peer: Peer) -> Receipt:
        if Path(name).name != name:
            raise RpcError(f"{name!r} is not a file name", code="bad_name")
        path = folder / name
        size = 0
        complete = False
        try:
            with path.open("wb") as file:
                async for piece in pieces:
                    size += len(piece)
                    if size > QUOTA:
                        raise RpcError(f"no more than {QUOTA} bytes", code="too_big")
                    file.write(piece)
                    await peer.emit("received", size)
            complete = True
        finally:  # however it ends: an error, a client that cancels, a dropped connection
            if not complete:
                path.unlink(missing_ok=True)
        return Receipt(name, size)  # the result of the client's request()

    return server


def pieces_of(path: Path) -> Iterator[bytes]:
    """Read a file piece by piece. It runs only as far ahead as the server allows."""
    with path.open("rb") as file:
        while piece := file.read(64 * 1024):
            yield piece


def endless() -> Iterator[bytes]:
    try:
        while True:
            yield bytes(64 * 1024)
    finally:
        print("nobody wants more: the generator was closed")


async def main(source: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        server = make_server(Path(folder))
        async with server.listen("127.0.0.1", 0) as listener:
            client = Client(listener.url)
            progress: list[int] = []
            client.on("received", progress.append)
            async with client:
                receipt = await client.request("upload", source.name, send=pieces_of(source), returns=Receipt)
                print(f"{receipt.name}: {receipt.size} bytes arrived; meanwhile the server said {progress}")
                try:
                    await client.request("upload", "endless", send=endless())
                except RemoteError as error:
                    print(f"refused: {error} [{error.code}]")
                print("on the server:", *os.listdir(folder))


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1] if len(sys.argv) > 1 else __file__)))
