"""A client, and a request of the page that the same application serves.

    python client.py NAME [HOST:PORT]
    curl -d "lunch is ready" http://127.0.0.1:8080/announce

The client prints the news, such as the text that curl posts here, until Ctrl-C.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys

import aiohttp

from wsrpc import Client


def print_news(text: str) -> None:
    print(text, flush=True)


async def main(name: str, address: str = "127.0.0.1:8080") -> None:
    client = Client(f"ws://{address}/ws?name={name}")
    client.on("news", print_news)
    async with client, aiohttp.request("GET", f"http://{address}/") as page:
        print((await page.text()).strip(), flush=True)
        print("1 + 2 is", await client.request("add", 1, 2), flush=True)
        await asyncio.Event().wait()  # until Ctrl-C


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main(*sys.argv[1:3]))
