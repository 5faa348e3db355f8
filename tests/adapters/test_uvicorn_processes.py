"""The protocol class for uvicorn in processes of their own, as its users start them."""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager
from pathlib import Path

from cluster_workers import Worker, running
from served import AT_ONCE, LIMITS

from wsrpc import Client, CloseInfo, Peer, Reconnect

PROGRAM = """
import os
from fastapi import FastAPI, WebSocket
from wsrpc import Peer, Server
from wsrpc.types import WebSocketTransport
from wsrpc_adapters.asgi import lifespan, serve_websocket

server = Server()
server.on("version", lambda: VERSION)
server.on("pid", os.getpid)
app = FastAPI(lifespan=lifespan(server))


@server.on("taken over")
def taken_over(peer: Peer) -> bool:
    return isinstance(peer.transport, WebSocketTransport)


@app.websocket("/ws")
async def ws(websocket: WebSocket):
    await serve_websocket(server, websocket)
"""


def uvicorn(folder: Path, *options: str) -> AbstractAsyncContextManager[Worker]:
    (folder / "program.py").write_text(f"VERSION = 1\n{PROGRAM}", "utf-8")
    return running(folder, "program:app", "--port", "0", *options)


def client(port: int, reconnect: Reconnect | None = AT_ONCE) -> tuple[Client, asyncio.Future[CloseInfo]]:
    """A client, and how its first connection ended."""
    made = Client(f"ws://127.0.0.1:{port}/ws", limits=LIMITS, reconnect=reconnect)
    ended: asyncio.Future[CloseInfo] = asyncio.get_running_loop().create_future()

    @made.on("close")
    def closed(peer: Peer, info: CloseInfo) -> None:
        if not ended.done():
            ended.set_result(info)

    return made, ended


async def test_sigterm_closes_the_connections_and_ends(tmp_path: Path) -> None:
    async with uvicorn(tmp_path) as worker:
        one, ended = client(await worker.port())
        async with one:
            assert await one.request("taken over") is True
            await worker.end()
            info = await ended
            assert (info.code, info.was_clean) == (1012, True)
    assert '"WebSocket /ws" [accepted]' in worker.log
    assert "Application shutdown complete" in worker.log and "Traceback" not in worker.log


async def test_workers(tmp_path: Path) -> None:
    async with uvicorn(tmp_path, "--workers", "2") as worker:
        port = await worker.port()
        await worker.logged("Application startup complete", 2)
        clients, pids = [], set[int]()
        while len(pids) < 2:  # the operating system decides who gets a connection
            clients.append(client(port, reconnect=None))
            one, _ = clients[-1]
            await one.connect()
            pids.add(await one.request("pid"))
        await worker.end()
        for one, ended in clients:
            assert (await ended).code == 1012
            await one.close()
    assert "Traceback" not in worker.log


async def test_reload_serves_the_new_program_to_who_was_connected(tmp_path: Path) -> None:
    async with uvicorn(tmp_path, "--reload", "--reload-delay", "0.05") as worker:
        one, ended = client(await worker.port())
        async with one:
            assert await one.request("version") == 1
            (tmp_path / "program.py").write_text(f"VERSION = 22\n{PROGRAM}", "utf-8")
            assert (await ended).code == 1012
            assert await one.request("version") == 22
            await worker.end()
    assert "Traceback" not in worker.log
