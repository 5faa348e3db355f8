"""A process of `wsrpc_adapters.uvicorn.serve`: uvicorn, which serves the application, and drains as it is ordered."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import signal
import sys
import time
import traceback
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from socket import socket
from threading import Event, Thread
from typing import Any, Literal, cast

import uvicorn
from uvicorn.importer import ImportFromStringError, import_from_string

from wsrpc import Server
from wsrpc.adapting import Health

from .asgi import asgi, docs, servers_in_use

Order = Literal["leave", "stop", "close"]
"""What the supervisor orders: drain, and leave new connections to other processes; drain, and refuse them with 503;
close at once."""
EXIT_TIMEOUT = 15.0
"""Seconds from the end of a drain until a worker that has not ended is killed. In this time, it closes connections and
runs the end of the application's lifespan."""
LEAVE_TIME = 1.0
"""Seconds in which a worker that leaves still serves connections that it had accepted, but whose request was on its
way."""
HEALTH_PATH = "/healthz"
DOCS_PATH = "/docs"
NO_ROUTE = (404, 426)
"""Statuses of an application that has no route for health checks: the second one is that of `wsrpc_adapters.asgi`."""

App = Callable[[Any, Any, Any], Awaitable[None]]
logger = logging.getLogger("uvicorn.error")


@dataclass(frozen=True)
class WorkerSettings:
    """What `wsrpc_adapters.uvicorn.serve` was given. ``options`` are those of ``uvicorn.Config``."""

    app: str
    options: dict[str, Any]
    drain_timeout: float
    health_path: str | None
    docs: bool


def run_worker(settings: WorkerSettings, listener: socket, channel: Connection) -> None:
    """Serve the application until the supervisor orders the end, or has ended itself.

    Reports are pairs: "ready" when it serves, "outdated" if it has to be replaced, or "failed" with the reason.
    """
    for name in ("SIGINT", "SIGHUP"):  # a terminal sends them to all processes, and the supervisor orders what to do
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), _ignore)
    orders = Orders(channel, settings.drain_timeout + EXIT_TIMEOUT)
    try:
        config = uvicorn.Config(settings.app, **settings.options)
        app = import_from_string(settings.app)
        config.app = with_docs(app) if settings.docs else asgi(app) if isinstance(app, Server) else app
        config.load()
    except ImportFromStringError as exc:
        channel.send(("failed", f"{exc} The first folder in sys.path is {sys.path[0]}."))
    except (Exception, SystemExit) as exc:
        channel.send(("failed", f"{type(exc).__name__}: {exc}\n{traceback.format_exc().rstrip()}"))
    else:
        WorkerServer(config, settings, orders).run([listener])


def with_docs(server: Server) -> App:
    """Return the application of a server, with its page at `DOCS_PATH`.

    Raises:
        TypeError: it is no server.
    """
    if not isinstance(server, Server):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError("--docs is for a Server: an application mounts the page itself, as wsrpc_adapters.asgi.docs()")
    app, page = asgi(server), docs(server, websocket="../")

    async def choose(scope: Any, receive: Any, send: Any) -> None:
        top: str = scope.get("root_path", "")
        path = scope.get("path", "").removeprefix(top)
        if scope["type"] == "http" and f"{path}/".startswith(f"{DOCS_PATH}/"):
            await page({**scope, "root_path": top + DOCS_PATH, "path": top + path}, receive, send)
        else:
            await app(scope, receive, send)

    return choose


class Orders:
    """Reads the orders of the supervisor in a thread: the event loop of uvicorn on Windows cannot wait for a pipe.

    If the supervisor was killed, the worker drains. If it does not serve yet, or has not ended after ``patience``
    seconds, something holds it, such as a long import or a blocked event loop, and it would hold the port: the process
    then ends at once.
    """

    def __init__(self, channel: Connection, patience: float) -> None:
        self.channel = channel
        self._patience = patience
        self._obey: Callable[[Order], object] | None = None
        self._serves = Event()
        Thread(target=self._read, daemon=True).start()

    def serve(self, obey: Callable[[Order], object]) -> None:
        """Pass orders to ``obey``, which is called in the thread."""
        self._obey = obey
        self._serves.set()

    def _read(self) -> None:
        try:
            with suppress(EOFError, OSError):  # the supervisor was killed
                while True:
                    order = self.channel.recv()
                    self._serves.wait()
                    assert self._obey is not None
                    self._obey(order)
            if self._obey is not None:
                self._obey("leave")
                time.sleep(self._patience)
        except RuntimeError:  # the event loop has ended, and so does the process
            return
        os._exit(1)


