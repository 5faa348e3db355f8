"""The server's process is killed, again and again, while a client calls it: what callers are told is true.

``WSRPC_SOAK=1`` kills it 200 times.
"""

from __future__ import annotations

import asyncio
import random
import sys
from collections import Counter, defaultdict
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager
from itertools import count, pairwise
from pathlib import Path
from typing import Any

import pytest
from effort import SEED, SOAK
from leftovers import turns_until
from programs import start

from wsrpc import Client, ConnectionLost, Limits, Reconnect, Retry
from wsrpc.testing._proxied_connection import bound_socket

KILLS = 200 if SOAK else 2
PROGRAM = str(Path(__file__).with_name("mortal_server.py"))
SOON = Reconnect(initial=0.05, max=0.2)
CALLERS = 8
"""Of each kind, each with one call at a time."""
AGAIN = Retry(attempts=20, initial=0.01, max=0.1)

Ask = Callable[[int], Coroutine[Any, Any, Any]]


class Load:
    """Calls that a client makes until it is told to stop. Each has a number of its own, which servers write down."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.ends: list[tuple[int, str, str]] = []
        """Of each call: its number, its kind, and how it ended: ``"answered"``, ``"not_sent"`` or ``"unknown"``."""
        self.emitted: list[int] = []
        self.over = False
        self._held = asyncio.Queue[int]()
        self._numbers = count(1)
        client.on("held", self._held.put_nowait)

    def start(self, group: asyncio.TaskGroup) -> None:
        request = self.client.request
        kinds: dict[str, Ask] = {
            "at once": lambda n: request("at_once", n),
            "later": lambda n: request("later", n),
            "asks back": lambda n: request("ask_back", n),
            "now or never": lambda n: request("later", n, offline="fail"),
            "retry": lambda n: request("later", n, offline="fail", retry=AGAIN, idempotent=False),
            "idempotent": lambda n: request("later", n, retry=AGAIN, idempotent=True),
            "stream": self._read,
            "event": self._emit,
        }
        for kind, ask in kinds.items():
            for _ in range(1 if kind == "event" else CALLERS):
                group.create_task(self._ask_on(kind, ask))

    async def hold(self) -> asyncio.Task[str]:
        """Make a call whose handler runs until the server is killed. Return once it runs; the result is how it ends."""
        call = asyncio.create_task(self.ask("hold", lambda n: self.client.request("hold", n, timeout=None)))
        await self._held.get()
        return call

    async def _ask_on(self, kind: str, ask: Ask) -> None:
        while not self.over:
            if await self.ask(kind, ask) == "not_sent":
                await asyncio.sleep(0.02)  # or it would ask all the time that the server is away

    async def ask(self, kind: str, ask: Ask) -> str:
        number, ended = next(self._numbers), "answered"
        try:
            assert await ask(number) == -number
        except ConnectionLost as lost:
            ended = lost.outcome
        self.ends.append((number, kind, ended))
        return ended

    async def _read(self, number: int) -> int:
        expected = 0
        try:
            async with self.client.stream("count", number) as items:
                async for item in items:
                    assert item == expected
                    expected += 1
                    if self.over:
                        break
        except ConnectionLost:
            if not expected:
                raise  # once an item has come the handler has run, and the loss says nothing of that
        return -number

    async def _emit(self, number: int) -> int:
        self.emitted.append(number)
        await self.client.emit("event", number)
        await asyncio.sleep(0 if self.client.connected else 0.01)  # what waits for a connection is bounded
        return -number


@asynccontextmanager
async def running(port: int, journal: Path) -> AsyncGenerator[None]:
    """A server's process, which is killed at the end of the block."""
    process = await start(sys.executable, PROGRAM, str(port), str(journal))
    try:
        assert process.stdout is not None and await process.stdout.readline()
        yield
    finally:
        process.kill()
        await process.communicate()


@pytest.mark.timeout(600 if SOAK else 90)  # some programs are started, on a machine that may be busy
async def test_the_outcome_that_each_caller_gets_is_true(tmp_path: Path) -> None:
    chance, journal, held = random.Random(SEED), tmp_path / "journal", list[asyncio.Task[str]]()
    with bound_socket(0) as keeper:  # keeps the port while nothing listens there
        port = keeper.getsockname()[1]
        # The queue takes whatever is sent while a slow machine starts a server.
        client = Client(f"ws://127.0.0.1:{port}/", reconnect=SOON, limits=Limits(offline=100_000))
        client.on("negate", lambda number: -number)
        load = Load(client)
        try:
            async with asyncio.TaskGroup() as group:
                for number in range(KILLS):
                    async with running(port, journal):
                        if not number:
                            await client.connect()
                            load.start(group)
                        # Mostly in the midst of the work, sometimes of the opening handshake.
                        if not number or chance.random() < 0.85:
                            held.append(await load.hold())
                        await asyncio.sleep(chance.uniform(0, 0.15))
                    await turns_until(lambda: not client.connected)
                    vain = await load.ask("now or never", lambda n: client.request("later", n, offline="fail"))
                    assert vain == "not_sent"
                async with running(port, journal), asyncio.timeout(30):
                    assert {await call for call in held} == {"unknown"}
                    await client.wait_connected()
                    load.over = True
                    await turns_until(lambda: not client.peer.pending and not client.peer.anonymous_channels)
        finally:
            await client.close()
    check(load, [int(line) for line in journal.read_text("ascii").splitlines()])


def check(load: Load, journal: list[int]) -> None:
    """Compare what callers were told with what has run."""
    ran = Counter(journal)
    runs: defaultdict[tuple[str, str], Counter[int]] = defaultdict(Counter)
    for number, kind, ended in load.ends:
        if kind != "event":
            runs[kind, ended][ran[number]] += 1
    for (kind, ended), counts in runs.items():
        most = max(counts) if kind == "idempotent" else 1
        allowed = {"answered": range(1, most + 1), "not_sent": range(1), "unknown": range(most + 1)}
        assert set(counts) <= {*allowed[ended]}, (kind, ended, counts)
    emitted = {*load.emitted}
    arrived = [number for number in journal if number in emitted]
    assert arrived and arrived == sorted({*arrived})  # each at most once, and in order
    place = {number: n for n, number in enumerate(load.emitted)}
    gaps = sum(place[after] - place[before] > 1 for before, after in pairwise(arrived))
    assert gaps <= KILLS  # what is lost is what was last sent on a connection
    assert {*ran} <= {number for number, _, _ in load.ends} | emitted
    lost = sum(runs["idempotent", ended].total() for ended in ("not_sent", "unknown"))
    assert lost <= runs["idempotent", "answered"].total() // 100
