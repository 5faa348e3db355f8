"""A client for server.py, which sends requests and receives events.

python client.py [URL]
"""

from __future__ import annotations

import asyncio
import sys
from datetime import datetime

from wsrpc import Client, CloseInfo, Peer, RemoteError


async def main(url: str = "ws://127.0.0.1:8080") -> None:
    client = Client(url)  # it is not connected yet: register handlers first

    @client.on("shouted")
    def shouted(text: str) -> None:
        print(f"somebody shouted {text!r}")

    @client.on("close")
    def closed(peer: Peer, info: CloseInfo) -> None:
        print("the connection dropped, dialing again" if info.will_reconnect else "bye")

    async with client:
        now = await client.request("time", returns=datetime)
        print(f"the server's clock says {now:%H:%M:%S} UTC")
        try:
            await client.request("time", 48, returns=datetime)
        except RemoteError as error:
            print(f"{error} [{error.code}]")
        others = await client.request("shout", "hello", returns=int, timeout=5)
        print(f"{others} others heard it")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:2]))
