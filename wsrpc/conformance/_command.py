"""The command: finds connections for the rows, and reports what has held."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import InvalidHandshake, InvalidURI

from ._playing import Failure, play
from ._rows import PAGES, Row, load

WAITING = 10.0
"""Seconds for a client under test to dial (again)."""
AGAIN = 1012
"""The close code after each row of a client: "service restart", after which clients dial again."""

FIRST = Row("requests", "echo", ())
"""Is played before all others. Without the handlers, every row would fail, many of them slowly."""

Outcome = tuple[Row, Failure | None]


class NoHandlers(Exception):
    """The peer does not have the handlers of the kit."""


async def dial(url: str, row: Row, patience: float) -> Failure | None:
    """Play a row to a server. Raise OSError, InvalidHandshake or InvalidURI if it does not accept the connection."""
    async with connect(url, compression=None, proxy=None, open_timeout=WAITING, close_timeout=1) as link:
        return await play(row, link, patience)


async def dialed(url: str, rows: Sequence[Row], patience: float, at_once: int = 8) -> list[Outcome]:
    """Play the rows to a server, so many at a time."""
    places = asyncio.Semaphore(at_once)

    async def one(row: Row) -> Outcome:
        async with places:
            try:
                return row, await dial(url, row, patience)
            except (OSError, InvalidHandshake) as exc:  # perhaps another row has ended the server
                return row, Failure("another row", "a connection", str(exc))

    return await asyncio.gather(*map(one, rows))


@asynccontextmanager
async def listening(host: str, port: int) -> AsyncGenerator[tuple[str, asyncio.Queue[ServerConnection]]]:
    """Yield the URL, and the connections of the client. A connection stays open until it is closed."""
    arrived: asyncio.Queue[ServerConnection] = asyncio.Queue()

    async def opened(link: ServerConnection) -> None:
        arrived.put_nowait(link)
        await link.wait_closed()

    async with serve(opened, host, port, compression=None, close_timeout=1) as server:
        name = f"[{host}]" if ":" in host else host
        yield f"ws://{name}:{next(iter(server.sockets)).getsockname()[1]}", arrived


async def accept(arrived: asyncio.Queue[ServerConnection], row: Row, patience: float) -> Failure | None:
    """Play a row to a client. Raise TimeoutError if it does not dial."""
    async with asyncio.timeout(WAITING):
        link = await arrived.get()
    failure = await play(row, link, patience)
    await link.close(AGAIN)
    return failure


async def accepted(arrived: asyncio.Queue[ServerConnection], rows: Sequence[Row], patience: float) -> list[Outcome]:
    """Play the rows to a client, one after another, until it does not dial again."""
    outcomes: list[Outcome] = []
    for row in rows:
        try:
            outcomes.append((row, await accept(arrived, row, patience)))
        except TimeoutError:
            lost = Failure("the row before", "a connection", f"none in {WAITING:g} s")
            return outcomes + [(each, lost) for each in rows[len(outcomes) :]]
    return outcomes


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
            **({} if failure is None else vars(failure)),
        }
        for row, failure in outcomes
    ]
    return json.dumps(rows, indent=1, ensure_ascii=False)


def parser() -> argparse.ArgumentParser:
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
    return made


async def run(options: argparse.Namespace) -> list[Outcome]:
    """Raise `NoHandlers`, OSError, TimeoutError, InvalidHandshake or InvalidURI if the rows cannot be played."""
    rows = [row for row in load() if row.part not in options.without]
    if options.url is not None:
        check(await dial(options.url, FIRST, options.timeout))
        return await dialed(options.url, rows, options.timeout)
    host, _, port = options.listen.rpartition(":")
    async with listening(host.strip("[]"), int(port)) as (url, arrived):
        sys.stderr.write(f"waiting for a client at {url}\n")
        check(await accept(arrived, FIRST, options.timeout))
        return await accepted(arrived, rows, options.timeout)


def check(failure: Failure | None) -> None:
    """Raise `NoHandlers` if `FIRST` has failed."""
    if failure is not None:
        raise NoHandlers(f"the handlers of the kit are not registered: {failure}")


def main(words: Sequence[str]) -> int:
    """Return 0 if all rows hold, 1 if not, and 2 if they could not be played."""
    made = parser()
    options = made.parse_args(words)
    if (options.url is None) is (options.listen is None):
        made.error("a URL or --listen is needed, and not both")
    try:
        outcomes = asyncio.run(run(options))
    except NoHandlers as exc:
        sys.stderr.write(f"{exc}\n")
        return 2
    except TimeoutError:
        sys.stderr.write(f"no client has dialed in {WAITING:g} s\n")
        return 2
    except (OSError, ValueError, InvalidHandshake, InvalidURI) as exc:
        sys.stderr.write(f"no connection: {exc}\n")
        return 2
    text = as_json(outcomes) if options.json else report(outcomes, options.without, options.verbose)
    sys.stdout.write(text + "\n")
    return int(any(failure is not None for _, failure in outcomes))
