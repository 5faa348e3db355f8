"""Read five ticks of the feed slowly, and show how many were skipped.

python client.py [URL]
"""

from __future__ import annotations

import asyncio
import sys

from wsrpc import Client, Limits


async def main(url: str = "ws://127.0.0.1:8080") -> None:
    # By default 512 items may be in flight. Few are better here, because ticks that wait get old.
    async with Client(url, limits=Limits(stream_window=1)) as client:
        last = read = 0
        async with client.stream("watch", returns=int) as ticks:
            async for tick in ticks:
                skipped = tick - last - 1 if last else 0
                print(f"tick {tick}, {skipped} were skipped")
                last = tick
                read += 1
                if read == 5:
                    break
                await asyncio.sleep(0.02)  # slow: twenty ticks pass


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:2]))
