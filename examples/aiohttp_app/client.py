"""A client that dials with aiohttp, and therefore uses the cookies, proxy and connector of an aiohttp session.

    python client.py NAME [HOST:PORT]
    curl -d "lunch is ready" http://127.0.0.1:8080/announce

The client prints the news, such as the text that curl posts here, until Ctrl-C.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from functools import partial

import aiohttp

from wsrpc import Client
from wsrpc_adapters.aiohttp import dial


def print_news(text: str) -> None:
    print(text, flush=True)


async def main(name: str, address: str = "127.0.0.1:8080") -> None:
    async with aiohttp.ClientSession() as session:
        client = Client(f"ws://{address}/ws?name={name}", dial=partial(dial, session=session))
        client.on("news", print_news)
        async with client, session.get(f"http://{address}/") as page:
            print((await page.text()).strip(), flush=True)
            print("1 + 2 is", await client.request("add", 1, 2), flush=True)
            await asyncio.Event().wait()  # until Ctrl-C


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main(*sys.argv[1:3]))
