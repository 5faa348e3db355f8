"""The chat of examples/ as a command with one or more workers, which can be killed and started again at one port."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from pathlib import Path

from cluster_workers import Worker, environment
from programs import ROOT, free_port

EXAMPLE = ROOT / "examples" / "chat"


class ChatServer:
    """``async with ChatServer(folder) as chat``; ``url`` is the page's."""

    def __init__(self, folder: Path, *, redis: str = "", workers: int = 1) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}/"
        self.socket_url = f"ws://127.0.0.1:{port}/ws"
        self._data = folder / "data"
        self._words = ["-m", "wsrpc", "serve", "app:app", "--port", str(port), "--workers", str(workers)]
        self._env = {**environment(""), "CHAT_DATA": str(self._data)} | ({"CHAT_REDIS": redis} if redis else {})
        self.command: Worker

    async def __aenter__(self) -> ChatServer:
        await self.start()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        if self.command.process.returncode is None:
            await self.stop()

    @property
    def log(self) -> str:
        return self.command.log

    async def start(self) -> None:
        self.command = Worker(
            await asyncio.create_subprocess_exec(
                *(sys.executable, *self._words),
                cwd=EXAMPLE,
                env=self._env,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.PIPE,
                start_new_session=True,
            )
        )
        await self.command.port()

    async def stop(self) -> None:
        """As by Ctrl-C."""
        assert await self.command.end() == 0 and "Traceback" not in self.log, self.log

    async def kill(self) -> None:
        """As when the machine loses power: nobody is told."""
        os.killpg(self.command.process.pid, signal.SIGKILL)
        await self.command.process.wait()

    async def worker_of(self, name: str) -> int:
        """The process to which a user has connected last, and which has the user's session."""
        remote = re.findall(rf'(\S+) - "WebSocket /ws\?name={name}"', self.log)[-1]
        return int(await self.command.logged(rf"\[(\d+)\] peer \w+ connected from {remote} \("))
