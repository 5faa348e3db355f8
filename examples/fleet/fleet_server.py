"""One worker of the center to which all devices connect: ``python fleet_server.py [PORT]``, see README.md.

The readings of the devices are stored in the file center.db, where an application would use its database.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import sys
from collections.abc import AsyncIterator
from contextlib import closing

from fleet_settings import NAME, OPERATORS, STOLEN, TOKENS, engine, store

from wsrpc import Handshake, Peer, Quotas, Server
from wsrpc.cluster import Cluster


def may_operate(peer: Peer, action: str) -> bool:
    return peer.principal in OPERATORS


server = Server(
    program="center/1.0",
    cluster=Cluster(engine(), name=NAME),
    store=store(),  # where commands wait for devices, and where the connections of each principal are counted
    quotas=Quotas(connections=2, requests=20),
    max_connection_age=3600,  # so that new workers get their share, also if nobody calls `wsrpc rebalance`
    admin=may_operate,
)


@server.on_handshake
def log_in(handshake: Handshake) -> None:
    who = TOKENS.get(handshake.bearer_token or "")
    if who is None:
        handshake.reject(401, "unknown token", {"WWW-Authenticate": "Bearer"})
    handshake.principal = who  # before a refusal, which then names it in the log
    if who in STOLEN:
        handshake.reject(403, "reported stolen")
    if who not in OPERATORS:
        handshake.address = who


@server.on("report", rate=5)
async def report(peer: Peer, readings: AsyncIterator[tuple[int, float]]) -> int:
    """Store what a device has measured. Return the last number, up to which the device may forget its readings.

    A device that gets no answer sends the same readings again. They have numbers, so each is stored once.
    """
    rows: list[tuple[object, int, float]] = []
    async for number, celsius in readings:
        rows.append((peer.principal, number, celsius))
        if len(rows) == 1000:
            break  # the device sends the others after the answer
    await asyncio.to_thread(insert, rows)
    return rows[-1][1] if rows else 0


def insert(rows: list[tuple[object, int, float]]) -> None:
    with closing(sqlite3.connect("center.db")) as database, database:
        database.execute("CREATE TABLE IF NOT EXISTS readings (device, number, celsius, PRIMARY KEY (device, number))")
        database.executemany("INSERT OR IGNORE INTO readings VALUES (?, ?, ?)", rows)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    server.run("127.0.0.1", int(sys.argv[1]) if len(sys.argv) > 1 else 8001, path="/ws")