def _ignore(number: int, frame: object) -> None:
    """Ignore a signal. Programs that the application starts do not inherit this, as they would inherit SIG_IGN."""


async def close_servers(drain_timeout: float) -> None:
    """Close all servers of the application."""
    await asyncio.gather(*[server.close(drain_timeout=drain_timeout) for server in servers_in_use])


class WorkerServer(uvicorn.Server):
    """uvicorn's server, which drains wsrpc's servers before it closes its connections."""

    def __init__(self, config: uvicorn.Config, settings: WorkerSettings, orders: Orders) -> None:
        super().__init__(config)
        config.loaded_app = Front(cast("Any", config).loaded_app, settings.health_path, self)
        self.order: Order | None = None
        """The first order."""
        self._orders = orders
        self._drain_timeout = settings.drain_timeout
        self._ordered = asyncio.Event()
        self._closing: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket] | None = None) -> None:
        loop = asyncio.get_running_loop()
        self._orders.serve(lambda order: loop.call_soon_threadsafe(self._obey, order))
        await super().startup(sockets)
        self._report("ready")

    def handle_exit(self, sig: int, frame: Any) -> None:
        # The supervisor orders what to do, because a service manager may send SIGTERM to all processes.
        if sig == signal.SIGTERM and not self._report("outdated"):
            super().handle_exit(sig, frame)  # the supervisor was killed

    async def shutdown(self, sockets: list[socket] | None = None) -> None:
        if self.order is None:  # because of uvicorn's option limit_max_requests
            self._report("outdated")
            await self._ordered.wait()
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._drain_timeout
        logger.info("Draining worker [%d]", os.getpid())
        if self.order == "leave":
            for server in self.servers:
                server.close()
            await asyncio.sleep(LEAVE_TIME)
        try:
            await close_servers(0 if self.force_exit else self._drain_timeout)
        finally:
            if self.config.timeout_graceful_shutdown is None:  # HTTP requests have the rest of the time
                self.config.timeout_graceful_shutdown = max(1, math.ceil(deadline - loop.time()))
            await super().shutdown(sockets)

    def _obey(self, order: Order) -> None:
        self.order = self.order or order
        self.should_exit = True
        self._ordered.set()
        if order == "close":
            self.force_exit = True
            self._closing = asyncio.get_running_loop().create_task(close_servers(0))

    def _report(self, kind: Literal["ready", "outdated"]) -> bool:
        """Send a report. Return False if the supervisor was killed."""
        try:
            self._orders.channel.send((kind, ""))
        except OSError:
            return False
        return True


class Front:
    """ASGI application around the user's.

    It answers health checks, and while the worker leaves, it ends connections after the response, because other workers
    serve the next requests.

    Args:
        path: the path of health checks. With None, `HEALTH_PATH`, unless the application has a route for it.
    """

    def __init__(self, app: App, path: str | None, server: WorkerServer) -> None:
        self._app = app
        self._always = path is not None
        self._path = HEALTH_PATH if path is None else path
        self._server = server
        self._health = Health(self._path, self._healthy, lambda: any(each.degraded for each in servers_in_use))

    def _healthy(self) -> bool:
        order = self._server.order  # a worker that leaves is one of several
        return order == "leave" or (order is None and all(each.healthy for each in servers_in_use))

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        is_check = scope["method"] in ("GET", "HEAD") and self._is_path(scope)
        is_missing = is_check and self._always

        async def sending(message: Any) -> None:
            nonlocal is_missing
            if message["type"] == "http.response.start":
                is_missing = is_check and message["status"] in NO_ROUTE
                if self._server.order == "leave":
                    message = {**message, "headers": [*message.get("headers", ()), (b"connection", b"close")]}
            if not is_missing:
                await send(message)

        if not is_missing:
            await self._app(scope, receive, sending)
        if is_missing:
            await self._answer(scope, send)

    def _is_path(self, scope: Any) -> bool:
        path: str = scope["path"]
        return self._path in (path, path.removeprefix(scope.get("root_path", "")))

    async def _answer(self, scope: Any, send: Any) -> None:
        answer = self._health.answer(head=scope["method"] == "HEAD")
        headers = [(name.encode(), value.encode()) for name, value in answer.headers.raw_items()]
        await send({"type": "http.response.start", "status": answer.status_code, "headers": headers})
        await send({"type": "http.response.body", "body": answer.body})
