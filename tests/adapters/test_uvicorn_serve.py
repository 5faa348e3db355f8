"""`wsrpc serve`, as an operator runs it: signals, workers that die, and what it says if it cannot start."""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import re
import signal
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager as Context
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import pytest
import uvicorn
from cluster_workers import AT_ONCE, Worker, environment, running
from effort import SOAK

from wsrpc import Client, ConnectionLost, HandshakeRejected
from wsrpc._command.main_command import main as command
from wsrpc_adapters._supervisor import bind

APP = """
import asyncio
import os

from wsrpc import Peer, Server

app = Server()  # `serve` makes it an ASGI application


@app.on("worker")
async def worker() -> int:
    await asyncio.sleep(0.05)  # so that there are always calls in progress
    return os.getpid()


@app.on("slow")
async def slow(peer: Peer) -> int:
    await peer.request("wait", timeout=None)
    return os.getpid()
"""


WORKERS, CLIENTS = (4, 50) if SOAK else (2, 10)


def serving(folder: Path, *options: str, app: str = APP) -> Context[Worker]:
    (folder / "app.py").write_text(app, "utf-8")
    return running(folder, "app:app", "--port", "0", *options, env=environment(""), command=("wsrpc", "serve"))


def get(port: int, path: str = "/healthz") -> tuple[int, str]:
    """What a health check gets. Each has a connection of its own."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as refused:
        with refused:
            return refused.code, refused.read().decode()


class Caller:
    """A client with a call whose handler runs until `release`."""

    def __init__(self, port: int, **options: object) -> None:
        self.client = Client(f"ws://127.0.0.1:{port}/ws", **{"reconnect": AT_ONCE} | options)  # type: ignore[arg-type]
        self.started, self._released = asyncio.Event(), asyncio.Event()
        self.release = self._released.set

        @self.client.on("wait")
        async def wait() -> None:
            self.started.set()
            await self._released.wait()

    async def worker(self) -> int:
        return await self.client.request("worker", returns=int)


@asynccontextmanager
async def calling(port: int, **options: object) -> AsyncGenerator[tuple[Caller, asyncio.Task[int]]]:
    caller = Caller(port, **options)
    async with caller.client:
        call = asyncio.create_task(caller.client.request("slow", returns=int, timeout=None))
        await caller.started.wait()
        yield caller, call


async def test_workers_are_replaced_under_many_clients_without_a_failed_call(tmp_path: Path) -> None:
    """Health checks do not fail, either."""
    rolled = threading.Event()

    async def calls(port: int) -> list[int]:
        """Call until the roll is over, and then once more."""
        caller, seen = Caller(port), dict[int, None]()
        async with caller.client:
            over = False
            while not over:
                over = rolled.is_set()
                seen[await caller.worker()] = None
        return list(seen)

    def checks(port: int) -> set[tuple[int, str]]:
        seen: set[tuple[int, str]] = set()
        while not rolled.wait(0.01):
            seen.add(get(port))
        return seen

    async with serving(tmp_path, "--workers", f"{WORKERS}", "--no-access-log") as running:
        port = await running.port()
        tasks = [asyncio.create_task(calls(port)) for _ in range(CLIENTS)]
        health = asyncio.create_task(asyncio.to_thread(checks, port))
        try:
            async with calling(port) as (caller, call):
                running.process.send_signal(signal.SIGHUP)
                await running.logged(r"Draining worker")
                caller.release()
                old = {await call}
                await running.logged(r"worker \[\d+\] has ended", times=WORKERS)
        finally:
            rolled.set()
        seen = await asyncio.gather(*tasks)
        assert await health == {(200, "ok\n")}
        old |= {int(each) for each in re.findall(r"worker \[(\d+)\] has ended", running.log)}
        assert len(old) == WORKERS and all(workers[-1] not in old for workers in seen)
        assert any(workers[0] in old for workers in seen)
        assert await running.end() == 0


async def test_sigterm_drains_all_workers(tmp_path: Path) -> None:
    async with serving(tmp_path, "--workers", "2") as running, AsyncExitStack() as stack:
        port = await running.port()
        callers = [await stack.enter_async_context(calling(port, reconnect=None)) for _ in range(4)]
        workers = [await caller.worker() for caller, _ in callers]
        running.process.send_signal(signal.SIGTERM)
        await running.logged(r"Draining worker", times=2)
        assert await asyncio.to_thread(get, port) == (503, "draining\n")
        with pytest.raises(HandshakeRejected, match="503"):
            await Client(f"ws://127.0.0.1:{port}/ws", reconnect=None).connect()
        for caller, call in callers:
            assert not call.done()
            caller.release()
        assert await asyncio.gather(*[call for _, call in callers]) == workers
        assert await running.end() == 0


async def test_a_second_signal_closes_at_once(tmp_path: Path) -> None:
    async with serving(tmp_path) as running:
        async with calling(await running.port(), reconnect=None) as (_, call):
            running.process.send_signal(signal.SIGINT)
            await running.logged("Draining worker")
            running.process.send_signal(signal.SIGINT)
            with pytest.raises(ConnectionLost) as caught:
                await call
            assert caught.value.code == 1012
        assert await running.end() == 0


async def test_a_worker_that_gets_sigterm_or_has_its_limit_of_requests_is_replaced(tmp_path: Path) -> None:
    async with serving(tmp_path, "--limit-max-requests", "1") as running:
        port = await running.port()
        async with calling(port) as (caller, call):
            first = await caller.worker()
            os.kill(first, signal.SIGTERM)
            await running.logged("Draining worker")
            async with Caller(port).client as other:  # the new worker serves before the old one drains
                second = await other.request("worker")
                assert second != first
                caller.release()
                assert await call == first
                await asyncio.to_thread(get, port)
                await running.logged(rf"worker \[{second}\] has ended")
                assert await other.request("worker") not in (first, second)


async def test_a_worker_that_dies_is_started_again_and_a_version_that_fails_replaces_nothing(tmp_path: Path) -> None:
    """SIGHUP ended a worker that served already, if the supervisor had not read so yet."""
    async with serving(tmp_path) as running, Caller(await running.port()).client as client:
        first = await client.request("worker", returns=int)
        os.kill(first, signal.SIGKILL)
        await running.logged(rf"worker \[{first}\] has died, starting another one: killed by SIGKILL")
        second = await client.request("worker", returns=int)
        assert second != first
        (tmp_path / "app.py").write_text("1 / 0", "utf-8")
        running.process.send_signal(signal.SIGHUP)
        await running.logged(r"new worker \[\d+\] cannot start, the others stay: ZeroDivisionError: division by zero")
        assert await client.request("worker") == second
        os.kill(second, signal.SIGKILL)
        started = time.monotonic()
        await running.logged("has died, starting another one: ZeroDivisionError")
        assert time.monotonic() - started > 1, "not too often"
        (tmp_path / "app.py").write_text(f"{APP}# a corrected version", "utf-8")
        third = await client.request("worker")
        running.process.send_signal(signal.SIGHUP)
        await running.logged(rf"worker \[{third}\] has ended")
        assert await client.request("worker") not in (first, second, third)


async def test_when_the_supervisor_is_killed_its_workers_drain_and_another_can_start(tmp_path: Path) -> None:
    async with serving(tmp_path) as running:
        port = await running.port()
        async with calling(port, reconnect=None) as (caller, call):
            running.process.kill()
            await running.logged("Draining worker")
            while True:
                with suppress(OSError):
                    socket.create_server(("127.0.0.1", port)).close()
                    break
                await asyncio.sleep(0.01)
            caller.release()
            assert await call
        assert await running.end() == -signal.SIGKILL  # all processes have closed stderr


async def test_a_worker_that_is_being_imported_ends_with_its_supervisor(tmp_path: Path) -> None:
    """It held the port until the import was over."""
    app = "import sys, time\nprint('importing', file=sys.stderr, flush=True)\ntime.sleep(3600)\n" + APP
    async with serving(tmp_path, app=app) as running:
        await running.logged("importing")
        running.process.kill()
        assert await running.end() == -signal.SIGKILL  # all processes have closed stderr


HEALTH = """
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from wsrpc import Server
from wsrpc.cluster import Cluster
from wsrpc_adapters.asgi import lifespan
from wsrpc_adapters.nats import NatsEngine

