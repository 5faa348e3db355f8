"""Raw connections for tests: one in memory whose other end is in the test's hands, and servers on sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

from raw_websocket import RawPeer, raw_client

from wsrpc import Limits, Server
from wsrpc.transport import Transport
from wsrpc.types import RawConnection

RawFunction = Callable[[RawConnection], Awaitable[Any]]


@asynccontextmanager
async def raw_serving(
    function: RawFunction | None = None, *, server: Server | None = None, limits: Limits | None = None
) -> AsyncGenerator[tuple[Server, RawPeer]]:
    """A server on a real socket, and a client that is the test's, frame by frame."""
    if server is None:
        server = Server(limits=limits)
    if function is not None:
        server.serve_raw(function)
    async with server.listen("127.0.0.1", 0) as listener:
        port = urlsplit(listener.url).port
        assert port is not None
        async with raw_client(port) as raw:
            yield server, raw


@asynccontextmanager
async def raw_accepted(transport: Transport, limits: Limits) -> AsyncGenerator[RawConnection]:
    """The raw connection that a server makes of a transport."""
    server = Server(limits=limits)
    done = asyncio.Event()

    async def idle(connection: RawConnection) -> None:
        await done.wait()

    server.serve_raw(idle)
    connection = await server.accept(transport)
    assert isinstance(connection, RawConnection)
    yield connection
    done.set()
    await server.close()


@asynccontextmanager
async def raw_connection(limits: Limits | None = None) -> AsyncGenerator[tuple[RawConnection, RawPeer]]:
    """A raw connection of a server on a real socket, for the test to use, and its other end."""
    got: asyncio.Future[RawConnection] = asyncio.get_running_loop().create_future()
    done = asyncio.Event()

    async def hand_over(connection: RawConnection) -> None:
        got.set_result(connection)
        await done.wait()

    async with raw_serving(hand_over, limits=limits) as (_, raw):
        async with asyncio.timeout(8):
            connection = await got
        try:
            yield connection, raw
        finally:
            done.set()
