"""Connects as many clients as the second argument says, then says when each dialed after it lost its connection.

Prints ``ready``, and when all are back a line of JSON: seconds on the monotonic clock, and whether any has given up.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import sys
import time
from collections.abc import Callable

from wsrpc import Client, CloseInfo

PATIENCE = 60.0
"""Seconds until a client that is not back has given up."""


async def main(port: str, count: int) -> None:
    logging.disable()
    dials: list[float] = []
    lost: list[float] = []
    back = 0
    complete = asyncio.Event()

    def url() -> str:
        dials.append(time.monotonic())
        return f"ws://127.0.0.1:{port}/"

    def closed(peer: object, info: CloseInfo) -> None:
        if not info.user_closed:
            lost.append(time.monotonic())

    def returned(info: object) -> None:
        nonlocal back
        back += 1
        if back == count:
            complete.set()

    def on(client: Client, told: Callable[..., None]) -> Client:
        client.on("close", closed)
        client.on_reconnect(told)
        return client

    clients = [on(Client(url, proxy=None), returned) for _ in range(count)]
    for client in clients:
        await client.connect()
    dials.clear()
    print("ready", flush=True)
    with contextlib.suppress(TimeoutError):  # whoever reads the line below sees that some are missing
        await asyncio.wait_for(complete.wait(), PATIENCE)
    finished = time.monotonic()
    print(json.dumps({"dials": dials, "lost": lost, "finished": finished, "back": back}), flush=True)
    await asyncio.gather(*(client.close() for client in clients))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
