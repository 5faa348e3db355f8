"""For whom emitting to many waits, and how often: whoever reads slowly holds up the others once."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import pytest
from audience import audience, line_of
from leftovers import nothing_left as nothing_left
from leftovers import turns_until
from peers_inside import out_of
from raw_websocket import raw_client
from slow_reading import LIMITS, filled

from wsrpc import Client, Limits, Server
from wsrpc._sending.outbound import Outbound
from wsrpc._server import broadcast

pytestmark = pytest.mark.usefixtures("nothing_left")


@pytest.fixture(autouse=True)
def _little_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """How often it waits is looked at here, not how long."""
    monkeypatch.setattr(broadcast, "PATIENCE", 0.001)


async def test_a_stuck_reader_is_waited_for_once_and_others_get_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = Limits(high_water=16 * 1024, hard_cap=1024 * 1024, close_timeout=0.2, ping_interval=None)
    server = Server(limits=limits)
    ended: asyncio.Queue[int] = asyncio.Queue()
    server.on("close", lambda peer, info: ended.put_nowait(info.code))
    waits = 0
    async with AsyncExitStack() as stack:
        listener = await stack.enter_async_context(server.listen())
        deaf = await stack.enter_async_context(raw_client(listener.port, receive_buffer=4096))
        stuck = await filled(server, deaf)
        line = stuck.transport
        assert line is not None
        slow, drain = out_of(stuck), Outbound.drain

        async def counted(out: Outbound) -> None:
            nonlocal waits
            waits += out is slow
            await drain(out)

        monkeypatch.setattr(Outbound, "drain", counted)
        heard: list[asyncio.Queue[int]] = []
        for _ in range(3):
            heard.append(asyncio.Queue())
            client = Client(listener.url, reconnect=None)
            client.on("n", lambda number, filling, queue=heard[-1]: queue.put_nowait(number))
            await stack.enter_async_context(client)
        closed_at = None
        for number in range(300):
            report = await server.emit("n", number, "x" * 5000)
            for queue in heard:
                assert await queue.get() == number
            if report.errors and closed_at is None:
                assert [error.peer for error in report.errors] == [stuck]
                closed_at = number
        assert waits == 1
        # It is dealt with at its bound, no sooner and no later.
        assert closed_at is not None
        assert 100 < closed_at <= 1024 * 1024 // 5000
        assert await ended.get() == 4408


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
