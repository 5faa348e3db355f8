"""A page's client whose connection is cut at very many random bytes, under calls, events and streams both ways.

``WSRPC_SOAK=1`` cuts more often, and ``WSRPC_SEED`` says where.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from itertools import product
from typing import Any, Literal

import pytest
from core_driver import turns
from effort import SEED, SOAK
from leftovers import nothing_left as nothing_left
from traffic import WAYS, Ledger, Notes, in_order
from waiting import until

from interop.page_client import Page as ClientPage
from wsrpc import ConnectionLost, Limits, Peer, Server
from wsrpc.testing import FaultProxy

pytestmark = pytest.mark.usefixtures("nothing_left")

Codec = Literal["json", "msgpack"]

A_ROUND = 50
"""Cuts between two moments in which everything has to be over, and to add up."""
CALLERS = 6
"""At each end."""
LISTENERS = 1
"""To the event `online`: the client."""
KINDS = "bytes", "bytes", "bytes", "line", "half open", "wake", "abort"
CANCELLED = "cancel", "expire", "abortStream", "abortUpload"
# Few handlers at once, so that some requests wait at either end for a place.
GOES_ON = Limits(running=5, close_timeout=1.0, replay_bytes=256 * 1024, stream_window=32)
ENDS = Limits(running=5, close_timeout=1.0, replay_bytes=0)


class Page(ClientPage):
    """The program ``page_cuts.mjs``."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        super().__init__(process)
        self.attempts = 0
        self.via = ""
        """The address of the latest attempt."""
        self.dialed = asyncio.Event()
        self.statuses: list[str] = ["connecting"]
        self.changed = asyncio.Event()

    @classmethod
    def playing(cls, url: str, codec: Codec, seed: int) -> AbstractAsyncContextManager[Page]:
        return cls.launched("page_cuts.mjs", url, codec, str(seed))

    async def ask(self, command: str, **fields: Any) -> Any:
        answer = await self.do(command, **fields)
        assert not self.faults, self.faults
        return answer

    async def until(self, *statuses: str) -> None:
        while self.statuses[-1] not in statuses:
            self.changed.clear()
            await self.changed.wait()

    async def close(self) -> None:
        """Close the client, after which the program has nothing more to do, and ends by itself."""
        await self.ask("close")
        await self.ended()

    def _take(self, told: Any) -> None:
        if "attempt" in told:
            self.attempts, self.via = told["attempt"], told["via"]
            self.dialed.set()
        elif "status" in told:
            self.statuses.append(told["status"])
            self.changed.set()
        else:
            super()._take(told)


class Served(Ledger):
    """What pages call."""

    def serve(self, side: Any) -> None:
        super().serve(side)
        for name in ("wait", "swallow", "taste"):
            side.on(name, getattr(self, name))

    async def wait(self, n: int) -> int:
        """Is cancelled, or ends with the next cut."""
        with self._runs(n, streams=True):
            try:
                await self.calm.wait()
            except asyncio.CancelledError:
                self.cancellations += 1
                raise
            return n

    async def swallow(self, n: int, items: AsyncIterator[int]) -> None:
        with self._runs(n, streams=True):
            async for _ in in_order(items):
                pass

    async def taste(self, n: int, items: AsyncIterator[int]) -> int:
        with self._runs(n):
            async for item in in_order(items):
                if item == 19:
                    break
            return 20


