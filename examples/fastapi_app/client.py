"""A customer who buys apples, and then sees what others buy, until Ctrl-C or until the server bans the customer.

    python client.py [--url URL] secret-1 2
    curl -X PUT "http://127.0.0.1:8080/stock/apples?count=5"

The first argument is the token. The curl command adds apples to the stock.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys

from wsrpc import Client, ConnectionLost, HandshakeRejected, RemoteError


def bought(who: str, count: int, what: str) -> None:
    print(f"{who} bought {count} {what}", flush=True)


def restocked(what: str, count: int) -> None:
    print(f"there are {count} {what} now", flush=True)


async def main(url: str, token: str, count: int) -> None:
    client = Client(url, auth=token)
    client.on("bought", bought)
    client.on("restocked", restocked)
    try:
        async with client:
            try:
                left = await client.request("buy", "apples", count, returns=int)
                print(f"{left} apples left", flush=True)
            except RemoteError as error:
                print(f"{error} [{error.code}]", flush=True)
            while True:  # until Ctrl-C
                await client.wait_connected()  # raises if the client gives up, such as after the close code 1008
                await client.peer.wait_closed()
    except HandshakeRejected as error:
        sys.exit(f"refused: {error.body} ({error.status})")
    except ConnectionLost as error:
        sys.exit(f"the client has given up: {error.code} {error.reason}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("token")
    parser.add_argument("count", type=int)
    parser.add_argument("--url", default="ws://127.0.0.1:8080/ws")
    options = parser.parse_args()
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main(options.url, options.token, options.count))
