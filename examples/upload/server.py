"""Save the files of a page or of client.py in a folder. An upload continues after a killed worker, or a reload.

    pip install '../..[uvicorn]' starlette
    wsrpc serve server:app --port 8080 --workers 2    # then open http://127.0.0.1:8080

Run these commands in this folder. While a large file is sent, kill a worker, or reload the page and choose the file
again. The workers share only the folder of the files: `uploads`, or what the environment variable UPLOADS names.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from starlette.applications import Starlette
from starlette.routing import Mount, WebSocketRoute
from starlette.staticfiles import StaticFiles

from wsrpc import Handshake, Peer, Server
from wsrpc.uploads import Uploads
from wsrpc_adapters.asgi import asgi, lifespan

HERE = Path(__file__).parent
FOLDER = Path(os.environ.get("UPLOADS", HERE / "uploads"))

server = Server()
uploads = Uploads(FOLDER / "received")
uploads.serve(server, "files")


@server.on_handshake
def log_in(handshake: Handshake) -> None:
    """Accept any name. With accounts, verify a token or the site's cookie instead."""
    handshake.principal = handshake.query.get("name", "")


@server.on("save")
def save(file: str, peer: Peer) -> None:
    """Save a file that was uploaded. It may be called again, and by two tabs at the same time."""
    path = uploads.path(file, peer)
    saved = FOLDER / "saved" / f"{path.parent.name}-{file}"  # the names of users' folders are safe
    saved.parent.mkdir(exist_ok=True)
    with suppress(FileExistsError):
        saved.hardlink_to(path)


PAGE = StaticFiles(directory=HERE / "page", html=True)
WSRPC = StaticFiles(packages=[("wsrpc", "browser")])  # the client for pages
routes = [WebSocketRoute("/ws", asgi(server)), Mount("/wsrpc", WSRPC), Mount("/", PAGE)]
app = Starlette(routes=routes, lifespan=lifespan(server))
