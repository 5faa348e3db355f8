"""A thousand clients are cut at once: with the default `Reconnect` they do not come back at once.

The clock is simulated, so the machine does not matter.
"""

from __future__ import annotations

import asyncio
import random
import resource
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any

import pytest
from leftovers import turns_until

from wsrpc import Client, CloseInfo, ConnectionLost, Limits, Peer, Reconnect, Server
from wsrpc._client.backoff import Schedule
from wsrpc._client.sleep import ASLEEP
from wsrpc.testing import Clock

CLIENTS = 1000
MOST = 0.6
"""The part of all clients that may dial in any one second. Half of them do so on average, at the first attempt."""
AT_ONCE = 50
"""Clients that dial at the same time in the beginning, so that the server's queue of connections does not overflow."""
SOCKETS = 2 * CLIENTS + 200

Dial = tuple[float, int]
"""When, and which client."""


def busiest_second(dials: Iterable[Dial], second: float = 1.0) -> int:
    """How many different clients dial in the one second, of all, in which most do."""
    window: deque[Dial] = deque()
    present: Counter[int] = Counter()
    most = 0
    for when, client in sorted(dials):
        window.append((when, client))
        present[client] += 1
        while when - window[0][0] > second:
            _, gone = window.popleft()
            present[gone] -= 1
            if not present[gone]:
                del present[gone]
        most = max(most, len(present))
    return most


# ---------------------------------------------------------------- without sockets


def schedules(seed: int, attempts: int) -> list[list[Dial]]:
    """When each client dials after a cut at 0, if nobody answers: the first attempts, the second ones and so on."""
    random.seed(seed)
    rounds: list[list[Dial]] = [[] for _ in range(attempts)]
    for client in range(CLIENTS):
        schedule = Schedule(Reconnect(), Clock())
        delay = schedule.dropped(ConnectionLost())
        when = 0.0
        for dials in rounds:
            assert delay is not None
            when += delay
            dials.append((when, client))
            delay = schedule.failed(OSError())
    return rounds


@pytest.mark.parametrize("seed", range(8))
def test_attempts_are_spread_and_more_and_more_while_nobody_answers(seed: int) -> None:
    rounds = schedules(seed, 8)
    busiest = [busiest_second(dials) for dials in rounds]
    assert CLIENTS * 0.4 < busiest[0] == max(busiest) <= CLIENTS * MOST
    for earlier, later in pairwise(busiest[:5]):
        assert later < earlier
    together = [dial for dials in rounds for dial in dials]
    # In the second second some are at their second attempt already, so that it is about 64 % that dial.
    assert busiest_second(together) <= CLIENTS * 0.75
    assert busiest_second(dial for dial in together if dial[0] > 5.0) <= CLIENTS * 0.3


# ---------------------------------------------------------------- with sockets


@pytest.fixture
def enough_sockets() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < SOCKETS:
        if hard != resource.RLIM_INFINITY and hard < SOCKETS:
            pytest.fail(f"this test needs {SOCKETS} file descriptors, and `ulimit -Hn` says {hard}: raise that")
        resource.setrlimit(resource.RLIMIT_NOFILE, (SOCKETS, hard))


class IdleTime:
    """The event loop's clock, which stands still while the loop has something to do.

    One loop that ends and opens a thousand connections is late for everything else, and what it does late it does
    closer together. Here that takes no time, so what is measured does not depend on the machine.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        loop: Any = asyncio.get_running_loop()
        self._now: float = loop.time()
        self._select = loop._selector.select
        self._returned = time.monotonic()
        self.longest_turn = 0.0
        """Seconds that the loop really had to do something without a pause."""
        monkeypatch.setattr(loop, "time", self.time)
        monkeypatch.setattr(loop._selector, "select", self._idle)
        monkeypatch.setattr("wsrpc._client.sleep.clock", self.time)  # nobody was asleep

    def time(self) -> float:
        return self._now

    def _idle(self, timeout: float | None = None) -> Any:
        began = time.monotonic()
        self.longest_turn = max(self.longest_turn, began - self._returned)
        events = self._select(timeout)
        self._returned = time.monotonic()
        passed = self._returned - began
        self._now += passed if timeout is None else min(max(timeout, 0.0), passed)
        return events


class Crowd:
    """The clients, and when they dial."""

    def __init__(self, url: str) -> None:
        self._server = url
        self._loop = asyncio.get_running_loop()
        self.dials: list[Dial] = []
        self.closed: list[CloseInfo] = []
        self.back: list[float] = []
        self.clients = [Client(self._asked(number), proxy=None) for number in range(CLIENTS)]
        for client in self.clients:
            client.on("close", self._closed)
            client.on_reconnect(lambda info: self.back.append(self._loop.time()))

    def _asked(self, number: int) -> Callable[[], str]:
        def url() -> str:
            self.dials.append((self._loop.time(), number))
            return self._server

        return url

    def _closed(self, peer: Peer, info: CloseInfo) -> None:
        if not info.user_closed:
            self.closed.append(info)

    async def connect(self) -> None:
        turn = asyncio.Semaphore(AT_ONCE)

        async def connect(client: Client) -> None:
            async with turn:
                await client.connect()

        await asyncio.gather(*map(connect, self.clients))

    async def close(self) -> None:
        await asyncio.gather(*(client.close() for client in self.clients))


@pytest.mark.timeout(120)  # it has much to do, and other tests may run beside it
@pytest.mark.usefixtures("enough_sockets")
async def test_a_thousand_that_are_cut_at_once_come_back_spread_out(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = IdleTime(monkeypatch)
    random.seed(1)
    server = Server(limits=Limits(replay=0))  # sessions end with their connections
    server.on("double", lambda number: 2 * number)
    async with server.listen() as listener:
        crowd = Crowd(listener.url)
        try:
            await crowd.connect()
            assert len(server.peers) == CLIENTS
            crowd.dials.clear()
            cut, cut_really = clock.time(), time.monotonic()
            for peer in server.peers:
                assert peer.transport is not None
                peer.transport.abort()
            await turns_until(lambda: len(crowd.back) == CLIENTS)
            really = time.monotonic() - cut_really
            answers = await asyncio.gather(
                *(client.request("double", number) for number, client in enumerate(crowd.clients))
            )
            assert answers == [2 * number for number in range(CLIENTS)]
            assert {(info.code, info.will_reconnect) for info in crowd.closed} == {(1006, True)}
            assert len(crowd.closed) == len(crowd.back) == len(server.peers) == CLIENTS
            first = [(when, number) for number, when in {number: when for when, number in crowd.dials[::-1]}.items()]
            assert len(first) == CLIENTS
            print(
                f"\nthe busiest second: {busiest_second(first)} first attempts, {busiest_second(crowd.dials)} of all "
                f"{len(crowd.dials)}; all back after {max(crowd.back) - cut:.2f} s and what it took to do so, "
                f"{really:.1f} s together; the longest turn {clock.longest_turn:.2f} s"
            )
            assert busiest_second(first) <= CLIENTS * MOST
            assert busiest_second(crowd.dials) <= CLIENTS * MOST
            assert clock.longest_turn < ASLEEP, "wsrpc._client.sleep takes a busy loop for a machine that was asleep"
        finally:
            await crowd.close()
