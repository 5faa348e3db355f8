"""The to-do list with its page: `python webapp.py`, then http://127.0.0.1:8080"""

# --8<-- [start:imports]
from pathlib import Path

from aiohttp import web
from todo import server

# --8<-- [end:imports]
from transfer import router

# --8<-- [start:app]
from wsrpc_adapters.aiohttp import aiohttp_handler

HERE = Path(__file__).parent


async def index(request: web.Request) -> web.FileResponse:
    return web.FileResponse(HERE / "page" / "index.html")


async def close(app: web.Application) -> None:
    await server.close(drain=5)


app = web.Application()
app.router.add_get("/", index)
app.router.add_get("/ws", aiohttp_handler(server))
app.router.add_static("/page", HERE / "page")
app.router.add_static("/modules", HERE / "node_modules")
app.on_shutdown.append(close)
# --8<-- [end:app]
server.include(router)
# --8<-- [start:run]

if __name__ == "__main__":
    web.run_app(app, host="127.0.0.1", port=8080)
# --8<-- [end:run]
