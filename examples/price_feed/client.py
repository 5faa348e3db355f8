"""Follow the prices. With `--plan free`, the server refuses to let the client join.

    python client.py [--plan PLAN] [--url URL]

To see how the server treats a slow reader, suspend the client with Ctrl-Z. Wait until the server logs a warning, and
resume the client with `fg`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys

from wsrpc import Client, RemoteError

last: dict[str, int] = {}


def price(symbol: str, tick: int, book: list[float]) -> None:
    missed = tick - last.get(symbol, tick - 1) - 1
    if missed:
        print(f"{symbol}: {missed} ticks were missed, the latest is {tick}", flush=True)
    elif tick % 500 == 0:
        print(f"{symbol}: {book[0]} at tick {tick}", flush=True)
    last[symbol] = tick


async def main(url: str, plan: str) -> None:
    client = Client(f"{url}?plan={plan}")
    client.on("price", price)
    async with client:
        try:
            await client.of("rooms").request("join", "prices")
        except RemoteError as error:
            sys.exit(f"refused: {error}")
        await asyncio.Event().wait()  # until Ctrl-C


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--plan", default="pro")
    parser.add_argument("--url", default="ws://127.0.0.1:8080")
    options = parser.parse_args()
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main(options.url, options.plan))
