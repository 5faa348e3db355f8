"""Programs run as their reader would run them: as processes of their own."""

from __future__ import annotations

import asyncio
import random
import re
import signal
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager


@asynccontextmanager
async def listening(process: asyncio.subprocess.Process) -> AsyncGenerator[str]:
    """The URL that a server writes to its stderr; interrupted, it must end with status 0 and no traceback."""
    assert process.stderr is not None
    said = ""
    try:
        while (found := re.search(r"listening on (\S+?)(?:, Ctrl-C ends it)?\n", said)) is None:
            line = await process.stderr.readline()
            assert line, f"the server ended without listening:\n{said}"
            said += line.decode()
        yield found[1]
        process.send_signal(signal.SIGINT)
        said += (await process.stderr.read()).decode()
        assert await process.wait() == 0, said
        assert "Traceback" not in said
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
