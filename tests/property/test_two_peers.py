"""Two real peers, everything that users and networks do to them, in any order, and a model that counts.

Whatever happens: every request ends exactly once, with what its handler did or with a reason that fits; events
arrive at most once and in order; and when it is over, nothing is left in either peer.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import hypothesis.strategies as st
from effort import examples
from hypothesis import settings
from hypothesis.stateful import initialize, rule
from machine import ConnectedPeers, sides

from wsrpc import (
    BadArguments,
    ConnectionLost,
    Context,
    HandlerFailed,
    Limits,
    MessageTooBig,
    Overloaded,
    Peer,
    QueueFull,
    RemoteError,
    RequestTimeout,
    Retry,
    Stream,
    TooManyRequests,
    UnknownEvent,
)
from wsrpc.errors import Draining, UnexpectedChannel

SMALL = Limits(
    high_water_bytes=300, hard_cap_bytes=100_000, running=3, waiting=4, pending=8, offline=3, open_timeout=2, channels=1
)

kinds = st.sampled_from(
    ["echo", "later", "held", "stubborn", "back", "fails", "nobody", "ordered", "yields", "gives", "fleeting"]
)
timeouts = st.sampled_from([None, None, 1.0, 5.0])

CHANNEL = (UnexpectedChannel, RemoteError)
"""What a request for one value ends with whose answer is a channel, or would be."""
ENDS: dict[str, tuple[type[BaseException], ...]] = {
    "fails": (HandlerFailed,),
    "nobody": (UnknownEvent,),
    "yields": CHANNEL,
    "gives": CHANNEL,
    "fleeting": (UnknownEvent,),
}
MAY_SUCCEED = ("fleeting", "yields", "gives")

ALWAYS = (ConnectionLost, RequestTimeout, TooManyRequests, QueueFull, Overloaded, asyncio.CancelledError)
RETRY = Retry(initial=0.5, max=0.5)


def says_that_nothing_ran(error: BaseException) -> bool:
    if isinstance(error, ConnectionLost):
        return error.outcome == "not_sent"
    return isinstance(
        error, (BadArguments, Draining, MessageTooBig, Overloaded, QueueFull, TooManyRequests, UnknownEvent)
    )


class Asked:
    """One request of the model."""

    def __init__(self, kind: str, side: int, number: int, task: asyncio.Task[Any]) -> None:
        self.kind = kind
        self.side = side
        self.number = number
        self.task = task
        self.cancelled = False
        self.ended = 0
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self.ended += 1
        if task.cancelled():
            # Only who cancelled it sees it cancelled.
            assert self.cancelled
            return
        error = task.exception()
        if error is None:
            # Without the extension a channel that nobody asked for stands for null.
            assert task.result() == (None if ENDS.get(self.kind) is CHANNEL else [self.kind, self.number])
            assert self.kind not in ENDS or self.kind in MAY_SUCCEED
        else:
            # The caller of a `back` whose inner request failed gets an internal error.
            inner = (HandlerFailed,) if self.kind == "back" else ()
            assert isinstance(error, ALWAYS + ENDS.get(self.kind, ()) + inner), error
            if isinstance(error, RemoteError):
                assert self.kind in ENDS or isinstance(error, (Overloaded, *inner)), error


class TwoPeers(ConnectedPeers):
    limits = SMALL

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[Asked] = []
        self.there = [True, True]
        self.fleeting: list[Callable[[int], list[Any]]] = []
        self.harmless: set[int] = set()
        """What may run twice."""
        self.number = 0
        self.seen: list[list[int]] = [[], []]
        self.starts: Counter[tuple[int, int]] = Counter()

    @initialize(offline=st.booleans(), opens=st.booleans(), extensions=st.booleans())
    def begin(self, offline: bool, opens: bool, extensions: bool) -> None:
        self.opens = opens
        self.make_peers(extensions, offline)

    def register(self, side: int, peer: Peer) -> None:
        def started(kind: str, number: int) -> list[Any]:
            self.starts[1 - side, number] += 1
            return [kind, number]

        async def later(number: int) -> list[Any]:
            result = started("later", number)
            await asyncio.sleep(0)
            return result

        async def held(ctx: Context, number: int) -> list[Any]:
            result = started(ctx.event, number)
            await self.gate.wait()
            return result

        async def stubborn(number: int) -> list[Any]:
            result = started("stubborn", number)
            gate = self.gate
            while not gate.is_set():
                try:
                    await gate.wait()
                except asyncio.CancelledError:
                    continue
            return result

        async def back(peer: Peer, number: int) -> list[Any]:
            result = started("back", number)
            assert await peer.request("ping", timeout=3) == "pong"
            return result

        async def yields(number: int) -> AsyncIterator[int]:
            started("yields", number)
            yield number
            await self.gate.wait()

        def gives(number: int) -> Iterator[int]:
            started("gives", number)
            return iter([number])

        def fails(number: int) -> None:
            started("fails", number)
            raise ValueError(number)

        async def open_handler(peer: Peer) -> None:
            try:
                assert await peer.request("ping", timeout=3) == "pong"
            except (ConnectionLost, RequestTimeout, TooManyRequests, Overloaded, QueueFull):
                return

        peer.on("ping", lambda: "pong")
        peer.on("echo", lambda number: started("echo", number))
        peer.on("ordered", held, ordered=True)
        handlers: tuple[Callable[..., Any], ...] = (later, held, stubborn, back, fails, yields, gives)
        for handler in handlers:
            peer.on(handler.__name__, handler)
        self.fleeting.append(lambda number: started("fleeting", number))
        peer.on("fleeting", self.fleeting[side])
        peer.on("note", lambda number, _: self.seen[side].append(number))
        if self.opens and side == 0:
            peer.on("open", open_handler)

    # ------------------------------------------------------------ what happens

    @rule(side=sides, kind=kinds, timeout=timeouts, retry=st.sampled_from([None, None, "what did not run", "all"]))
    def request(self, side: int, kind: str, timeout: float | None, retry: str | None) -> None:
        self.number += 1
        options: dict[str, Any] = {} if retry is None else {"retry": RETRY, "idempotent": retry == "all"}
        if retry == "all":
            self.harmless.add(self.number)
        task = self.loop.create_task(self.peers[side].request(kind, self.number, timeout=timeout, **options))
        self.asked.append(Asked(kind, side, self.number, task))

    @rule(side=sides)
    def stream(self, side: int) -> None:
        """One that has the only place until the gate is opened."""
        self.number += 1
        self.start(self.read_one(self.peers[side].stream("yields", self.number)))

    async def read_one(self, stream: Stream[int]) -> None:
        async with stream:
            await anext(stream)
            await self.gate.wait()

    @rule(side=sides)
    def come_or_go(self, side: int) -> None:
        """One of the handlers is there, or is not."""
        self.there[side] = not self.there[side]
        peer = self.peers[side]
        peer.on("fleeting", self.fleeting[side] if self.there[side] else None)

    @rule(side=sides, size=st.sampled_from([1, 100]))
    def emit(self, side: int, size: int) -> None:
        self.number += 1
        self.start(self.peers[side].emit("note", self.number, "x" * size))

    @rule(side=sides, drops=st.booleans())
    def wait_for_the_line_with_a_place(self, side: int, drops: bool) -> None:
        """More requests than the other side runs at once; the last ones come when the line is full."""
        self.hold_line(side)
        for number in range(5):
            self.request(side, "held", None, None)
            self.run(self.turns(2))
            if number == 2:
                for _ in range(4):
                    self.emit(side, 100)
        self.run(self.turns(2))
        if drops:
            self.drop(side)

    @rule(which=st.integers(0, 30), reason=st.sampled_from([None, "bored", ValueError("x")]))
    def cancel(self, which: int, reason: object) -> None:
        running = [asked for asked in self.asked if not asked.task.done()]
        if running:
            asked = running[which % len(running)]
            asked.cancelled = True
            asked.task.cancel(reason)

    @rule(which=st.integers(0, 30))
    def cancel_an_emit(self, which: int) -> None:
        running = [task for task in self.tasks if not task.done()]
        if running:
            running[which % len(running)].cancel()

    @rule(side=sides)
    def close(self, side: int) -> None:
        self.start(self.peers[side].close(4000, "rule"))

    # ------------------------------------------------------------ what must hold

    async def finish(self) -> None:
        await self.let_all_go()
        for peer in self.peers:
            await peer.close()
        await self.turns(50)
        for _ in range(2):  # those that wait to ask again
            self.clock.advance(1.0)
            await self.turns(20)
        for asked in self.asked:
            assert asked.task.done(), f"{asked.kind} never ended"
            assert asked.ended == 1
        assert all(task.done() for task in self.tasks)
        for task in self.tasks:
            if not task.cancelled() and task.exception() is not None:
                error = task.exception()
                assert isinstance(error, (*ALWAYS, RemoteError)), error
        for (_, number), times in self.starts.items():
            assert times <= 1 or number in self.harmless, "a request ran twice"
        for asked in self.asked:
            error = None if asked.task.cancelled() else asked.task.exception()
            if error is not None and says_that_nothing_ran(error):
                assert not self.starts[asked.side, asked.number], f"{asked.kind} ran, and its error is {error!r}"
        for seen in self.seen:
            assert seen == sorted(set(seen)), "events arrived twice or out of order"
        await self.assert_empty()


TestTwoPeers = TwoPeers.TestCase
TestTwoPeers.settings = settings(max_examples=examples(150), stateful_step_count=40, deadline=None)


def test_an_event_does_not_overtake_those_that_wait_for_a_handler() -> None:
    """Tasks whose first step was taken at once overtook those that were to begin in the next turn (on Python 3.11)."""
    state = TwoPeers()
    state.begin(offline=True, opens=False, extensions=True)
    state.wait_for_the_line_with_a_place(drops=False, side=0)
    state.wait_for_the_line_with_a_place(drops=False, side=0)
    state.connect()
    state.settle()
    state.wait_for_the_line_with_a_place(drops=False, side=0)
    state.teardown()
