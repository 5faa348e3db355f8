"""`Server.run` as a program of its own: its signals, and `lifespan=`, what lives around its serving."""

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
from core_driver import Blocked
from leftovers import nothing_left as nothing_left
from leftovers import turns_until

from wsrpc import Client, CloseInfo, ConnectionLost, HandshakeRejected, Limits, Reconnect, Server, dial

LIMITS = Limits(close_timeout=2.0)

PROGRAM = """
import asyncio, logging, signal, sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from wsrpc import Key, Peer, Server

if "quiet" not in sys.argv:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
server = Server()
NEWS = Key[asyncio.Queue[str]]("news")
signal.signal(signal.SIGTERM, before := lambda *_: None)


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


server.run("127.0.0.1", 0, lifespan=lifespan, drain=float(sys.argv[1]))
print("the end", signal.getsignal(signal.SIGTERM) is before)
"""
SERVED = ["enter True ()", "leave False ()", "the end True"]


class Program:
    """The program, as a process, with a client that may have a request in flight."""

    client: Client
    request: asyncio.Task[Any]

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.log = ""
        self.work = Blocked()
        self.news: asyncio.Queue[str] = asyncio.Queue()
        self.closed: asyncio.Future[CloseInfo] = asyncio.get_running_loop().create_future()

    async def says(self, pattern: str) -> str:
        """Wait for a line on stderr."""
        assert self.process.stderr is not None
        while (found := re.search(pattern, self.log)) is None:
            line = await self.process.stderr.readline()
            assert line, f"it ended without saying {pattern!r}:\n{self.log}"
            self.log += line.decode()
        return found[0]

    async def asks(self) -> str:
        """Make a request that ends when `work.go` is set; returns the URL."""
        url = (await self.says(r"listening on [^\s,]+")).split()[-1]
        self.client = Client(url, limits=LIMITS, reconnect=None)
        self.client.on("news", self.news.put_nowait)
        self.client.on("close", lambda peer, info: self.closed.set_result(info))
        self.client.on("may I end?", self.work)
        await self.client.connect()
        self.request = asyncio.create_task(self.client.request("work", timeout=None))
        await turns_until(lambda: self.work.started)
        return url

    async def ends(self, status: int, *printed: str, cut: bool) -> None:
        """``cut`` says whether the request was not answered."""
        info = await self.closed
        assert (info.code, info.was_clean) == (1012, True)
        await asyncio.wait([self.request])
        assert isinstance(self.request.exception(), ConnectionLost) if cut else self.request.result() == "done"
        await self.client.close()
        await self.ended(status, *printed)

    async def ended(self, status: int, *printed: str) -> None:
        out, err = await self.process.communicate()
        self.log += err.decode()
        assert (self.process.returncode, out.decode().splitlines()) == (status, list(printed)), self.log
        assert "never retrieved" not in self.log and ("Traceback" in self.log) is (status == 1)


@asynccontextmanager
async def program(*args: str, drain: float = 60.0) -> AsyncGenerator[Program]:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3]), "PYTHONUNBUFFERED": "1"}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "error", "-X", "dev", "-c", PROGRAM, str(drain), *args),
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


@pytest.mark.parametrize("quiet", [False, True])
async def test_sigterm_drains_and_ends_with_status_0(quiet: bool) -> None:
    """Without a log it says so on stderr."""
    async with program(*["quiet"] * quiet) as it:
        url = await it.asks()
        await it.client.emit("tell", "hello")  # for a task beside it
        assert await it.news.get() == "hello"
        it.process.send_signal(signal.SIGTERM)
        await it.says("SIGTERM: draining; another one closes at once\n")
        if not quiet:
            await it.says("draining: 1 connections, at most 60 s")
        with pytest.raises((HandshakeRejected, OSError), match="503"):
            await dial(url)
        it.work.go.set()
        await it.ends(0, *SERVED, cut=False)
        assert it.log.count("listening on") == 1


@pytest.mark.parametrize(
    ("first", "second", "drain"),
    [
        (signal.SIGTERM, signal.SIGINT, 60.0),
        (signal.SIGTERM, None, 0.1),
        (signal.SIGINT, None, 60.0),
    ],
)
async def test_what_cuts_the_drain_short(first: signal.Signals, second: signal.Signals | None, drain: float) -> None:
    async with program(drain=drain) as it:
        await it.asks()
        it.process.send_signal(first)
        if second is not None:
            await it.says("draining")
            it.process.send_signal(second)
        await it.ends(0, *SERVED, cut=True)
        assert ("drain" in it.log) is (first == signal.SIGTERM)
        assert drain != 0.1 or "closing 1 connections that still have active work" in it.log


async def test_a_task_that_fails_ends_the_program_with_its_traceback() -> None:
    async with program() as it:
        await it.asks()
        await it.client.emit("tell", "fail")
        await it.ends(1, *SERVED[:2], cut=True)
        assert "ValueError: the task fails" in it.log


async def test_a_signal_while_it_is_entered_ends_it() -> None:
    async with program("slow") as it:
        await it.says("waits")
        it.process.send_signal(signal.SIGTERM)
        await it.ended(0, "enter True ()", "leave True ()", "the end True")
        assert "listening on" not in it.log


async def test_what_fails_at_the_start_never_listens() -> None:
    async with program("early") as it:
        await it.ended(1, "enter True ()")
        assert "ValueError: cannot begin" in it.log and "listening on" not in it.log


def test_where_the_loop_knows_no_signals_as_on_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(self: object, *args: object) -> None:
        raise NotImplementedError

    @asynccontextmanager
    async def lifespan(server: Server) -> AsyncGenerator[None]:
        signal.raise_signal(signal.SIGTERM)
        yield

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(asyncio.SelectorEventLoop, "add_signal_handler", unknown)
    Server().run("127.0.0.1", 0, lifespan=lifespan)
    assert signal.getsignal(signal.SIGTERM) is before


def test_what_is_no_lifespan_is_refused() -> None:
    async def generator(server: Server) -> AsyncGenerator[None]:
        yield

    wrong: Any
    for wrong, text in (
        (generator, r"returns an async context manager.*@contextlib\.async"),
        (5, r"lifespan= takes a function of \(server\), got 5"),
        (lambda: None, "takes no argument"),
    ):
        with pytest.raises(TypeError, match=text):
            Server().run(port=0, lifespan=wrong)


def test_nobody_can_connect_before_it_is_entered_and_all_have_left_before_it_is_left() -> None:
    """And a server may run twice, in another thread, too, where signals are left alone."""
    before = signal.getsignal(signal.SIGTERM)
    server = Server(limits=LIMITS)
    seen: list[object] = []
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]

    async def use() -> None:
        async with Client(f"ws://127.0.0.1:{port}", limits=LIMITS, reconnect=Reconnect(initial=0.01, max=0.05)):
            seen.append("connected")
            await server.close()

    async def check() -> None:
        assert server.peers == ()
        with pytest.raises(OSError):
            await asyncio.open_connection("127.0.0.1", port)

    @asynccontextmanager
    async def lifespan(given: Server) -> AsyncGenerator[None]:
        assert given is server
        await check()
        using = asyncio.create_task(use())
        yield
        await check()
        await using
        seen.append(signal.getsignal(signal.SIGTERM) is before)

    server.run("127.0.0.1", port, lifespan=lifespan)
    asyncio.run(asyncio.to_thread(server.run, "127.0.0.1", port, lifespan=lifespan))
    assert seen == ["connected", False, "connected", True]
