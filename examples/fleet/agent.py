"""An agent that sends reports to the server, and responds to the server's requests.

    python agent.py [--url URL] [--every SECONDS] NAME

The agent registers when it connects, and again in `on_reconnect`. While the server is away, a report waits. If the
agent gets no response to a report, it sends the report again with the same number, so the server stores it only once.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib

from wsrpc import Client, ConnectionLost, Reconnect, RequestTimeout


async def main(url: str, name: str, every: float) -> None:
    client = Client(url, reconnect=Reconnect(initial=0.1, max=2))
    number = 0

    async def register() -> int:
        return await client.request("register", name, returns=int)

    client.on("status", lambda: f"well, {number} reports sent")
    client.on_reconnect(register)  # runs before a waiting request is sent
    async with client:
        number = await register()
        while True:
            with contextlib.suppress(ConnectionLost, RequestTimeout):
                await client.request("report", number + 1, timeout=10)
                number += 1
            await asyncio.sleep(every)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("name")
    parser.add_argument("--url", default="ws://127.0.0.1:8080")
    parser.add_argument("--every", type=float, default=1.0, help="seconds between two reports")
    options = parser.parse_args()
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main(options.url, options.name, options.every))
