"""Print the headlines of server.py, and miss none while the server restarts.

    python client.py [URL]

A restarted server does not know the client's subscription. The client therefore subscribes again in `on_reconnect`, and
says how many headlines it has.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys

from wsrpc import Client, Reconnect, ReconnectInfo


async def main(url: str = "ws://127.0.0.1:8080") -> None:
    client = Client(url, reconnect=Reconnect(max=2))
    read = 0

    @client.on("headline")
    def headline(text: str) -> None:
        nonlocal read
        read += 1
        print(text, flush=True)

    @client.on_reconnect
    async def subscribe_again(info: ReconnectInfo) -> None:
        print(f"(reconnected, with {read} headlines)", flush=True)
        if not info.resumed:  # a resumed session still has its subscription
            await client.request("subscribe", read)

    async with client:
        await client.request("subscribe", 0)
        await asyncio.Event().wait()  # until Ctrl-C


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main(*sys.argv[1:2]))
