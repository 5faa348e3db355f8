"""What operators do through one server of a cluster, with the peers of all."""

from __future__ import annotations

import os
import socket
import time
from typing import Any

import pytest
from cluster_servers import Servers, servers
from core_driver import Blocked, start
from waiting import settled, until

from wsrpc import Client, KeyReused, RemoteError, RpcError, Server
from wsrpc._server.operating.operations import StoredCall, operations_of
from wsrpc.cluster import ClusterClient
from wsrpc.errors import PeerNotFound
from wsrpc.store import MemoryStore
from wsrpc.testing import connect


async def rows_of(operator: Client, what: str) -> list[dict[str, Any]]:
    async with operator.of("wsrpc").stream(what) as rows:
        return [row async for row in rows]


async def joined(made: Servers) -> tuple[Client, Client, Client]:
    """An operator at the first server; Ada and somebody without an address at the second one."""
    operator, ada, other = await made.join(0), await made.join(1, "ada"), await made.join(1)
    ada.on("whoami", lambda: "ada")
    other.on("whoami", lambda: "other")
    return operator, ada, other


async def test_one_server_answers_for_all() -> None:
    async with servers(3, admin=lambda peer, action: True) as made:
        operator, ada, other = await joined(made)
        nodes = [server.cluster.nodes[0] for server in made]
        rows = await rows_of(operator, "peers")
        assert [row["node"] for row in rows] == [nodes[0], nodes[1], nodes[1]]
        assert [row["address"] for row in rows] == [None, "ada", None]
        peers = {row["node"]: row["peers"] for row in await rows_of(operator, "stats")}
        assert peers == dict(zip(nodes, (1, 2, 0), strict=True))
        ask = operator.of("wsrpc").request
        here, there, id = (row["id"] for row in rows)
        operator.on("whoami", lambda: "operator")
        for named, who in (("ada", "ada"), (there, "ada"), (id, "other"), (here, "operator")):
            assert await ask("call", named, None, "whoami", []) == who
        with pytest.raises(RemoteError, match=r"no node of the cluster .*'nobody'"):
            await ask("call", "nobody", None, "whoami", [])
        for named, client in (("ada", ada), (id, other)):
            assert await ask("kick", named, 1008, "banned") == 1
            assert client.state == "closed"


async def test_servers_are_counted_apart_from_clients_and_from_servers_that_drain() -> None:
    async with servers(2) as made, ClusterClient(made.engine, name="shop") as client:
        stats: list[Any] = [client.stats, *(server.cluster.stats for server in made)]

        def counts() -> list[tuple[int, int]]:
            return [(each().nodes, each().servers) for each in stats]

        await until(lambda: counts() == [(3, 2)] * 3, limit=2)
        ada, work = await made.join(0, "ada"), Blocked()
        made[0].on("work", work)
        working = start(ada.request("work"))
        await until(lambda: work.started)
        closing = start(made[0].close(drain_timeout=20))
        await until(lambda: counts() == [(3, 1)] * 3, limit=2)
        work.go.set()
        await working
        await closing


async def test_processes_that_do_not_answer_are_named() -> None:
    async with servers(2, admin=lambda peer, action: True) as made:
        operator, _, _ = await joined(made)
        node = made[1].cluster.nodes[0]
        await made.engine_goes()
        mine, failed = await rows_of(operator, "peers")
        assert mine["id"] == made[0].peers[0].id
        lost = "the engine of the cluster is lost: not connected"
        assert failed == {"node": node, "process": f"{socket.gethostname()}:{os.getpid()}", "error": lost}
        with pytest.raises(RemoteError, match="the engine of the cluster is lost"):
            await operator.of("wsrpc").request("kick", "an id of somebody there")
        made.engine.down = False


