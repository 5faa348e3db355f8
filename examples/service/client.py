"""A customer of the shop in server.py. With `--look`, the customer fills the basket, but buys nothing.

python client.py [--look] [--url URL] apple apple pear
"""

from __future__ import annotations

import argparse
import asyncio

from wsrpc import Client


async def main(url: str, things: list[str], buys: bool) -> None:
    client = Client(url)
    client.on("welcome", print)
    async with client:
        for thing in things:
            print(await client.request("put", thing, returns=int), "in the basket")
        if buys:
            print("bought", *await client.request("buy", returns=list[str]))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("things", nargs="+")
    parser.add_argument("--look", action="store_true")
    parser.add_argument("--url", default="ws://127.0.0.1:8080")
    options = parser.parse_args()
    asyncio.run(main(options.url, options.things, not options.look))
