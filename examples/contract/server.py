"""The board: its page, its modules, and the WebSocket at /ws. `python server.py`, see README.md."""

from __future__ import annotations

import argparse
import logging
from collections.abc import AsyncIterator
from pathlib import Path

from aiohttp import web
from contract import Board, BoardEvents, Color, Note

from wsrpc import Peer, RpcError, Server
from wsrpc_adapters.aiohttp import aiohttp_handler

HERE = Path(__file__).parent

server = Server()
board = server.of("board")
watchers = server.room("watchers")
"""Those who have asked for the notes."""
events = watchers.of("board").emitter(BoardEvents)


class BoardInMemory:
    """Implements `Board`."""

    def __init__(self) -> None:
        self.found: dict[int, Note] = {}
        self.last = 0

    async def post(self, author: str, text: str, color: Color = Color.YELLOW) -> Note:
        self.last += 1
        note = self.found[self.last] = Note(self.last, author, text, color)
        await events.posted(note)
        return note

    async def remove(self, id: int) -> None:
        if self.found.pop(id, None) is None:
            raise RpcError(f"there is no note {id}", code="no_note")
        await events.removed(id)

    async def notes(self, peer: Peer) -> AsyncIterator[Note]:
        watchers.add(peer)
        for note in list(self.found.values()):
            yield note


board.implement(Board, BoardInMemory())
board.declare(BoardEvents)


def make_app(modules: Path) -> web.Application:
    async def index(request: web.Request) -> web.FileResponse:
        return web.FileResponse(HERE / "page" / "index.html")

    async def close(app: web.Application) -> None:
        await server.close(drain_timeout=5)

    app = web.Application()
    app.router.add_get("/", index)
    app.router.add_route("*", "/ws", aiohttp_handler(server))
    app.router.add_static("/modules", modules)
    app.router.add_static("/", HERE / "page")
    app.on_shutdown.append(close)
    return app


def main() -> None:
    parser = argparse.ArgumentParser(description="A board for notes.")
    parser.add_argument("port", type=int, nargs="?", default=8080)
    parser.add_argument("--modules", type=Path, default=HERE / "node_modules", help="where npm has put ws-wrapper")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    web.run_app(make_app(options.modules), host="127.0.0.1", port=options.port)


if __name__ == "__main__":
    main()
