"""Floods of every kind beside clients that behave well: they are served, and afterwards nothing is left."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from asgi_servers import uvicorn_serving
from attacks import ATTACKS, HTTP_ATTACKS
from leftovers import living_objects
from starlette.applications import Starlette
from starlette.routing import Mount, Route
from waiting import until

from wsrpc import Client, Handshake, Limits, Server
from wsrpc._http_server import http_connection
from wsrpc_adapters.asgi import asgi, lifespan, routes

ATTACKER = Path(__file__).parents[1] / "attacks.py"
MOST = 40
"""Attackers of a kind."""
CALLS = 10
SPARE = 100
"""Objects that may be more than before, which asyncio and the library keep for a while; an attack makes thousands."""
SHORT = ("cancels", "connections that are not polled")


@asynccontextmanager
async def attacked(name: str, port: int) -> AsyncGenerator[None]:
    """While all attackers are at it, in a process of their own."""
    pipe = asyncio.subprocess.PIPE
    command = sys.executable, ATTACKER, name, str(port), str(MOST)
    process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe)
    try:
        assert process.stdout is not None
        assert await process.stdout.readline() == b"ready\n"
        yield
    finally:
        process.kill()
        await process.communicate()


def served() -> tuple[Server, Starlette]:
    server = Server(limits=Limits(open_timeout=2.0, close_timeout=1.0))
    server.on("echo", lambda value: value)
    server.on("wait", asyncio.Event().wait)
    server.on_join(lambda peer, room: True)

    async def endless() -> AsyncIterator[str]:
        while True:
            yield "x" * 1000
            await asyncio.sleep(0.01)

    def identify(handshake: Handshake) -> None:
        handshake.principal = "ada"

    server.on("endless", endless, keep=1)
    server.on_handshake(identify)
    server.room("lobby", keep=60, allow=lambda peer: True)
    urls = routes(server, calls=["echo", "wait"], runs=["endless"], rooms=["lobby"])
    return server, Starlette(routes=[Route("/ws", asgi(server)), Mount("/api", urls)], lifespan=lifespan(server))


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.soak] * (n not in SHORT)) for n in (*ATTACKS, *HTTP_ATTACKS)]
)
async def test_clients_beside_a_flood_are_served_and_nothing_is_left(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_connection, "ABSENT", 1.0)
    server, app = served()
    async with uvicorn_serving(app) as http, server.listen() as listener, aiohttp.ClientSession() as session:
        over_http = name in HTTP_ATTACKS
        port = http if over_http else listener.port
        async with Client(f"ws://127.0.0.1:{port}/ws", transports=["http" if over_http else "websocket"]) as client:

            async def call(number: int) -> None:
                assert await client.request("echo", number) == number
                async with session.post(f"http://127.0.0.1:{http}/api/call/echo", json=[number]) as response:
                    assert await response.json() == number

            for flood in ("handshakes", name):  # what is made once is made in the first one
                before = await living_objects()
                async with attacked(flood, listener.port if flood == "handshakes" else port):
                    for number in range(CALLS):
                        await call(number)
                await until(lambda: len(server.peers) == 1 and not server.peers[0].active)
                await call(0)
            if name == "runs that are left":
                async with session.delete(f"http://127.0.0.1:{http}/api/runs/endless/k") as response:
                    assert response.status == 204
            while sum((await living_objects() - before).values()) > SPARE:  # noqa: ASYNC110
                await asyncio.sleep(0.01)  # uvicorn still learns that the attackers have left
