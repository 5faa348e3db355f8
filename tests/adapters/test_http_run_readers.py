"""Readers of runs over HTTP, whose workers are killed or closed meanwhile."""

from __future__ import annotations

import asyncio
import math
import shutil
from asyncio.subprocess import Process
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
from aiohttp import ClientPayloadError, ClientSession
from asgi_servers import SERVERS
from cluster_workers import Worker, running
from engine_servers import redis_server
from hosts import application
from hosts import running as hosting
from programs import ENVIRONMENT, start
from starlette.applications import Starlette
from starlette.routing import Mount

from wsrpc import Keep, Server
from wsrpc_adapters.aiohttp import routes as aiohttp_routes
from wsrpc_adapters.asgi import lifespan, routes

ITEMS = 1000


@pytest.fixture
def redis() -> Iterator[str]:
    server = redis_server()
    yield server.url
    server.kill()


def worker(redis: str) -> AbstractAsyncContextManager[Worker]:
    env = {**ENVIRONMENT, "REDIS": redis}
    return running(Path(__file__).parent, "http_run_app:make", "--factory", "--port", "0", env=env)


async def curl(*words: str) -> Process:
    found = shutil.which("curl")
    assert found is not None, "there is no curl: install it by your system's package manager"
    return await start(found, "-sS", "-H", "authorization: Bearer ada", *words)


async def printed_by_curl(*words: str) -> str:
    process = await curl(*words)
    output, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    return output.decode()


class Event(NamedTuple):
    """A server-sent event."""

    id: str
    type: str
    data: str


class Reader:
    """A curl that reads server-sent events."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.events: list[Event] = []

    async def read(self, count: float = math.inf) -> None:
        """Read until there are so many events, or to the end of the response."""
        assert self.process.stdout is not None
        fields: dict[str, str] = {}
        while len(self.events) < count and (line := (await self.process.stdout.readline()).decode()):
            name, _, value = line.removesuffix("\n").partition(": ")
            if name:
                fields[name] = value
            elif "data" in fields:
                self.events.append(Event(fields.get("id", ""), fields.get("event", ""), fields["data"]))
                fields = {}


@asynccontextmanager
async def reading(url: str, after: str = "") -> AsyncGenerator[Reader]:
    process = await curl("-N", url, "-H", f"last-event-id: {after}")
    try:
        yield Reader(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


@pytest.mark.parametrize("killed", ["the worker of the reader", "the worker of the run"])
async def test_a_reader_continues_at_another_worker_after_kill_9(redis: str, killed: str) -> None:
    async with worker(redis) as runner, worker(redis) as other:
        urls = {each: f"http://127.0.0.1:{await each.port()}" for each in (runner, other)}
        lost, left = (runner, other) if killed == "the worker of the run" else (other, runner)
        as_json = "-H", "content-type: application/json", "-H", "accept: application/json"
        await printed_by_curl(f"{urls[runner]}/runs/count/k", *as_json, "-d", str(ITEMS))

        async with reading(f"{urls[lost]}/runs/count/k") as reader:
            await reader.read(ITEMS // 4)
            lost.process.kill()
            await reader.read()
            assert await reader.process.wait() != 0  # curl says that the response is not complete
        before = reader.events
        if left is runner:
            await printed_by_curl(f"{urls[left]}/call/finish", "-X", "POST")
        async with reading(f"{urls[left]}/runs/count/k", before[-1].id) as reader:
            await reader.read()
            assert await reader.process.wait() == 0
        *after, end = reader.events
        items = [int(event.data) for event in before + after]
        assert items == [*range(len(items))]
        if left is runner:
            assert (len(items), end) == (ITEMS, ("end", "end", "[DONE]"))
        else:
            assert (end.id, end.type) == ("end", "failed") and '"code":"wsrpc.run_lost"' in end.data
        again = await printed_by_curl(f"{urls[left]}/runs/count/k", "-H", "last-event-id: end", "-w", "%{http_code}")
        assert again == "204"


@asynccontextmanager
async def on_aiohttp(server: Server) -> AsyncGenerator[str]:
    app = application(server)
    app.add_subapp("/http", aiohttp_routes(server, runs=["count"]))
    async with hosting(app) as url:
        yield f"{url.replace('ws', 'http', 1).removesuffix('/ws')}/http"


@asynccontextmanager
async def on_asgi(server: Server, run: str) -> AsyncGenerator[str]:
    app = Starlette(routes=[Mount("/http", routes(server, runs=["count"]))], lifespan=lifespan(server))
    async with SERVERS[run](app) as port:
        yield f"http://127.0.0.1:{port}/http"


HOSTS: dict[str, Callable[[Server], AbstractAsyncContextManager[str]]] = {
    "aiohttp": on_aiohttp,
    "uvicorn": lambda server: on_asgi(server, "uvicorn"),
    "hypercorn": lambda server: on_asgi(server, "hypercorn"),
}


@pytest.mark.parametrize("host", HOSTS)
async def test_the_response_is_not_complete_if_the_server_closes_before_the_run_has_ended(host: str) -> None:
    """It was complete, and the AI SDK held half an answer for a whole one."""
    server = Server()

    @server.on("count", keep=Keep(60, scope=lambda peer: "all"))
    async def count() -> AsyncIterator[int]:
        yield 1
        await asyncio.Event().wait()

    async with HOSTS[host](server) as url, ClientSession() as session:
        async with session.post(f"{url}/runs/count/k", json=[]) as response:
            await response.content.readuntil(b"data: 1\n")
            await server.close()
            with pytest.raises(ClientPayloadError):
                await response.content.read()
