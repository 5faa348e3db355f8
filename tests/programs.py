"""Programs run as their reader would run them: as processes of their own."""

from __future__ import annotations

import asyncio
import os
import random
import re
import signal
import socket
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

ROOT = Path(__file__).parent.parent
PYTHON = [sys.executable, "-W", "error"]
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "adapters"), "."]),
    "PYTHONUNBUFFERED": "1",
}
WSRPC = r"listening on (\S+?)(?:, Ctrl-C ends it)?\n"
UVICORN = r"Uvicorn running on (\S+)"
UVICORN_STARTED = r"Application startup complete"
AIOHTTP = r"Running on (\S+)"
"""What servers say when they accept connections; all but one with their URL."""


async def start(
    *words: str, cwd: Path | None = None, env: Mapping[str, str] | None = None, stderr: int | None = PIPE
) -> Process:
    """Start a program, which can import what is in this repository, and in its working directory."""
    env = {**ENVIRONMENT, **(env or {})}
    return await asyncio.create_subprocess_exec(*words, cwd=cwd, env=env, stdin=PIPE, stdout=PIPE, stderr=stderr)


class Screen:
    """What a program prints, and what is typed into it."""

    def __init__(self, process: Process) -> None:
        self.process = process

    async def line(self) -> str:
        assert self.process.stdout is not None
        line = (await self.process.stdout.readline()).decode()
        if not line:
            assert self.process.stderr is not None
            raise AssertionError(f"it ended: {(await self.process.stderr.read()).decode()}")
        return line.removesuffix("\n")

    async def lines(self, count: int) -> list[str]:
        return [await self.line() for _ in range(count)]

    async def line_like(self, pattern: str) -> str:
        """Skip lines until one has this pattern."""
        while re.search(pattern, line := await self.line()) is None:
            pass
        return line

    def type(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n".encode())


@asynccontextmanager
async def talking(process: Process, *, interrupt: bool = True) -> AsyncGenerator[Screen]:
    """Let a program run until Ctrl-C; or, without ``interrupt``, until the end of what is typed."""
    assert process.stdin is not None and process.stderr is not None
    try:
        yield Screen(process)
        if not interrupt:
            process.stdin.close()
        elif process.returncode is None:
            process.send_signal(signal.SIGINT)
        errors = (await process.stderr.read()).decode()
        assert await process.wait() in (0, -signal.SIGINT), errors
        assert "Traceback" not in errors
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()  # closes the pipes


@asynccontextmanager
async def listening(
    process: Process, pattern: str = WSRPC, end_with: signal.Signals = signal.SIGINT
) -> AsyncGenerator[str]:
    """Wait until a server says that it listens, and give its URL. In the end it must stop without a traceback.

    The server's stderr is read, or its stdout if that has both. wsrpc's own servers end with status 0; others may also
    end by the signal.
    """
    log = process.stderr or process.stdout
    assert log is not None
    said = ""
    try:
        while (found := re.search(pattern, said)) is None:
            line = await log.readline()
            assert line, f"the server ended without listening:\n{said}"
            said += line.decode()
        yield found[found.lastindex or 0]
        if process.returncode is None:
            process.send_signal(end_with)
        said += (await log.read()).decode()
        assert await process.wait() in ((0,) if pattern == WSRPC else (0, -end_with)), said
        assert "Traceback" not in said, said
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()  # closes the pipes


async def printed_by(process: Process) -> str:
    """What a program prints; it must end with status 0 and complain about nothing."""
    try:
        out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert (process.returncode, err.decode()) == (0, ""), out.decode()
    return out.decode()


async def refused(process: Process, said: str) -> str:
    """What a program prints that ends with status 1, and these last words."""
    out, err = await process.communicate()
    assert process.returncode == 1 and err.decode().endswith(said), err.decode()
    return out.decode()


WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
PORTS = random.sample(range(20_000 + 1000 * WORKER, 21_000 + 1000 * WORKER), 1000)
"""Ports that no other worker of this run uses, and that this one has not used for longest, last."""


def free_port() -> int:
    """A port that nobody takes until its server has started, and while its server is away.

    Not one that the system picks: it might give that to some outgoing connection meanwhile.
    """
    for _ in range(50):
        PORTS.insert(0, port := PORTS.pop())
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                sock.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("50 ports are taken")
