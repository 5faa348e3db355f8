"""The server's process is killed, again and again, while a client does all it can: what callers are told is true.

``WSRPC_SOAK=1`` kills it 200 times.
"""

from __future__ import annotations

import asyncio
import random
import sys
import time
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
        self.calls: dict[int, tuple[str, str]] = {}
        """The kind of each, and how it ended: ``"answered"``, ``"not_sent"`` or ``"unknown"``."""
        self.emitted: list[int] = []
        self.items = 0
        self.answered = 0
        self._held: asyncio.Queue[int] = asyncio.Queue()
        client.on("held", self._held.put_nowait)
        self._numbers = count(1)
        self._over = False
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin, with several callers of each kind."""
        request = self.client.request
        kinds: dict[str, Ask] = {
            "at once": lambda n: request("at_once", n),
            "later": lambda n: request("later", n),
            "asks back": lambda n: request("ask_back", n),
            "now or never": lambda n: request("later", n, offline="fail"),
            "retry": lambda n: request("later", n, retry=AGAIN, idempotent=False),
            "retry soon": lambda n: request("later", n, offline="fail", retry=AGAIN, idempotent=False),
            "idempotent": lambda n: request("later", n, retry=AGAIN, idempotent=True),
        }
        loads = [self._ask_on(kind, ask) for kind, ask in kinds.items() for _ in range(CALLERS)]
        # Those above wait for the session, which may live. Who begins a call meanwhile learns at once.
        loads += [self._ask_every_moment(kinds["now or never"]), self._emit_on(), self._read_on()]
        self._tasks = [asyncio.create_task(load) for load in loads]

    async def stop(self) -> None:
        """Begin nothing new, and wait for what goes on."""
        self._over = True
        async with asyncio.timeout(10):
            await asyncio.gather(*self._tasks)

    async def more(self) -> None:
        """Wait until more calls are answered, items read, and events sent."""

        def counts() -> tuple[int, int, int]:
            return self.answered, self.items, len(self.emitted)

        before = counts()
        await turns_until(lambda: all(now > then for now, then in zip(counts(), before, strict=True)))

    async def hold(self) -> asyncio.Task[str]:
        """Make a call whose handler runs until the server is killed. Return once it runs; the result is how it ends."""
        call = asyncio.create_task(self._ask_once("hold", lambda n: self.client.request("hold", n, timeout=None)))
        await self._held.get()
        return call

    async def ask_in_vain(self) -> str:
        """Make a call while there is no server."""
        await turns_until(lambda: not self.client.connected)
        return await self._ask_once("now or never", lambda n: self.client.request("later", n, offline="fail"))

    def cancel(self) -> None:
        for task in self._tasks:
            task.cancel()

    async def _ask_on(self, kind: str, ask: Ask) -> None:
        while not self._over:
            if await self._ask_once(kind, ask) == "not_sent":
                await asyncio.sleep(0.02)  # or it would ask all the time that the server is away

    async def _ask_once(self, kind: str, ask: Ask) -> str:
        number = next(self._numbers)
        self.calls[number] = kind, "still going on"
        try:
            assert await ask(number) == -number
            ended = "answered"
            self.answered += 1
        except ConnectionLost as lost:
            ended = lost.outcome
        self.calls[number] = kind, ended
        return ended

    async def _ask_every_moment(self, ask: Ask) -> None:
        async with asyncio.TaskGroup() as asking:
            while not self._over:
                asking.create_task(self._ask_once("now or never", ask))
                await asyncio.sleep(0.02)

    async def _read_on(self) -> None:
        while not self._over:
            await self._ask_once("stream", self._read)

    async def _read(self, number: int) -> int:
        expected = 0
        try:
            async with self.client.stream("count", number) as items:
                async for item in items:
                    assert item == expected
                    expected += 1
                    self.items += 1
                    if self._over:
                        break
        except ConnectionLost:
            if not expected:
                raise  # once an item has come the handler has run, and the loss says nothing of that
        return -number

    async def _emit_on(self) -> None:
        while not self._over:
            self.emitted.append(number := next(self._numbers))
            await self.client.emit("event", number)
            # The line takes them faster than this; what waits for a connection is bounded.
            await asyncio.sleep(0 if self.client.connected else 0.01)


@asynccontextmanager
async def running(port: int, journal: Path) -> AsyncGenerator[float]:
    """A server's process; gives since when it listens. Killed at the end of the block."""
    process = await start(sys.executable, PROGRAM, str(port), str(journal))
    try:
        assert process.stdout is not None
        yield float((await process.stdout.readline()).removeprefix(b"listening since "))
    finally:
        process.kill()
        await process.communicate()


