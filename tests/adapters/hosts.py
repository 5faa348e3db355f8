"""The places in which a server can run, each with the same tests.

A `Host` serves a `wsrpc.Server` by one library. What the library cannot do is said in ``cannot``, by the name of the
ability: the tests look there, and the table in docs/reference/adapters.md is made of it.
"""

from __future__ import annotations

import ssl
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager as Context
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from ssl import SSLContext
from typing import Any, ClassVar

from aiohttp import web
from asgi_servers import SERVERS, hypercorn_serving, uvicorn_serving
from starlette.applications import Starlette
from starlette.routing import Mount, Route, WebSocketRoute

from wsrpc import Server
from wsrpc_adapters.aiohttp import aiohttp_handler
from wsrpc_adapters.aiohttp import routes as aiohttp_routes
from wsrpc_adapters.asgi import asgi, lifespan, routes
from wsrpc_adapters.uvicorn import WebSocketProtocol

MADE = Path(__file__).parents[1] / "certificates"
CA, CERTIFICATE, KEY = (str(MADE / name) for name in ("ca.pem", "server.pem", "server.key"))

ABILITIES: dict[str, str] = {
    "subprotocol": "`on_handshake` chooses the subprotocol",
    "response headers": "`on_handshake` sets headers of the response",
    "refusal body": "a refused client gets the status, body and headers that `on_handshake` set",
    "refusal log": "a refused handshake is no error in the log",
    "certificate": "`handshake.certificate` is the client's [certificate](../how-to/tls.md)",
    "limits per connection": "`on_handshake` can limit the size of inbound messages",
    "compression": "permessage-deflate is used as you set it, for a server or for one connection",
    "early": "data that a client sends before it has received the handshake response is kept",
    "answers wait": "a ping that arrives before the handshake response is answered after it",
    "answered close": "`CloseInfo.was_clean` is true only if the client answered the Close frame",
    "pieces in": "a large message can be read in pieces",
    "pieces out": "a large message can be sent in pieces",
    "sent before close": "messages that the server has sent leave before the client's Close frame is answered",
    "no code": "`close(None)` sends a Close frame without a code, and the client sees 1005",
    "close code": "a `close` handler gets the client's code and reason",
    "pause": "the server stops reading from the connection while a [raw](../how-to/raw.md) handler cannot keep up",
    "written together": "messages that answer the data of one read go out in one write",
    "read together": "messages that arrive together are handled in one batch",
    "violation": "a violation of RFC 6455 closes the connection with 1002 or 1007, and `close` handlers get that code",
    "before a violation": "valid messages that precede a violation in the same read are handled",
    "too large": "a message that is too large is refused before all of it has arrived",
    "half-closed": "a client that has shut down its sending side and does not read is dropped after `close_timeout`",
    "abort": "if the server aborts a connection, no Close frame is sent",
    "bytes": "`Peer.stats` counts bytes as well as messages",
    "heartbeat": "`Limits.ping_interval` and `ping_timeout` take effect",
}
"""What a host may be unable to do."""

URLS: dict[str, Any] = {"calls": ["echo"], "rooms": ["lobby"]}
"""What is served below ``/api`` where there is HTTP."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

TOO_EARLY = "the client gets 400"
EARLY = "data that arrives with the request is discarded, as RFC 6455 does not allow it"


class Host(ABC):
    """A place to run a server in."""

    name: ClassVar[str]
    cannot: ClassVar[Mapping[str, str]] = {}
    """Abilities that its library does not give, each with what happens instead."""

    def __repr__(self) -> str:
        return self.name

    @abstractmethod
    def serving(self, server: Server) -> Context[str]:
        """Serve ``server`` at the path ``/ws``, and give the URL; leaving closes the server and ends everything."""


class Default(Host):
    """`Server.listen`, on `websockets`."""

    name = "websockets"

    @asynccontextmanager
    async def serving(self, server: Server) -> AsyncGenerator[str]:
        async with server.listen("127.0.0.1", 0, path="/ws") as listener:
            yield listener.url


class Aiohttp(Host):
    """A route of an aiohttp application."""

    name = "aiohttp"

    @asynccontextmanager
    async def serving(self, server: Server) -> AsyncGenerator[str]:
        async with running(application(server)) as url:
            yield url


def application(server: Server, handler: Handler | None = None, *, drain: float = 0.0) -> web.Application:
    """An aiohttp application with the route ``/ws``, which opens and closes the server."""
    app = web.Application()
    app.router.add_route("*", "/ws", handler or aiohttp_handler(server))
    app.add_subapp("/api", aiohttp_routes(server, **URLS))

    async def start(app: web.Application) -> None:
        await server.open()

    async def close(app: web.Application) -> None:
        await server.close(drain)

    app.on_startup.append(start)
    app.on_shutdown.append(close)
    return app


@asynccontextmanager
async def running(app: web.Application, ssl: SSLContext | None = None, **options: Any) -> AsyncGenerator[str]:
    """The URL of the ``/ws`` of an aiohttp application; at the end it is shut down."""
    runner = web.AppRunner(app, access_log=None, **options)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=ssl).start()
        port = runner.addresses[0][1]
        yield f"wss://localhost:{port}/ws" if ssl else f"ws://127.0.0.1:{port}/ws"
    finally:
        await runner.cleanup()


class Uvicorn(Host):
    """`wsrpc_adapters.asgi`, under uvicorn with the protocol of `wsrpc_adapters.uvicorn`."""

    name = "uvicorn"
    cannot: ClassVar[Mapping[str, str]] = {"early": EARLY}

    run: ClassVar[str] = "uvicorn-wsrpc"

    @asynccontextmanager
    async def serving(self, server: Server) -> AsyncGenerator[str]:
        async with serving_starlette(server, self.run) as url:
            yield url


class UvicornH11(Uvicorn):
    """The same without httptools, for tests of what uvicorn's HTTP protocol does before and after the handshake."""

    name = "uvicorn-h11"
    run = "uvicorn-wsrpc-h11"


