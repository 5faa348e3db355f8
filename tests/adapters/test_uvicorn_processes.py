"""The protocol class for uvicorn in processes of their own, as its users start them."""

from __future__ import annotations

import asyncio
import re
import signal
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

from served import AT_ONCE, LIMITS

from wsrpc import Client, CloseInfo, Peer, Reconnect

PATIENCE = 40.0

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


class Running:
    """A uvicorn that runs, and what it has said."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.said = ""

    async def port(self) -> int:
        """The port, once it is known."""
        return int((await self._wait_for(r"running on http://127.0.0.1:(\d+)", 1))[0])

    async def started(self, workers: int) -> None:
        """Wait until so many workers accept connections."""
        await self._wait_for("Application startup complete", workers)

    async def _wait_for(self, pattern: str, times: int) -> list[str]:
        assert self.process.stderr is not None
        while len(found := re.findall(pattern, self.said)) < times:
            line = await self.process.stderr.readline()
            assert line, f"uvicorn ended:\n{self.said}"
            self.said += line.decode()
        return found

    async def end(self, sign: signal.Signals) -> int:
        assert self.process.stderr is not None
        self.process.send_signal(sign)
        self.said += (await self.process.stderr.read()).decode()
        return await self.process.wait()


@asynccontextmanager
async def uvicorn(folder: Path, *options: str) -> AsyncGenerator[Running]:
    (folder / "program.py").write_text(f"VERSION = 1\n{PROGRAM}", "utf-8")
    command = [sys.executable, "-m", "uvicorn", "program:app", "--app-dir", str(folder), "--port", "0"]
    command += ["--ws", "wsrpc_adapters.uvicorn:WebSocketProtocol", *options]
    process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE, cwd=folder)
    try:
        async with asyncio.timeout(PATIENCE):
            yield Running(process)
    finally:
        if process.returncode is None:
            process.terminate()  # a supervisor ends its children then
            await process.communicate()


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
    async with uvicorn(tmp_path) as running:
        one, ended = client(await running.port())
        async with one:
            assert await one.request("taken over") is True
            await running.end(signal.SIGTERM)
            info = await ended
            assert (info.code, info.was_clean) == (1012, True)
    assert '"WebSocket /ws" [accepted]' in running.said
    assert "Application shutdown complete" in running.said and "Traceback" not in running.said


async def test_workers(tmp_path: Path) -> None:
    async with uvicorn(tmp_path, "--workers", "2") as running:
        port = await running.port()
        await running.started(2)
        clients, pids = [], set[int]()
        while len(pids) < 2:  # the operating system decides who gets a connection
            clients.append(client(port, reconnect=None))
            one, _ = clients[-1]
            await one.connect()
            pids.add(await one.request("pid"))
        await running.end(signal.SIGTERM)
        for one, ended in clients:
            assert (await ended).code == 1012
            await one.close()
    assert "Traceback" not in running.said


async def test_reload_serves_the_new_program_to_who_was_connected(tmp_path: Path) -> None:
    async with uvicorn(tmp_path, "--reload", "--reload-delay", "0.05") as running:
        one, ended = client(await running.port())
        async with one:
            assert await one.request("version") == 1
            (tmp_path / "program.py").write_text(f"VERSION = 22\n{PROGRAM}", "utf-8")
            assert (await ended).code == 1012
            assert await one.request("version") == 22
            await running.end(signal.SIGTERM)
    assert "Traceback" not in running.said
