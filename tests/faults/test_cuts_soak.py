"""A connection that is cut at very many random bytes, in both directions, under calls, events and streams both ways.

``WSRPC_SOAK=1`` cuts 10,000 times instead of a number that fits an ordinary test run.
"""

from __future__ import annotations

import asyncio
import logging
import random
import tracemalloc
from collections import Counter
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, suppress

import pytest
from effort import SOAK
from leftovers import living_objects, other_tasks, turns_until
from leftovers import only_objects_of_the_test as only_objects_of_the_test
from tenacity import wait_none
from traffic import WAYS, Ledger, Notes, turns

from wsrpc import Client, ConnectionLost, Limits, Peer, Reconnect, ReconnectInfo, Server
from wsrpc.testing import FaultProxy

pytestmark = pytest.mark.usefixtures("only_objects_of_the_test")

CUTS = 10_000 if SOAK else 300
A_ROUND = 50
"""Cuts between two moments in which everything has to be over, and to add up."""
CALLERS = 6
"""At each end."""
LEFT = 1024 * 1024  # bytes
# Few handlers at once, so that some requests wait at either end for a place.
LIMITS = Limits(running=5, close_timeout=1.0, replay_bytes=0)  # sessions end with their connections
GOES_ON = Limits(close_timeout=1.0, replay_bytes=256 * 1024, stream_window=32)


