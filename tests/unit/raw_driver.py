"""Raw connections for tests: one in memory whose other end is in the test's hands, and servers on sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from raw_websocket import RawPeer, raw_client
from waiting import until

from wsrpc import Limits, Server
from wsrpc.transport import Transport
from wsrpc.types import RawConnection


@asynccontextmanager
async def raw_serving(
    function: Callable[[RawConnection], Awaitable[Any]], server: Server
) -> AsyncGenerator[tuple[Server, RawPeer]]:
    """A server on a real socket, and a client that is the test's, frame by frame."""
    server.serve_raw(function)
    async with server.listen() as listener, raw_client(listener.port) as raw:
        await until(lambda: server.raw_connections)
        yield server, raw


@asynccontextmanager
async def raw_connection(limits: Limits | None = None) -> AsyncGenerator[tuple[RawConnection, RawPeer]]:
    """A raw connection of a server on a real socket, for the test to use, and its other end."""
    done = asyncio.Event()

    async def idle(connection: RawConnection) -> None:
        await done.wait()

    async with raw_serving(idle, Server(limits=limits)) as (server, raw):
        try:
            yield server.raw_connections[0], raw
        finally:
            done.set()


@asynccontextmanager
async def raw_accepted(transport: Transport, limits: Limits) -> AsyncGenerator[RawConnection]:
    """The raw connection that a server makes of a transport."""
    server = Server(limits=limits)
    server.serve_raw(RawConnection.wait_closed)
    connection = await server.accept(transport)
    assert isinstance(connection, RawConnection)
    yield connection
    await server.close()
