"""Traffic over a connection, and a ledger of what the applications at both ends saw.

Nothing here asks the library what happened: handlers and callers write down what they see, and `Ledger.check`
compares the two.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Generator, Iterator
from contextlib import contextmanager
from itertools import count, pairwise

from core_driver import turns

from wsrpc import AnonymousChannel, ChannelClosed, Client, ConnectionLost, Context, Peer, RpcError, Server

MANY = 1_000_000
ENDLESS = "download", "plain"
"""Streams that go on for longer than anybody reads them."""
ENOUGH = "enough"
"""Why callers cancel, if they do."""
WAYS = (*("request",) * 4, "park", "download", "break_off", "upload", "converse")
"""To call what ends by itself, or is left."""
End = tuple[str, str]
"""What was called, and how it ended: ``"value"``, ``"cancelled"``, ``"not_sent"`` or ``"unknown"``."""


async def in_order(items: AsyncIterator[int]) -> AsyncIterator[int]:
    expected = 0
    async for item in items:
        assert item == expected
        yield item
        expected += 1


class Ledger:
    """The calls of one direction: what their callers at one end saw, and their handlers at the other.

    Once ``calm`` is set, calls that would never end return.
    """

    def __init__(self, dice: random.Random, calm: asyncio.Event) -> None:
        self.dice = dice
        self.calm = calm
        self.numbers = count()
        self.begun = 0
        self.ends: dict[int, End] = {}
        self.ran: Counter[int] = Counter()
        self.running: set[int] = set()
        self.cancelled: list[object] = []
        """Why handlers of requests were cancelled."""
        self.cancellations = 0
        self.sources: Counter[str] = Counter()
        self.outcomes: Counter[tuple[str, str, str]] = Counter()
        """What was called, how it ended, and whether it had run: of all calls since the beginning."""

    # ------------------------------------------------------------ the end that is called

    def serve(self, side: Client | Server | Peer) -> None:
        handlers = "now", "later", "park", "download", "plain", "fails", "upload", "talk", "returned"
        for name in handlers:
            side.on(name, getattr(self, name))

    @contextmanager
    def _runs(self, n: int, *, streams: bool = False) -> Generator[None]:
        self.ran[n] += 1
        self.running.add(n)
        try:
            yield
        except asyncio.CancelledError as exc:
            if not streams:  # whose readers may have left
                self.cancelled.append(exc.args[0] if exc.args else None)
            raise
        finally:
            self.running.remove(n)

    def now(self, n: int, pad: str) -> int:
        with self._runs(n):
            return n

    async def later(self, n: int, pad: str) -> int:
        with self._runs(n):
            await turns(n % 8)
            return n

    async def park(self, n: int, pad: str) -> int:
        """Does not end before a cut."""
        with self._runs(n):
            await self.calm.wait()
            return n

    async def download(self, n: int, size: int) -> AsyncIterator[int]:
        with self._runs(n, streams=True):
            for item in range(size):
                if item % 8 == n % 8:
                    await asyncio.sleep(0)
                yield item

    def plain(self, n: int, size: int) -> Iterator[int]:
        with self._runs(n, streams=True):
            yield from range(size)

    async def fails(self, n: int) -> AsyncIterator[int]:
        with self._runs(n, streams=True):
            yield 0
            raise RpcError("broken", code="broken")

    def returned(self, n: int, ctx: Context) -> AnonymousChannel:
        """ws-wrapper's own form."""
        with self._runs(n):
            channel = ctx.channel()
            channel.on("more", lambda n: n + 1)
            return channel

    async def upload(self, n: int, items: AsyncIterator[int]) -> int:
        with self._runs(n):
            return len([item async for item in in_order(items)])

    async def talk(self, n: int, channel: AnonymousChannel) -> None:
        with self._runs(n, streams=True):
            async for word in channel.events("word"):
                await channel.emit("echo", word)

    # ------------------------------------------------------------ the end that calls

    async def call(self, caller: Client | Peer) -> None:
        """Something at random, to its end. Raises whatever is no `ConnectionLost`."""
        name = self.dice.choice(WAYS)
        way = getattr(self, f"_{name}")
        n = next(self.numbers)
        self.begun += 1
        how = "an error"
        try:
            await way(caller, n)
            how = "value"
        except ConnectionLost as exc:
            how = exc.outcome
        except asyncio.CancelledError:
            how = "cancelled"
            raise
        finally:
            assert n not in self.ends
            self.ends[n] = (name, how)

    def size(self) -> int:
        return self.dice.choice((0, 1, 10, 300))  # sometimes more than a window at once

    async def _request(self, caller: Client | Peer, n: int) -> None:
        pad = "x" * self.dice.randrange(300)
        assert await caller.request(self.dice.choice(("now", "later")), n, pad, returns=int) == n

    async def _park(self, caller: Client | Peer, n: int) -> None:
        assert await caller.request("park", n, "", returns=int) == n

    async def _download(self, caller: Client | Peer, n: int) -> None:
        size = self.size()
        async with caller.stream("download", n, size, returns=int) as items:
            assert [item async for item in items] == [*range(size)]

    async def _break_off(self, caller: Client | Peer, n: int) -> None:
        """One that has no end is left after a while, if it gets that far."""
        enough = self.dice.randrange(600)
        async with caller.stream(self.dice.choice(ENDLESS), n, MANY, returns=int) as items:
            async for item in in_order(items):
                if item >= enough or self.calm.is_set():
                    return
        raise AssertionError("a stream without an end has ended")

    async def _upload(self, caller: Client | Peer, n: int) -> None:
        size = self.size()
        assert await caller.request("upload", n, send=self._source(size), returns=int) == size

    async def _converse(self, caller: Client | Peer, n: int) -> None:
        async with await caller.open_channel("talk", n) as channel:
            try:
                echoes = channel.events("echo")
                for word in range(self.dice.choice((0, 1, 20))):
                    await channel.emit("word", word)
                    assert await anext(echoes) == word
            except (ChannelClosed, ConnectionLost) as lost:
                raise ConnectionLost(outcome="unknown") from lost  # its own outcome is that of one word

    async def _source(self, size: int) -> AsyncIterator[int]:
        self.sources["begun"] += 1
        try:
            for item in range(size):
                yield item
        finally:
            self.sources["left"] += 1

    # ------------------------------------------------------------ the two compared

    def check(self) -> None:
        """Every call has ended, in a way that fits what ran over there. Then begin anew."""
        assert len(self.ends) == self.begun
        for n, (what, how) in self.ends.items():
            times = self.ran[n]
            # Nothing runs twice; what is answered has run, what was not sent has not.
            allowed = {"value": (1,), "not_sent": (0,), "unknown": (0, 1), "cancelled": (0, 1)}[how]
            assert times in allowed, f"{what} {n} ended as {how} and ran {times} times"
            self.outcomes[what, how, "ran" if times else "did not run"] += 1
        assert self.ran.keys() <= self.ends.keys()
        assert self.running == set()
        why = {reason for reason in self.cancelled if not isinstance(reason, ConnectionLost)}
        assert why <= {ENOUGH}, why
        assert self.sources["begun"] == self.sources["left"]
        self.cancellations += len(self.cancelled)
        self.begun = 0
        self.cancelled.clear()
        self.ends.clear()
        self.ran.clear()


class Notes:
    """Numbered events of one sender: what was seen of them, by connection."""

    def __init__(self) -> None:
        self.sent = 0
        self.latest = -1
        """The latest that was seen before those in ``seen``."""
        self.seen: dict[int, list[int]] = {}
        self.total = 0
        self.lost = 0

    def next(self) -> int:
        self.sent += 1
        return self.sent - 1

    def saw(self, connection: int, number: int) -> None:
        self.seen.setdefault(connection, []).append(number)

    def check(self) -> None:
        """In order, none twice, none missing but at cuts."""
        for connection, numbers in sorted(self.seen.items()):
            first, last = numbers[0], numbers[-1]
            assert all(b == a + 1 for a, b in pairwise(numbers)), f"connection {connection}: {numbers}"
            assert first > self.latest, f"connection {connection} began with {first} after {self.latest}"
            self.lost += first - self.latest - 1
            self.total += len(numbers)
            self.latest = last
        self.seen.clear()
