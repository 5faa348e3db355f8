"""`Server.run` and its signals, as programs of their own."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from leftovers import nothing_left as nothing_left

from wsrpc import Client, CloseInfo, ConnectionLost, HandshakeRejected, Limits, dial

pytestmark = pytest.mark.usefixtures("nothing_left")

PROGRAM = """
import asyncio, logging, signal, sys
from wsrpc import Peer, Server
if "quiet" not in sys.argv:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
server = Server()
signal.signal(signal.SIGTERM, before := lambda *_: None)

@server.on("work")
async def work(peer: Peer) -> str:
    await peer.request("started")
    await peer.request("may I end?", timeout=None)
    return "done"

server.run("127.0.0.1", 0, drain=DRAIN)
print("the end", signal.getsignal(signal.SIGTERM) is before)
"""


class Running:
    """A server that is a process, and a client of it with a request in the air."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.log = ""

    async def says(self, pattern: str) -> str:
        """Wait for a line on stderr."""
        assert self.process.stderr is not None
        while (found := re.search(pattern, self.log)) is None:
            line = await self.process.stderr.readline()
            assert line, f"it ended without saying {pattern!r}:\n{self.log}"
            self.log += line.decode()
        return found[0]

    def send(self, number: int) -> None:
        self.process.send_signal(number)

    async def ends_well(self) -> None:
        out, err = await self.process.communicate()
        self.log += err.decode()
        assert self.process.returncode == 0, self.log
        assert out.decode() == "the end True\n"
        assert "Traceback" not in self.log and "never retrieved" not in self.log


class Working:
    """A client whose request the server has begun to work on."""

    def __init__(self, url: str) -> None:
        self.client = Client(url, reconnect=None, limits=Limits(close_timeout=2.0))
        self.started, self.may_end = asyncio.Event(), asyncio.Event()
        self.closed: asyncio.Future[CloseInfo] = asyncio.get_running_loop().create_future()
        self.client.on("started", self.started.set)
        self.client.on("may I end?", self.may_end.wait)
        self.client.on("close", lambda peer, info: self.closed.set_result(info))

    async def begins(self) -> asyncio.Task[Any]:
        await self.client.connect()
        request = asyncio.create_task(self.client.request("work", timeout=None))
        await self.started.wait()
        return request


@asynccontextmanager
async def running(*args: str, drain: float = 60.0) -> AsyncGenerator[tuple[Running, Working, asyncio.Task[Any]]]:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3]), "PYTHONUNBUFFERED": "1"}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "error", "-X", "dev", "-c", PROGRAM.replace("DRAIN", str(drain)), *args),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment,
    )
    try:
        async with asyncio.timeout(20):
            it = Running(process)
            working = Working((await it.says(r"listening on [^\s,]+")).split()[-1])
            request = await working.begins()
            yield it, working, request
            await working.client.close()
            await asyncio.wait([request])
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


async def test_sigterm_drains_and_ends_with_status_0() -> None:
    async with running() as (it, working, request):
        it.send(signal.SIGTERM)
        await it.says("draining: 1 connections, at most 60 s")
        assert working.client.peer.info.remote is not None
        with pytest.raises(HandshakeRejected, match="503"):
            await dial(f"ws://127.0.0.1:{working.client.peer.info.remote[1]}")
        working.may_end.set()
        assert await request == "done"
        info = await working.closed
        assert (info.code, info.was_clean) == (1012, True)
        await it.ends_well()
        assert "SIGTERM: draining; another one closes at once" in it.log


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
async def test_another_signal_closes_at_once(second: signal.Signals) -> None:
    async with running() as (it, working, request):
        it.send(signal.SIGTERM)
        await it.says("draining")
        it.send(second)
        info = await working.closed
        assert (info.code, info.was_clean) == (1012, True)
        with pytest.raises(ConnectionLost):
            await request
        await it.ends_well()


async def test_limits_drain_is_how_long_it_takes() -> None:
    async with running(drain=0.1) as (it, working, request):
        it.send(signal.SIGTERM)
        assert (await working.closed).code == 1012
        with pytest.raises(ConnectionLost):
            await request
        await it.ends_well()
        assert "draining: 1 connections, at most 0.1 s" in it.log
        assert "closing 1 connections that still have active work" in it.log


async def test_ctrl_c_does_not_drain() -> None:
    async with running() as (it, working, request):
        it.send(signal.SIGINT)
        assert (await working.closed).code == 1012
        with pytest.raises(ConnectionLost):
            await request
        await it.ends_well()
        assert "drain" not in it.log


async def test_without_a_log_it_says_so_on_stderr() -> None:
    async with running("quiet") as (it, working, request):
        it.send(signal.SIGTERM)
        await it.says("SIGTERM: draining; another one closes at once\n")
        working.may_end.set()
        assert await request == "done"
        await it.ends_well()


HELPERS = """
import asyncio, os, signal, sys, threading
from wsrpc import Server

class Stderr:
    def __init__(self, told): self.write = told
    def flush(self): pass

"""

IN_A_THREAD = """
before = signal.getsignal(signal.SIGTERM)
listening = threading.Event()
sys.stderr = Stderr(lambda text: listening.set())
threading.Thread(target=Server().run, args=("127.0.0.1", 0), daemon=True).start()
assert listening.wait(10)
print("left alone", signal.getsignal(signal.SIGTERM) is before, flush=True)
os._exit(0)
"""

NO_SIGNALS_IN_THE_LOOP = """
def unknown(self, *args): raise NotImplementedError
asyncio.SelectorEventLoop.add_signal_handler = unknown
sys.stderr = Stderr(lambda text: "listening" in text and os.kill(os.getpid(), signal.SIGTERM))
Server().run("127.0.0.1", 0)
print("ended", signal.getsignal(signal.SIGTERM) == signal.SIG_DFL)
"""


@pytest.mark.parametrize(
    ("program", "printed"),
    [(IN_A_THREAD, "left alone True\n"), (NO_SIGNALS_IN_THE_LOOP, "ended True\n")],
    ids=["another thread", "as on Windows"],
)
async def test_where_signals_are_somebody_else_s_or_the_loop_knows_none(program: str, printed: str) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "error", "-c", HELPERS + program),
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
    )
    try:
        async with asyncio.timeout(20):
            out, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert (process.returncode, out.decode()) == (0, printed)