async def test_what_waits_is_seen_submitted_and_withdrawn_through_any_process() -> None:
    async with servers(2, store=MemoryStore(), admin=lambda peer, action: True) as made:
        operator = await made.join(0)
        ask = operator.of("wsrpc").request
        now = time.time()
        for door in (1, 2):
            assert (await ask("submit", "lock", None, "unlock", f"k{door}", [door], 60))["state"] == "waiting"
        await made[1].cluster.peer("gate").of("doors").submit("open", key="k3", deliver_within=30)
        with pytest.raises(RemoteError, match="other arguments"):
            await ask("submit", "lock", None, "unlock", "k1", [3], 60)
        with pytest.raises(RemoteError, match="more than 0"):
            await ask("submit", "lock", None, "unlock", "k4", [3], 0)
        assert (await ask("submit", "nobody", None, "unlock", "k", [], 0.01))["state"] == "waiting"
        await settled(1)
        again = await ask("submit", "nobody", None, "unlock", "k", [], 60)
        assert again["state"] == "expired" and "within" in again["error"]
        async with ClusterClient(made.engine, name="shop") as client:  # it has no store, and asks a server
            through = operations_of(client)
            for rows in ([row async for row in through.waiting("")], await rows_of(operator, "waiting")):
                assert [(row["address"], row["count"]) for row in rows] == [("lock", 2), ("gate", 1)]
                assert all(abs(row["since"] - now) < 5 for row in rows)
            [row] = [row async for row in through.waiting("gate")]
            assert (row["channel"], row["event"], row["key"], row["state"]) == ("doors", "open", "k3", "waiting")
            assert round(row["until"] - row["since"]) == 30
            assert (await through.withdraw(StoredCall("gate", "doors", "open", "k3")))["state"] == "withdrawn"
            call = StoredCall("lock", None, "unlock", "k5")
            assert (await through.submit(call, [], 60))["state"] == "waiting"
            with pytest.raises(KeyReused):
                await through.submit(call, [1], 60)
        assert (await ask("withdraw", "lock", None, "unlock", "k2"))["state"] == "withdrawn"
        assert (await ask("withdraw", "lock", None, "unlock", "k9"))["state"] == "unknown"
        async with operator.of("wsrpc").stream("waiting", "lock") as calls:
            assert [call["key"] async for call in calls] == ["k1", "k5"]
        lock, opened = Client(), list[tuple[int, ...]]()

        @lock.on("unlock", keep=60)
        async def unlock(*doors: int) -> None:
            opened.append(doors)

        await made.join(1, "lock", lock)
        await until(lambda: opened == [(1,), ()])


async def test_who_has_no_store_says_so() -> None:
    async with servers(1, admin=lambda peer, action: True) as made:
        operator = await made.join(0)
        [row] = await rows_of(operator, "waiting")
        assert "needs a store" in row["error"] and row["node"] == made[0].cluster.nodes[0]
        with pytest.raises(RemoteError, match="needs a store"):
            await operator.of("wsrpc").request("submit", "lock", None, "unlock", "k", [], 60)
        async with ClusterClient(made.engine, name="shop") as client:
            with pytest.raises(RpcError, match="needs a store"):
                await operations_of(client).withdraw(StoredCall("lock", None, "unlock", "k"))
            with pytest.raises(ValueError, match="needs a store"):
                await anext(client.waiting())
    async with connect(Server(admin=lambda peer, action: True)) as operator:
        with pytest.raises(RemoteError, match="this server is in none"):
            await rows_of(operator, "waiting")


async def test_all_that_waits_is_listed_page_by_page_and_counted() -> None:
    async with servers(2, store=MemoryStore()) as made:
        for number in range(250):
            await made[0].cluster.peer(f"lock-{number}").submit("unlock", key="k", deliver_within=600)
        found = [each async for each in made[1].cluster.waiting()]
        assert [each.address for each in found] == [f"lock-{number}" for number in range(250)]
        assert {each.count for each in found} == {1}
        stats: Any = made[0].cluster.stats
        await until(lambda: stats().waiting == 250, limit=60)
        await settled(300)
        assert 250 < stats().oldest_waiting < 350
        await settled(400)
        others: Any = made[1].cluster.stats()
        assert stats().waiting == 0 and stats().expired + others.expired == 250
        with pytest.raises(PeerNotFound, match="within 600 s"):
            await made[0].cluster.peer("lock-7").submit("unlock", key="k", deliver_within=600)
