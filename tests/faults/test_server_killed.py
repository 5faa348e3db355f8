"""The server's process is killed, again and again, while a client does all it can: what callers are told is true.

``WSRPC_SOAK=1`` kills it 200 times.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
import statistics
import sys
import time
from collections import Counter, defaultdict
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from wsrpc import Client, ConnectionLost, Limits, Reconnect, Retry
from wsrpc.testing._sockets import bound

SOAK = os.environ.get("WSRPC_SOAK") == "1"
KILLS = 200 if SOAK else 12
PROGRAM = Path(__file__).parent / "mortal_server.py"
ROOT = Path(__file__).parent.parent.parent

SOON = Reconnect(initial=0.05, max=0.2)
ATTEMPT = 1.0
"""Seconds that an attempt to connect may take on a machine that is busy with this test and with others."""

CALLERS = 8
"""Of each kind, each with one call at a time."""

AGAIN = Retry(attempts=20, initial=0.01, max=0.1)


@dataclass
class Call:
    """One call, and how it ended: ``"answered"``, ``"not_sent"`` or ``"unknown"``."""

    kind: str
    number: int
    ended: str = "still going on"


class Load:
    """Calls that a client makes until it is told to stop. Each has a number of its own, which servers write down."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.calls: list[Call] = []
        self.emitted: list[int] = []
        self.items = 0
        self._numbers = 0
        self._over = False
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin, with several callers of each kind."""
        request = self.client.request
        kinds: dict[str, Callable[[int], Coroutine[Any, Any, Any]]] = {
            "at once": lambda n: request("at_once", n),
            "later": lambda n: request("later", n),
            "asks back": lambda n: request("ask_back", n),
            "now or never": lambda n: request("later", n, offline="fail"),
            "retry": lambda n: request("later", n, retry=AGAIN, idempotent=False),
            "retry soon": lambda n: request("later", n, offline="fail", retry=AGAIN, idempotent=False),
            "idempotent": lambda n: request("later", n, retry=AGAIN, idempotent=True),
        }
        for kind, ask in kinds.items():
            for _ in range(CALLERS):
                self._spawn(self._ask_on(kind, ask))
        # Those above wait for the session, which may live. Who begins a call meanwhile learns at once.
        self._spawn(self._ask_every_moment("now or never", kinds["now or never"]))
        self._spawn(self._emit_on())
        self._spawn(self._read_on())

    async def stop(self) -> None:
        """Begin nothing new, and wait for what goes on."""
        self._over = True
        async with asyncio.timeout(10):
            await asyncio.gather(*self._tasks)

    def cancel(self) -> None:
        for task in self._tasks:
            task.cancel()

    def _spawn(self, going_on: Coroutine[Any, Any, None]) -> None:
        self._tasks.append(asyncio.create_task(going_on))

    def _number(self) -> int:
        self._numbers += 1
        return self._numbers

    def _begin(self, kind: str) -> Call:
        call = Call(kind, self._number())
        self.calls.append(call)
        return call

    async def _ask_on(self, kind: str, ask: Callable[[int], Coroutine[Any, Any, Any]]) -> None:
        while not self._over:
            if await self._ask_once(kind, ask) == "not_sent":
                await asyncio.sleep(0.02)  # or it would ask all the time that the server is away

    async def _ask_once(self, kind: str, ask: Callable[[int], Coroutine[Any, Any, Any]]) -> str:
        call = self._begin(kind)
        try:
            assert await ask(call.number) == -call.number
            call.ended = "answered"
        except ConnectionLost as lost:
            call.ended = lost.outcome
        return call.ended

    async def _ask_every_moment(self, kind: str, ask: Callable[[int], Coroutine[Any, Any, Any]]) -> None:
        asking: set[asyncio.Task[str]] = set()
        while not self._over:
            task = asyncio.create_task(self._ask_once(kind, ask))
            asking.add(task)
            task.add_done_callback(asking.discard)
            await asyncio.sleep(0.02)
        await asyncio.gather(*asking)

    async def _read_on(self) -> None:
        while not self._over:
            call = self._begin("stream")
            expected = 0
            try:
                async with self.client.stream("count", call.number) as items:
                    async for item in items:
                        assert item == expected
                        expected += 1
                        if self._over:
                            break
                call.ended = "answered"
            except ConnectionLost as lost:
                # Once an item has come the handler has run, and the loss says nothing of that.
                call.ended = lost.outcome if not expected else "answered"
            self.items += expected

    async def _emit_on(self) -> None:
        while not self._over:
            self.emitted.append(number := self._number())
            await self.client.emit("event", number)
            # The line takes them faster than this; what waits for a connection is bounded.
            await asyncio.sleep(0 if self.client.connected else 0.01)


@asynccontextmanager
async def running(port: int, journal: Path) -> AsyncGenerator[float]:
    """A server's process; gives since when it listens. Killed at the end of the block."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(PROGRAM), str(port), str(journal)),
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        said = (await process.stdout.readline()).decode()
        found = re.fullmatch(r"listening since (\S+)\n", said)
        assert found, said
        yield float(found[1])
    finally:
        process.kill()
        await process.wait()


