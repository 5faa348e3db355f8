"""Workers are killed, again and again, under calls with keys: what runs twice was told before, and no item is lost.

``WSRPC_SOAK=1`` kills 200 times.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import defaultdict
from itertools import count, pairwise
from pathlib import Path
from statistics import median

import pytest
from effort import SEED, SOAK
from keyed_workers import ITEMS, KEPT, LEASE, Workers, workers

from wsrpc import Client, ConnectionLost, Reconnect, Retry, RunLost

KILLS = 200 if SOAK else 1
CALLERS = 6 if SOAK else 2
"""Pairs of callers of each kind: the two make the same call at the same time, on connections of their own."""
SOON = Reconnect(initial=0.05, max=0.2)
AGAIN = Retry(attempts=10_000, initial=0.01, max=0.2)
PATIENCE = 2 * LEASE + 4.0
"""Seconds until all readers know that the process of a run was killed: its claim lapses, and two reads tell it."""


class Load:
    """Calls that are made until they are told to stop."""

    def __init__(self, clients: list[Client]) -> None:
        self.clients = clients
        self.charged: defaultdict[str, list[int]] = defaultdict(list)
        """The processes that have answered for each key."""
        self.lost: defaultdict[str, list[float]] = defaultdict(list)
        """When callers with each key were told that its run may have ended anywhere."""
        self.read: defaultdict[str, list[list[int]]] = defaultdict(list)
        """The items that each reader of a key got."""
        self.stay: set[str] = set()
        """The keys of the calls whose handlers run until their processes are killed."""
        self.over = False

    async def charge_on(self, name: str) -> None:
        for number in count():
            if self.over:
                break
            key = f"order-{name}-{number}"
            await asyncio.gather(*[self._charge(client, key) for client in self.clients])

    async def lose(self, client: Client, kind: str, key: str) -> None:
        """Make a call whose handler runs until its process is killed."""
        self.stay.add(key)
        await (self._charge if kind == "order" else self._read)(client, key, True)
        assert self.lost[key]

    async def _charge(self, client: Client, key: str, stays: bool = False) -> None:
        while True:
            try:
                self.charged[key].append(
                    await client.request("charge", stays, key=key, retry=AGAIN, idempotent=True, timeout=None)
                )
                break
            except RunLost:
                self.lost[key].append(time.monotonic())
                if stays:
                    break
            await asyncio.sleep(0.1)  # as somebody does who asks again nevertheless

    async def read_on(self, name: str) -> None:
        for number in count():
            if self.over:
                break
            key = f"answer-{name}-{number}"
            await asyncio.gather(*[self._read(client, key) for client in self.clients])
            await self._read(self.clients[0], key)  # what is kept

    async def _read(self, client: Client, key: str, stays: bool = False) -> None:
        got: list[int] = []
        self.read[key].append(got)
        position: str | None = None
        while True:
            items = client.stream("generate", stays, key=key, after=position, returns=int)
            try:
                async with items:
                    async for item in items:
                        got.append(item)
                return
            except ConnectionLost:
                position = items.position or position
            except RunLost:
                self.lost[key].append(time.monotonic())
                return


@pytest.mark.timeout(900 if SOAK else 90)
async def test_nothing_runs_twice_unless_its_caller_was_told(tmp_path: Path) -> None:
    chance = random.Random(SEED)
    async with workers(tmp_path) as those:
        clients = [Client(those.url, auth="ada", reconnect=SOON) for _ in range(2)]
        load = Load(clients)
        try:
            for client in clients:
                await client.connect()
            async with asyncio.TaskGroup() as calls:
                for name in map(str, range(CALLERS)):
                    calls.create_task(load.charge_on(name))
                    calls.create_task(load.read_on(name))
                for number in range(KILLS):
                    kind = "order" if number % 2 else "answer"
                    key = f"{kind}-lost-{number}"
                    calls.create_task(load.lose(chance.choice(clients), kind, key))
                    while key not in those.runs():  # noqa: ASYNC110 - nobody tells
                        await asyncio.sleep(0.01)
                    await asyncio.sleep(chance.uniform(0, 0.3))  # of the work
                    await those.kill(those.runs()[key][-1].pid)
                    await those.start()
                load.over = True
        finally:
            for client in clients:
                await client.close()
        check(load, those)


def check(load: Load, those: Workers) -> None:
    """Compare what callers were told with what has run."""
    runs = those.runs()
    del runs["connection"]
    twice = [(key, *both) for key, begun in runs.items() for both in pairwise(begun)]
    for key, first, second in twice:
        forgotten = second.began - those.killed.get(first.pid, second.began) > KEPT  # on a machine that is too busy
        was_told = any(first.began < told < second.began for told in load.lost[key])
        assert was_told or forgotten, (key, first, second, load.lost[key])
    for key, pids in load.charged.items():
        assert pids == [runs[key][-1].pid] * (0 if key in load.stay else len(load.clients)), (key, pids, runs[key])
    waits: list[float] = []
    for key, times in load.lost.items():
        for told in times:
            before = [run for run in runs[key] if run.began < told]
            killed = [at for run in before if (at := those.killed.get(run.pid, told)) < told]
            assert killed or not before, (key, before, told)  # only what was killed is lost
            waits += [told - at for at in killed if key in load.read]
    for key, readers in load.read.items():
        [got] = {*map(tuple, readers)}  # all have the same
        assert got[1:] == (*range(1, len(got)),)
        assert len(got) == ITEMS or key in load.lost, (key, len(got))
    assert median(waits) < PATIENCE  # not all of them: the machine may be busy
