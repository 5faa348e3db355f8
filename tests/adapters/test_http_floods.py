"""Floods of requests beside clients that behave well, over HTTP and by URLs: they are served, and nothing is left."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from asgi_servers import uvicorn_serving
from attacks import HTTP_ATTACKS
from leftovers import living_objects, turns_until
from starlette.applications import Starlette
from starlette.routing import Mount, Route

from wsrpc import Client, Handshake, Limits, Server
from wsrpc_adapters import _http_connections
from wsrpc_adapters.asgi import asgi, lifespan, routes

ATTACKER = Path(__file__).parents[1] / "attacks.py"
MOST = 40
SPARE = 100
"""Objects that may be more than before: those of a connection that has just ended. An attack makes thousands."""


def served() -> tuple[Server, Starlette]:
    server = Server(limits=Limits(open_timeout=2.0, close_timeout=1.0))
    server.on("echo", lambda value: value)
    server.on("wait", asyncio.Event().wait)

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
    "name", [pytest.param(n, marks=[pytest.mark.soak] * (n != "connections that are not polled")) for n in HTTP_ATTACKS]
)
@pytest.mark.timeout(90)
async def test_clients_beside_a_flood_are_served_and_nothing_is_left(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_http_connections, "ABSENT", 1.0)
    server, app = served()
    async with uvicorn_serving(app) as port, aiohttp.ClientSession() as session:
        async with Client(f"ws://127.0.0.1:{port}/ws", transports=["http"]) as client:

            async def both(number: int) -> None:
                assert await client.request("echo", number) == number
                async with session.post(f"http://127.0.0.1:{port}/api/call/echo", json=[number]) as response:
                    assert await response.json() == number

            for number in range(20):
                await both(number)
            await turns_until(lambda: len(server.peers) == 1, 30)
            before = await living_objects()
            pipe = asyncio.subprocess.PIPE
            command = sys.executable, ATTACKER, name, str(port), str(MOST)
            process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe)
            try:
                assert process.stdout is not None and await process.stdout.readline() == b"ready\n"
                for number in range(10):
                    await both(number)
            finally:
                process.kill()
                await process.communicate()
            await turns_until(lambda: len(server.peers) == 1 and not server.peers[0].active, 30)
            await both(0)
            if name == "runs that are left":
                async with session.delete(f"http://127.0.0.1:{port}/api/runs/endless/k") as response:
                    assert response.status == 204
            async with asyncio.timeout(30):  # uvicorn still learns that the attackers have left
                while sum((await living_objects() - before).values()) > SPARE:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
