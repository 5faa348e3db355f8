"""An agent that sends reports to the server, and responds to the server's requests.

    python agent.py [--url URL] [--every SECONDS] NAME

The agent registers when it connects, and again in `on_reconnect`. While the server is away, a report waits. If the
agent gets no response to a report, it sends the report again with the same number, so the server stores it only once.
Nobody watches it. So it dials again whatever answers in place of the server, such as a proxy that is being deployed.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib

from wsrpc import Client, ConnectionLost, Reconnect, RequestTimeout, is_transient


async def main(url: str, name: str, every: float) -> None:
    reconnect = Reconnect(initial=0.1, max=2, retry=lambda error: is_transient(error, connected=True))
    client = Client(url, reconnect=reconnect, connect_timeout=None)
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
