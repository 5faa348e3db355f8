"""The chat of examples/ as a process, which can be killed and started again at the same port."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
APP = ROOT / "examples" / "chat" / "app.py"


class ChatServer:
    """``async with ChatServer(folder, modules) as chat``; ``url`` is the page's."""

    def __init__(self, folder: Path, modules: Path) -> None:
        self.folder = folder
        self.modules = modules
        self.port = 0
        self._process: asyncio.subprocess.Process | None = None
        self._log = folder / "server.log"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    @property
    def socket_url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/ws"

    async def __aenter__(self) -> ChatServer:
        # Not a port that the system picks: it might give that to some outgoing connection while the server is away.
        for self.port in random.sample(range(20_000, 30_000), 50):
            if await self.start():
                return self
            assert "address already in use" in self._log.read_text("utf-8"), self._log.read_text("utf-8")
            self._log.unlink()
        raise AssertionError("50 ports are taken")

    async def __aexit__(self, *exc_info: object) -> None:
        if self._process is None:
            return
        self._process.send_signal(signal.SIGINT)
        try:
            async with asyncio.timeout(10):
                status = await self._process.wait()
        except TimeoutError:
            await self.kill()
            raise
        log = self._log.read_text("utf-8")
        assert status == 0 and "Traceback" not in log, log

    async def start(self) -> bool:
        """Whether it listens; it has ended if not."""
        with self._log.open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-W", "error", str(APP), str(self.port)),
                *("--data", str(self.folder / "data"), "--modules", str(self.modules)),
                env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "adapters")])},
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
            )
        assert process.stdout is not None
        if b"Running on" not in await process.stdout.readline():
            await process.wait()
            return False
        self._process = process
        return True

    async def kill(self) -> None:
        """As when the machine loses power: nobody is told."""
        assert self._process is not None
        self._process.kill()
        await self._process.wait()
        self._process = None

    async def restart(self) -> None:
        assert await self.start(), self._log.read_text("utf-8")
