"""An application whose runs are read over HTTP, for workers with a common Redis."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator

from wsrpc import Handshake, Server
from wsrpc_adapters.asgi import Application, routes
from wsrpc_adapters.redis import RedisStore


def make() -> Application:
    server = Server(store=RedisStore(os.environ["REDIS"], lease=2.0))
    may_finish = asyncio.Event()
    server.on("finish", may_finish.set)

    @server.on_handshake
    def log_in(handshake: Handshake) -> None:
        handshake.principal = handshake.bearer_token

    @server.on("count", keep=60)
    async def count(to: int) -> AsyncIterator[int]:
        for number in range(to):
            if number == to // 2:
                await may_finish.wait()
            yield number

    return routes(server, calls=["finish"], runs=["count"])
