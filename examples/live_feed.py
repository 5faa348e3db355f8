"""Send a slow consumer the newest value of a live feed: `python examples/live_feed.py`.

There is a tick every millisecond, and the consumer needs longer for each. The server does not keep the ticks that the
consumer has not read: it keeps only the newest one, and sends that when the consumer has room.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from wsrpc import Client, Limits, Server


class Feed:
    """Keeps the newest tick, and wakes the tasks that wait for it."""

    def __init__(self) -> None:
        self.number = 0
        self._changed = asyncio.Condition()

    async def run(self) -> None:
        while True:
            await asyncio.sleep(0.001)
            async with self._changed:
                self.number += 1
                self._changed.notify_all()

    async def newer_than(self, number: int) -> int:
        async with self._changed:
            await self._changed.wait_for(lambda: self.number > number)
            return self.number


server = Server()
feed = Feed()
watching = 0


@server.on("watch")
async def watch() -> AsyncIterator[int]:
    global watching
    watching += 1
    newest = 0
    try:
        while True:
            newest = await feed.newer_than(newest)
            yield newest  # continues when the consumer has room; ticks that came meanwhile are skipped
    finally:
        watching -= 1  # however it ends: the consumer leaves, the connection drops, the server closes


async def main() -> None:
    ticking = asyncio.create_task(feed.run())
    async with server.listen("127.0.0.1", 0) as listener:
        # By default 512 items may be in flight. Few are better here, because ticks that wait get old.
        async with Client(listener.url, limits=Limits(stream_window=1)) as client:
            last = read = 0
            async with client.stream("watch", returns=int) as ticks:
                async for tick in ticks:
                    print(f"tick {tick}, {tick - last - 1} were skipped; {watching} watching")
                    last = tick
                    read += 1
                    if read == 5:
                        break
                    await asyncio.sleep(0.02)  # slow: twenty ticks pass
    print(f"left after {read} of {last} ticks; {watching} watching")
    ticking.cancel()


if __name__ == "__main__":
    asyncio.run(main())
