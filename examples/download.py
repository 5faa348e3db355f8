"""Download a file, with progress and a checksum: `python examples/download.py`, or with the path of a file as argument.

The server reads the file only as fast as the client takes it, so that neither side holds much of it in memory.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from wsrpc import Client, RpcError, Server

PIECE = 64 * 1024  # bytes in one item


def make_server(folder: Path) -> Server:
    server = Server()

    def find(name: str) -> Path:
        path = folder / name
        if path.parent != folder or not path.is_file():  # "../secret" is outside of the folder
            raise RpcError(f"there is no file {name!r}", code="no_file")
        return path

    @server.on("size")
    def size(name: str) -> int:
        return find(name).stat().st_size

    @server.on("checksum", thread=True)  # reading a disk blocks, so it runs in a thread
    def checksum(name: str) -> str:
        with find(name).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    @server.on("download", thread=True)
    def download(name: str) -> Iterator[bytes]:
        with find(name).open("rb") as file:  # closed when the client leaves, too
            while piece := file.read(PIECE):
                yield piece

    return server


async def fetch(client: Client, name: str, target: Path) -> None:
    size = await client.request("size", name, returns=int)
    digest = hashlib.sha256()
    received = shown = 0
    with target.open("wb") as file:
        async with client.stream("download", name, returns=bytes) as pieces:
            async for piece in pieces:
                file.write(piece)
                digest.update(piece)
                received += len(piece)
                percent = received * 100 // size
                if percent >= shown + 20 or received == size:
                    shown = percent
                    print(f"{name}: {percent} %, {received} of {size} bytes")
    if digest.hexdigest() != await client.request("checksum", name, returns=str):
        raise SystemExit(f"{name}: the checksum differs")
    print(f"{name}: complete, SHA-256 {digest.hexdigest()[:16]}…")


async def main(source: Path) -> None:
    server = make_server(source.parent)
    with tempfile.TemporaryDirectory() as folder:
        async with server.listen("127.0.0.1", 0) as listener, Client(listener.url) as client:
            await fetch(client, source.name, Path(folder, "copy"))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        asyncio.run(main(Path(sys.argv[1]).resolve()))
    else:
        with tempfile.TemporaryDirectory() as folder:
            sample = Path(folder).resolve() / "sample.bin"
            sample.write_bytes(os.urandom(4 * 1024 * 1024))
            asyncio.run(main(sample))
