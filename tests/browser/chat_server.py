"""The chat of examples/ as a process, which can be killed and started again at the same port."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

from browser.pages import ROOT
from programs import free_port

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

    @property
    def log(self) -> str:
        return self._log.read_text("utf-8")

    async def __aenter__(self) -> ChatServer:
        self.port = free_port()
        await self.start()
        return self

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
        assert status == 0 and "Traceback" not in self.log, self.log

    async def start(self) -> None:
        with self._log.open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-W", "error", str(APP), str(self.port)),
                *("--data", str(self.folder / "data"), "--modules", str(self.modules)),
                env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "adapters")])},
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
            )
        assert process.stdout is not None
        self._process = process
        assert b"Running on" in await process.stdout.readline(), self.log

    async def kill(self) -> None:
        """As when the machine loses power: nobody is told."""
        assert self._process is not None
        self._process.kill()
        await self._process.wait()
        self._process = None
