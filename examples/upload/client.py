"""Send a file, and continue after a lost session. If it is interrupted, start it again.

    python client.py [--url URL] FILE

The client reads the file only as fast as the server writes it.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path

from wsrpc import Client, RemoteError, Retry
from wsrpc.uploads import upload


def show(sent: int, size: int) -> None:
    print(f"sent {sent} of {size} bytes", end="\r" if sent < size else "\n")


async def main(url: str, path: Path) -> None:
    async with Client(url) as client:
        try:
            file = await upload(client, "files", path, progress=show)
            await client.request("save", file, retry=Retry(), idempotent=True)
        except RemoteError as error:
            sys.exit(f"refused: {error} [{error.code}]")
    print("complete")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("path", type=Path)
    parser.add_argument("--url", default="ws://127.0.0.1:8080/ws")
    options = parser.parse_args()
    asyncio.run(main(options.url, options.path))
