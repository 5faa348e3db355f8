"""One peer whose line fills and drains as it likes, in rooms of every slow policy, and whatever else is sent to it.

Whatever happens: what must have no gaps has none, nothing comes twice or out of order (by key, where the latest is
kept), what waits is bounded, and every message was either sent or counted as dropped.
"""

from __future__ import annotations

import asyncio
from typing import Any

import hypothesis.strategies as st
import pytest
from effort import examples
from hypothesis import settings
from hypothesis.stateful import invariant, rule
from machine import LoopMachine
from peers_inside import out_of

import wsrpc._server.broadcast
from wsrpc import KeepLatest, Limits, Peer, Server
from wsrpc.testing import ScriptedTransport

BEHIND = 2000
POLICIES: dict[str, Any] = {
    "all": "close",
    "newest": "drop_newest",
    "oldest": "drop_oldest",
    "latest": KeepLatest(lambda number, key, padding: key),
}


class Narrow(ScriptedTransport):
    """A line that is full after ``room`` messages more."""

    room = 10**6

    def send(self, payload: bytes, text: bool = True, /) -> None:
        super().send(payload, text)
        self.room -= 1
        if self.room == 0:
            self.pause()

    def drained(self, room: int) -> None:
        self.room = room
        self.resume()


class SlowMachine(LoopMachine):
    def __init__(self) -> None:
        super().__init__()
        self.emitted: dict[str, list[tuple[int, int]]] = {name: [] for name in (*POLICIES, "direct")}
        self.received: dict[str, list[tuple[int, int]]] = {name: [] for name in self.emitted}
        self.left_out = 0
        self.number = 0
        self.waiting: list[asyncio.Task[None]] = []
        self.run(self.begin())

    async def begin(self) -> None:
        self.server = Server(limits=Limits(hard_cap_bytes=16 * BEHIND, ping_interval=None), extensions=False)
        self.line = Narrow()
        peer = await self.server.accept(self.line)
        assert isinstance(peer, Peer)
        self.peer = peer
        for name, slow in POLICIES.items():
            self.server.room(name, slow=slow).add(peer)

    def next(self, name: str, key: int) -> int:
        self.number += 1
        self.emitted[name].append((self.number, key))
        return self.number

    @rule(
        name=st.sampled_from(list(POLICIES)), key=st.integers(0, 2), size=st.sampled_from([0, 300, BEHIND, 3 * BEHIND])
    )
    def emit(self, name: str, key: int, size: int) -> None:
        number = self.next(name, key)
        report = self.run(self.server.room(name).emit(name, number, key, "x" * size))
        assert report.errors == ()
        assert report.sent + report.skipped == 1

    @rule(key=st.integers(0, 2))
    def emit_directly(self, key: int) -> None:
        async def begin() -> None:
            number = self.next("direct", key)
            self.waiting.append(asyncio.get_running_loop().create_task(self.peer.emit("direct", number, key, "")))
            await asyncio.sleep(0)

        self.run(begin())

    @rule(room=st.integers(1, 4))
    def drain(self, room: int) -> None:
        async def main() -> None:
            self.line.drained(room)
            await self.turns(5)

        self.run(main())
        self.hear()

    @rule()
    def fill(self) -> None:
        self.inside(self.line.pause)

    def hear(self) -> None:
        for message in self.line.pop_sent():
            name, number, key, _ = message["a"]
            self.received[name].append((number, key))

    @invariant()
    def what_waits_is_bounded(self) -> None:
        behind = out_of(self.peer).slow_reader
        if behind is not None:
            size = sum(len(payload) + 256 for payload, _ in behind.items.values())
            assert behind.size == size
            assert size <= BEHIND or len(behind) == 1
            assert not len(behind) or self.peer.stats().slow

    def teardown(self) -> None:
        try:
            self.check()
        finally:
            self.run(self.server.close())
            self.loop.close()

    def check(self) -> None:
        self.drain(10**6)
        while self.waiting or not self.received_all():
            self.drain(10**6)
            self.waiting = [task for task in self.waiting if not task.done()]
        missing = 0
        for name, emitted in self.emitted.items():
            received = self.received[name]
            assert sorted(set(received)) == sorted(received), "twice"
            assert set(received) <= set(emitted)
            missing += len(emitted) - len(received)
            if name in ("all", "direct"):
                assert received == emitted
            elif name != "latest":
                assert received == sorted(received)
            else:
                for key in range(3):
                    of_key = [number for number, its in received if its == key]
                    assert of_key == sorted(of_key)
        assert self.peer.skipped_broadcasts == missing

    def received_all(self) -> bool:
        behind = out_of(self.peer).slow_reader
        return behind is None or not len(behind)


@pytest.fixture(autouse=True)
def _no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wsrpc._server.broadcast, "SLOW_READERS_TIMEOUT", 0.0)


TestSlowMachine = SlowMachine.TestCase
TestSlowMachine.settings = settings(max_examples=examples(100), stateful_step_count=40, deadline=None)
