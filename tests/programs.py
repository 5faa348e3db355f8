"""Programs run as their reader would run them: as processes of their own."""

from __future__ import annotations

import asyncio
import random
import re
import signal
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

ROOT = Path(__file__).parent.parent
WSRPC = r"listening on (\S+?)(?:, Ctrl-C ends it)?\n"
UVICORN = r"Uvicorn running on (\S+)"
UVICORN_STARTED = r"Application startup complete"
AIOHTTP = r"Running on (\S+)"
"""What servers say when they accept connections; all but one with their URL."""


@asynccontextmanager
async def listening(
    process: asyncio.subprocess.Process, pattern: str = WSRPC, end_with: signal.Signals = signal.SIGINT
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
        process.send_signal(end_with)
        said += (await log.read()).decode()
        assert await process.wait() in ((0,) if pattern == WSRPC else (0, -end_with)), said
        assert "Traceback" not in said, said
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def printed_by(process: asyncio.subprocess.Process) -> str:
    """What a program prints; it must end with status 0 and complain about nothing."""
    try:
        out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert (process.returncode, err.decode()) == (0, ""), out.decode()
    return out.decode()


def free_port() -> int:
    """A port that nobody takes while its server is away.

    Not one that the system picks: it might give that to some outgoing connection meanwhile.
    """
    for port in random.sample(range(20_000, 30_000), 50):
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                sock.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("50 ports are taken")
