"""Serve the files of a folder as streams of bytes.

    python server.py FOLDER [PORT]

The server reads a file only as fast as the client takes the bytes, so neither side holds much of the file in memory.
"""

from __future__ import annotations

import hashlib
import logging
import sys
from collections.abc import Iterator
from pathlib import Path

from wsrpc import RpcError, Server

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


if __name__ == "__main__":
    logging.basicConfig(level="INFO")  # shows the address, and each connection
    make_server(Path(sys.argv[1]).resolve()).run(port=int(sys.argv[2]) if len(sys.argv) > 2 else 8080)
