"""Chromium as its users have it, driven by the DevTools protocol itself.

Playwright keeps all pages visible, so that none can be frozen, and turns the back/forward cache off.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import re
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiohttp import ClientSession, ClientWebSocketResponse
from browser.conftest import FLAGS, find_chromium
from browser.pages import PATIENCE
from programs import start

COMPLAINTS = ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded")


class Tab:
    """A tab that obeys commands of the DevTools protocol."""

    def __init__(self, socket: ClientWebSocketResponse) -> None:
        self.complaints: list[str] = []
        """What the page has written into its console, and errors and rejections that nobody has handled."""
        self._socket = socket
        self._ids = itertools.count(1)
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}

    async def send(self, method: str, **params: Any) -> Any:
        number = next(self._ids)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        await self._socket.send_json({"id": number, "method": method, "params": params})
        return await answer

    async def evaluate(self, expression: str) -> Any:
        """Return the value of an expression, or what its promise resolves with."""
        answer = await self.send("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer["result"], answer
        return answer["result"]["result"].get("value")

    async def choose(self, file: Path) -> None:
        """Choose a file in the first field for files, as the user does."""
        found = await self.send("Runtime.evaluate", expression="document.querySelector('input[type=file]')")
        field = found["result"]["result"]["objectId"]
        answer = await self.send("DOM.setFileInputFiles", files=[str(file)], objectId=field)
        assert "error" not in answer, answer

    async def until(self, expression: str) -> None:
        """Wait until an expression is true, perhaps on another page."""
        async with asyncio.timeout(PATIENCE / 1000):
            while True:
                answer = await self.send("Runtime.evaluate", expression=expression, returnByValue=True)
                if answer.get("result", {}).get("result", {}).get("value"):
                    return
                await asyncio.sleep(0.01)

    async def read(self) -> None:
        async for message in self._socket:
            received = message.json()
            if "id" in received:
                self._answers.pop(received["id"]).set_result(received)
            elif received["method"] in COMPLAINTS:
                self.complaints.append(json.dumps(received["params"]))


class Chromium:
    def __init__(self, http: ClientSession, address: str, tasks: asyncio.TaskGroup) -> None:
        self._http = http
        self._address = address
        self._tasks = tasks

    async def open(self, url: str) -> Tab:
        """Open a tab in front of the others, which are hidden then."""
        async with self._http.put(f"http://{self._address}/json/new?{url}") as response:
            socket = (await response.json(content_type=None))["webSocketDebuggerUrl"]
        tab = Tab(await self._http.ws_connect(socket))
        self._tasks.create_task(tab.read())
        for domain in ("Runtime", "Page", "Log"):
            await tab.send(f"{domain}.enable")
        await tab.until(f"location.href === '{url}' && document.readyState === 'complete'")
        return tab


async def _address_of(process: Process) -> str:
    assert process.stderr is not None
    said = b""
    while (found := re.search(rb"DevTools listening on ws://([^/]+)", said)) is None:
        line = await process.stderr.readline()
        assert line, said.decode()
        said += line
    return found[1].decode()


async def _drain(process: Process) -> None:
    assert process.stderr is not None
    while await process.stderr.readline():
        pass


@asynccontextmanager
async def chromium(folder: Path) -> AsyncGenerator[Chromium]:
    """Start Chromium with a profile in ``folder``."""
    words = ["--headless", "--remote-debugging-port=0", f"--user-data-dir={folder}", *FLAGS]
    process = await start(find_chromium(), *words, stderr=PIPE)
    try:
        address = await _address_of(process)
        async with ClientSession() as http, asyncio.TaskGroup() as tasks:
            tasks.create_task(_drain(process))
            yield Chromium(http, address, tasks)
            process.terminate()
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()
