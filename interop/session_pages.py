"""Sessions of a page's client in Node, and a scripted server for them, on real sockets.

async with Pages.start() as pages, Script.start() as script:
    page = await pages.session(script.url)
    await page.do(["send", "x"])
"""

from __future__ import annotations

import asyncio
import atexit
import json
import shutil
import subprocess
import tempfile
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from functools import cache
from typing import Any, Self

from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.typing import Subprotocol

from interop.node import JS, find_node

__all__ = ["Connection", "Page", "Pages", "Script", "session_module", "until"]

BROWSER = JS.parent.parent / "browser"

SLOWEST = 20.0
"""Seconds after which what is waited for does not come."""


class Changes:
    """Wakes those who wait for something when anything has happened."""

    def __init__(self) -> None:
        self._waiting: set[asyncio.Event] = set()

    def happened(self) -> None:
        for event in self._waiting:
            event.set()

    async def until(self, holds: Callable[[], bool], shown: Callable[[], object] = lambda: "") -> None:
        event = asyncio.Event()
        self._waiting.add(event)
        try:
            async with asyncio.timeout(SLOWEST):
                while not holds():
                    event.clear()
                    await event.wait()
        except TimeoutError:
            raise AssertionError(f"it does not come: {shown()}") from None
        finally:
            self._waiting.discard(event)


CHANGES = Changes()
until = CHANGES.until


@cache
def session_module() -> str:
    """Return the path of a module with the class `Session`, which the modules for pages do not export."""
    find_node()
    folder = tempfile.mkdtemp(prefix="wsrpc-session-")
    atexit.register(shutil.rmtree, folder)
    module = f"{folder}/session.mjs"
    command = ["node_modules/.bin/esbuild", "src/session.ts", "--bundle", "--format=esm", f"--outfile={module}"]
    subprocess.run(command, cwd=BROWSER, check=True, capture_output=True)
    return module


class Page:
    """One session."""

    def __init__(self, pages: Pages, name: str) -> None:
        self._pages = pages
        self._name = name
        self.events: list[str] = []
        """``message x``, ``close 1006 reason`` and so on."""
        self.times: list[float] = []

    async def do(self, *steps: list[Any]) -> int:
        """Take steps within one turn of Node, and return the state of the session then, as that of a WebSocket."""
        answer = await self._pages.call(self._name, *steps)
        assert "error" not in answer, answer["error"]
        state: int = answer["state"]
        return state

    async def fails(self, *steps: list[Any]) -> str:
        """Return the error of steps that throw."""
        error: str = (await self._pages.call(self._name, *steps))["error"]
        return error

    async def until(self, event: str, count: int = 1) -> None:
        """Wait for an event, which may be the beginning of its text."""
        await until(lambda: sum(seen.startswith(event) for seen in self.events) >= count, lambda: self.events)