@pytest.mark.timeout(600 if SOAK else 90)  # a dozen programs are started, on a machine that may be busy
async def test_the_outcome_that_each_caller_gets_is_true(tmp_path: Path) -> None:
    chance = random.Random(SEED)
    journal = tmp_path / "journal"
    opened: asyncio.Queue[float] = asyncio.Queue()
    attempts: list[float] = []
    held: list[asyncio.Task[str]] = []
    with bound_socket(0) as keeper:  # keeps the port while nothing listens there
        port = keeper.getsockname()[1]

        def url() -> str:
            attempts.append(time.monotonic())
            return f"ws://127.0.0.1:{port}/"

        # The queue takes whatever is sent while a slow machine starts a server.
        client = Client(url, reconnect=SOON, limits=Limits(offline=100_000))
        client.on("negate", lambda number: -number)
        client.on("open", lambda: opened.put_nowait(time.monotonic()))
        load = Load(client)

        async def come_back(since: float) -> None:
            """Wait for a connection to the server that listens since then."""
            async with asyncio.timeout(10):
                while (at := await opened.get()) < since:
                    pass
            assert sum(since <= attempt <= at for attempt in attempts) <= 1, "the first attempt connects"

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
                        await load.more()
                        held.append(await load.hold())
                        await asyncio.sleep(chance.uniform(0, 0.15))
                    else:
                        await asyncio.sleep(chance.uniform(0, 0.1))
                assert await load.ask_in_vain() == "not_sent"
            async with running(port, journal) as since:
                await come_back(since)
                assert held and {await call for call in held} == {"unknown"}
                await load.stop()
                assert (client.peer.pending, client.peer.active, client.peer.anonymous_channels) == (0, 0, 0)
                await client.close()
        finally:
            load.cancel()
            await client.close()
    check(load, [int(line) for line in journal.read_text("ascii").splitlines()])


def check(load: Load, journal: list[int]) -> None:
    """Compare what callers were told with what has run."""
    ran = Counter(journal)
    runs: defaultdict[tuple[str, str], Counter[int]] = defaultdict(Counter)
    for number, (kind, ended) in load.calls.items():
        runs[kind, ended][ran[number]] += 1
    emitted = set(load.emitted)
    arrived = [number for number in journal if number in emitted]
    for (kind, ended), counts in runs.items():
        most = max(counts) if kind == "idempotent" else 1
        allowed = {"answered": range(1, most + 1), "not_sent": range(1), "unknown": range(most + 1)}
        assert ended in allowed, f"{kind}: {ended}"
        assert set(counts) <= set(allowed[ended]), (kind, ended, counts)
    assert arrived == sorted(set(arrived))  # each at most once, and in order
    place = {number: n for n, number in enumerate(load.emitted)}
    gaps = sum(place[after] - place[before] > 1 for before, after in pairwise(arrived))
    assert gaps <= KILLS  # what is lost is what was last sent on a connection
    assert set(ran) <= load.calls.keys() | emitted

    assert arrived
    lost = sum(runs["idempotent", ended].total() for ended in ("not_sent", "unknown"))
    assert lost <= runs["idempotent", "answered"].total() // 100
