"""Measures what two clients receive while their connection drops, and draws docs/images/drop.svg.

Run it in the root folder: ``python -m scripts.drop_picture``. It takes about seven seconds.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from benchmarks.report import plots
from wsrpc import Client, Reconnect, Server
from wsrpc.testing import FaultProxy

PICTURE = Path(__file__).parent.parent / "docs" / "images" / "drop.svg"
ITEMS = 60
PAUSE = 0.05
"""Seconds between two items."""
DROP_AFTER = 20
"""Items that each client has received when its connection drops."""
AWAY = 0.75
"""Seconds without a network."""
DELAY = 0.1
"""Seconds until a client dials again."""


@dataclass
class Received:
    """The items that a client has received, with the times in seconds since the first one, and when it was away."""

    items: list[tuple[float, int]]
    away: tuple[float, float]

    @property
    def lost(self) -> int:
        return ITEMS - len({number for _, number in self.items})


class _Recorder:
    def __init__(self) -> None:
        self.items: list[tuple[float, int]] = []
        self.dropped = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._since: float | None = None

    def now(self) -> float:
        if self._since is None:
            self._since = self._loop.time()
        return self._loop.time() - self._since

    def add(self, number: int) -> None:
        self.items.append((self.now(), number))
        if len(self.items) == DROP_AFTER:
            self.dropped.set()

    async def cut(self, proxy: FaultProxy) -> tuple[float, float]:
        await self.dropped.wait()
        start = self.now()
        async with proxy.cut():
            await asyncio.sleep(AWAY)
        return start, self.now()


async def with_wsrpc() -> Received:
    """Read a stream of wsrpc through a drop."""
    server = Server()

    @server.on("numbers")
    async def numbers() -> AsyncIterator[int]:
        for number in range(ITEMS):
            yield number
            await asyncio.sleep(PAUSE)

    recorder = _Recorder()
    async with server.listen("127.0.0.1", 0) as listener, FaultProxy(listener.url) as proxy:
        reconnect = Reconnect(initial=DELAY, max=DELAY)
        async with Client(proxy.url, reconnect=reconnect) as client, asyncio.TaskGroup() as group:
            cut = group.create_task(recorder.cut(proxy))
            async with client.stream("numbers", returns=int) as stream:
                async for number in stream:
                    recorder.add(number)
    return Received(recorder.items, cut.result())


async def with_websockets() -> Received:
    """Read the same numbers with a client that only dials again. The server sends each number to who is connected."""
    connected: set[ServerConnection] = set()
    anyone = asyncio.Event()

    async def accept(connection: ServerConnection) -> None:
        connected.add(connection)
        anyone.set()
        try:
            await connection.wait_closed()
        finally:
            connected.discard(connection)

    async def publish() -> None:
        await anyone.wait()
        for number in range(ITEMS):
            for connection in list(connected):
                try:
                    await connection.send(str(number))
                except ConnectionClosed:
                    connected.discard(connection)
            await asyncio.sleep(PAUSE)

    recorder = _Recorder()

    async def read(url: str) -> None:
        while True:
            try:
                async with connect(url) as connection:
                    async for message in connection:
                        recorder.add(int(message))
            except (OSError, ConnectionClosed):
                pass
            await asyncio.sleep(DELAY)

    async with serve(accept, "127.0.0.1", 0) as listener:
        port = next(iter(listener.sockets)).getsockname()[1]
        async with FaultProxy(f"ws://127.0.0.1:{port}") as proxy:
            reading = asyncio.create_task(read(proxy.url))
            away, _ = await asyncio.gather(recorder.cut(proxy), publish())
            reading.cancel()
            await asyncio.wait({reading})
    return Received(recorder.items, away)


async def measure() -> tuple[Received, Received]:
    """Return what the client of wsrpc has received, and then what the other one has received."""
    return await with_wsrpc(), await with_websockets()


def picture(ours: Received, theirs: Received) -> str:
    """Return the picture as SVG."""

    def series(name: str, colour: int, received: Received, *more: str) -> plots.Progress:
        lost = f"{received.lost} of {ITEMS} items lost" if received.lost else f"all {ITEMS} items, each once, in order"
        return plots.Progress((name, lost, *more), colour, [time for time, _ in received.items])

    return plots.progress(
        "One stream, and a network that is gone for a moment",
        "items received, in time",
        (*ours.away, "no network"),
        (series("wsrpc", 1, ours), series("a WebSocket that dials again", 3, theirs)),
    )


async def main() -> None:
    """Measure, and draw the picture."""
    PICTURE.write_text(picture(*await measure()), "utf-8")


if __name__ == "__main__":
    asyncio.run(main())
