"""Save uploads in a folder.

    python server.py FOLDER [PORT]

The server reports the progress to the client, and stops an upload that exceeds the quota.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from wsrpc import Peer, RpcError, Server

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


if __name__ == "__main__":
    logging.basicConfig(level="INFO")  # shows the address, and each connection
    make_server(Path(sys.argv[1])).run(port=int(sys.argv[2]) if len(sys.argv) > 2 else 8080)
