"""Download a file into the current folder. Show the progress, and compare the checksum.

python client.py [--url URL] NAME
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import sys
from pathlib import Path

from wsrpc import Client, RemoteError


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
        sys.exit(f"{name}: the checksum differs")
    print(f"{name}: complete, SHA-256 {digest.hexdigest()[:16]}…")


async def main(url: str, name: str) -> None:
    async with Client(url) as client:
        try:
            await fetch(client, name, Path(Path(name).name))
        except RemoteError as error:
            sys.exit(f"{error} [{error.code}]")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("name")
    parser.add_argument("--url", default="ws://127.0.0.1:8080")
    options = parser.parse_args()
    asyncio.run(main(options.url, options.name))
