"""uvicorn, for the ASGI applications."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import uvicorn

from .handlers import BACKLOG, CERTIFICATES, HOST, LARGEST_MESSAGE, Options, parent_left, say_port


async def serve(application: Any, options: Options, **settings: Any) -> None:
    """Serve an ASGI application; ``settings`` are uvicorn's, for those whose documentation
    advises some."""
    if options.tls:
        settings |= {"ssl_keyfile": CERTIFICATES / "server.key", "ssl_certfile": CERTIFICATES / "server.pem"}
    settings.setdefault("ws_per_message_deflate", False)
    with socket.create_server((HOST, 0), backlog=BACKLOG) as sock:
        # As uvicorn has it where it makes the socket itself; its connections inherit it. Of this one asyncio does not
        # see that it is TCP, and answers would wait for the acknowledgement of the ones before, for up to 40 ms.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        config = uvicorn.Config(
            application,
            lifespan="off",
            log_level="critical",
            access_log=False,
            backlog=BACKLOG,
            ws_max_size=LARGEST_MESSAGE,
            timeout_graceful_shutdown=1,
            **settings,
        )
        server = uvicorn.Server(config)
        # uvicorn takes the signals; it ends as the others do, with stdin. Until it has started, connections wait.
        serving = asyncio.create_task(server.serve(sockets=[sock]))
        say_port(sock.getsockname()[1])
        await parent_left()
        server.should_exit = True
        await serving
