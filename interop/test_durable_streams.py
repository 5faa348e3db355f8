"""The client of Durable Streams reads runs: https://durablestreams.com."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from aiohttp import ClientSession
from hosts import application, running
from leftovers import nothing_left as nothing_left
from programs import Screen, printed_by, start

from interop.node import JS, find_node
from wsrpc import Handshake, RpcError, Server
from wsrpc.testing import FaultProxy
from wsrpc_adapters.aiohttp import routes

READER = str(JS / "durable_run.mjs")
ENDS: dict[str, Exception | None] = {
    "closed": None,
    "400 bad_luck": RpcError("it failed", code="bad_luck"),
    "410 wsrpc.internal": RuntimeError("it failed"),  # the client would repeat a 500 without end
}


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.usefixtures("nothing_left")
async def test_a_run_is_read_through_a_drop_and_again_after_a_position(end: str) -> None:
    server = Server()
    dropped = asyncio.Event()

    @server.on_handshake
    def log_in(handshake: Handshake) -> None:
        handshake.principal = "ada"

    @server.on("count", keep=60)
    async def count(to: int) -> AsyncIterator[int]:
        for number in range(to):
            if number == to // 2:
                await dropped.wait()
            yield number
        if (error := ENDS[end]) is not None:
            raise error

    app = application(server)
    app.add_subapp("/http", routes(server, runs=["count"]))
    async with running(app) as direct, FaultProxy(direct) as proxy, ClientSession() as session:
        url = f"http://127.0.0.1:{proxy.port}/http/runs/count/k"
        async with session.post(url, json=20, headers={"Accept": "application/json"}) as response:
            assert response.status == 202
        process = await start(find_node(), READER, url, "-1")
        try:
            screen = Screen(process)
            items = await screen.lines(10)
            middle = items[-1].split()[1]
            proxy.drop()
            dropped.set()
            items += await screen.lines(10)
            assert [line.split()[0] for line in items] == [str(number) for number in range(20)]
            assert await screen.line() == end
            assert middle < items[-1].split()[1]  # positions are in the order of texts
        finally:
            process.kill()
            await process.communicate()
        again = await printed_by(await start(find_node(), READER, url, middle))
        *rest, ended = again.splitlines()  # each with the position of its response, which may have fewer items
        assert [line.split()[0] for line in rest] == [str(number) for number in range(10, 20)] and ended == end