@pytest.mark.timeout(600 if SOAK else 90)  # a dozen programs are started, on a machine that may be busy
async def test_the_outcome_that_each_caller_gets_is_true(tmp_path: Path) -> None:
    chance = random.Random(1)
    journal = tmp_path / "journal"
    opened: asyncio.Queue[float] = asyncio.Queue()
    back: list[float] = []
    with bound(0) as keeper:  # keeps the port while nothing listens there
        port = keeper.getsockname()[1]
        # The queue takes whatever is sent while a slow machine starts a server.
        client = Client(f"ws://127.0.0.1:{port}/", reconnect=SOON, limits=Limits(offline=100_000))
        client.on("negate", lambda number: -number)
        client.on("open", lambda: opened.put_nowait(time.monotonic()))
        load = Load(client)

        async def come_back(since: float) -> None:
            """Wait for a connection to the server that listens since then."""
            async with asyncio.timeout(10):
                while (at := await opened.get()) < since:
                    pass
            back.append(at - since)

        try:
            async with running(port, journal):
                await client.connect()
                load.start()
                await asyncio.sleep(0.1)
            for _ in range(KILLS - 1):
                async with running(port, journal) as since:
                    # Mostly in the midst of the work, sometimes of the opening handshake.
                    if chance.random() < 0.85:
                        await come_back(since)
                        await asyncio.sleep(chance.uniform(0, 0.15))
                    else:
                        await asyncio.sleep(chance.uniform(0, 0.1))
            async with running(port, journal) as since:
                await come_back(since)
                await load.stop()
                assert (client.peer.pending, client.peer.active, client.peer.channels) == (0, 0, 0)
                await client.close()
        finally:
            load.cancel()
            await client.close()
    check(load, [int(line) for line in journal.read_text("ascii").splitlines()])
    assert max(back) <= SOON.max + ATTEMPT
    print(f"back within {statistics.median(back):.3f} s (median), {max(back):.3f} s (worst)")


def check(load: Load, journal: list[int]) -> None:
    """Compare what callers were told with what has run."""
    ran = Counter(journal)
    ends: Counter[tuple[str, str]] = Counter()
    runs: defaultdict[tuple[str, str], Counter[int]] = defaultdict(Counter)
    for call in load.calls:
        ends[call.kind, call.ended] += 1
        runs[call.kind, call.ended][ran[call.number]] += 1
    for (kind, ended), counts in sorted(runs.items()):
        print(f"{kind:13} {ended:9} {counts.total():7}, by how often it ran: {dict(sorted(counts.items()))}")
    emitted = set(load.emitted)
    arrived = [number for number in journal if number in emitted]
    print(f"{len(load.emitted)} events, {len(arrived)} arrived; {load.items} items of streams")

    for (kind, ended), counts in runs.items():
        most = max(counts) if kind == "idempotent" else 1
        allowed = {"answered": range(1, most + 1), "not_sent": range(1), "unknown": range(most + 1)}
        assert ended in allowed, f"{kind}: {ended}"
        assert set(counts) <= set(allowed[ended]), (kind, ended, counts)
    assert arrived == sorted(set(arrived))  # each at most once, and in order
    place = {number: n for n, number in enumerate(load.emitted)}
    gaps = sum(place[after] - place[before] > 1 for before, after in pairwise(arrived))
    assert gaps <= KILLS  # what is lost is what was last sent on a connection
    assert set(ran) <= {call.number for call in load.calls} | emitted

    # All of that would hold if nothing had happened.
    by_end = Counter(dict.fromkeys(("answered", "not_sent", "unknown"), 0))
    for (_, ended), count in ends.items():
        by_end[ended] += count
    assert min(by_end.values()) > KILLS, by_end
    assert load.items > KILLS < len(arrived)
    lost = sum(count for (kind, ended), count in ends.items() if kind == "idempotent" and ended != "answered")
    assert lost <= ends["idempotent", "answered"] // 100
