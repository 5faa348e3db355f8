"""Two connected peers, and what users and networks do to their calls, in any order.

Whatever happens: each call ends, and what its caller was told is true; events and items come once, and in order; and
when all is over, nothing is left in either peer. What the simulator does not see is compared after each step: the
counts inside the peers.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import hypothesis.strategies as st
from effort import examples
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from wsrpc import ChannelClosed, ConnectionLost, Context, Limits, Overloaded, Peer, Retry, RpcError
from wsrpc._core.handlers.lifecycle import Closers
from wsrpc._core.wire.settings import make_settings
from wsrpc.errors import QueueFull, RequestTimeout, TooManyRequests, UnexpectedChannel, UnknownEvent
from wsrpc.testing import Clock, MemoryTransport, memory_transports

LOST = (ConnectionLost, ChannelClosed, RequestTimeout, TooManyRequests, QueueFull, Overloaded)
ENDS = {"nobody": UnknownEvent, "items": UnexpectedChannel, "fails": RpcError}
NOT_RUN = (Overloaded, QueueFull, TooManyRequests, UnknownEvent)
OVERDUE = "within 30 s"
"""So ends what nobody reads in time, and here time passes as it does nowhere else."""

sides, some, few, gates = st.sampled_from([0, 1]), st.integers(0, 20), st.integers(0, 12), st.booleans()
kinds = st.sampled_from(["echo", "later", "held", "held", "nobody", "ordered", "items"])


class TwoPeers(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.complaints: list[dict[str, Any]] = []
        self.loop.set_exception_handler(lambda _, context: self.complaints.append(context))
        self.clock, self.gate = Clock(), asyncio.Event()
        self.peers: list[Peer] = []
        self.ends: list[MemoryTransport] = []
        self.calls: list[tuple[str, int, asyncio.Task[Any]]] = []
        self.cancelled: set[asyncio.Task[Any]] = set()
        self.number = self.sources = 0
        self.starts: Counter[int] = Counter()
        self.harmless: set[int] = set()
        """What may run twice."""
        self.seen: list[list[int]] = [[], []]

    @initialize(channels=st.sampled_from([1, 6]), extensions=st.booleans(), offline=st.booleans())
    def begin(self, channels: int, extensions: bool, offline: bool) -> None:
        limits = {"high_water_bytes": 400, "hard_cap_bytes": 100_000, "stream_window": 4, "channels": channels}
        limits |= {"running": 3, "waiting": 4, "pending": 8, "offline": 3, "open_timeout": 2}
        self.limits = Limits(**limits)
        shared = make_settings(self.limits, None, extensions=extensions)
        for side in (0, 1):
            self.peers.append(Peer(shared, dialer=not side, loop=self.clock, keeps_offline=not side and offline))
            self.register(side, self.peers[side])
        self.connect()

    def inside(self, function: Callable[..., object], *args: Any) -> None:
        self.loop.call_soon(function, *args)
        self.loop.run_until_complete(asyncio.sleep(0))

    async def turns(self, count: int) -> None:
        for _ in range(count):
            await asyncio.sleep(0)
            self.counts_are_right()

    def register(self, side: int, peer: Peer) -> None:
        async def later(ctx: Context, number: int) -> str:
            self.begins(number)
            await (self.gate.wait() if ctx.event in ("held", "ordered") else asyncio.sleep(0))
            return ctx.event

        async def items(ctx: Context, number: int, count: int = 1, gated: bool = True) -> AsyncIterator[list[Any]]:
            self.begins(number)
            async for item in self.source(count, gated):
                yield item
            if ctx.event == "fails":
                raise RpcError("enough of this")

        async def add(number: int, most: int, given: AsyncIterator[list[Any]]) -> int:
            self.begins(number)
            return await self.read(given, most)

        named: dict[str, Any] = {"echo": self.begins, "later": later, "held": later, "items": items, "fails": items}
        named |= {"add": add, "note": lambda number, _: self.seen[side].append(number)}
        for name, handler in named.items():
            peer.on(name, handler)
        peer.on("ordered", later, ordered=True)

    def begins(self, number: int) -> str:
        self.starts[number] += 1
        return "echo"

    async def source(self, count: int, gated: bool) -> AsyncIterator[list[Any]]:
        self.sources += 1
        try:
            for number in range(count):
                if gated and number % 3 == 2:
                    await self.gate.wait()
                yield [number, "x" * 60]
        finally:
            self.sources -= 1

    async def read(self, items: AsyncIterator[list[Any]], most: int) -> int:
        got = 0
        async for number, _ in items:
            assert number == got
            got += 1
            if got >= most:
                break
        return got

    def start(self, kind: str, doing: Callable[[int], Coroutine[Any, Any, Any]]) -> None:
        self.number += 1
        if self.number % 4 and not all(peer.connected for peer in self.peers):
            self.connect()
        self.calls.append((kind, self.number, self.loop.create_task(doing(self.number))))

    @rule(side=sides, kind=kinds, timeout=st.sampled_from([None, None, 1.0, 5.0]), again=st.booleans())
    def request(self, side: int, kind: str, timeout: float | None, again: bool) -> None:
        options: dict[str, Any] = {"retry": Retry(initial=0.5, max=0.5), "idempotent": True} if again else {}
        self.harmless.update([self.number + 1] if again else [])

        async def main(number: int) -> None:
            result = await self.peers[side].request(kind, number, timeout=timeout, **options)
            # Without the extension, a channel that nobody asked for stands for null.
            assert result == (None if kind == "items" else kind)

        self.start(kind, main)

    @rule(side=sides, kind=st.sampled_from(["items", "fails", "add"]), count=few, most=few, gated=gates)
    def stream(self, side: int, kind: str, count: int, most: int, gated: bool) -> None:
        async def main(number: int) -> None:
            if kind == "add":
                got = await self.peers[side].request(kind, number, most, send=self.source(count, gated))
            else:
                async with self.peers[side].stream(kind, number, count, gated) as items:
                    got = await self.read(items, most)
            assert got == min(count, max(1, most)) and (got >= most or kind != "fails"), f"{got} of {count} items"

        self.start(kind, main)

    @rule(side=sides, size=st.sampled_from([1, 100]))
    def emit(self, side: int, size: int) -> None:
        self.start("emit", lambda number: self.peers[side].emit("note", number, "x" * size))

    @rule(side=sides, what=st.sampled_from(["hold", "release", "release", "abort"]))
    def wait_for_the_line_with_a_place(self, side: int, what: str) -> None:
        """More requests than the other side runs at once; the last ones come when the line is full."""
        self.on_line(side, "hold")
        for number in range(5):
            self.request(side, "held", None, False)
            for _ in range(4 if number == 2 else 0):
                self.emit(side, 100)
            self.turn(2)
        self.on_line(side, what)

    @rule(which=some, reason=st.sampled_from([None, "bored", ValueError("x")]))
    def cancel(self, which: int, reason: object) -> None:
        running = [task for *_, task in self.calls if not task.done()]
        for task in running[which % len(running) :][:1] if running else ():
            self.cancelled.add(task)
            task.cancel(reason)

    @rule()
    def connect(self) -> None:
        """Bind both to a new connection, whether there is an old one or not."""

        def main() -> None:
            self.ends = list(memory_transports(limits=self.limits))
            for peer, end in zip(self.peers, self.ends, strict=True):
                # JavaScript and Go count from 1 on each connection, so that the ids of the last one come again.
                peer._core.requester.outbox.requests._next = peer._core.requester.outbox.requests._first
                peer.bind(end)

        self.inside(main)

    @rule(side=sides, what=st.sampled_from([*["hold", "release"] * 3, "abort", "close"]))
    def on_line(self, side: int, what: str) -> None:
        if what == "close":
            self.start(what, lambda _: self.peers[side].close(4000))
        else:
            self.inside(getattr(self.ends[side], what))

    @rule(seconds=st.sampled_from([0.5, 1.0, 4.0, 20.0, 31.0]))
    def time_passes(self, seconds: float) -> None:
        self.inside(self.clock.advance, seconds)

    @rule()
    def open_gate(self) -> None:
        gate, self.gate = self.gate, asyncio.Event()
        self.inside(gate.set)

    @rule(count=st.sampled_from([1, 2, 4, 8, 40]))
    def turn(self, count: int) -> None:
        self.loop.run_until_complete(self.turns(count))

    @invariant()
    def counts_are_right(self) -> None:
        """What limits requests agrees with the requests that there are, and what needs checks is checked."""
        for peer in self.peers:
            admission, requests = peer._core.admission, peer._core.requester.outbox.requests
            assert admission.needs_checks or not admission.must_check(), admission
            table, flight = list(requests._pending.values()), requests.flight
            counted = [pending for pending in table if pending.h is None and pending.state.counts]
            assert flight.requests == len(counted) + sum(flight.abandoned.values())
            assert flight.bytes == sum(pending.size for pending in counted)
            assert flight.waiting == sum(pending.waiting_bytes for pending in table) >= 0

    def teardown(self) -> None:
        try:
            if self.peers:
                self.loop.run_until_complete(self.finish())
        finally:
            self.loop.close()

    async def finish(self) -> None:
        for end in self.ends:
            end.release()
        self.gate.set()
        await self.turns(200)
        for peer in self.peers:
            await peer.close()
        for seconds in (1.0, 1.0, 30.0, 0.0):  # those that wait to ask again, and what nobody reads
            await self.turns(60)
            self.clock.advance(seconds)
        for kind, number, task in self.calls:
            self.check(kind, number, task)
        assert all(seen == sorted(set(seen)) for seen in self.seen), "events arrived twice or out of order"
        assert self.sources == 0, "a source was not closed"
        for peer in self.peers:
            await peer._core.join(0, Closers())
            assert (peer.pending, peer.active, peer.anonymous_channels, peer.stats().waiting) == (0, 0, 0, 0), peer
            channels, waiting = peer._current.channels, peer._core.requester.outbox.callers_must_wait
            assert not (waiting or peer._current.dispatcher.active or peer._core.reporter.running)
            assert not (channels.undelivered or channels._credited or channels.unread_memory.used), channels
        assert self.clock.next_deadline is None, "a timer is left"
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left and not self.complaints, (left, self.complaints)

    def check(self, kind: str, number: int, task: asyncio.Task[Any]) -> None:
        """See that a call has ended, and that what its caller was told is true."""
        assert task.done(), f"{kind} has not ended"
        times = self.starts[number]
        assert times <= 1 or number in self.harmless, f"{kind} ran {times} times"
        error = None if task.cancelled() else task.exception()
        if error is None:
            assert task in self.cancelled if task.cancelled() else (times or kind in ("emit", "close", "items")), kind
        elif not isinstance(error, (*LOST, ENDS.get(kind, ConnectionLost))) and OVERDUE not in str(error):
            raise error
        elif isinstance(error, NOT_RUN) or getattr(error, "outcome", "") == "not_sent":
            assert not times, f"{kind} ran, and its error is {error!r}"


TestTwoPeers = TwoPeers.TestCase
TestTwoPeers.settings = settings(max_examples=examples(300), stateful_step_count=40, deadline=None)