@asynccontextmanager
async def serving_starlette(server: Server, run: str) -> AsyncGenerator[str]:
    """Serve ``server`` beside a Starlette application, under the ASGI server ``run``."""
    served = asgi(server)
    found = [WebSocketRoute("/ws", served), Route("/ws", served), Mount("/api", routes(server, **URLS))]
    app = Starlette(routes=found, lifespan=lifespan(server))
    async with SERVERS[run](app) as port:
        yield f"ws://127.0.0.1:{port}/ws"
        await server.close()


class Asgi(Host):
    """`wsrpc_adapters.asgi`, under uvicorn."""

    name = "asgi-uvicorn"
    cannot: ClassVar[Mapping[str, str]] = {
        "certificate": "it is None",
        "compression": "it is used for every client that offers it, as browsers do, unless you turn uvicorn's option "
        "`ws_per_message_deflate` off; small messages are then much faster",
        "refusal log": 'uvicorn 0.50 to 0.54 logs "ASGI callable returned without completing handshake"',
        "early": EARLY,
        "answers wait": "it is answered at once, even if the application then refuses the connection",
        "answered close": "it is true even if no Close frame arrives",
        "pieces in": "a message must fit into uvicorn's `ws_max_size` (16 MiB by default) and `Limits.message_bytes`",
        "pieces out": "wsrpc buffers the pieces, and sends one message after the last piece",
        "sent before close": "messages that a slow client has no room for, or that answer the same read (on uvloop, "
        "turn of the event loop), are lost; wsrpc clients and browsers ignore them anyway",
        "no code": "the client sees 1000",
        "written together": "each goes out in a separate write",
        "before a violation": "they are discarded",
        "too large": "it is, only if it exceeds the ASGI server's limit",
        "half-closed": "it is dropped after `Limits.stall_timeout`",
        "bytes": "the counts of bytes are None",
        "heartbeat": "uvicorn sends the pings: `ws_ping_interval` and `ws_ping_timeout` are 20 seconds by default. A "
        "dead connection ends with 1006",
    }

    @asynccontextmanager
    async def serving(self, server: Server) -> AsyncGenerator[str]:
        async with serving_starlette(server, self.name.removeprefix("asgi-")) as url:
            yield url


OF_UVICORN = ("refusal log", "answered close", "before a violation", "half-closed")
"""What other ASGI servers can do."""


class AsgiHypercorn(Asgi):
    """`wsrpc_adapters.asgi`, under hypercorn."""

    name = "asgi-hypercorn"
    cannot: ClassVar[Mapping[str, str]] = {
        **{name: text for name, text in Asgi.cannot.items() if name not in OF_UVICORN},
        "early": TOO_EARLY,
        "answers wait": TOO_EARLY,
        "compression": "it is used for every client that offers it",
        "pieces in": "a message must fit into hypercorn's `websocket_max_message_size` (16 MiB by default) and "
        "`Limits.message_bytes`",
        "read together": "at most ten are",
        "violation": "the connection is dropped, and `close` handlers get 1006",
        "abort": "a Close frame with 1011 is sent",
        "close code": "it gets 1006, with `was_clean` false",
        "heartbeat": "hypercorn sends pings only if its option `websocket_ping_interval` is set, and does not wait for "
        "pongs",
    }


HOSTS: list[Host] = [Default(), Aiohttp(), Uvicorn(), Asgi(), AsgiHypercorn()]
KINDS_OF_HOSTS: list[Host] = [Default(), Asgi(), AsgiHypercorn()]
"""Those with transports of their own. aiohttp's and uvicorn's are the default one, on a socket that they hand over."""
HTTP_HOSTS: list[Host] = [Aiohttp(), Uvicorn(), AsgiHypercorn()]
"""Those that have connections over HTTP."""


@asynccontextmanager
async def over_tls(host: Host, server: Server, asks: ssl.VerifyMode = ssl.CERT_NONE) -> AsyncGenerator[str]:
    """Serve over TLS, and give the URL. ``asks``: whether for certificates of clients."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=CA)
    context.load_cert_chain(CERTIFICATE, KEY)
    context.verify_mode = asks
    files: dict[str, Any] = {"ssl_certfile": CERTIFICATE, "ssl_keyfile": KEY, "ssl_ca_certs": CA, "ssl_cert_reqs": asks}
    async with AsyncExitStack() as stack:
        if host.name == "websockets":
            yield (await stack.enter_async_context(server.listen(ssl=context))).url
        elif host.name == "aiohttp":
            yield await stack.enter_async_context(running(application(server), ssl=context))
        elif host.name == "asgi-hypercorn":
            files = {"certfile": CERTIFICATE, "keyfile": KEY, "ca_certs": CA, "verify_mode": asks}
            port = await stack.enter_async_context(hypercorn_serving(asgi(server), **files))
            yield f"wss://127.0.0.1:{port}/"
        else:
            ws = WebSocketProtocol if host.name == "uvicorn" else "websockets-sansio"
            port = await stack.enter_async_context(uvicorn_serving(asgi(server), ws, **files))
            yield f"wss://127.0.0.1:{port}/"
