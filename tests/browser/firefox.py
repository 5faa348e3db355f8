"""Firefox, which Playwright can drive only in a build of its own.

It opens a page that reports by itself, or is driven by the protocol WebDriver BiDi.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import re
import shutil
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiohttp import ClientSession, ClientWebSocketResponse
from browser.pages import PATIENCE
from programs import start

# A new profile opens pages of its own, asks questions and calls home.
OFF = ["app.normandy.enabled", "app.update.enabled", "browser.aboutwelcome.enabled", "toolkit.telemetry.enabled"]
OFF += ["browser.shell.checkDefaultBrowser", "datareporting.policy.dataSubmissionEnabled"]
OFF += ["network.captive-portal-service.enabled", "network.connectivity-service.enabled"]
TEXTS = {"browser.startup.homepage_override.mstone": "ignore", "services.settings.server": ""}
PREFERENCES = dict.fromkeys(OFF, False) | TEXTS


def find_firefox() -> str:
    found = os.environ.get("FIREFOX") or shutil.which("firefox-esr") or shutil.which("firefox")
    assert found, "no firefox-esr on the PATH: `make test-browser` finds one, or says how to get it"
    return found


def command(folder: Path) -> list[str]:
    """The command that starts Firefox, whose profile and home are in ``folder``."""
    lines = [f"user_pref({json.dumps(name)}, {json.dumps(value)});\n" for name, value in PREFERENCES.items()]
    (folder / "user.js").write_text("".join(lines), "utf-8")
    return [find_firefox(), "--headless", "--no-remote", "--profile", str(folder)]


@asynccontextmanager
async def firefox(folder: Path, url: str) -> AsyncGenerator[None]:
    """Open a page in Firefox."""
    process = await start(*command(folder), url, env={"HOME": str(folder)}, stderr=DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        await process.communicate()


class Tab:
    """A tab that obeys commands, as that of `browser.chromium` does."""

    def __init__(self, firefox: DrivenFirefox, context: str) -> None:
        self._firefox = firefox
        self._context = context

    async def evaluate(self, expression: str) -> Any:
        """Return the value of an expression, or what its promise resolves with."""
        answer = await self._evaluate(f"(async () => JSON.stringify(await ({expression})))()")
        assert answer.get("result", {}).get("type") == "success", answer
        return json.loads(answer["result"]["result"].get("value", "null"))

    async def choose(self, file: Path) -> None:
        """Choose a file in the first field for files, as the user does."""
        locator = {"type": "css", "value": "input[type=file]"}
        found = await self._firefox.send("browsingContext.locateNodes", context=self._context, locator=locator)
        element = {"sharedId": found["result"]["nodes"][0]["sharedId"]}
        answer = await self._firefox.send("input.setFiles", context=self._context, element=element, files=[str(file)])
        assert answer["type"] == "success", answer

    async def until(self, expression: str) -> None:
        """Wait until an expression is true, perhaps on another page."""
        async with asyncio.timeout(PATIENCE / 1000):
            while True:
                answer = await self._evaluate(f"Boolean({expression})")
                if answer.get("result", {}).get("result", {}).get("value") is True:
                    return
                await asyncio.sleep(0.01)

    async def _evaluate(self, expression: str) -> dict[str, Any]:
        target = {"context": self._context}
        return await self._firefox.send("script.evaluate", expression=expression, target=target, awaitPromise=True)


class DrivenFirefox:
    def __init__(self, socket: ClientWebSocketResponse) -> None:
        self._socket = socket
        self._ids = itertools.count(1)
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}

    async def send(self, method: str, **params: Any) -> dict[str, Any]:
        number = next(self._ids)
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._answers[number] = answer
        await self._socket.send_json({"id": number, "method": method, "params": params})
        return await answer

    async def read(self) -> None:
        async for message in self._socket:
            received = message.json()
            if received.get("id") is not None:
                self._answers.pop(received["id"]).set_result(received)

    async def open(self, url: str) -> Tab:
        """Open a tab in front of the others."""
        created = await self.send("browsingContext.create", type="tab")
        context = created["result"]["context"]
        await self.send("browsingContext.navigate", context=context, url=url, wait="complete")
        return Tab(self, context)


@asynccontextmanager
async def driven_firefox(folder: Path) -> AsyncGenerator[DrivenFirefox]:
    """Start Firefox with a profile in ``folder``."""
    process = await start(*command(folder), "--remote-debugging-port", "0", env={"HOME": str(folder)}, stderr=PIPE)
    assert process.stderr is not None
    try:
        while (
            found := re.search(r"BiDi listening on (\S+)", line := (await process.stderr.readline()).decode())
        ) is None:
            assert line, "Firefox has ended"
        async with (
            ClientSession() as http,
            http.ws_connect(f"{found[1]}/session", max_msg_size=0) as socket,
            asyncio.TaskGroup() as tasks,
        ):
            driven = DrivenFirefox(socket)
            reading = [tasks.create_task(driven.read()), tasks.create_task(process.stderr.read())]
            await driven.send("session.new", capabilities={})
            yield driven
            for task in reading:
                task.cancel()
    finally:
        process.terminate()
        await process.communicate()