own = Route("/healthz", lambda request: PlainTextResponse("own"))
server = Server(cluster=Cluster(NatsEngine("nats://127.0.0.1:1"), name="test"))
app = Starlette(routes=[own], lifespan=lifespan(server))
"""


@pytest.mark.parametrize(
    ("options", "answers"),
    [
        ([], {"/healthz": (200, "own"), "/other": (404, "Not Found")}),
        (["--health-path", "/healthz", "--root-path", "/api"], {"/healthz": (200, "degraded\n")}),
    ],
)
async def test_health_checks_of_both(options: list[str], answers: dict[str, tuple[int, str]], tmp_path: Path) -> None:
    async with serving(tmp_path, *options, app=HEALTH) as running:
        port = await running.port()
        assert {path: await asyncio.to_thread(get, port, path) for path in answers} == answers


@pytest.mark.parametrize("root", ["", "/api"])
async def test_the_page_of_a_server_is_beside_its_connections(root: str, tmp_path: Path) -> None:
    async with serving(tmp_path, "--docs", *(["--root-path", root] if root else [])) as running:
        port = await running.port()
        page = await asyncio.to_thread(get, port, "/docs")  # follows the redirection
        assert page[0] == 200 and 'data-websocket="../"' in page[1]
        asyncapi = json.loads((await asyncio.to_thread(get, port, "/docs/asyncapi.json"))[1])
        assert asyncapi["operations"].keys() == {"receive.slow", "receive.worker"}
        assert (await asyncio.to_thread(get, port, "/documents"))[0] == 426
        async with Client(f"ws://127.0.0.1:{port}/docs") as client:
            assert await client.request("worker", returns=int)


NO_DATABASE = """
async def app(scope, receive, send):
    await send({"type": "lifespan.startup.failed", "message": "no database"})
