"""A lock that measures its temperature, and that nobody attends: see README.md.

    python device.py [--every SECONDS] [--token TOKEN] [--url URL]... NAME

All that must survive a power cut is in the folder NAME: the readings that the center does not have yet, their numbers,
and the results of commands, so that none runs twice.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import random
import sqlite3
import sys
from contextlib import suppress
from pathlib import Path

from wsrpc import Client, Reconnect, WsrpcError, is_transient
from wsrpc.store import SqliteStore

URLS = [f"ws://127.0.0.1:{port}/ws" for port in (8001, 8002, 8003)]


class Readings:
    """What the center has not stored yet, in a file: at most the last 10,000 readings."""

    def __init__(self, path: Path) -> None:
        self._file = sqlite3.connect(path, isolation_level=None)  # commits each statement
        self._file.execute("CREATE TABLE IF NOT EXISTS readings (number INTEGER PRIMARY KEY AUTOINCREMENT, celsius)")

    def add(self, celsius: float) -> None:
        number = self._file.execute("INSERT INTO readings (celsius) VALUES (?)", [celsius]).lastrowid or 0
        self.forget(number - 10_000)

    def kept(self) -> list[tuple[int, float]]:
        return self._file.execute("SELECT number, celsius FROM readings ORDER BY number").fetchall()

    def forget(self, number: int) -> None:
        """Delete the readings up to this number, which is not used again."""
        self._file.execute("DELETE FROM readings WHERE number <= ?", [number])


async def report(client: Client, readings: Readings, every: float) -> None:
    """Measure, connected or not, and upload what has been measured."""
    failed = ""
    while True:
        readings.add(round(random.gauss(21, 1), 1))
        try:
            stored = await client.request("report", send=readings.kept(), returns=int, timeout=10, offline="fail")
            readings.forget(stored)
            print(f"the center has the readings up to {stored}")
            failed = ""
        except WsrpcError as error:  # the next upload has the same readings
            if type(error).__name__ != failed:
                failed = type(error).__name__
                print(f"readings are kept: {failed}")
        await asyncio.sleep(every)


async def main(name: str, token: str, urls: list[str], every: float) -> None:
    folder = Path(name)
    readings = Readings(folder / "readings.db")
    client = Client(
        urls,
        auth=token,
        program="lock/1.0",
        reconnect=Reconnect(max=5, retry=lambda error: is_transient(error, connected=True)),
        connect_timeout=None,  # also the first connection is tried without a limit
        store=SqliteStore(folder / "calls.db", bytes=8 * 1024 * 1024),
        key_owner=name,
    )

    # The same command does not unlock again for a day, and none overtakes another.
    @client.on("unlock", keep=86400, ordered=True)
    async def unlock(door: int) -> str:
        print(f"door {door} is open")
        return f"{name} has opened door {door}"

    client.on("status", lambda: f"{len(readings.kept())} readings are kept")
    async with asyncio.TaskGroup() as group:
        reporting = group.create_task(report(client, readings, every))
        try:
            async with client:
                print("connected")
                try:
                    while True:  # until the client gives up
                        await client.wait_connected()
                        await client.peer.wait_closed()
                finally:  # with Ctrl-C, a command that runs may finish, and others wait for the next start
                    await client.close(drain_timeout=10)
        except WsrpcError:
            reporting.cancel()
            sys.exit(1)  # the log has the reason; systemd starts the program again after five minutes


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("name")
    parser.add_argument("--token", help="default: token-of-NAME")
    parser.add_argument("--url", action="append", help="default: those of three workers on this machine")
    parser.add_argument("--every", type=float, default=1.0, help="seconds between two readings")
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    Path(options.name).mkdir(exist_ok=True)
    token = options.token or f"token-of-{options.name}"
    with suppress(KeyboardInterrupt):
        asyncio.run(main(options.name, token, options.url or URLS, options.every))
