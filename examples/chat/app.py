"""A chat in the browser, with page and WebSocket from one program: `python examples/chat/app.py`, see its README.md."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from aiohttp import web
from handlers import make_server
from store import Store

import wsrpc
from wsrpc_adapters.aiohttp import aiohttp_handler

HERE = Path(__file__).parent


def make_app(data: Path) -> web.Application:
    store = Store(data)
    server = make_server(store)

    async def index(request: web.Request) -> web.FileResponse:
        return web.FileResponse(HERE / "page" / "index.html")

    async def download(request: web.Request) -> web.FileResponse:
        message = store.message(request.match_info["id"])
        if message is None or message.file is None:
            raise web.HTTPNotFound
        # An uploaded file must not be shown as a page of this site: <img> shows pictures, other files are saved.
        headers = {
            "Content-Disposition": "attachment",
            "Content-Type": message.file.content_type,
            "X-Content-Type-Options": "nosniff",
        }
        return web.FileResponse(store.path(message.id), headers=headers)

    async def close(app: web.Application) -> None:
        await server.close(drain_timeout=5)  # pages see 1012 and dial again
        store.close()

    app = web.Application()
    app.router.add_get("/", index)
    app.router.add_get("/ws", aiohttp_handler(server))
    app.router.add_get("/files/{id}/{name}", download)
    app.router.add_static("/wsrpc", Path(wsrpc.__file__).with_name("browser"))  # the client for pages
    app.router.add_static("/", HERE / "page")
    app.on_shutdown.append(close)
    return app


def main() -> None:
    parser = argparse.ArgumentParser(description="A chat for browsers.")
    parser.add_argument("port", type=int, nargs="?", default=8080)
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0 to let others in (default: %(default)s)")
    parser.add_argument("--data", type=Path, default=HERE / "data", help="where messages and files are kept")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("aiohttp.access").setLevel(logging.WARNING)
    web.run_app(make_app(options.data), host=options.host, port=options.port)


if __name__ == "__main__":
    main()