"""

REFUSED: dict[str, tuple[list[str], str, str]] = {
    "raises": ([], "1 / 0", "app:app does not start: ZeroDivisionError: division by zero\nTraceback"),
    "lifespan": ([], NO_DATABASE, "app:app does not start: exit status 3; see its log"),
    "docs": (["--docs"], NO_DATABASE, "app:app does not start: TypeError: --docs is for a Server"),
}
"""Options, an application, and what is said."""


@pytest.mark.parametrize("case", REFUSED)
async def test_it_says_why_it_does_not_start(case: str, tmp_path: Path) -> None:
    options, app, said = REFUSED[case]
    with pytest.raises(AssertionError) as caught:
        async with serving(tmp_path, *options, app=app) as running:
            await running.port()
    assert said in str(caught.value)
    assert await running.end() == 1


WRONG: list[tuple[list[str], str]] = [
    ([], "Missing argument 'APP'"),
    (["app:app", "--reload"], "serve() does not reload"),
    (["app:app", "--workers", "0"], "workers= or WEB_CONCURRENCY is a number, 1 or more"),
    (["app:app", "--drain-timeout", "inf"], "drain_timeout= is a number of seconds, and has an end"),
    (["app:app", "--health-path", "alive"], "a path such as '/healthz'"),
    (["app:app", "--port", "{port}"], "cannot listen on 127.0.0.1:{port}: Address already in use"),
]


@pytest.mark.parametrize(("words", "said"), WRONG)
def test_arguments_that_are_not_valid(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        assert command(["serve", "--port", "0", *(word.format(port=port) for word in words)]) == 2
    assert said.format(port=port) in capsys.readouterr().err


def test_every_option_of_uvicorn_is_one_of_its_configuration() -> None:
    known = {*inspect.signature(uvicorn.Config).parameters, "app_dir", "version"}
    assert {str(param.name) for param in uvicorn.main.params} <= known


def test_small_answers_of_a_worker_are_sent_at_once() -> None:
    listener, _ = bind(uvicorn.Config("app:app", port=0))
    with listener, socket.create_connection(listener.getsockname()):
        with listener.accept()[0] as accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
