"""Every place where a server runs: those who send on and on leave time for the others.

Nothing here depends on speed: what is counted is how many messages of the others are handled meanwhile.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import AsyncExitStack

import pytest
from flavours import on_uvloop
from hosts import HOSTS, Host
from raw_websocket import TEXT
from served import LIMITS, raw

from wsrpc import Server, current_peer
from wsrpc._net import loop_budget
from wsrpc._net.loop_budget import READ

READ_OF_UVLOOP = 256_000
"""Bytes that one read takes at most on uvloop, where that cannot be changed."""
SENDERS = 8
MESSAGE = '{"a":["n"]}'


class Flood:
    """A server that counts events, and how many come in one turn of its event loop."""

    def __init__(self) -> None:
        self.server = Server(limits=LIMITS)
        self.came: Counter[str] = Counter()
        self.turns: list[Counter[str]] = []
        """What came in each."""
        self.server.on("n", lambda: self.came.update([current_peer().id]))

    async def watch(self, until: int) -> None:
        while self.came.total() < until:
            before = self.came.copy()
            await asyncio.sleep(0)
            self.turns.append(self.came - before)


@pytest.fixture(autouse=True)
def one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A turn has a place for one, however fast this machine is."""
    monkeypatch.setattr(loop_budget, "AT_ONCE", 1e-9)


@pytest.mark.parametrize(("host", "senders"), [*((host, SENDERS) for host in HOSTS), (HOSTS[0], 1)], ids=str)
async def test_floods_are_handled_in_parts_with_a_turn_for_others_between_them(host: Host, senders: int) -> None:
    read = READ_OF_UVLOOP if on_uvloop() else READ
    events, at_most = 2 * read, read // len(MESSAGE)  # no frame takes less than its message
    flood = Flood()
    async with asyncio.timeout(60), host.serving(flood.server) as url, AsyncExitStack() as stack:
        peers = [await stack.enter_async_context(raw(url)) for _ in range(senders)]
        watching = asyncio.create_task(flood.watch(events))
        await asyncio.gather(*(peer.send(peer.frame(TEXT, MESSAGE) * (events // senders)) for peer in peers))
        await watching
    assert set(flood.came.values()) == {events // senders}
    # Two for the first one, for which there may be a place at once, besides the one that every turn has. Several
    # begin once each, and may have a last read that is too small to take a place.
    crowded = sum(turn.total() > 2 * at_most for turn in flood.turns)
    assert crowded <= (2 * senders if senders > 1 else 0)
    assert senders == 1 or sum(len(turn) > 0 for turn in flood.turns) > 2 * senders
