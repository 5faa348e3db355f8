"""A chat in the browser, with page and WebSocket from one application: `wsrpc serve app:app`, see README.md.

Each worker imports this module. CHAT_DATA names the folder of messages and files, and CHAT_REDIS the Redis that several
workers need.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

from handlers import make_server
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles
from store import Store

from wsrpc_adapters.asgi import asgi, lifespan

logging.basicConfig(level=logging.INFO, format="[%(process)d] %(message)s")

HERE = Path(__file__).parent

store = Store(Path(os.environ.get("CHAT_DATA", HERE / "data")))
server = make_server(store, os.environ.get("CHAT_REDIS"))


async def download(request: Request) -> FileResponse:
    message = store.message(request.path_params["id"])
    if message is None or message.file is None:
        raise HTTPException(404)
    # An uploaded file must not be shown as a page of this site: <img> shows pictures, other files are saved.
    headers = {"Content-Disposition": "attachment", "X-Content-Type-Options": "nosniff"}
    return FileResponse(store.path(message.id), headers=headers, media_type=message.file.content_type)


app = Starlette(
    routes=[
        WebSocketRoute("/ws", asgi(server)),
        Route("/ws", asgi(server)),  # for browsers behind proxies that block WebSocket
        Route("/files/{id}/{name}", download),
        Mount("/wsrpc", StaticFiles(packages=[("wsrpc", "browser")])),  # the client for pages
        Mount("/", StaticFiles(directory=HERE / "page", html=True)),
    ],
    lifespan=lifespan(server),
)
