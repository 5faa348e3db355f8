"""The run of the cuts: the same seeded ones for each system."""

from __future__ import annotations

import asyncio
import logging
import platform
import random
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from functools import partial
from pathlib import Path

from wsrpc.testing import FaultProxy

from ..machine import node_facts
from ..processes import BenchmarkError
from ..report.tables import table
from .ends import Ends, on_socketio, on_wsrpc
from .outcome import COLUMNS, Cuts, Kind, Outcome, rows, save

__all__ = ["run_cuts"]

SEED = 1
CUTS, QUICK_CUTS = 1000, 50
FRESH = HALF_OPEN = 0.1
"""Shares of the cuts before any event of a session, and of those after which the server still has the old socket."""
CONNECTED = 0.05
"""Seconds that a new session has before it is cut without an event: both ends have agreed on it by then."""
LONGEST_FLOW = 0.04
"""Seconds of events between two cuts, at most."""
BACK = 30.0
"""Seconds after which a client that has not come back is a failure."""

SYSTEMS: dict[str, Callable[[], AbstractAsyncContextManager[Ends]]] = {
    "wsrpc": on_wsrpc,
    "Socket.IO 4 with recovery": on_socketio,
    "Socket.IO 4 with recovery, retries and a first event": partial(on_socketio, advised=True),
}

INTRODUCTION = f"""\
cuts under a flow of events both ways, the same seeded ones for each system; {FRESH:.0%} of them before any event of a
session, {HALF_OPEN:.0%} half open: the client dials again while the server still holds the old socket
  by kind: after how many of them the session went on; the rest are events, as the applications saw them"""


def kinds(cuts: int, dice: random.Random) -> list[Kind]:
    """Return so many kinds of cuts in a random order. The first begins a session."""
    fresh, half_open = round(cuts * FRESH), round(cuts * HALF_OPEN)
    rest: list[Kind] = ["half open"] * half_open
    rest += ["in a flow"] * (cuts - fresh - half_open)
    rest += ["before any event"] * (fresh - 1)
    dice.shuffle(rest)
    return ["before any event", *rest]


async def cut(ends: Ends, cuts: int) -> Outcome:
    """Cut the sessions of ``ends`` so many times."""
    dice = random.Random(SEED)
    outcome, began = Outcome(), time.monotonic()
    async with AsyncExitStack() as stack:
        # Two, so that a client can come back while the other one keeps its old connection half open.
        proxies = [await stack.enter_async_context(FaultProxy(f"ws://127.0.0.1:{ends.port}/")) for _ in range(2)]
        for number, kind in enumerate(kinds(cuts, dice)):
            here, other = proxies
            if kind == "before any event":
                if number:
                    await _count(ends, outcome)
                await ends.fresh(here.url)
                await asyncio.sleep(CONNECTED)
            else:
                await asyncio.sleep(dice.uniform(0, LONGEST_FLOW))
            async with asyncio.timeout(BACK):
                if kind == "half open":
                    async with here.silence():
                        ends.abandon(other.url)
                        recovered = await ends.back()
                    proxies.reverse()
                else:
                    here.drop()
                    recovered = await ends.back()
            outcome.cuts[kind] = outcome.cuts.get(kind, 0) + 1
            outcome.recovered[kind] = outcome.recovered.get(kind, 0) + recovered
            if kind == "before any event":
                await ends.flow()
        await _count(ends, outcome)
    outcome.seconds = time.monotonic() - began
    return outcome


async def _count(ends: Ends, outcome: Outcome) -> None:
    up, down = await ends.result()
    outcome.up.add(*up)
    outcome.down.add(*down)


async def compare(cuts: int) -> dict[str, Outcome]:
    """Cut each system so many times.

    Raises:
        BenchmarkError: a client did not come back, or a program has ended.
    """
    outcomes: dict[str, Outcome] = {}
    for name, opened in SYSTEMS.items():
        try:
            async with opened() as ends:
                outcomes[name] = await cut(ends, cuts)
        except TimeoutError as exc:
            raise BenchmarkError(f"{name}: the client did not come back within {BACK:g} s") from exc
    return outcomes


def run_cuts(cuts: int = CUTS, json: Path | None = None) -> bool:
    """Print what has become of each system; whether wsrpc resumed each session, and lost and doubled nothing."""
    logging.disable()  # of the drops
    outcomes = asyncio.run(compare(cuts))
    machine = {"Python": platform.python_version(), **node_facts("socket.io", "socket.io-client")}
    run = Cuts(date=time.strftime("%Y-%m-%d"), machine=machine, systems=outcomes)
    if json is not None:
        save(run, json)
    print(f"{INTRODUCTION}\n\n{table(COLUMNS, rows(run))}\n")
    print(", ".join(f"{name}: {outcome.seconds:.0f} s" for name, outcome in outcomes.items()))
    return outcomes["wsrpc"].faultless
