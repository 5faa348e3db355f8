"""ASGI servers, as users run them but inside the test's event loop."""

from __future__ import annotations

import asyncio
import socket
import warnings
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import AbstractAsyncContextManager as Context
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import hypercorn.asyncio
import hypercorn.config
import uvicorn
import uvicorn.server

Serving = Callable[[Any], Context[int]]
"""Serves an application, lifespan included, and gives the port."""


class Hurried:
    """asyncio for `uvicorn.server`, which looks every 0.1 s whether it is to end, and whether connections have ended.

    Half a thousand tests would wait 0.2 s each for that. Here it looks every 5 ms.
    """

    def __getattr__(self, name: str) -> Any:
        return getattr(asyncio, name)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(min(seconds, 0.005))


uvicorn.server.asyncio = Hurried()  # type: ignore[assignment, attr-defined]


class Uvicorn(uvicorn.Server):
    """One that leaves signals to pytest."""

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        yield


@asynccontextmanager
async def uvicorn_serving(app: Any, ws: Any = "auto", http: Any = "httptools", **options: Any) -> AsyncGenerator[int]:
    """Serve with the WebSocket implementation ``ws``, and the HTTP implementation ``http``, as with uvicorn[standard].

    Each is uvicorn's name for it, or its class.
    """
    config = uvicorn.Config(app, ws=ws, http=http, log_config=None, **options)
    server = Uvicorn(config)
    with warnings.catch_warnings(), socket.create_server(("127.0.0.1", 0)) as sock:
        if ws == "websockets":  # deprecated, and says so of each connection
            warnings.simplefilter("ignore")
        serving = asyncio.create_task(server.serve([sock]))
        while not server.started:
            assert not serving.done(), "uvicorn ended"
            await asyncio.sleep(0.001)
        try:
            yield sock.getsockname()[1]
        finally:
            server.should_exit = True
            await serving


@asynccontextmanager
async def hypercorn_serving(app: Any, **options: Any) -> AsyncGenerator[int]:
    sock = socket.create_server(("127.0.0.1", 0))
    port = sock.getsockname()[1]
    config = hypercorn.config.Config()
    config.bind = [f"fd://{sock.detach()}"]
    config.graceful_timeout = 0.5
    for name, value in options.items():
        setattr(config, name, value)
    stop = asyncio.Event()
    serving = asyncio.create_task(hypercorn.asyncio.serve(app, config, shutdown_trigger=stop.wait))
    try:
        yield port
    finally:
        stop.set()
        await serving


def uvicorn_with(ws: str, http: str = "httptools") -> Serving:
    return lambda app: uvicorn_serving(app, ws, http)


OURS = "wsrpc_adapters.uvicorn:WebSocketProtocol"


SERVERS: dict[str, Serving] = {
    "uvicorn": uvicorn_with("websockets-sansio"),
    "uvicorn-wsrpc": uvicorn_with(OURS),
    "uvicorn-wsrpc-h11": uvicorn_with(OURS, "h11"),
    "uvicorn-websockets": uvicorn_with("websockets"),
    "uvicorn-wsproto": uvicorn_with("wsproto"),
    "hypercorn": hypercorn_serving,
}
"""By name."""
