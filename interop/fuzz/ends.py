"""A stranger's connection to a peer under test: messages in bursts, and all that comes back of each."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import websockets

from interop.agents import Agent
from interop.mirror import Mirror
from wsrpc import Context, Server

MARK = 4_000_000_000_000_000
"""From here on ids are those of the stranger's own requests, by which it knows that all before has been answered."""
TURNS = 8
"""Turns of the event loop after which a Python peer has nothing left to do; nothing here takes more than a few."""

Frame = dict[str, Any]
Give = Callable[[str], Awaitable[Any]]


class End:
    """One connection. ``give(key)`` has whatever waits for that key in the peer go on.

    ``turns`` are those that a peer in this event loop gets, besides what it takes to answer.
    """

    def __init__(self, socket: websockets.ClientConnection, give: Give, turns: int) -> None:
        self._socket = socket
        self._marks = MARK
        self.give = give
        self._turns = turns

    async def exchange(self, texts: list[str]) -> list[Frame]:
        """Send the texts at once; return all that they cause, parsed, in order.

        Items of a stream are answered as JavaScript's iterator does it.

        Raises:
            ConnectionError: the peer has closed the connection; ``args`` are the code and the reason.
        """
        frames: list[Frame] = []
        try:
            for text in texts:
                await self._socket.send(text)
            await self._settle(frames)
            while await self._answer_items(frames):
                await self._settle(frames)
        except websockets.ConnectionClosed as exc:
            raise ConnectionError(exc.rcvd and exc.rcvd.code, exc.rcvd and exc.rcvd.reason) from None
        return frames

    async def _settle(self, frames: list[Frame]) -> None:
        # When the first mark is answered all has been received, and at the second one what was left to do is done.
        await self._mark(frames)
        for _ in range(self._turns):
            await asyncio.sleep(0)
        await self._mark(frames)

    async def _mark(self, frames: list[Frame]) -> None:
        self._marks += 1
        await self._socket.send(json.dumps({"i": self._marks, "a": ["echo", "mark"]}))
        while True:
            frame = json.loads(await self._socket.recv())
            if frame.get("i") == self._marks:
                break
            if frame.get("a") != ["called", None, "echo", ["mark"]]:
                frames.append(frame)

    async def _answer_items(self, frames: list[Frame]) -> bool:
        """Whether there were any. They are then as JavaScript sends them: without an id."""
        items = [frame for frame in frames if "i" in frame and "h" in frame and frame.get("a", [None])[0] == "next"]
        for item in items:
            await self._socket.send(json.dumps({"i": item.pop("i")}))
        return bool(items)


@asynccontextmanager
async def dialed(url: str, give: Give, *, turns: int = 0) -> AsyncGenerator[End]:
    async with websockets.connect(url, compression=None, proxy=None, max_size=None, open_timeout=None) as socket:
        yield End(socket, give, turns)


class JavaScript:
    """Peers of an agent."""

    def __init__(self, agent: Agent, url: str) -> None:
        self._agent = agent
        self._url = url

    @asynccontextmanager
    async def end(self) -> AsyncGenerator[End]:
        async def give(key: str) -> None:
            await self._agent.call("answer", keys=[key])

        async with dialed(self._url, give) as end:
            yield end


class Python:
    """Peers of a wsrpc server with the same handlers; ``anonymous``: also those that answer with a channel."""

    def __init__(self, url: str, mirror: Mirror) -> None:
        self._url = url
        self._mirror = mirror

    @classmethod
    @asynccontextmanager
    async def served(cls, *, anonymous: bool) -> AsyncGenerator[Python]:
        server = Server(expose_errors=True)

        def told(ctx: Context, label: Any, event: str, args: list[Any]) -> None:
            ctx.peer.emit_nowait("called", label, event, args)

        mirror = Mirror(told)
        mirror.serve(server, anonymous=anonymous)
        async with server.listen("127.0.0.1", 0, path="/ws") as listener:
            yield cls(listener.url, mirror)

    @asynccontextmanager
    async def end(self) -> AsyncGenerator[End]:
        async def give(key: str) -> None:
            self._mirror.give(key)

        async with dialed(self._url, give, turns=TURNS) as end:
            yield end
        self._mirror.end()  # what events have begun outlives the connection
