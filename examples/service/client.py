"""A customer: `python client.py apple apple pear`. With `--look`, the customer buys nothing. `--url`: the server."""

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