class Story:
    """A page and a server that call each other, through proxies that cut, and what both saw."""

    def __init__(self, page: Page, server: Server, proxies: list[FaultProxy], seed: int, *, goes_on: bool) -> None:
        self.page = page
        self.server = server
        self.proxies = proxies
        self.goes_on = goes_on
        self.kinds: tuple[str, ...] = KINDS
        self.dice = random.Random(seed)
        self.calm = asyncio.Event()
        self.calm.set()
        self.up = Served(self.dice, self.calm)
        self.down = Ledger(self.dice, self.calm)
        self.up_notes, self.news = Notes(), Notes()
        self.down_notes: Counter[int] = Counter()
        """How many were sent, by session."""
        self.noted: Counter[int] = Counter()
        """How many have come to the page."""
        self.cuts: Counter[str] = Counter()
        self.sessions = 0
        self.traffic: asyncio.TaskGroup
        self.up.serve(server)
        server.on("note", self._noted)
        server.on("open", self._accepted)

    def _noted(self, peer: Peer, n: int, pad: str) -> None:
        self.up_notes.saw(peer.state["session"], n)

    def _accepted(self, peer: Peer) -> None:
        if "session" not in peer.state:
            self.sessions += 1
            peer.state["session"] = self.sessions
        if not self.calm.is_set():
            for _ in range(CALLERS):
                self.traffic.create_task(self._call(peer))
            self.traffic.create_task(self._emit_down(peer))

    # ------------------------------------------------------------ the traffic

    async def _call(self, peer: Peer) -> None:
        while not self.calm.is_set() and (peer.connected or peer.detached):
            await self.down.call(peer)
            await turns(self.dice.randrange(4))

    async def _emit_down(self, peer: Peer) -> None:
        session = peer.state["session"]
        with suppress(ConnectionLost):
            while not self.calm.is_set():
                await peer.emit("note", session, self.down_notes[session])
                self.down_notes[session] += 1
                await turns(self.dice.randrange(8))

    async def _emit_to_all(self) -> None:
        while not self.calm.is_set():
            await self.server.emit("news", self.news.next())
            await asyncio.sleep(0.001)

    # ------------------------------------------------------------ the cuts

    async def cut(self) -> None:
        """Cut the connection that there is, or the one that is being dialed, and wait for another attempt."""
        if self.dice.random() < 0.7:
            await self.page.until("open")
        await self._release()
        kind = self.dice.choice(self.kinds)
        self.page.dialed.clear()
        await getattr(self, f"_cut_{kind.replace(' ', '_')}")()
        # The cut may have come before the connection that was being dialed. Or the page had just begun to dial the
        # other proxy: the next cut would then wait for a connection that never comes.
        while not self.page.dialed.is_set() or self.page.via != self.proxy.url:
            for proxy in self.proxies:
                proxy.drop()
            await asyncio.sleep(0.005)
        self.cuts[kind] += 1

    @property
    def proxy(self) -> FaultProxy:
        """The one to which the page dials."""
        return self.proxies[0]

    async def _dialed(self, *commands: str) -> None:
        async with asyncio.timeout(60):
            while not self.page.dialed.is_set():
                await asyncio.sleep(0.005)
                await self._release()  # or nothing may be sent any more
                for command in commands:
                    await self.page.ask(command)

    async def _release(self) -> None:
        """Let go on what is parked."""
        self.calm.set()
        self.calm.clear()
        await self.page.ask("release")

    def _direction(self) -> Literal["up", "down"]:
        return "up" if self.dice.random() < 0.5 else "down"

    async def _cut_bytes(self) -> None:
        at = self.dice.randrange(self.dice.choice((1, 300, 1000, 5000, 20_000)))
        async with self.proxy.cut_after(at, self._direction()):
            await self._dialed()

    async def _cut_line(self) -> None:
        self.proxy.drop()

    async def _cut_half_open(self) -> None:
        """The page dials again in another way, while the server still has the old connection."""
        await self.page.until("open")
        old = self.proxy
        async with old.silence(self.dice.choice(("up", "down", None))):
            self.proxies.reverse()
            await self.page.ask("wake", url=self.proxy.url)
            if self.goes_on:  # otherwise the page asks first whether the connection is alive
                await self._dialed("wake")  # again, because the page may wait for the answer to a resume
                if self.dice.random() < 0.5:
                    await self.page.until("open")
        # If the old connection showed life, the page stays on it. The next cut would then wait at the wrong proxy.
        old.drop()

    async def _cut_wake(self) -> None:
        """The page takes it that the connection has ended, because the network was away."""
        await self.page.until("open")
        await self.page.ask("wake")

    async def _cut_abort(self) -> None:
        """The server's socket ends."""
        await until(lambda: any(peer.connected for peer in self.server.peers))
        for peer in self.server.peers:
            if peer.transport is not None:
                peer.transport.abort()

    async def _cut_session(self) -> None:
        """The server ends the session while it has no connection. The page learns it when it asks to resume."""
        await self.page.until("open")
        async with self.proxies[0].refuse(), self.proxies[1].refuse():
            for proxy in self.proxies:
                proxy.drop()
            await self.page.until("detached", "connecting")  # the latter if the server has not yet said welcome
            await turns(self.dice.randrange(100))
            for peer in self.server.peers:
                await peer.close()
        await self.page.until("connecting")

    # ------------------------------------------------------------ rounds

    async def round(self) -> None:
        """Some cuts; then everything comes to its end, and has to fit."""
        until = self.cuts.total() + A_ROUND
        self.calm.clear()
        async with asyncio.TaskGroup() as self.traffic:
            await self.page.ask("call", callers=CALLERS)
            self.traffic.create_task(self._emit_to_all())
            for peer in self.server.peers:
                self._accepted(peer)
            while self.cuts.total() < until:
                await self.cut()
            self.calm.set()
            await self.page.ask("calm")
        await self.check()

    async def check(self) -> None:
        last = None
        while last != "value":  # the latest connection may have been cut before its trouble was over
            last = await self.page.ask("last")
        await until(self._is_idle)
        seen = await self.page.ask("seen")
        self.up.begun = seen["begun"]
        for number, way, how in seen["ends"]:
            assert number not in self.up.ends
            self.up.ends[number] = way, how
        self.up.check()
        self.down.ran.update({int(number): times for number, times in seen["ran"].items()})
        self.down.running.update(seen["running"])
        self.down.check()
        assert seen["sources"]["begun"] == seen["sources"]["left"]
        assert await self.page.ask("left") == LISTENERS
        self._check_notes(seen)

    def _check_notes(self, seen: dict[str, Any]) -> None:
        self.up_notes.sent = seen["notes"]
        self.up_notes.check()
        assert self.up_notes.latest == seen["notes"] - 1
        self.news.seen = {int(attempt): numbers for attempt, numbers in seen["news"].items()}
        self.news.check()
        for session, numbers in seen["noted"].items():
            first = self.noted[int(session)]
            assert numbers == list(range(first, first + len(numbers)))
            self.noted[int(session)] += len(numbers)
        if self.goes_on:
            assert (self.up_notes.lost, self.news.lost, self.news.latest) == (0, 0, self.news.sent - 1)
            assert self.noted == self.down_notes

    def lacks(self, sessions: str) -> bool:
        """Whether a sort of end, or a loss, has not happened yet: without it, the rest would prove nothing."""
        sorts = {("value", "ran"), ("unknown", "ran"), ("unknown", "did not run")}
        if sessions == "lost":
            sorts.add(("not_sent", "did not run"))
        ends = [{(how, ran) for _, how, ran in ledger.outcomes} for ledger in (self.up, self.down)]
        return not (all(found >= sorts for found in ends) and self.up_notes.lost and self.news.lost)

    def _is_idle(self) -> bool:
        return [(peer.pending, peer.active, peer.anonymous_channels) for peer in self.server.peers] == [(0, 0, 0)]


