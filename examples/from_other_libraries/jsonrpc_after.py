"""jsonrpc_before.py with wsrpc: `python jsonrpc_after.py [PORT]`."""

from __future__ import annotations

import logging
import sys

from wsrpc import Peer, RpcError, Server

server = Server()
stock = {"apples": 9}


@server.on("add")
def add(a: int, b: int) -> int:
    return a + b


@server.on("buy")
async def buy(peer: Peer, what: str, count: int) -> int:
    if stock[what] < count:
        raise RpcError(f"only {stock[what]} left", code=1001, data={"left": stock[what]})
    if count > 5 and not await peer.request("confirm", f"{count} {what}?", returns=bool, timeout=10):
        raise RpcError("not confirmed", code=1002)
    stock[what] -= count
    await server.emit("sold", what, count)
    return stock[what]


if __name__ == "__main__":
    logging.basicConfig(level="INFO")  # shows the address, and each connection
    server.run(port=int(sys.argv[1]) if len(sys.argv) > 1 else 8080)