class Story:
    """A client and a server that call each other through a proxy, and what both saw.

    Args:
        limits: without `Limits.replay_bytes`, each cut ends a session. With it, each session goes on.
    """

    def __init__(self, proxy: FaultProxy, server: Server, seed: int, limits: Limits, *, extensions: bool) -> None:
        self.goes_on = limits.replay_bytes > 0
        self.proxy = proxy
        self.server = server
        self.dice = random.Random(seed)
        self.calm = asyncio.Event()
        self.calm.set()
        self.up = Ledger(self.dice, self.calm, offline=not self.goes_on)
        self.down = Ledger(self.dice, self.calm, offline=False)
        self.up_notes, self.news = Notes(), Notes()
        self.down_notes: dict[int, list[int]] = {}
        """The numbers that each session of the client has seen since the latest `check`."""
        self.down_noted: dict[int, int] = {}
        """How many the present session had seen before."""
        self.traffic: asyncio.TaskGroup
        self.attempts = 0
        self.dialed = asyncio.Event()
        self.opened = 0
        self.closed: Counter[int] = Counter()
        self.back: Counter[bool] = Counter()
        """How often the client was told of a new connection, by whether its session went on. No list of what it was
        told, and nothing else for each cut: the memory of the test must not hide that of the library."""
        self.back_before = 0
        """How often it had been told at the end of the latest round."""
        self.outlived = 0
        """Handlers of the client that were still running when it had another connection."""
        self.waiting_from = 0
        """The first event that cannot have been sent before the latest cut."""
        self.waited_from: dict[int, int] = {}
        self.client = Client(
            self._url, limits=limits, reconnect=Reconnect(wait=wait_none()), extensions=extensions, proxy=None
        )
        self.up.serve(server)
        self.down.serve(self.client)
        server.on("note", self._noted)
        server.on("open", self._accepted)
        self.client.on("note", lambda attempt, n: self.down_notes.setdefault(attempt, []).append(n))
        self.carrier = 0
        """The attempt whose connection brings events: those that have to wait for room are handled after it was cut."""
        self.client.on("news", lambda n: self.news.saw(self.carrier, n))
        self.client.on("open", self._opened)
        self.client.on("close", lambda peer, info: self._closed(info.code))
        self.client.on_reconnect(self._is_back)

    @property
    def cuts(self) -> int:
        """Every attempt to connect but the latest one has failed, or its connection was cut."""
        return self.attempts - 1

    @property
    def session(self) -> int:
        """The attempt with which the session began that there is now."""
        return 1 if self.goes_on else self.attempts

    # ------------------------------------------------------------ connections come and go

    def _url(self) -> str:
        self.attempts += 1
        self.waited_from[self.attempts] = self.waiting_from
        self.dialed.set()
        return f"{self.proxy.url}?attempt={self.attempts}"

    def _opened(self, peer: Peer) -> None:
        self.opened += 1
        self.carrier = self.session
        self.outlived += len(self.down.running)

    def _closed(self, code: int) -> None:
        self.closed[code] += 1
        self.waiting_from = self.up_notes.sent

    def _is_back(self, info: ReconnectInfo) -> None:
        self.back[info.resumed] += 1

    def _accepted(self, peer: Peer) -> None:
        peer.state.setdefault("attempt", int(peer.info.query["attempt"]))
        if not self.calm.is_set():
            self._start_calling(peer)
            self.traffic.create_task(self._emit_down(peer))

    def _noted(self, peer: Peer, n: int, pad: str) -> None:
        self.up_notes.saw(peer.state["attempt"], n)

    async def cut(self) -> None:
        """Cut the connection that there is, or the one that is being dialed, at some byte."""
        if self.dice.random() < 0.5:
            await self.client.wait_connected()
        if self.goes_on:  # what is parked goes on, too
            self.calm.set()
            self.calm.clear()
        self.dialed.clear()
        if self.client.state == "connected" and self.dice.random() < 0.1:
            self.proxy.drop()
            await self.dialed.wait()
            return
        at = self.dice.randrange(self.dice.choice((1, 300, 1000, 5000, 20_000)))
        async with self.proxy.cut_after(at, self.dice.choice(("up", "down"))):
            await self.dialed.wait()

    # ------------------------------------------------------------ the traffic

    def _start_calling(self, caller: Client | Peer) -> None:
        for _ in range(CALLERS):
            self.traffic.create_task(self._call(caller))

    async def _call(self, caller: Client | Peer) -> None:
        ledger = self.up if caller is self.client else self.down
        while not self.calm.is_set() and (caller is self.client or caller.connected):
            await ledger.call(caller)
            await turns(self.dice.randrange(4))

    async def _emit_up(self) -> None:
        while not self.calm.is_set():
            for _ in range(self.dice.randrange(5)):
                await self.client.emit("note", self.up_notes.next(), "x" * self.dice.randrange(100))
            await turns(self.dice.randrange(8))
            await self.client.wait_connected()

    async def _emit_down(self, peer: Peer) -> None:
        attempt = peer.state["attempt"]
        with suppress(ConnectionLost):
            while not self.calm.is_set():
                n = peer.state["notes"] = peer.state.get("notes", -1) + 1
                await peer.emit("note", attempt, n)
                await turns(self.dice.randrange(8))

    async def _emit_to_all(self) -> None:
        while not self.calm.is_set():
            await self.server.emit("news", self.news.next())
            await turns(1 + self.dice.randrange(8))

    async def round(self) -> None:
        """Some cuts; then everything comes to its end, and has to fit."""
        until = self.cuts + A_ROUND
        self.calm.clear()
        async with asyncio.TaskGroup() as self.traffic:
            self._start_calling(self.client)
            self.traffic.create_task(self._emit_up())
            self.traffic.create_task(self._emit_to_all())
            for peer in self.server.peers:
                self._accepted(peer)
            while self.cuts < until:
                await self.cut()
            self.calm.set()
        await self.check()

    async def check(self) -> None:
        last = None
        while last != "value":  # the latest connection may have been cut before its trouble was over
            await self.client.wait_connected()
            await self.client.emit("note", self.up_notes.next(), "")
            last = await self.up.call(self.client)
        await turns_until(self._is_idle)
        [peer] = self.server.peers
        assert await self.down.call(peer, ["request"]) == "value"  # so that both ends have the timer of requests
        await turns_until(self._is_idle)
        self.up.check()
        self.down.check()
        assert max(self.up_notes.seen) == self.session
        assert self.up_notes.seen[self.session][-1] == self.up_notes.sent - 1
        self.up_notes.check(self.waited_from)
        self.news.check()
        for attempt, numbers in self.down_notes.items():
            first = self.down_noted.get(attempt, 0)
            assert numbers == list(range(first, first + len(numbers))), attempt
        now = len(self.down_notes.get(self.session, []))
        self.down_noted = {self.session: self.down_noted.get(self.session, 0) + now}
        self.down_notes.clear()
        self.waited_from = {self.session: self.waiting_from}
        assert self.closed.keys() <= {1006}
        assert self.closed[1006] == self.opened - 1
        # Nobody is told of a connection that was cut before it was of any use. The latest one was of use.
        before, self.back_before = self.back_before, self.back.total()
        assert before < self.back_before <= self.cuts
        if self.goes_on:
            [peer] = self.server.peers
            assert self.opened == 1 and not self.back[False]
            assert (self.up_notes.lost, self.news.lost, self.news.latest) == (0, 0, self.news.sent - 1)
            assert self.down_noted[1] == peer.state["notes"] + 1
            return
        assert self.outlived == 0
        assert self.back.total() <= self.closed[1006]

    def lacks(self) -> set[object]:
        """Return what has not happened yet: if nothing of it did, the rest would prove nothing."""
        ends = ("value", "ran"), ("unknown", "ran"), ("unknown", "did not run")
        ways = {*WAYS} - {"park"}  # which rarely ends by itself
        found: set[object] = set()
        for ledger in (self.up, self.down):
            found |= {(way, *end) for way in ways for end in ends} - ledger.outcomes.keys()
            found |= {"not_sent"} - {how for _, how, _ in ledger.outcomes}
            found |= set() if ledger.cancellations else {"cancelled"}
        times = {"an event is lost": self.up_notes.lost, "a handshake is cut": self.attempts - self.opened}
        return found | {what for what in times if not times[what]}

    def _is_idle(self) -> bool:
        peers = [*self.server.peers, self.client.peer]
        counts = [(peer.pending, peer.active, peer.anonymous_channels) for peer in peers]
        return counts == [(0, 0, 0)] * 2


