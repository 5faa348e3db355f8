"""Calls of the blocking client beside python-socketio's: ``python -m benchmarks --blocking``.

Each library calls ``add`` of its own server: wsrpc on asyncio, python-socketio on uvicorn with uvloop and httptools,
over WebSocket only. Both servers run in one process each, and so do both clients, in the same one.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from statistics import median
from typing import Any, NamedTuple

from wsrpc.blocking import Client

from .processes import BenchmarkError, start
from .report.text import table

__all__ = ["Calls", "measure", "one_after_another", "run_blocking", "server"]

LEAST = 5.0
"""How many times as many calls as `SimpleClient.call` the blocking client makes, one after another."""
THREADS = 50
START_SECONDS = 30.0

INTRODUCTION = """\
calls of a plain function, from a program without an event loop
  Median of the rounds, and the lowest and the highest. python-socketio's SimpleClient is for one thread."""
COLUMNS = ["", "calls per second", "(low-high)", "to socketio", "(low-high)", ""]

Call = Callable[[int, int], Any]


class Calls(NamedTuple):
    """One way to call, and how many threads do so at the same time."""

    title: str
    call: Call
    threads: int = 1


def one_after_another(call: Call, count: int) -> None:
    """Make calls, and check their answers.

    Raises:
        BenchmarkError: an answer is wrong.
    """
    for number in range(count):
        if call(number, 1) != number + 1:
            raise BenchmarkError("a wrong answer")


def calls_per_second(calls: Calls, count: int) -> float:
    """Make so many calls, divided between the threads, and return how many were made in a second."""
    begun = time.perf_counter()
    if calls.threads == 1:
        one_after_another(calls.call, count)
    else:
        each = count // calls.threads
        threads = [threading.Thread(target=one_after_another, args=(calls.call, each)) for _ in range(calls.threads)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return count / (time.perf_counter() - begun)


@contextmanager
def server(kind: str, core: int) -> Iterator[str]:
    """Start a server, and yield its port."""
    with start(f"server of {kind}", [sys.executable, "-m", "benchmarks.servers", kind], core) as child:
        yield child.read_line(START_SECONDS)


@contextmanager
def _socketio(port: str) -> Iterator[Call]:
    try:
        import socketio
    except ImportError:
        raise BenchmarkError("python-socketio is missing: `pip install --group bench` installs it") from None
    with socketio.SimpleClient() as client:
        client.connect(f"http://127.0.0.1:{port}", transports=["websocket"])
        yield lambda a, b: client.call("add", (a, b))


def measure(ways: list[Calls], rounds: int, count: int) -> list[list[float]]:
    """Measure the ways in turn, in each round; return the calls per second of each."""
    found: list[list[float]] = [[] for _ in ways]
    for each in range(rounds + 1):
        for some, way in zip(found, ways, strict=True):
            rate = calls_per_second(way, count)
            if each:  # the first round warms up
                some.append(rate)
    return found


def run_blocking(rounds: int, count: int, server_core: int) -> bool:
    """Print the calls per second of both; return whether wsrpc makes as many times more as are asked for."""
    with ExitStack() as stack:
        our_port = stack.enter_context(server("wsrpc", server_core))
        their_port = stack.enter_context(server("socketio", server_core))
        client = stack.enter_context(Client(f"ws://127.0.0.1:{our_port}/"))
        theirs = stack.enter_context(_socketio(their_port))

        def ours(a: int, b: int) -> int:
            return client.request("add", a, b, returns=int)

        ways = [Calls("socketio", theirs), Calls("wsrpc", ours), Calls(f"wsrpc, {THREADS} threads", ours, THREADS)]
        found = measure(ways, rounds, count)
    rows: list[list[str]] = []
    ratios: list[list[float]] = [[a / b for a, b in zip(some, found[0], strict=True)] for some in found]
    for way, some, ratio in zip(ways, found, ratios, strict=True):
        rows.append(
            [
                way.title,
                f"{median(some):,.0f}",
                f"({min(some):,.0f}-{max(some):,.0f})",
                f"{median(ratio):.1f}",
                f"({min(ratio):.1f}-{max(ratio):.1f})",
                f"at least {LEAST:g}" if way.title == "wsrpc" else "",
            ]
        )
    print(table(INTRODUCTION, COLUMNS, rows))
    return median(ratios[1]) >= LEAST
