"""The two systems, each as two ends that send numbered events to each other."""

from __future__ import annotations

import asyncio
import json
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from wsrpc import Client, ConnectionLost, Peer, QueueFull, Reconnect, ReconnectInfo, Server

from ..processes import BenchmarkError
from ..programs import find_node

__all__ = ["Ends", "on_socketio", "on_wsrpc"]

PROGRAM = Path(__file__).parent.parent / "js" / "cuts.mjs"
EVERY = 0.002
"""Seconds between two events of one end."""
SETTLED = 0.1
"""Seconds without another event after which those that have not come are lost."""

Events: TypeAlias = tuple[tuple[int, list[int]], tuple[int, list[int]]]
"""How many were sent, and the numbers of those that came: to the server, and to the client."""


class Ends(Protocol):
    """A client and a server. There is one session at a time; `back` tells when it has a connection."""

    port: int

    async def fresh(self, url: str) -> None:
        """Begin another session, without any events, and wait until it is connected."""
        ...

    async def flow(self) -> None:
        """Let both ends send events, one each `EVERY` seconds."""
        ...

    def abandon(self, url: str) -> None:
        """Let the client drop its connection without a word, and dial ``url``."""

    async def back(self) -> bool:
        """Wait for the next connection of the client; whether the session goes on."""
        ...

    async def result(self) -> Events:
        """Stop the events, and wait until those that can still come have come."""
        ...


async def settled(look: Callable[[], Awaitable[Events]]) -> Events:
    """Return what ``look()`` answers once that has been the same for `SETTLED` seconds."""
    before = await look()
    while True:
        await asyncio.sleep(SETTLED)
        now = await look()
        if now == before:
            return now
        before = now


class _Wsrpc:
    def __init__(self, server: Server) -> None:
        self._server = server
        server.on("up", self._up)
        server.on("open", self._opened)
        self.port = 0
        self._url = ""
        self._client: Client | None = None
        self._peer: Peer | None = None
        self._came: asyncio.Queue[bool] = asyncio.Queue()
        self._got_up: list[int] = []
        self._got_down: list[int] = []
        self._sent = {"up": 0, "down": 0}
        self._tasks: list[asyncio.Task[None]] = []

    def _opened(self, peer: Peer) -> None:
        self._peer = peer

    def _up(self, number: int) -> None:
        self._got_up.append(number)

    def _again(self, info: ReconnectInfo) -> None:
        self._came.put_nowait(info.resumed)

    async def fresh(self, url: str) -> None:
        await self.end()
        self._got_up, self._got_down, self._sent = [], [], {"up": 0, "down": 0}
        self._url, self._came = url, asyncio.Queue()
        reconnect = Reconnect(initial=0.001, max=0.01)
        self._client = client = Client(lambda: self._url, reconnect=reconnect, proxy=None)
        client.on("down", self._got_down.append)
        client.on_reconnect(self._again)
        await client.connect()

    async def flow(self) -> None:
        client = self._client
        assert client is not None
        self._tasks = [
            asyncio.create_task(self._send("up", lambda: client)),
            asyncio.create_task(self._send("down", lambda: self._peer)),
        ]

    async def _send(self, name: str, to: Callable[[], Client | Peer | None]) -> None:
        while True:
            end = to()
            number = self._sent[name]
            self._sent[name] += 1
            if end is not None:
                with suppress(ConnectionLost, QueueFull):  # then it is lost, and counted so
                    await end.emit(name, number)
            await asyncio.sleep(EVERY)

    def abandon(self, url: str) -> None:
        self._url = url
        client = self._client
        assert client is not None and client.peer.transport is not None
        client.peer.transport.abort()

    async def back(self) -> bool:
        return await self._came.get()

    async def result(self) -> Events:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []
        return await settled(self._look)

    async def _look(self) -> Events:
        return (self._sent["up"], self._got_up.copy()), (self._sent["down"], self._got_down.copy())

    async def end(self) -> None:
        if self._client is not None:
            await self._client.close()


@asynccontextmanager
async def on_wsrpc() -> AsyncIterator[Ends]:
    """wsrpc in its default setting, but for short delays between attempts."""
    ends = _Wsrpc(server := Server())
    async with server.listen("127.0.0.1", 0) as listener:
        ends.port = listener.port
        try:
            yield ends
        finally:
            await ends.end()


class _SocketIO:
    def __init__(self, server: Process, client: Process, port: int) -> None:
        self._server, self._client = server, client
        self.port = port
        self._number = 0

    async def _ask(self, program: Process, command: str, **options: Any) -> Any:
        self._tell(program, command, **options)
        answer = await _line(program)
        if "sent" not in answer:
            raise BenchmarkError(f"the client of Socket.IO came back, although nothing had cut it: {answer}")
        return answer

    def _tell(self, program: Process, command: str, **options: Any) -> None:
        assert program.stdin is not None
        program.stdin.write(json.dumps({"command": command, **options}).encode() + b"\n")

    async def fresh(self, url: str) -> None:
        self._number += 1
        name = f"session {self._number}"
        await self._ask(self._server, "fresh", name=name)
        self._tell(self._client, "fresh", name=name, url=url)
        await self.back()

    async def flow(self) -> None:
        await self._ask(self._server, "flow")
        await self._ask(self._client, "flow")

    def abandon(self, url: str) -> None:
        self._tell(self._client, "abandon", url=url)

    async def back(self) -> bool:
        answer = await _line(self._client)
        return bool(answer["recovered"])

    async def result(self) -> Events:
        await self._ask(self._client, "stop")
        await self._ask(self._server, "stop")
        return await settled(self._look)

    async def _look(self) -> Events:
        client, server = await self._ask(self._client, "result"), await self._ask(self._server, "result")
        return (client["sent"], server["got"]), (server["sent"], client["got"])


async def _line(program: Process) -> Any:
    assert program.stdout is not None
    line = await program.stdout.readline()
    if not line:
        raise BenchmarkError("a program of Socket.IO has ended: was `npm install` run in interop/js?")
    return json.loads(line)


@asynccontextmanager
async def on_socketio(*, advised: bool = False) -> AsyncIterator[Ends]:
    """Socket.IO with connection state recovery in its default setting, but for short delays between attempts.

    Args:
        advised: do all that its documentation advises against losses: the client has ``retries``, and the server sends
            an event to each new socket, without which there is no recovery.
    """
    programs: list[Process] = []
    try:
        for role in ("server", "client"):
            programs.append(
                await asyncio.create_subprocess_exec(
                    find_node(), PROGRAM, role, *(["advised"] if advised else []), stdin=PIPE, stdout=PIPE, limit=2**24
                )
            )
        server, client = programs
        port = await _line(server)
        await _line(client)
        yield _SocketIO(server, client, port)
    finally:
        for program in programs:
            if program.returncode is None:
                program.kill()
            await program.wait()
