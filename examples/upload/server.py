"""Save the files of a page or of client.py in a folder. An upload continues after a killed worker, or a reload.

    pip install '../..[uvicorn]' starlette
    wsrpc serve server:app --port 8080 --workers 2    # then open http://127.0.0.1:8080

Run these commands in this folder. While a large file is sent, kill a worker, or reload the page and choose the file
again. The workers share only the folder of the files: `uploads`, or what the environment variable UPLOADS names.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Annotated

from msgspec import Meta
from starlette.applications import Starlette
from starlette.routing import Mount, WebSocketRoute
from starlette.staticfiles import StaticFiles

from wsrpc import Handshake, Peer, RpcError, Server
from wsrpc_adapters.asgi import asgi, lifespan

HERE = Path(__file__).parent
FOLDER = Path(os.environ.get("UPLOADS", HERE / "uploads"))
FileId = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]  # a path such as "../secret" does not fit
Size = Annotated[int, Meta(ge=0, le=4 * 1024**3)]  # no negative offset, and at most 4 GiB

server = Server()


@server.on_handshake
def log_in(handshake: Handshake) -> None:
    """Accept any name. With accounts, verify a token or the site's cookie instead."""
    handshake.principal = handshake.query.get("name", "")


def paths_of(peer: Peer, file_id: str) -> tuple[Path, Path]:
    FOLDER.mkdir(parents=True, exist_ok=True)
    user = hashlib.sha256(str(peer.principal).encode()).hexdigest()  # users do not reach each other's files
    return FOLDER / f"{user}-{file_id}.part", FOLDER / f"{user}-{file_id}"


@server.on("size")
def size(file_id: FileId, peer: Peer) -> int:
    """Return how many bytes of a file are here: an upload continues there."""
    return max((path.stat().st_size for path in paths_of(peer, file_id) if path.exists()), default=0)


@server.on("append")
async def append(file_id: FileId, total: Size, offset: Size, pieces: AsyncIterator[bytes], peer: Peer) -> None:
    """Take the bytes of a file from an offset on. Several calls may do so at the same time."""
    part, path = paths_of(peer, file_id)
    if path.exists():
        return
    if offset > size(file_id, peer):
        raise RpcError("a part is missing", code="gap")
    part.touch()
    async for piece in pieces:
        if offset + len(piece) > total:
            raise RpcError("too many bytes", code="too_big")
        if not await asyncio.to_thread(write, part, offset, piece):
            break
        offset += len(piece)
    if offset == total:
        await asyncio.to_thread(finish, file_id, part, path)
    if not path.exists():
        raise RpcError("the file is incomplete, or has changed", code="incomplete")


def write(part: Path, offset: int, piece: bytes) -> bool:
    """Write a piece at its own place, so that writing it twice does no harm. False: another call has finished."""
    try:
        with part.open("r+b") as file:
            file.seek(offset)
            file.write(piece)
    except FileNotFoundError:
        return False
    return True


def finish(file_id: str, part: Path, path: Path) -> None:
    """Give a complete file its name, if its content is what the id stands for."""
    with suppress(FileNotFoundError):
        if id_of(part) == file_id:
            part.replace(path)
        else:
            part.unlink()


def id_of(path: Path) -> str:
    """Return a hash of the content: of each piece with the hash of those before."""
    digest = bytes(32)
    with path.open("rb") as file:
        while piece := file.read(2**20):
            digest = hashlib.sha256(digest + piece).digest()
    return digest.hex()


PAGE = StaticFiles(directory=HERE / "page", html=True)
WSRPC = StaticFiles(packages=[("wsrpc", "browser")])  # the client for pages
routes = [WebSocketRoute("/ws", asgi(server)), Mount("/wsrpc", WSRPC), Mount("/", PAGE)]
app = Starlette(routes=routes, lifespan=lifespan(server))
