"""The processes of examples/cluster, started as its README does: uvicorn, the cron job, and users of all kinds."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from pathlib import Path
from typing import Self

from effort import SOAK
from programs import PYTHON, printed_by, start

from wsrpc import Client, CloseInfo, Peer, Reconnect

__all__ = ["EXAMPLE", "User", "Worker", "announce", "running", "uvicorn"]

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "cluster"
PATIENCE = 600.0 if SOAK else 200.0
"""Seconds for a test. Those for the end of uvicorn come after them, and both are less than pytest's own limit."""
PATIENCE_FOR_END = 60.0
UVICORN = ("uvicorn", "--ws", "wsrpc_adapters.uvicorn:WebSocketProtocol")
AT_ONCE = Reconnect(initial=0.01, max=0.05)


def environment(engine: str) -> dict[str, str]:
    return {**os.environ, "ENGINE": engine, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "adapters")])}


class Worker:
    """A process that runs uvicorn, and what it has logged."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.log = ""
        self._more = asyncio.Event()
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        assert self.process.stderr is not None
        while chunk := await self.process.stderr.read(65536):
            self.log += chunk.decode()
            self._more.set()

    async def logged(self, pattern: str, times: int = 1) -> str:
        """Wait until a pattern stands so often in the log. Return what it last found."""
        while len(found := re.findall(pattern, self.log)) < times:
            assert not self._reading.done(), f"uvicorn ended:\n{self.log}"
            self._more.clear()
            more = asyncio.create_task(self._more.wait())
            await asyncio.wait((more, self._reading), return_when=asyncio.FIRST_COMPLETED)
            more.cancel()
        return str(found[times - 1])

    async def port(self) -> int:
        """The port, once it is served."""
        return int(await self.logged(r"running on http://127\.0\.0\.1:(\d+)"))

    async def end(self) -> int:
        """End it as an operator does. Idempotent.

        Raises:
            AssertionError: uvicorn or one of its workers does not end. All are killed, and the error has the log.
        """
        if self.process.returncode is None:
            with suppress(ProcessLookupError):  # `send_signal` would take the exit status of one that has ended
                os.kill(self.process.pid, signal.SIGTERM)  # a supervisor ends its workers then
        done, _ = await asyncio.wait({self._reading}, timeout=PATIENCE_FOR_END)
        if not done:
            os.killpg(self.process.pid, signal.SIGKILL)
            await self._reading
            raise AssertionError(f"uvicorn does not end:\n{self.log}")
        return await self.process.wait()


@asynccontextmanager
async def running(
    folder: Path, app: str, *options: str, env: dict[str, str] | None = None, command: Sequence[str] = UVICORN
) -> AsyncGenerator[Worker]:
    """Run uvicorn with an application of a folder."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", *command, app, *options),
        cwd=folder,
        env=env,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,  # so that workers can be killed with it
    )
    worker = Worker(process)
    try:
        async with asyncio.timeout(PATIENCE):
            yield worker
    finally:
        await worker.end()


def uvicorn(engine: str, *options: str, port: int = 0) -> AbstractAsyncContextManager[Worker]:
    """Run the example with an engine."""
    return running(EXAMPLE, "lobby:app", "--port", str(port), *options, env=environment(engine))


async def announce(engine: str, *arguments: str) -> str:
    """Run the cron job. Return what it prints."""
    process = await start(*PYTHON, "announce.py", *arguments, cwd=EXAMPLE, env=environment(engine))
    return (await printed_by(process)).strip()


class User:
    """A user with a wsrpc client.

    Args:
        urls: dialed in turn, one at each attempt.
    """

    def __init__(self, name: str, urls: Iterator[str], reconnect: Reconnect | None = AT_ONCE) -> None:
        self.name = name
        self.heard: asyncio.Queue[tuple[str, str]] = asyncio.Queue()
        self.closed: asyncio.Queue[CloseInfo] = asyncio.Queue()
        self.client = Client(lambda: next(urls), auth=f"secret-{name}", reconnect=reconnect)
        self.client.on("said", lambda who, text: self.heard.put_nowait((who, text)))
        self.client.on("whispered", lambda who, text: f"{name} heard {text} from {who}")
        self.client.on("entered", lambda who: None)

        @self.client.on("close")
        def closed(peer: Peer, info: CloseInfo) -> None:
            self.closed.put_nowait(info)

    async def __aenter__(self) -> Self:
        await self.client.connect()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.client.close()

    async def worker(self) -> int:
        """The process that it is connected to."""
        return await self.client.request("worker", returns=int)

    async def say(self, text: str) -> None:
        await self.client.request("say", text)

    async def hears(self) -> tuple[str, str]:
        return await self.heard.get()

    async def whisper(self, to: str, text: str) -> str:
        return await self.client.request("whisper", to, text, returns=str)

    async def sees(self, *names: str) -> None:
        """Wait until exactly these are in the lobby, as this user's worker knows it."""
        while await self.client.request("who", returns=list[str]) != sorted(names):  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.01)
