"""`Server.run(lifespan=...)`: what lives as long as the program, around its serving."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from wsrpc import Client, Limits, Reconnect, Server

LIMITS = Limits(close_timeout=2.0)

PROGRAM = """
import asyncio, logging, sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from wsrpc import Key, Peer, Server

logging.basicConfig(level=logging.INFO, format="%(message)s")
server = Server()
NEWS = Key[asyncio.Queue[str]]("news")


@server.on("tell")
def tell(peer: Peer, text: str) -> None:
    peer.server.state[NEWS].put_nowait(text)


@server.on("work")
async def work(peer: Peer) -> str:
    await peer.request("may I end?", timeout=None)
    return "done"


async def publish(server: Server) -> None:
    while True:
        text = await server.state[NEWS].get()
        if text == "fail":
            raise ValueError("the task fails")
        await server.emit("news", text)


@asynccontextmanager
async def lifespan(server: Server) -> AsyncGenerator[None]:
    server.state[NEWS] = asyncio.Queue()
    print("enter", server.healthy, server.peers)
    if "early" in sys.argv:
        raise ValueError("cannot begin")
    try:
        if "slow" in sys.argv:
            print("waits", file=sys.stderr, flush=True)
            await asyncio.Event().wait()
        async with asyncio.TaskGroup() as tasks:
            publishing = tasks.create_task(publish(server))
            yield
            publishing.cancel()
    finally:
        print("leave", server.healthy, server.peers, flush=True)


server.run("127.0.0.1", 0, lifespan=lifespan)
print("the end")
"""


class Program:
    """The program, as a process."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.log = ""

    async def says(self, pattern: str) -> str:
        assert self.process.stderr is not None
        while (found := re.search(pattern, self.log)) is None:
            line = await self.process.stderr.readline()
            assert line, f"it ended without saying {pattern!r}:\n{self.log}"
            self.log += line.decode()
        return found[0]

    async def client(self) -> Client:
        url = (await self.says(r"listening on [^\s,]+")).split()[-1]
        return Client(url, limits=LIMITS, reconnect=None)

    async def ends(self, status: int) -> list[str]:
        """What it printed."""
        out, err = await self.process.communicate()
        self.log += err.decode()
        assert self.process.returncode == status, self.log
        assert "never retrieved" not in self.log
        return out.decode().splitlines()


@asynccontextmanager
async def program(*args: str) -> AsyncGenerator[Program]:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3]), "PYTHONUNBUFFERED": "1"}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "error", "-X", "dev", "-c", PROGRAM, *args),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment,
    )
    try:
        async with asyncio.timeout(20):
            yield Program(process)
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


async def test_a_task_beside_it_and_sigterm_drains_before_it_is_left() -> None:
    async with program() as it, await it.client() as client:
        news: asyncio.Queue[str] = asyncio.Queue()
        client.on("news", news.put_nowait)
        asked, may_end = asyncio.Event(), asyncio.Event()

        @client.on("may I end?")
        async def end() -> None:
            asked.set()
            await may_end.wait()

        await client.emit("tell", "hello")
        assert await news.get() == "hello"
        working = asyncio.create_task(client.request("work"))
        await asked.wait()
        it.process.send_signal(signal.SIGTERM)
        await it.says("draining: 1 connections")
        may_end.set()
        assert await working == "done"
        assert await it.ends(0) == ["enter True ()", "leave False ()", "the end"]
        assert "Traceback" not in it.log


async def test_ctrl_c_leaves_it_too() -> None:
    async with program() as it, await it.client() as client:
        assert client.connected
        it.process.send_signal(signal.SIGINT)
        await client.peer.wait_closed()
        assert await it.ends(0) == ["enter True ()", "leave False ()", "the end"]
        assert "Traceback" not in it.log


async def test_a_task_that_fails_ends_the_program_with_its_traceback() -> None:
    async with program() as it, await it.client() as client:
        await client.emit("tell", "fail")
        await client.peer.wait_closed()
        assert await it.ends(1) == ["enter True ()", "leave False ()"]
        assert "ValueError: the task fails" in it.log


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_while_it_is_entered_ends_it(number: signal.Signals) -> None:
    async with program("slow") as it:
        await it.says("waits")
        it.process.send_signal(number)
        assert await it.ends(0) == ["enter True ()", "leave True ()", "the end"]
        assert "listening on" not in it.log and "Traceback" not in it.log


async def test_what_fails_at_the_start_never_listens() -> None:
    async with program("early") as it:
        assert await it.ends(1) == ["enter True ()"]
        assert "ValueError: cannot begin" in it.log and "listening on" not in it.log


def test_what_is_no_lifespan_is_refused() -> None:
    async def coroutine(server: Server) -> None: ...

    async def generator(server: Server) -> AsyncGenerator[None]:
        yield

    wrong: Any
    for wrong in (coroutine, generator, lambda server: None):
        with pytest.raises(TypeError, match=r"returns an async context manager.*@contextlib\.asynccontextmanager"):
            Server().run(port=0, lifespan=wrong)
    for wrong, text in [
        (5, r"lifespan= takes a function of \(server\), got 5"),
        (lambda: None, "takes no argument"),
        (lambda server, more: None, "lifespan="),
    ]:
        with pytest.raises(TypeError, match=text):
            Server().run(port=0, lifespan=wrong)


def test_nobody_can_connect_before_it_is_entered_and_all_have_left_before_it_is_left() -> None:
    server = Server(limits=LIMITS)
    server.on("echo", lambda value: value)
    seen: list[Any] = []
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]

    async def use() -> None:
        async with Client(f"ws://127.0.0.1:{port}", limits=LIMITS, reconnect=Reconnect(initial=0.01, max=0.05)) as one:
            seen.append(await one.request("echo", "x"))
            await server.close()

    async def check(given: Server) -> None:
        assert given is server and given.peers == ()
        with pytest.raises(OSError):
            await asyncio.open_connection("127.0.0.1", port)

    @asynccontextmanager
    async def lifespan(given: Server) -> AsyncGenerator[None]:
        await check(given)
        using = asyncio.create_task(use())
        yield
        await check(given)
        await using
        seen.append("left")

    for _ in range(2):
        server.run("127.0.0.1", port, lifespan=lifespan)
    assert seen == ["x", "left"] * 2
