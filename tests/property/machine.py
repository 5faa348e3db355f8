"""What the state machines over two connected peers have in common: a loop, a clock, and what happens to the line."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import hypothesis.strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from wsrpc import Limits, Peer
from wsrpc._core.handlers.lifecycle import Closers
from wsrpc._core.wire.settings import make_settings
from wsrpc.testing import Clock, MemoryTransport, memory_transports

__all__ = ["ConnectedPeers", "LoopMachine", "sides"]

sides = st.sampled_from([0, 1])


class LoopMachine(RuleBasedStateMachine):
    """A state machine with an event loop of its own."""

    new_loop: Callable[[], Any] = staticmethod(asyncio.new_event_loop)

    def __init__(self) -> None:
        super().__init__()
        self.loop = self.new_loop()
        self.complaints: list[dict[str, Any]] = []
        self.loop.set_exception_handler(lambda _, context: self.complaints.append(context))

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(coroutine)

    def inside(self, function: Callable[..., object], *args: Any) -> None:
        """Call a function within the loop."""

        async def main() -> None:
            function(*args)

        self.run(main())

    async def turns(self, count: int = 20) -> None:
        for _ in range(count):
            await asyncio.sleep(0)

    @rule(count=st.integers(1, 8))
    def turn(self, count: int) -> None:
        self.run(self.turns(count))

    @rule()
    def settle(self) -> None:
        self.run(self.turns(40))


class ConnectedPeers(LoopMachine):
    """``limits`` is given by the machine; ``gate`` holds back the tasks that wait for it."""

    peers: list[Peer]
    limits: Limits

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.ends: list[MemoryTransport] = []
        self.tasks: list[asyncio.Task[Any]] = []
        self.gate = asyncio.Event()
        self.connects = 0

    def make_peers(self, extensions: bool, keeps_offline: bool = False) -> None:
        async def main() -> None:
            shared = make_settings(self.limits, None, extensions=extensions)
            self.peers = [
                Peer(shared, dialer=dialer, loop=self.clock, keeps_offline=dialer and keeps_offline)
                for dialer in (True, False)
            ]
            for side, peer in enumerate(self.peers):
                self.register(side, peer)

        self.run(main())
        self.connect()

    def register(self, side: int, peer: Peer) -> None:
        raise NotImplementedError

    def start(self, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        self.tasks.append(self.loop.create_task(coroutine))
        return self.tasks[-1]

    @rule()
    @precondition(lambda self: self.connects < 15)
    def connect(self) -> None:
        """Bind both to a new connection, whether there is an old one or not."""
        self.connects += 1

        def main() -> None:
            self.ends = list(memory_transports(limits=self.limits))
            for peer, end in zip(self.peers, self.ends, strict=True):
                # JavaScript and Go count from 1 on each connection, so that the ids of the last one come again.
                peer._core.requester.outbox.requests._next = peer._core.requester.outbox.requests._first
                peer.bind(end)

        self.inside(main)

    # ------------------------------------------------------------ what happens

    @rule(seconds=st.sampled_from([0.5, 1.0, 4.0, 20.0, 31.0]))
    def time_passes(self, seconds: float) -> None:
        self.inside(self.clock.advance, seconds)

    @rule()
    def open_gate(self) -> None:
        def main() -> None:
            gate, self.gate = self.gate, asyncio.Event()
            gate.set()

        self.inside(main)

    @rule(side=sides)
    def hold_line(self, side: int) -> None:
        for end in self.ends[side : side + 1]:
            end.hold()

    @rule(side=sides)
    def release_line(self, side: int) -> None:
        for end in self.ends[side : side + 1]:
            self.inside(end.release)

    @rule(side=sides)
    def drop(self, side: int) -> None:
        for end in self.ends[side : side + 1]:
            self.inside(end.abort)

    # ------------------------------------------------------------ what must hold

    async def turns(self, count: int = 20) -> None:
        for _ in range(count):
            await super().turns(1)
            self.no_check_is_left_out()

    @invariant()
    def no_check_is_left_out(self) -> None:
        """A message goes straight to its handler only while there is nothing to check."""
        for peer in getattr(self, "peers", ()):
            admission = peer._core.admission
            assert admission.needs_checks or not admission.must_check(), admission

    @invariant()
    def requests_are_counted(self) -> None:
        """What limits requests to the remote peer's places agrees with the requests that there are."""
        for peer in getattr(self, "peers", ()):
            requests = peer._core.requester.outbox.requests
            table = list(requests._pending.values())
            counted = [pending for pending in table if pending.h is None and pending.state.counts]
            abandoned = sum(requests.flight.abandoned.values())
            assert requests.flight.requests == len(counted) + abandoned
            assert requests.flight.bytes == sum(pending.size for pending in counted)
            assert requests.flight.waiting == sum(pending.waiting_bytes for pending in table) >= 0

    def teardown(self) -> None:
        try:
            if hasattr(self, "peers"):
                self.run(self.finish())
        finally:
            self.loop.close()

    async def finish(self) -> None:
        raise NotImplementedError

    async def let_all_go(self) -> None:
        """Nothing holds anything back any more."""
        for end in self.ends:
            end.release()
        gate, self.gate = self.gate, asyncio.Event()
        self.gate.set()
        gate.set()
        await self.turns(60)

    async def assert_empty(self) -> None:
        """Nothing is left in the peers, after they were closed, nor of them."""
        for peer in self.peers:
            await peer._core.join(0, Closers())
            assert (peer.pending, peer.active, peer.anonymous_channels) == (0, 0, 0), peer
            assert peer._current.dispatcher.active == {} and peer.stats().waiting == 0
            assert not peer._core.requester.outbox.callers_must_wait and peer._core.reporter.running == {}
            assert not (peer._current.channels.undelivered or peer._current.channels._credited)
        assert self.clock.next_deadline is None, "a timer is left"
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert left == set(), left
        assert self.complaints == []
