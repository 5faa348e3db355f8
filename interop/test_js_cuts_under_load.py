"""Python and JavaScript, both busy, through cuts at random places: nothing is repeated, mixed up or out of order."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
from collections import Counter, defaultdict
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from interop.cuts import EVERY, SPEAK_4, Cuttable, Way, cuttable
from interop.peers import Agents
from wsrpc import ChannelClosed, ConnectionLost, Context

pytestmark = pytest.mark.asyncio(loop_scope="session")

CUTS = 30
WORKERS = 4
FOURTH = SPEAK_4[-1]
COMBINATIONS = [(library, way) for library, way in EVERY if library in ("ws-wrapper", FOURTH)]


class Work:
    """Python's application, and what it saw."""

    def __init__(self, line: Cuttable) -> None:
        self.line = line
        self.over = False
        self.answers: Counter[str] = Counter()
        self.streamed = 0
        self.noted: dict[str, list[int]] = defaultdict(list)
        """What JavaScript emitted, by the peer that got it (a client's is always the same)."""
        self.ran: list[int] = []
        """What JavaScript requested."""
        self._numbers = itertools.count(1)
        for place in (line.app, line.app.of("math")):
            place.on("noted", self._note)
            place.on("tally", self._tally)

    def _note(self, ctx: Context, number: int) -> None:
        self.noted[ctx.peer.id].append(number)

    def _tally(self, number: int) -> int:
        self.ran.append(number)
        return number

    async def ask(self) -> None:
        """An event and a request with the same number, again and again, until a server's peer is gone."""
        caller = self.line.caller
        while not self.over:
            number = next(self._numbers)
            place = caller if number % 2 else caller.of("math")
            try:
                await place.emit("log", number)
                answer = await place.request("tally", number, timeout=None)
            except ConnectionLost as exc:
                self.answers[exc.outcome] += 1
                if caller is self.line.app and self.line.app.state not in ("closing", "closed"):
                    continue
                return  # also when the test has failed, and its client was closed: another attempt would never wait
            self.answers["right" if answer == number else "wrong"] += 1

    async def read(self) -> None:
        """A stream and, beside it, a conversation."""
        caller = self.line.caller
        beside = await caller.open_channel("channel_make", offline="fail")
        async with caller.stream("ticks", 1, returns=int, offline="fail") as items:
            for expected in itertools.count():
                assert await anext(items) == expected
                assert await beside.request("echo", [expected]) == [expected]
                self.streamed += 1

    @asynccontextmanager
    async def under_way(self, *, streams: bool) -> AsyncGenerator[None]:
        """Both sides at work until the connection ends; a client's callers go on."""
        theirs = asyncio.create_task(self.line.call("load", workers=WORKERS))
        ours = [] if self.line.caller is self.line.app else [asyncio.create_task(self.ask()) for _ in range(WORKERS)]
        reading = [asyncio.create_task(self.read())] if streams else []
        yield
        for outcome in await asyncio.gather(*reading, return_exceptions=True):
            assert isinstance(outcome, (ConnectionLost, ChannelClosed)), outcome
        await asyncio.gather(*ours)
        counts = await theirs
        assert counts["wrong"] == 0
        assert counts["failed"] == 0
        assert counts["late"] == 0
        self.answers["theirs"] += counts["right"]

    def check(self) -> None:
        assert self.answers["wrong"] == 0
        for numbers in self.noted.values():
            assert numbers == sorted(numbers)
        check_once([number for numbers in self.noted.values() for number in numbers])
        check_once(self.ran)


def check_once(values: list[Any]) -> None:
    assert len(values) > CUTS
    assert len(values) == len(set(values))


def check_what_javascript_saw(journal: list[dict[str, Any]]) -> None:
    """Each request ran once at most, and was answered once at most; events came in order on each wrapper."""
    noted: dict[int, list[int]] = defaultdict(list)
    answered: list[tuple[int, int]] = []
    asked: list[int] = []
    for entry in journal:
        if entry["kind"] == "event":
            noted[entry["peer"]] += entry["args"]
        elif entry["kind"] == "message":
            message = json.loads(entry["data"])
            if "a" in message and "i" in message:
                asked.append(message["i"])
            elif "i" in message and "x" not in message:
                answered.append((entry["peer"], message["i"]))
    for numbers in noted.values():
        assert numbers == sorted(numbers)
    check_once([number for numbers in noted.values() for number in numbers])
    check_once([entry["item"] for entry in journal if entry["kind"] == "tallied"])
    check_once(answered)
    check_once(asked)


@asynccontextmanager
async def cut(line: Cuttable, work: Work, chance: random.Random) -> AsyncGenerator[None]:
    """Cuts the connection somewhere, in one way or the other."""
    how = chance.choice(["bytes up", "bytes down", "line", "javascript", "python"])
    kind, _, direction = how.partition(" ")
    if kind == "bytes":
        async with line.proxy.cut_after(chance.randrange(1, 4_000), "up" if direction == "up" else "down"):
            yield
    else:
        for _ in range(chance.randrange(4)):
            await line.caller.request("echo", "a while")
        if kind == "line":
            line.proxy.drop()
        elif kind == "javascript":
            await line.call("terminate")
        elif line.peer.transport is not None:
            line.peer.transport.abort()
        yield


@pytest.mark.parametrize(("library", "way"), COMBINATIONS, ids=[f"{name}:{way}" for name, way in COMBINATIONS])
async def test_many_cuts_under_load(agents: Agents, library: str, way: Way) -> None:
    chance = random.Random(f"{library} {way}")
    async with cuttable(agents, library, way) as line:
        work = Work(line)
        lasting = [asyncio.create_task(work.ask()) for _ in range(WORKERS)] if line.caller is line.app else []
        cuts = 0
        while cuts < CUTS or min(work.answers["right"], work.answers["theirs"]) <= CUTS:
            cuts += 1
            async with work.under_way(streams=library == FOURTH):
                async with cut(line, work, chance):
                    await line.closed.get()
            await line.settle()
        work.over = True
        await asyncio.gather(*lasting)
        for channel in (None, "math"):
            assert await line.ask("ask", "add", 1, 2, channel=channel) == 3
            assert await line.caller.request("ask", "add", 3, 4) == 7
        work.check()
        check_what_javascript_saw(await line.agent.call("events"))
        if line.caller is line.app:
            assert work.answers["not_sent"] == 0  # what a client has not sent waits for the next connection
