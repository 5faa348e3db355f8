"""Sessions between nodes, over an engine that loses messages, goes away and freezes."""

from __future__ import annotations

import asyncio

import pytest
from cluster_process import is_there, processes
from core_driver import turns
from leftovers import nothing_left as nothing_left
from leftovers import turns_until

from wsrpc import ConnectionLost
from wsrpc._cluster.directory import Beat
from wsrpc._cluster.wire import Open, connection_name, encode
from wsrpc.cluster import MemoryEngine

pytestmark = pytest.mark.usefixtures("nothing_left")


@pytest.mark.parametrize("how", ["cut", "freeze"])
async def test_calls_in_flight_go_on_when_the_engine_comes_back(how: str) -> None:
    engine = MemoryEngine()
    async with processes(engine) as (a, b):
        parked = asyncio.create_task(a.peer(b).request("park"))
        await b.parked.wait()
        if how == "cut":
            engine.down = True
            engine.cut()
        else:
            engine.freeze()
        await turns_until(lambda: not (a.node.connected or b.node.connected) and a.peer(b).detached)
        assert not parked.done()
        engine.down = False
        engine.thaw()
        await turns_until(lambda: is_there(a, b) and is_there(b, a))
        assert await a.peer(b).request("negate", 1) == -1
        parked.cancel()
        await turns_until(lambda: b.cancelled == 1)


@pytest.mark.parametrize("silent", [True, False])
@pytest.mark.parametrize("one", [0, 1])
async def test_a_call_to_a_node_that_leaves_or_falls_silent_says_so(one: int, silent: bool) -> None:
    """Events may be lost only if it has not said that it leaves."""
    async with processes(MemoryEngine()) as made:
        a, b = made[one], made[1 - one]
        call = asyncio.create_task(a.peer(b).request("park"))
        await b.parked.wait()
        a.node.directory.drop(b.node.id, a.node.now, silent=silent)
        with pytest.raises(ConnectionLost, match=f"node {b.node.id} is gone") as caught:
            await call
        assert caught.value.outcome == "unknown" and a.lost == [b.node.id] * silent


async def test_a_session_that_somebody_begins_for_another_node_does_not_replace_the_real_one() -> None:
    """When it ended, the node had no session with the other one, and no other one was dialed."""
    engine = MemoryEngine()
    async with processes(engine) as made:
        a, b = sorted(made, key=lambda one: one.node.id)
        real, conn = b.peer(a), connection_name(a.node.id, b.node.id, 77)
        engine.carry(f"shop.{b.node.id}", encode(Open(conn, {})))
        assert conn in b.node._transports
        await turns_until(lambda: conn not in b.node._transports)
        await turns(10)
        assert b.links.peer(a.node.id) is real
        assert await b.peer(a).request("negate", 1) == -1


async def test_who_waits_for_a_node_that_leaves_need_not_wait_any_longer() -> None:
    engine = MemoryEngine()
    async with processes(engine, 1) as (a,):
        await turns_until(lambda: a.node.connected)
        node = "0"  # lower than any other name: it would have to dial
        a.node.directory.heard_beat(Beat(node, 0), a.node.now)
        waiting = asyncio.create_task(a.links.reach(node))
        await asyncio.sleep(0)
        a.node.directory.drop(node, a.node.now, silent=True)
        await turns(5)
        assert waiting.done() and a.lost == [], "there was no session with it"
        with pytest.raises(ConnectionLost, match="no connection to node 0"):
            await waiting
        with pytest.raises(ConnectionLost, match="node 0 is gone"):
            await a.links.reach(node)
