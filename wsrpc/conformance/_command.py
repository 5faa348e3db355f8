"""The command: makes a connection for each row, plays the row on it, and reports which rows hold."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from functools import partial

from websockets.asyncio.client import connect
from websockets.asyncio.connection import Connection
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import InvalidHandshake, InvalidURI

from ._playing import Failure, play
from ._rows import PAGES, Row, load

WAITING = 10.0
"""Seconds for a client under test to dial (again)."""
AT_ONCE = 8
"""Connections to a server under test."""
RESTART_CODE = 1012
"""The close code after each row of a client: "service restart", after which clients dial again."""

FIRST = Row("requests", "echo", ())
"""Is played before all others. Without the handlers, every row would fail, many of them slowly."""

Outcome = tuple[Row, Failure | None]
Connect = Callable[[], AbstractAsyncContextManager[Connection]]
"""Function that makes a connection to the peer under test, which ends with its block."""


@asynccontextmanager
async def listening(host: str, port: int) -> AsyncGenerator[Connect]:
    """Listen for a client under test, print the URL, and yield the function that waits until the client dials."""
    arrived: asyncio.Queue[ServerConnection] = asyncio.Queue()
    time = asyncio.get_running_loop().time
    idle_since = time()

    async def opened(link: ServerConnection) -> None:
        arrived.put_nowait(link)
        await link.wait_closed()

    @asynccontextmanager
    async def accepted() -> AsyncGenerator[Connection]:
        nonlocal idle_since
        try:
            async with asyncio.timeout_at(idle_since + WAITING):
                link = await arrived.get()
        except TimeoutError:
            raise TimeoutError(f"no client has dialed in {WAITING:g} s") from None
        yield link
        await link.close(RESTART_CODE)
        idle_since = time()

    async with serve(opened, host, port, compression=None, close_timeout=1) as server:
        name = f"[{host}]" if ":" in host else host
        sys.stderr.write(f"waiting for a client at ws://{name}:{next(iter(server.sockets)).getsockname()[1]}\n")
        yield accepted


def dialing(url: str) -> Connect:
    """Return the function that dials a server under test."""
    return partial(connect, url, compression=None, proxy=None, open_timeout=WAITING, close_timeout=1)


async def play_all(rows: Sequence[Row], connected: Connect, patience: float, *, at_once: int) -> list[Outcome]:
    """Play each row on a connection of its own, so many at a time."""
    free = asyncio.Semaphore(at_once)

    async def one(row: Row) -> Outcome:
        async with free:
            try:
                async with connected() as link:
                    return row, await play(row, link, patience)
            except (OSError, InvalidHandshake) as exc:  # perhaps another row has ended the peer
                return row, Failure("another row", "a connection", str(exc))

    return await asyncio.gather(*map(one, rows))


def report(outcomes: Sequence[Outcome], left_out: Sequence[str], verbose: bool) -> str:
    """A line for each row that has failed, and one for each part."""
    lines: list[str] = []
    for row, failure in outcomes:
        if failure is not None:
            lines.append(f"failed  {row.name} ({row.page}): {failure}")
        elif verbose:
            lines.append(f"ok      {row.name} ({row.page})")
    for part in PAGES:
        held = [failure is None for row, failure in outcomes if row.part == part]
        lines.append(f"{part:13}" + ("not played" if part in left_out else f"{sum(held)} of {len(held)}"))
    return "\n".join(lines)


def as_json(outcomes: Sequence[Outcome]) -> str:
    """The same as one JSON array."""
    rows = [
        {
            "name": row.name,
            "part": row.part,
            "page": row.page,
            "held": failure is None,
            **(vars(failure) if failure else {}),
        }
        for row, failure in outcomes
    ]
    return json.dumps(rows, indent=1, ensure_ascii=False)


async def run(options: argparse.Namespace) -> list[Outcome]:
    """Play the rows. Raise OSError, InvalidHandshake or InvalidURI if there is no connection, or no handlers."""
    rows = [row for row in load() if row.part not in options.without]
    async with AsyncExitStack() as stack:
        if options.url is not None:
            connected, at_once = dialing(options.url), AT_ONCE
        else:
            host, _, port = options.listen.rpartition(":")
            connected, at_once = await stack.enter_async_context(listening(host.strip("[]"), int(port))), 1
        async with connected() as link:
            if (failure := await play(FIRST, link, options.timeout)) is not None:
                raise ConnectionError(f"the handlers of the kit are not registered: {failure}")
        return await play_all(rows, connected, options.timeout, at_once=at_once)


def main(words: Sequence[str]) -> int:
    """Return 0 if all rows hold, 1 if not, and 2 if they could not be played."""
    made = argparse.ArgumentParser(
        "python -m wsrpc.conformance", description="Tests a server or a client of the protocol of ws-wrapper."
    )
    made.add_argument("url", nargs="?", help="the server: ws://host:port/path")
    made.add_argument("--listen", metavar="HOST:PORT", help="wait for a client instead, and print the URL")
    parts = f"parts that are not played, of {', '.join(PAGES)}"
    made.add_argument("--without", nargs="+", default=[], choices=list(PAGES), metavar="PART", help=parts)
    made.add_argument("--timeout", type=float, default=2.0, metavar="S", help="seconds for each reaction (2)")
    made.add_argument("--json", action="store_true", help="print all rows as JSON")
    made.add_argument("-v", "--verbose", action="store_true", help="also list the rows that hold")
    options = made.parse_args(words)
    if (options.url is None) is (options.listen is None):
        made.error("a URL or --listen is needed, and not both")
    try:
        outcomes = asyncio.run(run(options))
    except (OSError, ValueError, InvalidHandshake, InvalidURI) as exc:
        sys.stderr.write(f"no row was played: {exc}\n")
        return 2
    text = as_json(outcomes) if options.json else report(outcomes, options.without, options.verbose)
    sys.stdout.write(text + "\n")
    return int(any(failure is not None for _, failure in outcomes))
