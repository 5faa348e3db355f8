"""Drives ``js/page_client.mjs``, a page's `Client`, and a server whose handlers go on when the test says so."""

from __future__ import annotations

import asyncio
import itertools
import json
from asyncio.subprocess import PIPE
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Self

from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from interop.node import JS, find_node
from wsrpc import AnonymousChannel, Peer, RpcError, Server

LINE_LIMIT = 2**26


class Notes:
    """What has happened, in order."""

    def __init__(self) -> None:
        self.all: list[str] = []
        self._changed = asyncio.Event()

    def add(self, note: str) -> None:
        self.all.append(note)
        self._changed.set()

    async def until(self, note: str, times: int = 1) -> None:
        """Wait until it has been noted so many times."""
        async with asyncio.timeout(60):
            while self.all.count(note) < times:
                self._changed.clear()
                await self._changed.wait()

    def handled(self) -> str:
        """What the handlers have done: "-" if none has begun."""
        return " ".join(note for note in self.all if note in ("done", "stop")) or "-+"["began" in self.all]


class Page:
    """The running program. ``notes`` are the page's, and ``faults`` what nobody has caught."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.notes = Notes()
        self.faults: list[str] = []
        self._process = process
        self._ids = itertools.count(1)
        self._answers: dict[int | str, asyncio.Future[Any]] = {}
        self._reading = asyncio.create_task(self._read())

    @classmethod
    @asynccontextmanager
    async def launched(cls, *words: str) -> AsyncGenerator[Self]:
        """Run a program of ``js/`` for the length of the block."""
        command = [find_node(), "--expose-gc", str(JS / words[0]), *words[1:]]
        process = await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE, limit=LINE_LIMIT)
        page = cls(process)
        try:
            yield page
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()
            await page._reading

    @classmethod
    @asynccontextmanager
    async def start(cls, url: str = "", **options: Any) -> AsyncGenerator[Self]:
        """Run a page for the length of the block. With a URL, it has a client there.

        When the client is closed, nothing may keep the program from ending, and nothing may have gone wrong unseen.
        """
        async with cls.launched("page_client.mjs") as page:
            if url:
                await page.do("open", at=url, **options)
            yield page
            await page.do("close")
            assert page._process.stdin is not None
            page._process.stdin.close()
            await page.ended()

    async def ended(self) -> None:
        async with asyncio.timeout(60):
            assert await self._process.wait() == 0
        assert self.faults == []

    async def do(self, command: str, **fields: Any) -> Any:
        """Return the answer to a command."""
        number = next(self._ids)
        assert self._process.stdin is not None
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        self._process.stdin.write(json.dumps({"command": command, "id": number, **fields}).encode() + b"\n")
        told = await answer
        assert "error" not in told, told
        return told.get("ok")

    async def call(self, kind: str, **fields: Any) -> asyncio.Future[Any]:
        """Begin a call, and return the future of its outcome."""
        ref = f"call {next(self._ids)}"
        outcome = self._answers[ref] = asyncio.get_running_loop().create_future()
        await self.do("call", kind=kind, ref=ref, **fields)
        outcome.ref = ref  # type: ignore[attr-defined]
        return outcome

    async def abort(self, call: asyncio.Future[Any], reason: str | None = None) -> None:
        await self.do("abort", ref=call.ref, reason=reason)  # type: ignore[attr-defined]

    async def run(self, code: str) -> Any:
        """Run a function's body in the page, with ``client``, ``note(text)``, ``shown(error)`` and the two classes."""
        return await self.do("run", code=code)

    async def _read(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            self._take(json.loads(line))
        for answer in self._answers.values():
            if not answer.done():
                answer.set_result({"error": {"message": "the page has ended"}})
        self._answers.clear()

    def _take(self, told: Any) -> None:
        if "fault" in told:
            self.faults.append(told["fault"])
        elif "note" in told:
            self.notes.add(told["note"])
        elif not (answer := self._answers.pop(told.get("id", told.get("ended")))).done():
            answer.set_result(told)


class Stage:
    """The handlers of a server, which begin, wait, and go on as `release` says. ``notes`` are the server's."""

    def __init__(self, server: Server) -> None:
        self.notes = Notes()
        self.server = server
        self._gates: list[asyncio.Future[str]] = []
        for place in (server, server.of("named")):
            for handler in (self.request, self.stream, self.upload, self.conversation, self.hang):
                place.on(handler.__name__, handler)
            place.on("event", lambda: self.notes.add("began"))
            place.on("sync", lambda: "synced")
        server.on("typed", self.typed)

    @property
    def peer(self) -> Peer:
        [peer] = self.server.peers
        return peer

    def release(self, how: str = "answer") -> None:
        for gate in self._gates:
            if not gate.done():
                gate.set_result(how)

    async def _act(self) -> None:
        self.notes.add("began")
        gate: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._gates.append(gate)
        how = await gate
        if how == "raise":
            raise RpcError("no", "limit", {"most": 1})
        if how == "fail":
            raise TypeError("a mistake")
        if how == "give up":
            raise asyncio.CancelledError

    @asynccontextmanager
    async def _told(self) -> AsyncGenerator[None]:
        """Note how a handler has ended."""
        try:
            yield
        except (asyncio.CancelledError, GeneratorExit):
            self.notes.add("stop")
            raise
        except BaseException:
            self.notes.add("done")
            raise
        self.notes.add("done")

    async def request(self) -> str:
        async with self._told():
            await self._act()
            return "result"

    async def stream(self) -> AsyncIterator[int]:
        async with self._told():
            yield 1
            await self._act()
            yield 2

    async def upload(self, items: AsyncIterator[int]) -> int:
        async with self._told():
            total = await anext(items)
            await self._act()
            return total + sum([item async for item in items])

    async def conversation(self, channel: AnonymousChannel) -> None:
        async with self._told():
            await channel.emit("line", 1)
            await self._act()
            await channel.emit("line", 2)

    async def hang(self) -> None:
        async with self._told():
            await self._act()

    def typed(self, number: int) -> int:
        return number


def words(told: dict[str, Any]) -> str:
    """How a call of the page has ended, in short."""
    if "error" not in told:
        return "ok"
    error = told["error"]
    assert "data" not in error or error["data"] == {"most": 1} or error["code"] != "limit"
    parts = error["name"].removesuffix("Error"), error.get("code"), error.get("outcome")
    return " ".join(str(part).removeprefix("wsrpc.") for part in parts if part is not None)


def welcome(*features: str, **limits: Any) -> str:
    """The message in which a server of a `scripted` test announces features and limits."""
    return json.dumps({"ws-wrapper": False, "wsrpc": {"t": "welcome", "features": features, "limits": limits}})


Script = Callable[[Any, Any], Awaitable[None]]


async def ignore(line: Any, message: Any) -> None:
    """What a plain server does with control messages."""


@asynccontextmanager
async def scripted(receive: Script, control: Script = ignore) -> AsyncGenerator[str]:
    """A server that is not wsrpc's, for the length of the block.

    Args:
        receive: gets the connection and each message.
        control: gets those of wsrpc's extensions and what is binary, undecoded.
    """

    async def accepted(line: Any) -> None:
        try:
            async for message in line:
                if isinstance(message, bytes) or message.startswith('{"ws-wrapper":false'):
                    await control(line, message)
                else:
                    await receive(line, json.loads(message))
        except ConnectionClosed:
            pass

    async with serve(accepted, "127.0.0.1", 0, subprotocols=[Subprotocol("wsrpc")], compression=None) as server:
        yield f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
