"""Upload a file, and show the progress.

    python client.py [--url URL] FILE

The client reads the file only as fast as the server takes the pieces.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from wsrpc import Client, RemoteError


@dataclass
class Receipt:
    name: str
    size: int


def pieces_of(path: Path) -> Iterator[bytes]:
    """Read a file piece by piece. It runs only as far ahead as the server allows."""
    with path.open("rb") as file:
        try:
            while piece := file.read(64 * 1024):
                yield piece
        finally:
            print(f"read {file.tell()} of {path.stat().st_size} bytes")


async def main(url: str, path: Path) -> None:
    client = Client(url)
    client.on("received", lambda size: print(f"the server has {size} bytes"))
    async with client:
        try:
            receipt = await client.request("upload", path.name, send=pieces_of(path), returns=Receipt)
        except RemoteError as error:
            sys.exit(f"refused: {error} [{error.code}]")
        print(f"complete: {receipt.name}, {receipt.size} bytes")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("path", type=Path)
    parser.add_argument("--url", default="ws://127.0.0.1:8080")
    options = parser.parse_args()
    asyncio.run(main(options.url, options.path))
