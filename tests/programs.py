"""Programs run as their reader would run them: as processes of their own."""

from __future__ import annotations

import asyncio
import re
import signal
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager


@asynccontextmanager
async def listening(process: asyncio.subprocess.Process) -> AsyncGenerator[str]:
    """The URL of a server that logs to its stderr; interrupted, it must end with status 0 and no traceback."""
    assert process.stderr is not None
    said = ""
    try:
        while (found := re.search(r"INFO:wsrpc:listening on (\S+)\n", said)) is None:
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
