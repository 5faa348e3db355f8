"""Rooms that keep their events in a cluster: the same store, and the same options, everywhere."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

import pytest
from waiting import until

from wsrpc import Server
from wsrpc.cluster import Cluster, ClusterClient, MemoryEngine
from wsrpc.store import MemoryStore
from wsrpc.testing import connect
from wsrpc.types import ClientRoom


async def test_a_program_without_a_server_emits_to_a_room_that_keeps_its_events() -> None:
    engine, store = MemoryEngine(), MemoryStore()
    server = Server(cluster=Cluster(engine), store=store)
    server.room("lobby", allow=lambda peer: True, keep=60)
    heard: asyncio.Queue[str] = asyncio.Queue()
    async with connect(server) as client:
        client.on("said", heard.put_nowait)
        client.of("side").on("said", heard.put_nowait)
        await client.room("lobby").join()
        async with ClusterClient(engine, store=store) as shop:
            lobby, node = shop.room("lobby", keep=60), server.cluster.nodes[0]
            reports = [await lobby.emit("said", "one"), await lobby.of("side").emit("said", "two")]
            assert [(each.sent, each.nodes, each.missing_nodes) for each in reports] == [(0, (node,), ())] * 2
            assert [await heard.get(), await heard.get()] == ["one", "two"]
            engine.down = True
            engine.cut()
            await until(lambda: not shop.connected)
            await lobby.emit("said", "three")  # through the store
            assert await heard.get() == "three"
            engine.down = False
            with pytest.raises(ValueError, match="a raw message is no event"):
                await lobby.send_raw("raw")
            with pytest.raises(ValueError, match="has keep=60 already"):
                shop.room("lobby", keep=30)
            with pytest.raises(ValueError, match="1 or more"):
                shop.room("hall", keep=0)
    async with ClusterClient(engine) as shop:
        with pytest.raises(ValueError, match="needs the store of the servers"):
            shop.room("lobby", keep=60)
    await server.close()


async def test_processes_with_and_without_keep_lose_no_event_untold() -> None:
    """For example, while a new version of the program is deployed. Both kinds lost the events of the other.

    The report of a stored event left out the processes that read it from the store.
    """
    engine, store = MemoryEngine(), MemoryStore()
    async with AsyncExitStack() as stack:
        servers = [Server(cluster=Cluster(engine), store=store) for _ in range(2)]
        heard = [asyncio.Queue[str]() for _ in servers]

        async def come(server: Server, ear: asyncio.Queue[str], **options: Any) -> ClientRoom:
            client = await stack.enter_async_context(connect(server))
            client.on("said", ear.put_nowait)
            client.room("lobby").on_missed(partial(ear.put_nowait, "missed"))
            await client.room("lobby").join(**options)
            return client.room("lobby")

        for server, keep, ear in zip(servers, (60, None), heard, strict=True):
            stack.push_async_callback(server.close)
            server.room("lobby", allow=lambda peer: True, keep=keep)
            await come(server, ear)
        shop = await stack.enter_async_context(ClusterClient(engine, store=store))
        new, old = servers[0].room("lobby"), servers[1].room("lobby")
        with_keep, without = (server.cluster.nodes[0] for server in servers)
        emitting: list[tuple[Any, Any, set[str], set[str]]] = [
            (new, old, {without}, {with_keep}),
            (shop.room("lobby", keep=60), shop.room("lobby"), {with_keep, without}, {with_keep, without}),
        ]
        for stores, forgets, *nodes in emitting:
            reports = [await stores.emit("said", "stored")]
            assert [await ear.get() for ear in heard] == ["stored", "stored"]
            reports.append(await forgets.emit("said", "not stored"))
            assert [await ear.get() for ear in heard] == ["missed", "not stored"]
            assert [{*each.nodes} for each in reports] == nodes and not any(each.missing_nodes for each in reports)
        late = await come(servers[0], heard[0], last=9)
        assert [await heard[0].get() for _ in range(4)] == ["stored", "missed"] * 2
        assert not late.complete
        assert len((await new.members()).addresses) + (await new.members()).others == 3
        await asyncio.gather(*[old.emit("said", "not stored") for _ in range(1000)])
        await new.emit("said", "stored")  # failed, while many had to be told of
        while await heard[0].get() != "stored":
            pass


async def test_a_server_in_a_cluster_needs_a_common_store() -> None:
    server = Server(cluster=Cluster(MemoryEngine()))
    with pytest.raises(ValueError, match="needs a store for all processes"):
        server.room("lobby", keep=60)
