"""Send a file, and continue after a lost session. If it is interrupted, start it again.

    python client.py [--url URL] FILE

The client reads the file only as fast as the server writes it.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import sys
from collections.abc import AsyncIterator
from pathlib import Path

from wsrpc import Client, ConnectionLost, RemoteError


async def upload(client: Client, path: Path) -> None:
    file_id, total = await asyncio.to_thread(lambda: (id_of(path), path.stat().st_size))
    while True:
        try:
            offset = await client.request("size", file_id, returns=int, timeout=None)
            print(f"the server has {offset} of {total} bytes")
            pieces = pieces_of(path, offset)
            await client.request("append", file_id, total, offset, send=pieces, timeout=None)
            return
        except ConnectionLost:  # the next request waits for the next connection
            if client.state == "closed":
                raise


async def pieces_of(path: Path, offset: int) -> AsyncIterator[bytes]:
    with path.open("rb") as file:
        file.seek(offset)
        while piece := await asyncio.to_thread(file.read, 64 * 1024):
            yield piece


def id_of(path: Path) -> str:
    """Return the same hash of the content as the server."""
    digest = bytes(32)
    with path.open("rb") as file:
        while piece := file.read(2**20):
            digest = hashlib.sha256(digest + piece).digest()
    return digest.hex()


async def main(url: str, path: Path) -> None:
    async with Client(url) as client:
        try:
            await upload(client, path)
        except RemoteError as error:
            sys.exit(f"refused: {error} [{error.code}]")
    print("complete")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("path", type=Path)
    parser.add_argument("--url", default="ws://127.0.0.1:8080/ws")
    options = parser.parse_args()
    asyncio.run(main(options.url, options.path))
