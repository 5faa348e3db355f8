"""Every place where a server runs: those who send on and on leave time for the others.

Nothing here depends on speed: what is counted is how many messages of the others are handled meanwhile.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import AsyncExitStack
from typing import Any

import pytest
from flavours import on_uvloop
from hosts import HOSTS, Host
from raw_websocket import TEXT
from served import LIMITS, raw

from wsrpc import Server, current_peer
from wsrpc._net import loop_budget
from wsrpc._net.loop_budget import SMALL_READ
from wsrpc_adapters.asgi import asgi

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
    monkeypatch.setattr(loop_budget, "TURN_BUDGET", 1e-9)


@pytest.mark.parametrize(("host", "senders"), [*((host, SENDERS) for host in HOSTS), (HOSTS[0], 1)], ids=str)
async def test_floods_are_handled_in_parts_with_a_turn_for_others_between_them(host: Host, senders: int) -> None:
    read = READ_OF_UVLOOP if on_uvloop() else SMALL_READ
    events, at_most = 2 * read, read // len(MESSAGE)  # no frame takes less than its message
    flood = Flood()
    async with host.serving(flood.server) as url, AsyncExitStack() as stack:
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


async def test_asgi_clients_that_read_no_answers_wait_for_their_turn_too() -> None:
    """An ASGI server that never has to wait in ``receive()``, and always in ``send()``."""
    clients, reads, limits = 100, 0, LIMITS.replace(high_water_bytes=1)
    server, over = Server(limits=limits), asyncio.Event()
    server.on("open", lambda: current_peer().emit_nowait("fills", "the output"))

    async def client() -> None:
        greeted = False

        async def receive() -> dict[str, Any]:
            nonlocal greeted, reads
            if not greeted:
                greeted = True
                return {"type": "websocket.connect"}
            reads += 1
            if over.is_set():
                return {"type": "websocket.disconnect", "code": 1006}
            return {"type": "websocket.receive", "text": MESSAGE}

        async def send(event: Any) -> None:
            if event["type"] != "websocket.accept":
                await over.wait()

        await asgi(server)({"type": "websocket", "path": "/", "headers": []}, receive, send)

    await server.open()
    async with asyncio.TaskGroup() as tasks:
        for _ in range(clients):
            tasks.create_task(client())
        turns, enough = 0, 3 * 64 * clients
        while reads < enough:
            await asyncio.sleep(0)
            turns += 1
        over.set()
    await server.close()
    # After 64 messages, which take a turn each, a client waits until there is a place: a turn has one.
    assert turns > 3 * 64 + clients