def is_news(record: logging.LogRecord) -> bool:
    """Not the warning of a drop, or of an attempt that failed, or that some of these were left out.

    Of those there are as many as cuts, and pytest would keep them all.
    """
    message = record.getMessage()
    return not (
        message.startswith(("the connection ended (1006", "could not connect"))
        or "log lines were left out: too many in a short time" in message  # the peer is named behind it
    )


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Generator[list[logging.LogRecord]]:
    """The warnings and errors that nothing explains."""
    logger = logging.getLogger("wsrpc")
    logger.addFilter(is_news)
    yield caplog.records
    logger.removeFilter(is_news)


@asynccontextmanager
async def story(seed: int, limits: Limits, *, extensions: bool = True) -> AsyncGenerator[Story]:
    server = Server(limits=limits, extensions=extensions)
    async with server.listen() as listener, FaultProxy(listener.url) as proxy:
        told = Story(proxy, server, seed, limits, extensions=extensions)
        server.on("hello", lambda: None)
        async with told.client:
            for _ in range(2):  # then both sides know the name of the session, and count
                await told.client.request("hello")
            yield told


ON_FIRST_USE = "ChannelCalls", "OfflineQueue", "PeerUnreadMemory", "Violations", "WaitingRoom"
"""Of these a peer has one or none, whatever the peer on the last connection happened to need."""


async def left_alive() -> tuple[Counter[str], int]:
    """What could grow from cut to cut: objects, by type, and tasks."""
    objects = await living_objects()
    for name in ON_FIRST_USE:
        shared = 1 if name == "WaitingRoom" else 0  # the empty one of all peers in which nothing waits
        assert objects.pop(name, 0) <= 2 + shared, f"more than one {name} for each of the two peers"
    return objects, len(other_tasks())


async def play(s: Story, cuts: int) -> None:
    """Cut very often, and see that nothing grows from cut to cut."""
    while s.cuts < cuts // 5:  # so that caches, pools and remembered ids are as full as they get
        await s.round()
    early = await left_alive()
    if SOAK:  # it takes its time
        tracemalloc.start()
    memory = tracemalloc.get_traced_memory()[0]
    try:
        while s.cuts < cuts:
            await s.round()
        late = await left_alive()
        grown = tracemalloc.get_traced_memory()[0] - memory
    finally:
        tracemalloc.stop()
    assert late == early, (late[0] - early[0], early[0] - late[0])
    assert grown < LEFT, f"{grown} bytes more than before"


SEEDS = [(1, True), *(pytest.param(*more, marks=pytest.mark.soak) for more in ((2, True), (3, False)))]


@pytest.mark.timeout(600 if SOAK else 90)
@pytest.mark.parametrize(("seed", "extensions"), SEEDS)
async def test_whatever_is_cut_each_call_ends_once_and_nothing_runs_twice(
    seed: int, extensions: bool, log: list[logging.LogRecord]
) -> None:
    async with story(seed, LIMITS, extensions=extensions) as s:
        await play(s, -(-CUTS // 3))
        while SOAK and s.lacks():
            await s.round()
    assert log == []


@pytest.mark.timeout(3600 if SOAK else 240)
async def test_each_session_goes_on_and_nothing_is_lost_or_comes_twice(log: list[logging.LogRecord]) -> None:
    async with story(4, GOES_ON) as s:
        (peer,) = s.server.peers
        await play(s, CUTS if SOAK else CUTS // 2)
        for ledger in (s.up, s.down):
            assert ledger.outcomes.keys() == {(what, "value", "ran") for what in WAYS}
            assert not ledger.cancellations
        assert s.server.peers == (peer,)
    assert log == []
