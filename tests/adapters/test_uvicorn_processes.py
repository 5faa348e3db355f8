"""The protocol class for uvicorn in processes of their own, as its users start them."""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager
from pathlib import Path

from cluster_workers import Worker, running
from served import AT_ONCE, LIMITS

from wsrpc import Client, CloseInfo, Peer

PROGRAM = """
from fastapi import FastAPI, WebSocket
from wsrpc import Peer, Server
from wsrpc.types import WebSocketTransport
from wsrpc_adapters.asgi import lifespan, serve_websocket

server = Server()
server.on("version", lambda: VERSION)
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


def client(port: int) -> tuple[Client, asyncio.Future[CloseInfo]]:
    """A client, and how its first connection ended."""
    made = Client(f"ws://127.0.0.1:{port}/ws", limits=LIMITS, reconnect=AT_ONCE)
    ended: asyncio.Future[CloseInfo] = asyncio.get_running_loop().create_future()

    @made.on("close")
    def closed(peer: Peer, info: CloseInfo) -> None:
        if not ended.done():
            ended.set_result(info)

    return made, ended


async def test_reload_serves_the_new_program_to_who_was_connected(tmp_path: Path) -> None:
    async with uvicorn(tmp_path, "--reload", "--reload-delay", "0.05") as worker:
        one, ended = client(await worker.port())
        async with one:
            assert await one.request("taken over") is True and await one.request("version") == 1
            (tmp_path / "program.py").write_text(f"VERSION = 22\n{PROGRAM}", "utf-8")
            assert ((await ended).code, (await ended).was_clean) == (1012, True)
            assert await one.request("version") == 22
            await worker.end()
    assert '"WebSocket /ws" [accepted]' in worker.log
    assert "Application shutdown complete" in worker.log and "Traceback" not in worker.log
