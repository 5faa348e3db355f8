"""Senders on a line that fills and drains, and are cancelled, time out or lose the connection at any moment.

Whatever happens: what is sent leaves in the order in which it was asked for, nothing leaves twice, and once the line
has room everything that was not cancelled has left.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
from effort import examples
from hypothesis import settings
from hypothesis.stateful import rule
from machine import LoopMachine

from wsrpc import ConnectionLost, Peer, RequestTimeout
from wsrpc._protocol.settings import make_settings
from wsrpc.testing import Clock, ScriptedTransport

moments = st.sampled_from(["now", "now", "soon", "later", None])


class FullLine(LoopMachine):
    def __init__(self) -> None:
        super().__init__()
        self.transport = ScriptedTransport()
        self.number = 0
        self.sending: dict[int, asyncio.Task[Any]] = {}
        self.left: list[int] = []
        self.clock = Clock()
        settings = make_settings(None, None, None, extensions=False)
        self.inside(self.begin, settings)

    def begin(self, settings: Any) -> None:
        self.peer = Peer(settings, dialer=True, loop=self.clock, keeps_offline=True)
        self.peer.bind(self.transport)

    def at(self, moment: str, callback: Callable[[], None]) -> None:
        """Call it within the loop: now, or in the midst of its next turn, or of the one after."""
        if moment == "now":
            callback()
        elif moment == "soon":
            self.loop.call_soon(callback)
        else:
            self.loop.call_soon(self.loop.call_soon, callback)

    def start(self, coroutine: Any) -> None:
        self.sending[self.number] = self.loop.create_task(coroutine)

    # ------------------------------------------------------------ what happens

    @rule(
        kind=st.sampled_from(["emit", "on a channel", "request", "short"]), count=st.integers(1, 4), full=st.booleans()
    )
    def send(self, kind: str, count: int, full: bool) -> None:
        if full:
            self.transport.pause()
        for _ in range(count):
            self.number += 1
            caller = self.peer.of("room") if kind == "on a channel" else self.peer
            if kind in ("emit", "on a channel"):
                self.start(caller.emit("n", self.number))
            else:
                self.start(self._request(self.number, 1.0 if kind == "short" else None))
        if full:
            self.run(self.turns(1))

    async def _request(self, number: int, timeout: float | None) -> None:
        try:
            await self.peer.request("n", number, timeout=timeout)
        except (RequestTimeout, ConnectionLost):
            return

    @rule(which=st.integers(0, 5))
    def cancel(self, which: int) -> None:
        self._take()
        waiting = [task for number, task in self.sending.items() if not task.done() and number not in self.left]
        if waiting:
            waiting[which % len(waiting)].cancel()

    @rule(leaves=st.sampled_from([None, 0, 1]), fills=moments)
    def drain(self, leaves: int | None, fills: str | None) -> None:
        """Somebody may be cancelled right after it was woken, and the line may fill again at once."""

        def main() -> None:
            self.transport.resume()
            if leaves is not None:
                self.cancel(leaves)
            if fills is not None:
                self.at(fills, self.transport.pause)

        self.inside(main)

    @rule()
    def time_passes(self) -> None:
        self.inside(self.clock.advance, 2.0)

    @rule()
    def next_connection(self) -> None:
        def main() -> None:
            self._take()
            self.transport = ScriptedTransport()
            self.peer.bind(self.transport)

        self.inside(main)

    # ------------------------------------------------------------ what must hold

    def _take(self) -> None:
        self.left += [message["a"][1] for message in self.transport.take() if "a" in message]

    def teardown(self) -> None:
        try:
            self.run(self.finish())
        finally:
            for task in self.sending.values():
                task.cancel()
            self.run(self.turns(2))
            self.loop.close()

    async def finish(self) -> None:
        await self.turns(3)
        self.transport.resume()
        await self.turns(5 + 3 * len(self.sending))
        self._take()
        assert self.left == sorted(set(self.left)), f"they left in another order: {self.left}"
        assert not self.peer._outbox.busy
        await self.peer.emit("n", self.number + 1)
        self.transport.expect({"a": ["n", self.number + 1]})
        await self.peer.close()
        await self.turns(5)
        assert all(task.done() for task in self.sending.values())


TestFullLine = FullLine.TestCase
TestFullLine.settings = settings(max_examples=examples(200), stateful_step_count=30, deadline=None)
