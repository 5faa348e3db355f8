"""The to-do list with its page: `python webapp.py`, then http://127.0.0.1:8080"""

from pathlib import Path

from aiohttp import web
from todo import server
from transfer import router

import wsrpc
from wsrpc_adapters.aiohttp import aiohttp_handler

HERE = Path(__file__).parent


async def index(request: web.Request) -> web.FileResponse:
    return web.FileResponse(HERE / "page" / "index.html")


async def close(app: web.Application) -> None:
    await server.close(drain_timeout=5)


app = web.Application()
app.router.add_get("/", index)
app.router.add_route("*", "/ws", aiohttp_handler(server))
app.router.add_static("/page", HERE / "page")
app.router.add_static("/wsrpc", Path(wsrpc.__file__).with_name("browser"))  # the client for pages
app.on_shutdown.append(close)
server.include(router)

if __name__ == "__main__":
    web.run_app(app, host="127.0.0.1", port=8080)
