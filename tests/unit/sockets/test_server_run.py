"""`Server.run`: its signals, and `lifespan=`, what lives around its serving."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from core_driver import Blocked
from waiting import until

from wsrpc import Client, ConnectionLost, Limits, Reconnect, Server

LIMITS = Limits(close_timeout=2.0)


@pytest.fixture(autouse=True)
def ctrl_c() -> Generator[None]:
    """Processes of pytest-xdist ignore Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class Program:
    """A server that runs, and a client of it in a task beside it."""

    def __init__(self) -> None:
        self.server = Server(limits=LIMITS)
        self.seen: list[Any] = []
        with socket.create_server(("127.0.0.1", 0)) as sock:
            self.port = sock.getsockname()[1]

    def run(self, use: Callable[[Client], Awaitable[None]], drain: float = 60.0) -> None:
        @asynccontextmanager
        async def lifespan(given: Server) -> AsyncGenerator[None]:
            assert given is self.server
            await self.check()
            try:
                async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
                    tasks.create_task(self.connect(use))
                    yield
            finally:
                await self.check()

        self.server.run("127.0.0.1", self.port, lifespan=lifespan, drain_timeout=drain)

    async def connect(self, use: Callable[[Client], Awaitable[None]]) -> None:
        again = Reconnect(initial=0.01, max=0.05)
        async with Client(f"ws://127.0.0.1:{self.port}", limits=LIMITS, reconnect=again) as client:
            await use(client)

    async def check(self) -> None:
        """Nobody can connect before it is entered, and all have left before it is left."""
        assert self.server.peers == ()
        with pytest.raises(OSError):
            await asyncio.open_connection("127.0.0.1", self.port)
        self.seen.append(self.server.healthy)


TERM, INT = signal.SIGTERM, signal.SIGINT
HOW = [(TERM, "it ends", 60.0), (TERM, INT, 60.0), (TERM, TERM, 60.0), (TERM, "it goes on", 0.1), (INT, "", 60.0)]


@pytest.mark.parametrize(("first", "then", "drain"), HOW)
def test_sigterm_drains_and_ctrl_c_closes_at_once(
    first: signal.Signals, then: Any, drain: float, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "wsrpc")
    before, program, work = signal.getsignal(TERM), Program(), Blocked()
    program.server.on("work", work)
    told: list[bool] = []
    program.server.on_drain(lambda: told.append(program.server.draining))

    async def use(client: Client) -> None:
        request = asyncio.create_task(client.request("work", timeout=None))
        request.add_done_callback(lambda request: program.seen.append(type(request.exception())))
        await until(lambda: work.started)
        signal.raise_signal(first)
        await until(lambda: not program.server.healthy)
        if isinstance(then, signal.Signals):
            signal.raise_signal(then)
        elif then == "it ends":
            work.go.set()
        await asyncio.wait([request])

    program.run(use, drain)
    assert program.seen == [True, type(None) if then == "it ends" else ConnectionLost, False]
    assert ("draining: 1 connections, at most" in caplog.text) is (first == TERM)
    cut = first == TERM and then != "it ends"
    assert ("closing 1 connections that still have active work (work: handler (1)" in caplog.text) is cut
    assert told == [True] * (first == TERM)
    assert signal.getsignal(TERM) is before


def test_a_task_that_fails_ends_the_program_and_without_a_log_stderr_has_what_happens(
    capsys: pytest.CaptureFixture[str],
) -> None:
    program = Program()

    async def use(client: Client) -> None:
        raise ValueError("the task fails")

    with pytest.raises(ExceptionGroup):
        program.run(use)
    assert program.seen == [True, False]
    assert capsys.readouterr().err == f"listening on ws://127.0.0.1:{program.port}/, Ctrl-C ends it\n"


def test_it_may_run_twice_and_in_another_thread_where_signals_are_left_alone() -> None:
    program = Program()
    before = signal.getsignal(signal.SIGTERM)

    async def use(client: Client) -> None:
        program.seen.append(signal.getsignal(signal.SIGTERM) is before)
        await program.server.close()

    program.run(use)
    asyncio.run(asyncio.to_thread(program.run, use))
    assert program.seen == [True, False, False, False, True, False]


@pytest.mark.parametrize("windows", [False, True])
def test_a_signal_while_it_is_entered_ends_it(
    windows: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where the event loop knows no signals."""

    def unknown(self: object, *args: object) -> None:
        raise NotImplementedError

    if windows:
        monkeypatch.setattr(asyncio.SelectorEventLoop, "add_signal_handler", unknown)

    @asynccontextmanager
    async def lifespan(server: Server) -> AsyncGenerator[None]:
        signal.raise_signal(signal.SIGTERM)
        await asyncio.Event().wait()
        yield

    Server().run("127.0.0.1", 0, lifespan=lifespan)
    assert capsys.readouterr().err == "SIGTERM: ending before the server listens\n"


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
