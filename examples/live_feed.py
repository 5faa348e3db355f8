"""A live feed and a slow consumer: `python examples/live_feed.py`.

Ticks happen every millisecond, whoever watches. A consumer that needs longer for each must not make the server keep
what it has not read. The producer here knows only the newest tick, and goes on to it when the consumer has room.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from wsrpc import Client, Limits, Server


class Feed:
    """Knows the newest tick, and wakes up whoever waits for it."""

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
            yield newest  # goes on when there is room for it: meanwhile ticks pass unseen, and nothing piles up
    finally:
        watching -= 1  # however it ends: the consumer left, the connection dropped, the server closes


async def main() -> None:
    ticking = asyncio.create_task(feed.run())
    async with server.listen("127.0.0.1", 0) as listener:
        # By default 64 items may be on their way. For news, few are better: what waits here grows old.
        async with Client(listener.url, limits=Limits(stream_window=1)) as client:
            last = read = 0
            async with client.stream("watch", returns=int) as ticks:
                async for tick in ticks:
                    print(f"tick {tick}, {tick - last - 1} were skipped; {watching} watching")
                    last = tick
                    read += 1
                    if read == 5:
                        break
                    await asyncio.sleep(0.02)  # slow: twenty ticks go by
    print(f"left after {read} of {last} ticks; {watching} watching")
    ticking.cancel()


if __name__ == "__main__":
    asyncio.run(main())