class Pages:
    """A Node process with sessions."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._pages: dict[str, Page] = {}
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._count = 0
        self.uncaught: list[str] = []

    @classmethod
    @asynccontextmanager
    async def start(cls, *options: str) -> AsyncGenerator[Self]:
        """Start Node. Leaving checks that it ends by itself, and that no exception was left."""
        process = await asyncio.create_subprocess_exec(
            find_node(),
            *(option for option in options if option != "--page"),
            str(JS / "page_session.mjs"),
            session_module(),
            *(option for option in options if option == "--page"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=64 * 1024 * 1024,
        )
        pages = cls(process)
        reading = asyncio.create_task(pages._read())
        try:
            yield pages
            await pages.end()
        finally:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
            await reading
        assert pages.uncaught == []

    async def end(self) -> None:
        """Wait until the process has ended by itself, because no connection or timer is left."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        async with asyncio.timeout(SLOWEST):
            assert await self._process.wait() == 0

    async def session(self, url: str, /, **options: Any) -> Page:
        page = self.unopened()
        await page.do(["open", url, options])
        return page

    def unopened(self) -> Page:
        name = str(len(self._pages))
        page = self._pages[name] = Page(self, name)
        return page

    async def call(self, name: str, *steps: list[Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._count += 1
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._answers[self._count] = answer
        line = json.dumps({"id": self._count, "session": name, "do": steps}) + "\n"
        self._process.stdin.write(line.encode())
        async with asyncio.timeout(SLOWEST):
            return await answer

    async def heap(self) -> int:
        """Return the bytes that JavaScript uses, after garbage was collected. Needs --expose-gc."""
        heap: int = (await self.call("", ["gc"], ["gc"]))["heap"]
        return heap

    async def _read(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            message = json.loads(line)
            if "id" in message:
                self._answers.pop(message["id"]).set_result(message)
            elif "uncaught" in message:
                self.uncaught.append(message["uncaught"])
            else:
                page = self._pages[message["session"]]
                page.events.append(f"{message['event']} {message.get('detail', '')}".rstrip())
                page.times.append(asyncio.get_running_loop().time())
            CHANGES.happened()


class Connection:
    """What a page has sent on one connection: ``hello`` and other control messages by their names."""

    def __init__(self, socket: ServerConnection) -> None:
        self.socket = socket
        self.got: list[str] = []
        self.controls: list[dict[str, Any]] = []
        self.at = asyncio.get_running_loop().time()

    async def read(self) -> None:
        with suppress(ConnectionClosed):
            async for message in self.socket:
                self._take(message)
                CHANGES.happened()
        received = self.socket.protocol.close_rcvd
        if received is not None:
            self.got.append(f"({received.code})")
            CHANGES.happened()

    def _take(self, message: str | bytes) -> None:
        if isinstance(message, str) and message.startswith('{"ws-wrapper":false,"wsrpc"'):
            control = json.loads(message)["wsrpc"]
            self.controls.append(control)
            self.got.append(control["t"])
        else:
            self.got.append(message if isinstance(message, str) else repr(message))

    async def until(self, message: str, count: int = 1) -> None:
        await until(lambda: self.got.count(message) >= count, lambda: self.got)

    async def say(self, t: str, **fields: Any) -> None:
        await self.socket.send(control(t, **fields))

    def drop(self) -> None:
        self.socket.transport.abort()


def control(t: str, **fields: Any) -> str:
    """Return a control message, as it is sent."""
    return json.dumps({"ws-wrapper": False, "wsrpc": {"t": t, **fields}})


class Script:
    """A server that says nothing by itself."""

    def __init__(self) -> None:
        self.connections: list[Connection] = []
        self.offers: list[str] = []
        """The subprotocols that were offered, for each request."""
        self.open = asyncio.Event()
        """Not set while requests get no answer."""
        self.open.set()
        self.status: int | None = None
        """With which status requests are refused."""
        self.url = ""

    @classmethod
    @asynccontextmanager
    async def start(cls) -> AsyncGenerator[Self]:
        script = cls()
        async with serve(
            script._serve,
            "127.0.0.1",
            0,
            process_request=script._process_request,
            select_subprotocol=lambda _, offered: _choose(offered),
            ping_interval=None,
            max_size=None,
            open_timeout=None,
            close_timeout=1,
        ) as server:
            port = next(iter(server.sockets)).getsockname()[1]
            script.url = f"ws://127.0.0.1:{port}/ws"
            try:
                yield script
            finally:
                script.open.set()
                for connection in script.connections:
                    connection.drop()

    async def _process_request(self, connection: ServerConnection, request: Request) -> Response | None:
        self.offers.append(", ".join(request.headers.get_all("Sec-WebSocket-Protocol")))
        CHANGES.happened()
        await self.open.wait()
        return None if self.status is None else connection.respond(self.status, "refused")

    async def _serve(self, socket: ServerConnection) -> None:
        connection = Connection(socket)
        self.connections.append(connection)
        CHANGES.happened()
        await connection.read()

    async def next(self, count: int) -> Connection:
        """Wait for the connection with that number, and for the first message on it."""
        await until(lambda: len(self.connections) >= count and self.connections[count - 1].got != [], self.wire)
        return self.connections[count - 1]

    def wire(self) -> str:
        """Return what has arrived, by connections."""
        return " | ".join(" ".join(connection.got) for connection in self.connections)


def _choose(offered: Any) -> Subprotocol | None:
    names = [name for name in offered if not name.startswith("bearer.")]
    return names[0] if names else None
