"""For whom emitting to many waits, and how often: whoever reads slowly holds up the others once."""

from __future__ import annotations

from typing import Any

import pytest
from audience import audience, line_of
from leftovers import nothing_left as nothing_left
from leftovers import turns_until
from peers_inside import out_of
from slow_reading import LIMITS

from wsrpc import Server
from wsrpc._sending.outbound import Outbound
from wsrpc._server import broadcast

pytestmark = pytest.mark.usefixtures("nothing_left")


@pytest.fixture(autouse=True)
def _little_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """How often it waits is looked at here, not how long."""
    monkeypatch.setattr(broadcast, "PATIENCE", 0.001)


@pytest.mark.parametrize(("slow", "times"), [("close", 3), ("drop_oldest", 1)])
async def test_where_most_are_behind_whoever_emits_waits_each_time_rather_than_close_them(
    slow: Any, times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = Server(limits=LIMITS, slow=slow)
    async with audience(server, 3, LIMITS) as pairs:
        lines = [line_of(peer) for _, peer in pairs]
        drains = [0] * len(lines)
        outs, drain = [out_of(peer) for _, peer in pairs], Outbound.drain

        async def counted(out: Outbound) -> None:
            drains[outs.index(out)] += 1
            await drain(out)

        monkeypatch.setattr(Outbound, "drain", counted)
        for line in lines[:2]:
            line.hold()
        await server.emit("say", "x" * 2000)
        await turns_until(lambda: not lines[2].unsent)
        for _ in range(3):
            await server.emit("say", "y")
        assert drains == [times, times, 0]
        lines[0].release()
        await turns_until(lambda: not lines[0].unsent)
        for _ in range(3):
            await server.emit("say", "z")
        assert drains == [times, times, 0]  # one of three holds up nobody
        lines[1].release()
        await turns_until(lambda: not lines[1].unsent)
        lines[1].hold()
        for _ in range(3):
            await server.emit("say", "x" * 2000)
            await turns_until(lambda: not (lines[0].unsent or lines[2].unsent))
        assert drains == [times, times + 1, 0]  # it had drained: it gets its time again, once
        lines[1].release()
