"""The chat of examples/ as a process, which can be killed and started again at the same port."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

from programs import PYTHON, ROOT, free_port, start

from interop.peers import until

APP = ROOT / "examples" / "chat" / "app.py"


class ChatServer:
    """``async with ChatServer(folder) as chat``; ``url`` is the page's."""

    def __init__(self, folder: Path) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}/"
        self.socket_url = f"ws://127.0.0.1:{port}/ws"
        self._data = folder / "data"
        self._words = [str(APP), str(port), "--data", str(self._data)]
        self._log = folder / "server.log"
        self._process: asyncio.subprocess.Process

    @property
    def log(self) -> str:
        return self._log.read_text("utf-8")

    async def __aenter__(self) -> ChatServer:
        await self.start()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        if self._process.returncode is None:
            await self.stop()

    async def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = await start(*PYTHON, *self._words, stderr=log.fileno())
        assert self._process.stdout is not None
        assert b"Running on" in await self._process.stdout.readline(), self.log

    async def stop(self) -> None:
        """As by Ctrl-C."""
        self._process.send_signal(signal.SIGINT)
        assert await self._process.wait() == 0 and "Traceback" not in self.log, self.log

    async def kill(self) -> None:
        """As when the machine loses power: nobody is told."""
        self._process.kill()
        await self._process.wait()

    async def wait_for_part(self, size: int) -> None:
        """Wait until the server has so many bytes of the upload that is not complete."""
        await until(lambda: [path.stat().st_size for path in self._data.glob("*.part")] == [size])