@asynccontextmanager
async def story(codec: Codec, limits: Limits, seed: int, *, kept: float = 60.0) -> AsyncGenerator[Story]:
    server = Server(limits=limits, detached_timeout=kept)
    async with AsyncExitStack() as stack:
        listener = await stack.enter_async_context(server.listen())
        # Two, so that the page can come back while the other one keeps its old connection half open.
        proxies = [await stack.enter_async_context(FaultProxy(listener.url)) for _ in range(2)]
        page = await stack.enter_async_context(Page.playing(proxies[0].url, codec, seed))
        told = Story(page, server, proxies, seed, goes_on=limits.replay_bytes > 0)
        for _ in range(2):  # then both sides know the name of the session, and count
            assert await page.ask("last") == "value"
        await told.check()
        yield told
        await page.close()
        await until(lambda: server.peers == ())


@pytest.mark.timeout(3600 if SOAK else 240)
@pytest.mark.parametrize("codec", ["json", "msgpack"] if SOAK else ["msgpack"])
async def test_each_session_goes_on_and_nothing_is_lost_or_comes_twice(codec: Codec) -> None:
    async with story(codec, GOES_ON, SEED) as told:
        every = {(way, "value", "ran") for way in WAYS}
        while told.cuts.total() < (1000 if SOAK else 100) or told.down.outcomes.keys() < every:
            await told.round()
        assert told.sessions == 1
        for way, how, _ in told.up.outcomes:
            assert how in ("value", *(("cancelled", "not_sent") if way in CANCELLED else ())), (way, how)
        assert told.down.outcomes.keys() == every


@pytest.mark.timeout(3600 if SOAK else 240)
@pytest.mark.parametrize(("codec", "sessions"), [*product(("json", "msgpack") if SOAK else ("json",), ("lost", "off"))])
async def test_when_a_session_ends_each_call_ends_once_and_says_what_has_run(codec: Codec, sessions: str) -> None:
    # If the welcome is lost, the server keeps a session that the page does not know. It must end before its calls do.
    async with story(codec, ENDS if sessions == "off" else GOES_ON, SEED, kept=5.0) as told:
        told.goes_on = False
        if sessions == "lost":
            told.kinds = *KINDS, "session", "session", "session"
        while told.cuts.total() < (1000 if SOAK else 100) or told.lacks(sessions):
            await told.round()
